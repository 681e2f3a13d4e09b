//! `take-snapshot`, `roll-back`, `delete-snapshot`: what owners do with snapshots of their machines'
//! disks; `as-new`: they go back to the image.

use crate::config::ImageSettings;
use crate::model::fault::Fault;
use crate::model::names::{ImageTag, SnapshotName};
use crate::model::size::Amount;
use crate::model::spec::Original;
use crate::node::helper::failure::Failure;
use crate::node::helper::guard::MachineLock;
use crate::node::helper::host::Host;
use crate::node::helper::source::Source;
use crate::node::helper::verbs::info::unusable;
use crate::node::host::{HostState, Storage};
use crate::node::storage::{Disk, StorageError};
use crate::system::log::{self, Level};

/// Why a machine of a whole-disk image can't go back to it.
const NEVER_PREPARED: &str = "hosts keep no prepared disks of whole-disk images";

impl Host {
    /// Takes a snapshot of a machine's root disk, whether it runs or not, unless less than `reserved`
    /// would be left. Returns what the storage has now.
    pub fn take_snapshot(
        &self,
        lock: &MachineLock,
        name: &SnapshotName,
        reserved: Amount,
    ) -> Result<Storage, Failure> {
        let taken = self.storage().snapshots()?.take(&lock.machine, name, reserved);
        taken.map_err(|error| explain(error, name))?;
        Ok(self.survey()?)
    }

    /// Gives a machine that does not run the root disk that it had when the snapshot was taken.
    pub fn roll_back(&self, lock: &MachineLock, name: &SnapshotName) -> Result<Storage, Failure> {
        self.must_rest(lock)?;
        let storage = self.storage();
        let snapshots = storage.snapshots()?;
        snapshots.finish(&lock.machine)?;
        self.volume(&lock.machine, Disk::Root)?;
        snapshots.roll_back(&lock.machine, name).map_err(|error| explain(error, name))?;
        Ok(self.survey()?)
    }

    /// Gives a machine that does not run the root disk that its image's file makes, unless less than
    /// `reserved` would be left meanwhile. It keeps its size.
    pub fn as_new(
        &self,
        lock: &MachineLock,
        tag: &ImageTag,
        image: &ImageSettings,
        reserved: Amount,
    ) -> Result<Storage, Failure> {
        self.must_rest(lock)?;
        let storage = self.storage();
        // What can't take snapshots has none that were gone back to, and no prepared disks.
        if let Ok(snapshots) = storage.snapshots() {
            snapshots.finish(&lock.machine)?;
        }
        let root = self.volume(&lock.machine, Disk::Root)?;
        let no_way = || Fault::NoWayBack { detail: NEVER_PREPARED.to_owned() };
        let source = Source::of(Original::Image, tag, image).ok_or_else(no_way)?;
        self.replace_by_clone(lock, source, root.size, reserved)?;
        Ok(self.survey()?)
    }

    /// Deletes a snapshot, if it is there.
    pub fn delete_snapshot(&self, lock: &MachineLock, name: &SnapshotName) -> Result<Storage, Failure> {
        self.storage().snapshots()?.delete(&lock.machine, name)?;
        Ok(self.survey()?)
    }

    /// Finishes what killed helpers left of going back. Errors are only logged, so that
    /// `info` still responds.
    pub fn finish_roll_backs(&self, state: &mut HostState) {
        let Ok(there) = &state.storage else { return };
        let storage = self.storage();
        let Ok(snapshots) = storage.snapshots() else { return };
        let mut has_finished = false;
        for machine in snapshots.unfinished(&there.volumes) {
            let finished = match MachineLock::try_take(&machine) {
                Ok(Some(_lock)) => snapshots.finish(&machine).map_err(Failure::from),
                // It is being gone back to right now.
                Ok(None) => continue,
                Err(failure) => Err(failure),
            };
            match finished {
                Ok(()) => {
                    has_finished = true;
                    let about = [("vm", &machine.id as &dyn std::fmt::Display), ("machine", &machine.name)];
                    log::event(Level::Warning, "snapshot.finished", &about);
                }
                Err(failure) => log::event(
                    Level::Error,
                    "snapshot.not-finished",
                    &[("vm", &machine.id), ("machine", &machine.name), ("why", &failure.detail)],
                ),
            }
        }
        if has_finished {
            state.storage = self.survey().map_err(unusable);
        }
    }
}

pub(super) fn explain(error: StorageError, name: &SnapshotName) -> Failure {
    match error {
        StorageError::VolumeExists => Fault::SnapshotExists { name: name.clone() }.into(),
        StorageError::VolumeMissing => Fault::SnapshotMissing { name: name.clone() }.into(),
        other => other.into(),
    }
}
