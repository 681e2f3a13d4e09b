//! Where the machines' disks are. The rest of the node uses only the [`Storage`] trait; what differs
//! between the kinds is in [`lvm`].
//!
//! Every disk that vGrid makes is marked with the id of its machine, and, until a machine has been
//! started from it, as unused. Only vGrid has written to an unused disk, so only such a disk is
//! mounted writable.

pub mod lvm;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use strum::VariantArray;
use thiserror::Error;

use super::Machine;
use crate::config::NodeGeneral;
use crate::model::names::{ROOT_PREFIX, SWAP_PREFIX, VolumeGroup};
use crate::model::size::Amount;
use crate::model::wire::Volume;

/// A disk of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, VariantArray)]
pub enum Disk {
    /// The root file system.
    Root,
    /// The swap area.
    Swap,
}

impl Disk {
    /// All disks of a machine.
    pub const ALL: &[Self] = Self::VARIANTS;

    /// Returns which disk of its machine a volume is, by its name.
    pub fn of(volume: &Volume) -> Option<Self> {
        [(ROOT_PREFIX, Self::Root), (SWAP_PREFIX, Self::Swap)]
            .into_iter()
            .find_map(|(prefix, disk)| volume.name.starts_with(prefix).then_some(disk))
    }
}

/// The size and the free space of a storage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Space {
    /// The total size.
    pub size: Amount,
    /// The space not allocated to any disk.
    pub free: Amount,
    /// The allocation unit; at least one MiB.
    pub extent: Amount,
}

impl Space {
    /// Returns the space that a disk of that size occupies: whole extents.
    pub fn rounded(&self, size: Amount) -> Amount {
        let extent = self.extent.mib().max(1);
        Amount::from_mib(size.mib().div_ceil(extent).saturating_mul(extent))
    }
}

/// The facts that decide whether a volume that vGrid may not have made may be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Whether it is marked as a machine's, even by a malformed mark.
    pub marked: bool,
    /// Whether it is open.
    pub open: bool,
    /// Whether no other volume would be removed with it: it is neither a pool nor the origin of
    /// snapshots.
    pub alone: bool,
}

/// Why a storage operation failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StorageError {
    /// There is no such volume group.
    #[error("the volume group {0} is missing")]
    GroupMissing(VolumeGroup),
    /// There is no such volume.
    #[error("there is no such volume")]
    VolumeMissing,
    /// There is already a volume with that name.
    #[error("a volume of that name exists")]
    VolumeExists,
    /// There is too little free space.
    #[error("the volume group is full")]
    NoSpace,
    /// The volume is open: mounted, or used by a running machine.
    #[error("the volume is in use")]
    InUse,
    /// The program exceeded its time limit.
    #[error("{what} did not end within {seconds} s")]
    TimedOut {
        /// The program.
        what: &'static str,
        /// The time limit, in seconds.
        seconds: u64,
    },
    /// Any other error, with the tool's message.
    #[error("{0}")]
    Other(String),
}

/// A storage, which makes, lists and removes disks. All operations require root.
pub trait Storage: Sync {
    /// Returns the space, and all volumes.
    fn survey(&self) -> Result<(Space, Vec<Volume>), StorageError>;

    /// Returns the space.
    fn space(&self) -> Result<Space, StorageError>;

    /// Lists all volumes.
    fn volumes(&self) -> Result<Vec<Volume>, StorageError>;

    /// Returns the name of a machine's disk, as in [`Volume::name`].
    fn name(&self, machine: &Machine, disk: Disk) -> String;

    /// Returns what users read of a volume of that name.
    fn displayed(&self, name: &str) -> String;

    /// Creates a disk of a machine, marked as the machine's and as unused.
    fn create(&self, machine: &Machine, disk: Disk, size: Amount) -> Result<(), StorageError>;

    /// Returns the device or file of a disk.
    fn path(&self, machine: &Machine, disk: Disk) -> PathBuf;

    /// Lists the volumes from which no machine has been started yet.
    fn unused(&self) -> Result<Vec<Volume>, StorageError>;

    /// Marks a volume as used. This is on disk when it returns.
    fn mark_used(&self, name: &str) -> Result<(), StorageError>;

    /// Returns the facts about the removal of a volume; `None` if there is no such volume.
    fn standing(&self, name: &str) -> Result<Option<Standing>, StorageError>;

    /// Removes a volume.
    fn remove(&self, name: &str) -> Result<(), StorageError>;
}

/// Returns the storage that is configured for this host.
pub fn of(general: &NodeGeneral) -> Box<dyn Storage + '_> {
    Box::new(lvm::Lvm::new(&general.volume_group_name))
}
