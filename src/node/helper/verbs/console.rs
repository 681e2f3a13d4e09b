//! `console`: returns the end of a machine's console log.

use std::fs::OpenOptions;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;

use nix::fcntl::OFlag;

use crate::model::names::MachineName;
use crate::model::wire::ConsoleTail;
use crate::node::helper::failure::Failure;
use crate::node::helper::host::Host;

impl Host {
    /// Returns the end of the machine's console log, at most this many bytes. It is empty if there
    /// is no log.
    pub fn console(&self, machine: &MachineName, bytes: u32) -> Result<ConsoleTail, Failure> {
        self.console_after(machine, 0, bytes)
    }

    /// Like [`console`](Self::console), without the first `offset` bytes of the log.
    pub(super) fn console_after(
        &self,
        machine: &MachineName,
        offset: u64,
        bytes: u32,
    ) -> Result<ConsoleTail, Failure> {
        let empty = ConsoleTail { text: String::new(), truncated: false };
        let Some(path) = self.console_log(machine)? else { return Ok(empty) };
        let read = || -> io::Result<ConsoleTail> {
            let mut file =
                OpenOptions::new().read(true).custom_flags(OFlag::O_NOFOLLOW.bits()).open(&path)?;
            let start = file.metadata()?.len().saturating_sub(bytes.into()).max(offset);
            file.seek(SeekFrom::Start(start))?;
            let mut tail = Vec::new();
            file.take(bytes.into()).read_to_end(&mut tail)?;
            Ok(ConsoleTail { text: printable(&tail), truncated: start > 0 })
        };
        match read() {
            Ok(tail) => Ok(tail),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(empty),
            Err(error) => Err(Failure::internal(format!("{}: {error}", path.display()))),
        }
    }
}

/// Converts console output to text: removes terminal control sequences (ECMA-48), and replaces
/// everything else that can't be displayed.
fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\n' | '\t' => out.push(c),
            '\r' => {}
            '\u{1b}' => match chars.next_if(|&c| matches!(c, '[' | ']' | '(' | ')')) {
                // A sequence ends with a letter or one of @ [ \ ] ^ _ ` { | } ~.
                Some('[') => {
                    while chars.next_if(|&c| ('\u{20}'..='\u{3f}').contains(&c)).is_some() {}
                    chars.next_if(|&c| ('\u{40}'..='\u{7e}').contains(&c));
                }
                // A title ends with BEL or ESC \.
                Some(']') => {
                    while chars.next_if(|&c| !matches!(c, '\u{7}' | '\u{1b}' | '\n')).is_some() {}
                    if chars.next_if(|&c| c == '\u{1b}').is_some() {
                        chars.next_if(|&c| c == '\\');
                    } else {
                        chars.next_if(|&c| c == '\u{7}');
                    }
                }
                // A character set selection: one more letter.
                Some(_) => {
                    chars.next_if(|&c| c != '\n');
                }
                None => {
                    chars.next_if(|&c| ('\u{30}'..='\u{7e}').contains(&c));
                }
            },
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_sequences_are_removed_from_console_output() {
        assert_eq!(
            printable(b"\x1b[0;32m  OK  \x1b[0m] up\r\n\x1b]0;title\x07a\tb\x00c"),
            "  OK  ] up\na\tb\u{fffd}c"
        );
        assert_eq!(printable(b"\x1bc\x1b(Bx\xffy\x1b"), "x\u{fffd}y");
        assert_eq!(printable(b"\x1b[?25"), "");
    }
}
