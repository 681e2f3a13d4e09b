//! Snapshots of machines' root disks, which their owners take and go back to.
//!
//! A snapshot of a running machine has what a crash would have left. Nothing is ever started from a
//! snapshot, mounted or changed. It is its machine's, and is removed with it.

use std::path::Path;

use super::{Device, StorageError};
use crate::model::names::{SnapshotName, VmId};
use crate::model::size::Amount;
use crate::model::wire::Volume;
use crate::node::Machine;

/// Completes a disk that is about to replace another, at this path; whether it has become larger than what
/// it is a copy of.
pub type Complete<'a> = dyn Fn(&Path, bool) -> Result<(), StorageError> + 'a;

/// The snapshots of a storage that can take them. All operations require root.
pub trait Snapshots {
    /// Takes a snapshot of a machine's root disk. `reserved` is not free, although nothing has it yet.
    ///
    /// # Errors
    /// Also [`VolumeExists`](StorageError::VolumeExists) if there is one of that name, and
    /// [`NoSnapshots`](StorageError::NoSnapshots) if this disk can't have any.
    fn take(&self, machine: &Machine, name: &SnapshotName, reserved: Amount) -> Result<(), StorageError>;

    /// Replaces the root disk of a machine that does not run by what it was when the snapshot was
    /// taken. The disk keeps its size. If this is killed, the disk is either of both, once
    /// [`finish`](Self::finish) has been called for it.
    fn roll_back(&self, machine: &Machine, name: &SnapshotName) -> Result<(), StorageError>;

    /// Deletes a snapshot, if it is there.
    fn delete(&self, machine: &Machine, name: &SnapshotName) -> Result<(), StorageError>;

    /// Makes a copy of a machine's snapshot for the work on another machine, which has it in its place
    /// until [`take_back`](Self::take_back). It may be written to: a file system's journal is replayed.
    fn lend(&self, to: &Machine, of: VmId, name: &SnapshotName) -> Result<Device, StorageError>;

    /// Removes what was lent for the work on a machine, once its device is dropped.
    fn take_back(&self, to: &Machine) -> Result<(), StorageError>;

    /// Turns a machine's new root disk into a copy of another machine's snapshot. It keeps its size, and
    /// counts as used from then on.
    fn clone_to(&self, machine: &Machine, of: VmId, name: &SnapshotName) -> Result<(), StorageError>;

    /// Returns the machines among whose volumes is what a killed [`roll_back`](Self::roll_back) left, or
    /// a killed [`replace`](super::prepared::Prepared::replace).
    fn unfinished(&self, volumes: &[Volume]) -> Vec<Machine>;

    /// Finishes what was killed, or undoes it. The machine must not run.
    fn finish(&self, machine: &Machine) -> Result<(), StorageError>;
}
