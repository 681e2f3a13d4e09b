//! People's public keys for SSH.

use std::str::FromStr;

use thiserror::Error;

/// The types of keys (sshd(8), "AUTHORIZED_KEYS FILE FORMAT").
const TYPES: [&str; 8] = [
    "ssh-rsa",
    "ssh-dss",
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
];

/// The public keys of a person, at least one, as lines of an `authorized_keys`. The guests' script,
/// `copyuserkey`, accepts the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKeys(Vec<String>);

/// Why a text is not a list of public keys.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeyFault {
    /// It is too long.
    #[error("it is longer than {} KiB", PublicKeys::MAX >> 10)]
    TooLong,
    /// A line is neither a key nor a comment.
    #[error("line {0} is no public key")]
    NotAKey(usize),
    /// There is no key.
    #[error("there is no public key in it")]
    Empty,
}

impl PublicKeys {
    /// The longest text that is accepted, in bytes.
    pub const MAX: usize = 64 << 10;

    /// Returns the keys, one line each.
    pub fn lines(&self) -> &[String] {
        &self.0
    }

    /// Returns the keys as a text, which can be parsed again.
    pub fn text(&self) -> String {
        self.0.iter().flat_map(|line| [line, "\n"]).collect()
    }
}

impl FromStr for PublicKeys {
    type Err = KeyFault;

    /// Parses an `authorized_keys`. Unlike sshd, which skips what it does not understand, it refuses
    /// a text in which anything is no key: it may be an error page.
    fn from_str(text: &str) -> Result<Self, KeyFault> {
        if text.len() > Self::MAX {
            return Err(KeyFault::TooLong);
        }
        let mut keys = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if !is_key(line) {
                return Err(KeyFault::NotAKey(number + 1));
            }
            keys.push(line.to_owned());
        }
        if keys.is_empty() { Err(KeyFault::Empty) } else { Ok(Self(keys)) }
    }
}

/// Returns whether a line is `[OPTIONS] TYPE BASE64 [COMMENT]`.
fn is_key(line: &str) -> bool {
    if line.contains(|c: char| c.is_control() && c != '\t') {
        return false;
    }
    let words = |text: &str| -> Option<(String, String)> {
        let (word, rest) = text.split_once([' ', '\t'])?;
        Some((word.to_owned(), rest.trim_start().to_owned()))
    };
    let Some((first, mut rest)) = words(line) else { return false };
    if !TYPES.contains(&first.as_str()) {
        // Options contain blanks only in quotes.
        let Some(end) = end_of_options(line) else { return false };
        let Some((kind, after)) = words(line[end..].trim_start()) else { return false };
        if !TYPES.contains(&kind.as_str()) {
            return false;
        }
        rest = after;
    }
    let key = rest.split([' ', '\t']).next().unwrap_or_default();
    let digits = key.trim_end_matches('=');
    digits.len() >= 36
        && digits.starts_with("AAAA")
        && digits.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/'))
}

/// Returns where the options at the beginning of a line end.
fn end_of_options(line: &str) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    for (at, c) in line.char_indices() {
        match c {
            '"' if !escaped => quoted = !quoted,
            ' ' | '\t' if !quoted => return Some(at),
            _ => {}
        }
        escaped = c == '\\' && !escaped;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ5ZxkPXNTYrSWGkXFVUxVMlOE3GIUaWkYDmaYmrLwXm";

    #[test]
    fn keys_may_have_comments_and_options() {
        let text = format!(
            "# mine\r\n\n{KEY} alice@home\r\n\tfrom=\"10.0.0.0/8\",command=\"echo \\\"hi there\\\"\" {KEY}\n  {KEY}\n"
        );
        let keys: PublicKeys = text.parse().unwrap();
        assert_eq!(keys.lines().len(), 3);
        assert_eq!(keys.lines()[0], format!("{KEY} alice@home"));
        assert!(keys.lines()[1].starts_with("from="));
        assert_eq!(keys.text().parse::<PublicKeys>().unwrap(), keys);
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let parsed = |text: &str| text.parse::<PublicKeys>().unwrap_err();
        assert_eq!(parsed(""), KeyFault::Empty);
        assert_eq!(parsed("# nobody\n"), KeyFault::Empty);
        assert_eq!(parsed(&format!("{KEY}\n<html>\n")), KeyFault::NotAKey(2));
        for line in [
            "ssh-ed25519",
            "ssh-ed25519 AAAA",
            "ssh-ed25519 BBBBC3NzaC1lZDI1NTE5AAAAIJ5ZxkPXNTYrSWGkXFVUxVMlOE3GIUaWkYDmaYmrLwXm",
            "-----BEGIN OPENSSH PRIVATE KEY-----",
            &format!("command=\"x {KEY}"),
            &format!("a b {KEY}"),
            &format!("{KEY}\u{1}"),
        ] {
            assert_eq!(parsed(line), KeyFault::NotAKey(1), "{line}");
        }
        assert_eq!(parsed(&"#\n".repeat(PublicKeys::MAX)), KeyFault::TooLong);
    }
}
