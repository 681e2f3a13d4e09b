//! Names. Each kind is a type, and is checked once, where it enters.
//!
//! The rules are the narrowest of all the places where a name ends up: the name of a Xen domain
//! (`/` and names of digits only break `xl`), of an LVM volume (`[A-Za-z0-9+_.-]`, see lvm(8)) or
//! of a file, a kernel's command line, a DNS label (RFC 1123).

mod hosts;
mod ids;
mod images;
mod machines;
mod people;
mod strangers;
mod text;
mod volumes;

use thiserror::Error;

use super::folding::is_hidden;

pub use hosts::{PhysicalHost, VirtualHost};
pub use ids::{OrderName, RegistryId, RequestId, VmId};
pub use images::{ImageName, ImageTag, SavedImage};
pub use machines::MachineName;
pub use people::UserName;
pub use strangers::{StrangerDomain, StrangerVolume};
pub use text::{Label, Reason};
pub use volumes::{ROOT_PREFIX, SWAP_PREFIX, VOLUME_PREFIXES, VolumeGroup};

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NameFault {
    /// Nothing was given.
    #[error("must not be empty")]
    Empty,
    /// More characters than this kind of name may have.
    #[error("is longer than {max} characters")]
    TooLong {
        /// The largest number of characters.
        max: usize,
    },
    /// Not UTF-8.
    #[error("is not valid UTF-8")]
    NotUtf8,
    /// A character that this kind of name can't have.
    #[error("must not contain {}", describe(*.0))]
    BadCharacter(char),
    /// A first or last character that this kind of name can't have.
    #[error("must not begin or end with {}", describe(*.0))]
    BadEdge(char),
    /// Text that LVM reserves (lvm(8), "VALID NAMES").
    #[error("contains {0:?}, which LVM reserves for itself")]
    Reserved(&'static str),
    /// Not `USER_HOST`.
    #[error("is not the name of a machine (user_host)")]
    NotAMachine,
    /// Not a UUID of version 7.
    #[error("is not the id of a machine")]
    NotAnId,
    /// Begins with none of [`VOLUME_PREFIXES`].
    #[error("does not begin with xen-root- or xen-swap-")]
    BadPrefix,
    /// Only digits, or a name that Xen has for something else.
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

/// Whether a character is not displayed, or changes how the text around it is.
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

/// What all names that are strings share: showing, and (de)serialising as a string.
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
