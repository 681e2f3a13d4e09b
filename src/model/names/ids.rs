//! Ids of machines, registries, orders and requests.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{NameFault, check_length, string_name};
use crate::model::lease::Moment;

/// Defines an id that is a UUID of version 7. Only the hyphenated lower-case form is accepted, so
/// each id has exactly one spelling.
macro_rules! uuid_name {
    ($(#[$about:meta])* $name:ident) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(uuid::Uuid);

        impl $name {
            /// Generates a new id; later ids sort after earlier ones.
            pub fn generate() -> Self {
                Self(uuid::Uuid::now_v7())
            }
        }

        impl FromStr for $name {
            type Err = NameFault;

            fn from_str(text: &str) -> Result<Self, NameFault> {
                uuid::Uuid::try_parse(text)
                    .ok()
                    // Of the forms that `try_parse` accepts, only the hyphenated one has 36
                    // characters.
                    .filter(|id| id.get_version_num() == 7 && text.len() == 36)
                    .filter(|_| !text.bytes().any(|byte| byte.is_ascii_uppercase()))
                    .map(Self)
                    .ok_or(NameFault::NotAnId)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameFault;
            fn try_from(text: String) -> Result<Self, NameFault> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.to_string()
            }
        }
    };
}

uuid_name! {
    /// The id of a machine. It is assigned on deploy, contained in every message about the machine,
    /// and never reused.
    VmId
}

uuid_name! {
    /// The identity of a registry. It is generated with the registry and survives backup and
    /// restore. A node accepts requests only for the registry that it is bound to.
    RegistryId
}

impl VmId {
    /// Returns when the id was generated, according to its timestamp (RFC 9562, section 5.7).
    pub fn generated_at(self) -> Moment {
        let seconds = self.0.get_timestamp().map_or(0, |time| time.to_unix().0);
        Moment::from_unix(i64::try_from(seconds).unwrap_or(i64::MAX))
    }
}

/// A name that a script gives to an order so that a repetition is recognized: up to 64 letters,
/// digits, `.`, `_`, `~` and `-`, which need no encoding in a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderName(String);

impl FromStr for OrderName {
    type Err = NameFault;

    fn from_str(text: &str) -> Result<Self, NameFault> {
        check_length(text, 64)?;
        let is_known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '~' | '-');
        match text.chars().find(|&c| !is_known(c)) {
            Some(c) => Err(NameFault::BadCharacter(c)),
            None => Ok(Self(text.to_owned())),
        }
    }
}

impl fmt::Display for OrderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The id of a request, contained in every log line about it, on the server and on the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RequestId(String);

string_name!(RequestId);

impl RequestId {
    /// Generates a new id: twelve random hexadecimal digits.
    pub fn generate() -> Self {
        let id = uuid::Uuid::now_v7().simple().to_string();
        Self(id[id.len() - 12..].to_owned())
    }
}

impl FromStr for RequestId {
    type Err = NameFault;

    fn from_str(text: &str) -> Result<Self, NameFault> {
        check_length(text, 32)?;
        match text.chars().find(|c| !c.is_ascii_alphanumeric()) {
            Some(c) => Err(NameFault::BadCharacter(c)),
            None => Ok(Self(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_one_spelling() {
        let id = VmId::generate();
        let made = "01936f5e-8c3e-7a37-a6b3-1f3c1f7c9f01".parse::<VmId>().unwrap().generated_at();
        assert_eq!(made.rfc3339(), "2024-11-27T20:44:47Z");
        assert_eq!(id.to_string().parse::<VmId>(), Ok(id));
        assert!(id.to_string().to_uppercase().parse::<VmId>().is_err());
        assert!("6b0dcfc1-8c3e-4a37-a6b3-1f3c1f7c9f41".parse::<VmId>().is_err(), "version 4");
    }
}
