//! What vGrid names in LVM.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{NameFault, check_length, string_name};

/// The prefix of the volumes that hold a machine's file system.
pub const ROOT_PREFIX: &str = "xen-root-";

/// The prefix of the volumes that a machine swaps to.
pub const SWAP_PREFIX: &str = "xen-swap-";

/// The prefixes of machines' volumes.
pub const VOLUME_PREFIXES: [&str; 2] = [ROOT_PREFIX, SWAP_PREFIX];

/// The name of a volume group: what lvm(8) allows, up to 40 characters (the name of a device-mapper
/// device has room for 127, which the group, the volume and doubled hyphens share).
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

/// Checks that all characters are ones that LVM allows (lvm(8), "VALID NAMES").
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
