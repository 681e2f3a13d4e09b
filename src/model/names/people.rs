//! Names of people.

use std::str::FromStr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::{Deserialize, Serialize};

use super::{NameFault, check_length, is_invisible, string_name};
use crate::model::digest::digest;
use crate::model::folding::{folded, is_hidden};

/// A user's name, as Apache passed it and as vGrid uses it.
///
/// Any Unicode, up to 128 characters, except invisible ones, `/`, and `;` (the separator that
/// mod_shib puts between several values of an attribute). It has no blank at either end and no
/// leading `-`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UserName(String);

string_name!(UserName);

impl UserName {
    /// The longest accepted name, in characters.
    pub const MAX: usize = 128;

    /// Parses the name of a user who signs in.
    ///
    /// It may contain no invisible characters, so that names that look the same are the same. Names
    /// from before this rule may contain some; [`FromStr`] accepts them.
    pub fn of_sign_in(text: &str) -> Result<Self, NameFault> {
        let name: Self = text.parse()?;
        match text.chars().find(|&c| is_hidden(c)) {
            Some(c) => Err(NameFault::BadCharacter(c)),
            None => Ok(name),
        }
    }

    /// Returns whether another name differs at most in case, or in the encoding of letters and
    /// accents.
    pub fn is_alike(&self, other: &Self) -> bool {
        self == other || folded(&self.0) == folded(&other.0)
    }

    /// Parses a name from the raw bytes of an environment variable.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, NameFault> {
        std::str::from_utf8(bytes).map_err(|_| NameFault::NotUtf8)?.parse()
    }

    /// The name with underscores for blanks, as vGrid has always shown it. Two users may have the
    /// same canonical name; the registry admits only the first of them.
    pub fn canonical(&self) -> String {
        self.0.replace(' ', "_")
    }

    /// The canonical name, percent-encoded except for RFC 3986's unreserved characters, so that it
    /// is safe on a kernel command line.
    pub fn encoded(&self) -> String {
        const SET: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
        utf8_percent_encode(&self.canonical(), &SET).to_string()
    }

    /// The canonical name as part of a volume name: [`encoded`](Self::encoded), but with `+` for
    /// `%` and with `~` encoded, because LVM allows neither.
    pub(super) fn in_volume_name(&self) -> String {
        const SET: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_');
        utf8_percent_encode(&self.canonical(), &SET).to_string().replace('%', "+")
    }

    /// Returns a substitute for a canonical name that is too long for a volume name, such as the
    /// full subject of a certificate: its beginning, and 64 bits of its digest.
    ///
    /// The [full form](Self::in_volume_name) never contains two `+` in a row, so the two can't be
    /// confused.
    pub(super) fn shortened(&self) -> String {
        let canonical = self.canonical();
        let begins: String = canonical.chars().filter(char::is_ascii_alphanumeric).take(12).collect();
        let begins = if begins.is_empty() { "user" } else { &begins };
        format!("{begins}++{}", digest(canonical.as_bytes()))
    }

    /// Decodes the result of [`in_volume_name`](Self::in_volume_name) into the canonical name.
    pub(super) fn from_volume_name(part: &str) -> Option<Self> {
        let decoded: Vec<u8> = percent_decode_str(&part.replace('+', "%")).collect();
        Self::from_bytes(&decoded).ok().filter(|user| user.in_volume_name() == part)
    }
}

impl FromStr for UserName {
    type Err = NameFault;

    fn from_str(text: &str) -> Result<Self, NameFault> {
        check_length(text, Self::MAX)?;
        if let Some(c) = text.chars().find(|&c| c.is_control() || is_invisible(c) || matches!(c, '/' | ';')) {
            return Err(NameFault::BadCharacter(c));
        }
        if let Some(c) = text
            .chars()
            .next()
            .filter(|&c| c.is_whitespace() || c == '-')
            .or_else(|| text.chars().last().filter(|c| c.is_whitespace()))
        {
            return Err(NameFault::BadEdge(c));
        }
        Ok(Self(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_names_may_be_any_visible_unicode() {
        for good in ["alice", "Jürgen Müller", "李雷", "o'brien", "a@b.example", "-".repeat(2).as_str()] {
            let parsed = UserName::from_bytes(good.as_bytes());
            assert_eq!(parsed.is_ok(), !good.starts_with('-'), "{good:?}");
        }
        for bad in ["", " a", "a ", "a\nb", "a;b", "../x", "a\u{202E}b", "a\0", &"x".repeat(129)] {
            assert!(bad.parse::<UserName>().is_err(), "{bad:?} was accepted");
        }
        assert_eq!(UserName::from_bytes(b"\xff"), Err(NameFault::NotUtf8));
    }

    #[test]
    fn encoded_names_contain_no_blank_and_no_quote() {
        let name: UserName = "o'brien \"x\" é".parse().unwrap();
        assert_eq!(name.encoded(), "o%27brien_%22x%22_%C3%A9");
    }
}
