//! Names. Each kind is a type of its own, validated once, where it enters the program.
//!
//! The rules are those of the strictest place where a name is used: Xen domain names (`/` and
//! all-digit names break `xl`), LVM volume names (`[A-Za-z0-9+_.-]`, see lvm(8)), file names, the
//! kernel command line, and DNS labels (RFC 1123).

mod foreign;
mod hosts;
mod ids;
mod images;
mod machines;
mod people;
mod snapshots;
mod text;
mod volumes;

use thiserror::Error;

use super::folding::is_hidden;

pub use foreign::{DomainNumber, ForeignDomain, ForeignVolume};
pub use hosts::{PhysicalHost, VirtualHost};
pub use ids::{OrderName, RegistryId, RequestId, VmId};
pub use images::{ImageName, ImageTag, SavedImage};
pub use machines::MachineName;
pub use people::UserName;
pub use snapshots::SnapshotName;
pub use text::{Label, Reason};
pub use volumes::{ROOT_PREFIX, SWAP_PREFIX, ThinPool, VOLUME_PREFIXES, VolumeGroup};

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NameFault {
    /// The name is empty.
    #[error("must not be empty")]
    Empty,
    /// The name has more characters than this kind of name may have.
    #[error("is longer than {max} characters")]
    TooLong {
        /// The maximum number of characters.
        max: usize,
    },
    /// Not UTF-8.
    #[error("is not valid UTF-8")]
    NotUtf8,
    /// A character that is not allowed in this kind of name.
    #[error("must not contain {}", describe(*.0))]
    BadCharacter(char),
    /// A first or last character that is not allowed in this kind of name.
    #[error("must not begin or end with {}", describe(*.0))]
    BadEdge(char),
    /// A substring that LVM reserves (lvm(8), "VALID NAMES").
    #[error("contains {0:?}, which LVM reserves for itself")]
    Reserved(&'static str),
    /// Not `USER_HOST`.
    #[error("is not the name of a machine (user_host)")]
    NotAMachine,
    /// Not `MACHINE/NAME`.
    #[error("is not a machine and the name of its snapshot (machine/name)")]
    NotASnapshot,
    /// Not a UUID of version 7.
    #[error("is not the id of a machine")]
    NotAnId,
    /// It begins with none of [`VOLUME_PREFIXES`].
    #[error("does not begin with xen-root- or xen-swap-")]
    BadPrefix,
    /// Only digits, or a name that Xen uses for something else.
    #[error("is a number, or a name that is no machine's")]
    NotADomain,
}

fn describe(c: char) -> String {
    match c {
        ' ' => "a blank".to_owned(),
        c if c.is_control() || is_invisible(c) => format!("the control character U+{:04X}", u32::from(c)),
        c if is_hidden(c) => format!("the invisible character U+{:04X}", u32::from(c)),
        c => format!("{c:?}"),
    }
}

/// Returns whether a character is not displayed, or changes the display of the text around it.
pub(crate) fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{FEFF}' | '\u{FFF9}'..='\u{FFFB}')
}

fn check_length(text: &str, max: usize) -> Result<(), NameFault> {
    if text.is_empty() {
        Err(NameFault::Empty)
    } else if text.len() > max && text.chars().count() > max {
        Err(NameFault::TooLong { max })
    } else {
        Ok(())
    }
}

/// Checks a name of lower-case letters, digits, `.` and `-`, with a letter or digit at either end.
fn check_plain(text: &str, max: usize) -> Result<(), NameFault> {
    check_length(text, max)?;
    if let Some(c) =
        text.chars().find(|c| !(c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-')))
    {
        return Err(NameFault::BadCharacter(c));
    }
    match text.chars().next().into_iter().chain(text.chars().last()).find(|c| matches!(c, '.' | '-')) {
        Some(c) => Err(NameFault::BadEdge(c)),
        None => Ok(()),
    }
}

/// Implements display and (de)serialization as a string for a name type.
macro_rules! string_name {
    ($name:ident) => {
        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = $crate::model::names::NameFault;
            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }
    };
}
use string_name;
