//! Tar headers, as far as needed to find the end of an archive and whether it contains a system.

use super::CopyError;

/// The size of a block of a tar archive in bytes. An archive ends with two blocks of zeros.
pub(super) const BLOCK: usize = 512;

/// Builds the archive member (pax(1), "ustar Interchange Format") for an empty file that belongs to
/// root, is readable by everyone and dates from 1970. The name is truncated to 100 bytes.
pub fn empty_member(name: &str) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, text: &[u8]| block[at..at + text.len()].copy_from_slice(text);
    put(0, &name.as_bytes()[..name.len().min(100)]);
    put(100, b"0000444");
    put(108, b"0000000");
    put(116, b"0000000");
    put(124, b"00000000000");
    put(136, b"00000000000");
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// Returns whether a block is the header of a member, judging by its checksum (pax(1), "ustar
/// Interchange Format").
pub(super) fn is_header(block: &[u8]) -> bool {
    let Some(block) = block.get(..BLOCK) else { return false };
    let field = &block[148..156];
    let text = String::from_utf8_lossy(field);
    let Ok(given) = u32::from_str_radix(text.trim_matches(['\0', ' ']), 8) else { return false };
    let sum = |bytes: &[u8]| bytes.iter().map(|&byte| u32::from(byte)).sum::<u32>();
    given == sum(&block[..148]) + sum(&block[156..]) + 8 * u32::from(b' ')
}

/// Follows an archive from header to header to find its end.
///
/// Looking at the last bytes is not enough: tar accepts an archive that is truncated between two
/// members, and a member may itself end with zeros.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// The number of bytes of the current member still to come, including padding.
    rest: u64,
    /// The block being collected.
    block: Vec<u8>,
    /// What is expected next.
    next: Next,
    /// The content of an extended header while it is being collected.
    extended: Option<Vec<u8>>,
    /// The number of zeros at the end of the input so far, at most two blocks.
    zeros: usize,
    /// The next member's size, if an extended header gave it (pax(1)).
    size: Option<u64>,
    /// The names of the members.
    pub(super) tree: Tree,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// A header, or the first of the two blocks of zeros at the end.
    #[default]
    Header,
    /// The second of the two blocks of zeros.
    SecondZero,
    /// More of the map of a sparse file, which is followed by this many bytes of data.
    SparseMap(u64),
    /// Nothing: the archive has ended.
    End,
    /// An unknown kind of header. tar may support it, so only zeros at the end are required.
    Unknown,
}

impl Walk {
    /// The longest extended header that is parsed, in bytes.
    const EXTENDED: u64 = 1 << 20;

    /// Processes the next bytes. Returns how many of them belong to the archive; only zeros may
    /// follow its end.
    pub(super) fn over(&mut self, bytes: &[u8]) -> Result<usize, CopyError> {
        let zeros = bytes.iter().rev().take(2 * BLOCK).take_while(|&&byte| byte == 0).count();
        self.zeros = if zeros == bytes.len() { (self.zeros + zeros).min(2 * BLOCK) } else { zeros };
        let mut rest = bytes;
        while !rest.is_empty() && !matches!(self.next, Next::End | Next::Unknown) {
            let here = if self.rest > 0 {
                usize::try_from(self.rest).unwrap_or(usize::MAX)
            } else {
                BLOCK - self.block.len()
            };
            let (now, later) = rest.split_at(here.min(rest.len()));
            rest = later;
            if self.rest > 0 {
                self.rest -= now.len() as u64;
                if let Some(extended) = &mut self.extended {
                    extended.extend_from_slice(now);
                }
                continue;
            }
            if let Some(extended) = self.extended.take() {
                self.size = size_in(&extended).or(self.size);
            }
            self.block.extend_from_slice(now);
            if self.block.len() == BLOCK {
                let block = std::mem::take(&mut self.block);
                self.next = self.after(&block);
            }
        }
        if self.next != Next::End {
            return Ok(bytes.len());
        }
        self.beyond(rest)?;
        Ok(bytes.len() - rest.len())
    }

    /// Checks the bytes after the end of the archive.
    fn beyond(&mut self, mut bytes: &[u8]) -> Result<(), CopyError> {
        while !bytes.is_empty() {
            if self.block.is_empty() {
                let blocks = bytes.chunks_exact(BLOCK);
                let zeros = blocks.take_while(|block| block.iter().all(|&byte| byte == 0)).count();
                bytes = &bytes[zeros * BLOCK..];
            }
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK - self.block.len()));
            bytes = later;
            self.block.extend_from_slice(now);
            if self.block.len() == BLOCK {
                self.nothing_more()?;
            }
        }
        Ok(())
    }

    /// Drops a block after the end if it is all zeros, and fails otherwise.
    fn nothing_more(&mut self) -> Result<(), CopyError> {
        let block = std::mem::take(&mut self.block);
        let corrupt = |what: &str| Err(CopyError::Corrupt(what.to_owned()));
        if is_header(&block) {
            corrupt(
                "two archives were joined, and tar would unpack the first only; make one of them: tar -A, or tar -c anew",
            )
        } else if block.iter().any(|&byte| byte != 0) {
            corrupt("after the archive's end other data follows")
        } else {
            Ok(())
        }
    }

    /// Processes a block that is not content, and returns what comes next.
    fn after(&mut self, block: &[u8]) -> Next {
        let is_zero = block.iter().all(|&byte| byte == 0);
        match self.next {
            Next::SparseMap(data) if block[504] != 0 => return Next::SparseMap(data),
            Next::SparseMap(data) => {
                self.rest = data;
                return Next::Header;
            }
            Next::Header if is_zero => return Next::SecondZero,
            Next::SecondZero if is_zero => return Next::End,
            Next::Header | Next::SecondZero | Next::End | Next::Unknown => {}
        }
        let (true, Some(size)) = (is_header(block), number(&block[124..136])) else {
            return Next::Unknown;
        };
        let kind = block[156];
        if !matches!(kind, b'x' | b'g' | b'L' | b'K') {
            self.tree.add(&name_in(block), kind == b'5');
        }
        // The size in an extended header applies to the member that follows, not to headers in
        // between.
        let size =
            if matches!(kind, b'x' | b'g' | b'L' | b'K') { size } else { self.size.take().unwrap_or(size) };
        // As in GNU tar, a hard link has no content, whatever its header says.
        let size = if kind == b'1' { 0 } else { size };
        let Some(data) = size.checked_next_multiple_of(BLOCK as u64) else { return Next::Unknown };
        if kind == b'S' && block[482] != 0 {
            return Next::SparseMap(data);
        }
        if kind == b'x' && size <= Self::EXTENDED {
            self.extended = Some(Vec::new());
        }
        self.rest = data;
        Next::Header
    }

    /// Checks, at the end of input, that an archive of `total` bytes was complete and that nothing
    /// followed it.
    pub(super) fn end(&mut self, total: u64) -> Result<(), CopyError> {
        let ended = match self.next {
            Next::End => return self.nothing_more(),
            Next::Unknown => self.zeros == 2 * BLOCK && total.is_multiple_of(BLOCK as u64),
            _ => false,
        };
        if ended { Ok(()) } else { Err(CopyError::Corrupt("it breaks off before its end".to_owned())) }
    }
}

/// Determines from the names in an archive whether a system can be started from it.
#[derive(Debug, Default)]
pub(super) struct Tree {
    /// The only directory at the top level, so far.
    only: Option<Vec<u8>>,
    /// Whether there is more than one entry at the top level, or one that is not a directory.
    is_wide: bool,
    /// Whether there is something that a kernel starts or a boot loader reads.
    starts: bool,
}

impl Tree {
    /// The programs that a kernel starts, by default or when told to (init(1), bootparam(7),
    /// systemd). Kernels are in /boot.
    const STARTED: [&[u8]; 11] = [
        b"sbin/init",
        b"usr/sbin/init",
        b"bin/init",
        b"usr/bin/init",
        b"etc/init",
        b"init",
        b"linuxrc",
        b"lib/systemd/systemd",
        b"usr/lib/systemd/systemd",
        b"usr/bin/systemd",
        b"bin/systemd",
    ];

    /// Adds a member. Of a name too long for its header, only the part in the header counts.
    fn add(&mut self, name: &[u8], is_folder: bool) {
        let mut parts = name.split(|&byte| byte == b'/').filter(|part| !matches!(*part, b"" | b"."));
        let Some(top) = parts.next() else { return };
        let path = parts.fold(top.to_vec(), |path, part| [&path[..], b"/", part].concat());
        self.starts |= top == b"boot" || Self::STARTED.contains(&path.as_slice());
        let is_top = path.len() == top.len();
        self.is_wide |= (is_top && !is_folder && !name.ends_with(b"/"))
            || self.only.as_ref().is_some_and(|only| only != top);
        self.only.get_or_insert_with(|| top.to_vec());
    }

    /// Rejects a system that was packed together with its parent directory.
    pub(super) fn must_be_a_system(&self) -> Result<(), CopyError> {
        match &self.only {
            Some(folder) if !self.is_wide && !self.starts => {
                Err(CopyError::Nested(String::from_utf8_lossy(folder).into_owned()))
            }
            _ => Ok(()),
        }
    }
}

/// Returns the name in a header, as far as the header contains it (pax(1), "ustar Interchange
/// Format"; GNU's format has no prefix).
fn name_in(block: &[u8]) -> Vec<u8> {
    let text = |field: &[u8]| field.split(|&byte| byte == 0).next().unwrap_or_default().to_vec();
    let name = text(&block[..100]);
    let prefix = if block[257..263] == *b"ustar\0" { text(&block[345..500]) } else { Vec::new() };
    if prefix.is_empty() { name } else { [&prefix[..], b"/", &name].concat() }
}

/// Parses a number in a header: octal digits, or, if the highest bit is set, a 95-bit binary number
/// (GNU tar, "Basic Tar Format"). Returns `None` for numbers of more than 64 bits.
fn number(field: &[u8]) -> Option<u64> {
    if field.first().is_some_and(|byte| byte & 0x80 != 0) {
        let (high, low) = field.split_at(field.len().checked_sub(8)?);
        let is_small = high.iter().enumerate().all(|(n, &byte)| byte == if n == 0 { 0x80 } else { 0 });
        return low.try_into().ok().filter(|_| is_small).map(u64::from_be_bytes);
    }
    let text = std::str::from_utf8(field).ok()?.trim_matches(['\0', ' ']);
    if text.is_empty() { Some(0) } else { u64::from_str_radix(text, 8).ok() }
}

/// Returns the size of the next member, if given in an extended header. Its lines have the form
/// `LENGTH KEY=VALUE` (pax(1)).
fn size_in(extended: &[u8]) -> Option<u64> {
    let mut size = None;
    let mut rest = extended;
    while let Some(space) = rest.iter().position(|&byte| byte == b' ') {
        let length: usize = std::str::from_utf8(&rest[..space]).ok()?.parse().ok()?;
        let record = rest.get(space + 1..length)?;
        if let Some(value) = record.strip_prefix(b"size=") {
            size = std::str::from_utf8(value).ok()?.trim_end().parse().ok();
        }
        rest = &rest[length..];
    }
    size
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_binary() {
        assert_eq!(number(b"00000011610\0"), Some(5000));
        assert_eq!(number(b"            "), Some(0));
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0]), Some(2 << 32));
        assert_eq!(number(&[0x80, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0]), None);
        assert_eq!(number(b"8"), None);
    }

    #[test]
    fn an_extended_header_may_give_a_size() {
        assert_eq!(size_in(b"12 size=600\n8 a=bcd\n"), Some(600));
    }
}
