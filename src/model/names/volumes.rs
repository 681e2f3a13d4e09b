//! Names used in LVM.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{NameFault, check_length, string_name};

/// The prefix of the volumes that contain a machine's file system.
pub const ROOT_PREFIX: &str = "xen-root-";

/// The prefix of a machine's swap volumes.
pub const SWAP_PREFIX: &str = "xen-swap-";

/// The prefixes of all volumes of machines.
pub const VOLUME_PREFIXES: [&str; 2] = [ROOT_PREFIX, SWAP_PREFIX];

/// The name of a volume group: as allowed by lvm(8), up to 40 characters. (A device-mapper name is
/// limited to 127 characters, which must hold the group, the volume and doubled hyphens.)
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VolumeGroup(String);

string_name!(VolumeGroup);

impl FromStr for VolumeGroup {
    type Err = NameFault;

    fn from_str(text: &str) -> Result<Self, NameFault> {
        check_length(text, 40)?;
        check_lvm_characters(text)?;
        Ok(Self(text.to_owned()))
    }
}

/// The name of a thin pool (lvmthin(7)), which follows the same rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ThinPool(String);

string_name!(ThinPool);

impl FromStr for ThinPool {
    type Err = NameFault;

    fn from_str(text: &str) -> Result<Self, NameFault> {
        check_length(text, 40)?;
        check_lvm_characters(text)?;
        Ok(Self(text.to_owned()))
    }
}

/// Checks that a text contains only characters that LVM allows (lvm(8), "VALID NAMES").
pub(super) fn check_lvm_characters(text: &str) -> Result<(), NameFault> {
    if let Some(c) =
        text.chars().find(|&c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '+' | '-')))
    {
        return Err(NameFault::BadCharacter(c));
    }
    match text.chars().next() {
        Some(c @ ('.' | '-')) => Err(NameFault::BadEdge(c)),
        _ => Ok(()),
    }
}
