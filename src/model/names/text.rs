//! Free text written by people, on one line.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{NameFault, check_length, is_invisible, string_name};

/// A machine's label, chosen by its owner: up to 64 characters of any visible Unicode; may be
/// empty.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Label(String);

string_name!(Label);

impl FromStr for Label {
    type Err = NameFault;

    fn from_str(text: &str) -> Result<Self, NameFault> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(Self::default());
        }
        check_length(text, 64)?;
        match text.chars().find(|&c| c.is_control() || is_invisible(c)) {
            Some(c) => Err(NameFault::BadCharacter(c)),
            None => Ok(Self(text.to_owned())),
        }
    }
}

/// An administrator's reason for closing something: up to 300 characters of any visible Unicode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason(String);

impl Reason {
    /// The maximum length, in characters.
    pub const MAX: usize = 300;

    /// The reason as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Reason {
    type Err = NameFault;

    fn from_str(text: &str) -> Result<Self, NameFault> {
        let text = text.trim();
        check_length(text, Self::MAX)?;
        match text.chars().find(|&c| c.is_control() || is_invisible(c)) {
            Some(c) => Err(NameFault::BadCharacter(c)),
            None => Ok(Self(text.to_owned())),
        }
    }
}
