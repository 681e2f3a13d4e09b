//! Where the machines' disks are. The rest of the node uses only the [`Storage`] trait; what differs
//! between the kinds is in [`lvm`], [`files`] and [`thin`].
//!
//! Every disk that vGrid makes is marked with the id of its machine, and, until a machine has been
//! started from it, as unused. Only vGrid has written to an unused disk, so only such a disk is
//! mounted writable.

pub mod files;
mod grow;
pub mod lvm;
pub mod prepared;
pub mod snapshots;
pub mod thin;

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use strum::VariantArray;
use thiserror::Error;

pub use self::lvm::Listing;
use self::prepared::{Kept, Prepared};
use self::snapshots::Snapshots;
use self::thin::PoolFault;
use super::Machine;
use crate::config::{NodeGeneral, StorageSettings};
use crate::model::names::VolumeGroup;
use crate::model::size::Amount;
use crate::model::stage::Percent;
use crate::model::wire::{PoolFill, Volume};

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
        files::disk(&volume.name).or_else(|| lvm::disk(&volume.name))
    }
}

/// The size and the free space of a storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Space {
    /// The total size.
    pub size: Amount,
    /// The space not allocated to any disk.
    pub free: Amount,
    /// The allocation unit; at least one MiB.
    pub extent: Amount,
    /// How full the thin pool is, if it is one.
    #[serde(default)]
    pub fill: Option<PoolFill>,
}

impl Space {
    /// Returns the space that a disk of that size occupies: whole extents.
    pub fn rounded(&self, size: Amount) -> Amount {
        let extent = self.extent.mib().max(1);
        Amount::from_mib(size.mib().div_ceil(extent).saturating_mul(extent))
    }

    /// Checks that there is room for so much, although `reserved` is promised to others, who have not
    /// taken it yet.
    ///
    /// # Errors
    /// [`NoRoom`](StorageError::NoRoom).
    pub fn must_hold(&self, more: Amount, reserved: Amount) -> Result<(), StorageError> {
        let (needed, free) = (self.rounded(more), self.free.minus(reserved));
        if needed > free { Err(StorageError::NoRoom { needed, free }) } else { Ok(()) }
    }
}

/// What a storage has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// Its size, and what is free.
    pub space: Space,
    /// All volumes but disks of images.
    pub volumes: Vec<Volume>,
    /// Its prepared disks; `None` where none are kept.
    pub prepared: Option<Vec<Kept>>,
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
    /// The directory of the machines' disks can't be used.
    #[error("{0}")]
    Directory(String),
    /// The thin pool can't be used.
    #[error("the thin pool {name} {why}")]
    Pool {
        /// Its group and its name.
        name: String,
        /// What is wrong with it.
        why: PoolFault,
    },
    /// There is no such volume.
    #[error("there is no such volume")]
    VolumeMissing,
    /// There is already a volume with that name.
    #[error("a volume of that name exists")]
    VolumeExists,
    /// This disk can't have snapshots.
    #[error("no snapshots: {0}")]
    NoSnapshots(&'static str),
    /// There is too little free space for a snapshot.
    #[error("only {free} are free, and {needed} are needed")]
    NoRoom {
        /// What is needed.
        needed: Amount,
        /// What is free, less what is reserved.
        free: Amount,
    },
    /// There is too little free space.
    #[error("there is no space left")]
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

/// A block device with a disk.
#[derive(Debug)]
pub struct Device {
    path: PathBuf,
    /// Whether it is a loop device, which must be detached.
    is_loop: bool,
}

impl Device {
    /// Returns the device's path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Device {
    /// Detaches a loop device. If it is mounted, it goes away when it is unmounted (losetup(8)).
    fn drop(&mut self) {
        if self.is_loop {
            files::detach(&self.path);
        }
    }
}

/// A storage, which makes, lists and removes disks. All operations require root.
pub trait Storage: Sync {
    /// Returns all that there is.
    fn survey(&self) -> Result<Survey, StorageError>;

    /// Returns the space.
    fn space(&self) -> Result<Space, StorageError>;

    /// Returns whether there is no space left even for what is promised to the disks, so that writing
    /// to them fails.
    fn is_full(&self) -> bool;

    /// Lists all volumes.
    fn volumes(&self) -> Result<Vec<Volume>, StorageError>;

    /// Returns the name of a machine's disk, as in [`Volume::name`].
    fn name(&self, machine: &Machine, disk: Disk) -> String;

    /// Returns whether a volume with the machine's mark and that name is one that is made for machines:
    /// one of its disks, or of its snapshots.
    fn is_made_for(&self, machine: &Machine, volume: &Volume) -> bool;

    /// Returns what users read of a volume of that name.
    fn displayed(&self, name: &str) -> String;

    /// Creates disks of a machine, marked as the machine's and as unused. There may be some of them if
    /// this fails.
    fn create(&self, machine: &Machine, disks: &[(Disk, Amount)]) -> Result<(), StorageError>;

    /// Enlarges a disk of a machine that does not run, unless it is that large already, and leaves what
    /// is on it alone. What is new reads as zeros: nobody sees what another machine had there. `tell`
    /// receives the progress; if it fails, so does this. If this fails or is killed after the disk has
    /// become larger, it must be repeated before the machine is started.
    fn grow(
        &self,
        machine: &Machine,
        disk: Disk,
        size: Amount,
        tell: &mut dyn FnMut(Percent) -> io::Result<()>,
    ) -> Result<(), StorageError>;

    /// Returns the device or file of a disk, as it is given to a hypervisor.
    fn path(&self, machine: &Machine, disk: Disk) -> PathBuf;

    /// Whether disks are block devices, not files.
    fn is_block(&self) -> bool;

    /// Returns a block device with a disk, for programs of the host. The machine must not run.
    fn attach(&self, machine: &Machine, disk: Disk) -> Result<Device, StorageError>;

    /// Returns a block device with a disk that is at that path, such as one that is about to replace
    /// another.
    fn attach_at(&self, path: &Path) -> Result<Device, StorageError>;

    /// Lets go of what a helper that was killed left attached.
    fn release(&self, machine: &Machine);

    /// Forgets what was seen, so that what others have changed meanwhile is seen.
    fn look_again(&self) {}

    /// Lists the volumes from which no machine has been started yet.
    fn unused(&self) -> Result<Vec<Volume>, StorageError>;

    /// Marks volumes as used. This is on disk when it returns.
    fn mark_used(&self, names: &[&str]) -> Result<(), StorageError>;

    /// Returns the facts about the removal of a volume; `None` if there is no such volume.
    fn standing(&self, name: &str) -> Result<Option<Standing>, StorageError>;

    /// Removes volumes. If one of them can't be removed, the others may be gone.
    fn remove(&self, names: &[&str]) -> Result<(), StorageError>;

    /// Removes what else is there of a machine that has no disks, or none any more.
    fn clear(&self, machine: &Machine) -> Result<(), StorageError>;

    /// Returns the disks of images that are kept to be cloned; `None` where that is not possible.
    fn prepared(&self) -> Option<Box<dyn Prepared + '_>> {
        None
    }

    /// Returns the snapshots of machines' disks, or [`NoSnapshots`](StorageError::NoSnapshots).
    fn snapshots(&self) -> Result<Box<dyn Snapshots + '_>, StorageError>;
}

/// Returns the storage that is configured for this host.
pub fn of<'a>(general: &'a NodeGeneral, listing: &'a Listing) -> Box<dyn Storage + 'a> {
    match &general.storage {
        StorageSettings::Lvm(group) => Box::new(lvm::Lvm::new(group, listing)),
        StorageSettings::Thin(group, pool) => Box::new(thin::Thin::new(group, pool, listing)),
        StorageSettings::Files => Box::new(files::Files::new(&general.machine_directory)),
    }
}
