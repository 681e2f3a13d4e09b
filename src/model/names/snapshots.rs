//! Names of snapshots.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{NameFault, check_plain, string_name};

/// The name that a user gave to a snapshot of a machine: up to 24 lower-case letters, digits, `.` and
/// `-`, with a letter or digit at either end.
///
/// It is short because the device mapper limits a volume's name to 127 characters together with its
/// group's, and takes each `-` for two. It has no underscore, so it has none of what LVM reserves
/// (lvm(8), "VALID NAMES").
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SnapshotName(String);

string_name!(SnapshotName);

impl FromStr for SnapshotName {
    type Err = NameFault;

    fn from_str(text: &str) -> Result<Self, NameFault> {
        check_plain(text, 24)?;
        Ok(Self(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_plain() {
        for good in ["a", "before-upgrade", "2026-11-28.1", &"x".repeat(24)] {
            assert_eq!(good.parse::<SnapshotName>().unwrap().as_str(), good);
        }
        for bad in ["", "-a", "a-", ".", "..", "a_b", "A", "a b", "a/b", "é", &"x".repeat(25)] {
            assert!(bad.parse::<SnapshotName>().is_err(), "{bad:?}");
        }
    }
}
