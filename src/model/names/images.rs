//! Names of images.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{NameFault, UserName, check_length, check_plain, string_name};

/// The key of an image in `[VMImages]`: up to 64 letters, digits, `.`, `_`, `+` and `-`, not
/// beginning with `.` or `-`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageTag(String);

string_name!(ImageTag);

impl FromStr for ImageTag {
    type Err = NameFault;

    fn from_str(text: &str) -> Result<Self, NameFault> {
        check_length(text, 64)?;
        if let Some(c) =
            text.chars().find(|&c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '+' | '-')))
        {
            return Err(NameFault::BadCharacter(c));
        }
        match text.chars().next() {
            Some(c @ ('.' | '-')) => Err(NameFault::BadEdge(c)),
            _ => Ok(Self(text.to_owned())),
        }
    }
}

/// The name that a user gave to a saved image: up to 40 lower-case letters, digits, `.` and `-`,
/// with a letter or digit at either end.
///
/// It contains no underscore, so the last one in the file name ([`SavedImage::stem`]) marks where
/// it begins.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageName(String);

string_name!(ImageName);

impl FromStr for ImageName {
    type Err = NameFault;

    fn from_str(text: &str) -> Result<Self, NameFault> {
        check_plain(text, 40)?;
        Ok(Self(text.to_owned()))
    }
}

/// An image saved by a user.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedImage {
    /// The owner.
    pub owner: UserName,
    /// The name that the owner gave it.
    pub name: ImageName,
}

impl std::fmt::Display for SavedImage {
    /// As history and log name it: its owner and its name.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.owner, self.name)
    }
}

impl SavedImage {
    /// Returns the file name without its extension: `user_name`, where the user is the canonical
    /// name, encoded as in a volume's name. It is unique to the owner and the image.
    pub fn stem(&self) -> String {
        format!("{}_{}", self.owner.in_volume_name(), self.name)
    }

    /// Returns its name as that of an image, as faults refer to it. Every such name is also a valid tag.
    pub fn as_tag(&self) -> Option<ImageTag> {
        self.name.as_str().parse().ok()
    }

    /// Parses a [`stem`](Self::stem) into an image with its owner's canonical name; `None` if no
    /// image has that stem.
    pub fn from_stem(stem: &str) -> Option<Self> {
        let (owner, name) = stem.rsplit_once('_')?;
        Some(Self { owner: UserName::from_volume_name(owner)?, name: name.parse().ok()? })
    }
}
