//! The volumes of a machine. Verbs touch only those with both its mark and its names.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::time::Duration;

use super::failure::{Failure, full};
use super::host::Host;
use crate::model::fault::Fault;
use crate::model::wire::Volume;
use crate::node::storage::{Disk, StorageError};
use crate::node::{Machine, filesystem};

/// How often a busy volume is retried. Its users are about to go away: a domain's device, a mount
/// namespace whose last process was killed, or udev probing a new device.
const TRIES: u32 = 20;
/// The time between two attempts.
const PAUSE: Duration = Duration::from_secs(1);

/// How often a disk that is in use is looked at again, and when. A loop device that another losetup
/// has open for a moment is detached after that (`LO_FLAGS_AUTOCLEAR`, loop(4)), and udev probes a
/// volume on which a file system has just been made.
const LOOKS: u32 = 15;
const LOOK: Duration = Duration::from_millis(200);

impl Host {
    /// Finds a disk of the machine. It must be marked as the machine's and must not be in use, but for
    /// a moment: nothing else prevents writing to the disk of a running machine, which would destroy it.
    pub fn volume(&self, machine: &Machine, disk: Disk) -> Result<Volume, Failure> {
        self.volume_within(machine, disk, LOOKS, LOOK)
    }

    fn volume_within(
        &self,
        machine: &Machine,
        disk: Disk,
        looks: u32,
        pause: Duration,
    ) -> Result<Volume, Failure> {
        let storage = self.storage();
        let name = storage.name(machine, disk);
        for look in 0..looks {
            if look > 0 {
                std::thread::sleep(pause);
                storage.look_again();
            }
            storage.release(machine);
            match storage.volumes()?.into_iter().find(|volume| volume.name == name) {
                Some(volume) if volume.machine == Some(machine.id) && volume.open => {}
                Some(volume) if volume.machine == Some(machine.id) => return Ok(volume),
                Some(_) => return Err(Fault::VolumeExists { volume: storage.displayed(&name) }.into()),
                None => return Err(Failure::internal(format!("there is no volume {name}"))),
            }
        }
        Err(Failure::internal(format!("the volume {name} is in use")))
    }

    /// Like [`volume`](Self::volume), for a disk from which no machine has been started yet, so
    /// that only vGrid has written to it. A disk that a machine's owner has written to, as root, is
    /// never mounted writable.
    pub fn unused_volume(&self, machine: &Machine, disk: Disk) -> Result<Volume, Failure> {
        let volume = self.volume(machine, disk)?;
        if self.storage().unused()?.iter().any(|unused| unused.name == volume.name) {
            Ok(volume)
        } else {
            let name = volume.name;
            Err(Failure::internal(format!("a machine has been started from the volume {name} before")))
        }
    }

    /// Like [`volume`](Self::volume), for a machine that has just ended. Waits until the disk is no
    /// longer in use.
    pub fn volume_at_rest(&self, machine: &Machine, disk: Disk) -> Result<Volume, Failure> {
        self.volume_within(machine, disk, TRIES, PAUSE)
    }

    /// Explains a failure to write to a disk: where the storage is full, programs and the kernel
    /// speak of an input/output error at most.
    pub fn unless_full(&self, failure: Failure) -> Failure {
        let is_about_the_image = matches!(failure.fault, Some(Fault::ImageTooLarge { .. }));
        if is_about_the_image || !self.storage().is_full() {
            return failure;
        }
        Failure { fault: Some(full()), detail: format!("the storage is full: {}", failure.detail) }
    }

    /// Marks the machine's disks as used. From the first start on, their content is under the
    /// owner's control.
    pub fn mark_volumes_used(&self, machine: &Machine) -> Result<(), Failure> {
        let storage = self.storage();
        let names: Vec<_> = Disk::ALL.iter().map(|&disk| storage.name(machine, disk)).collect();
        let mut ours = storage.unused()?;
        ours.retain(|volume| volume.machine == Some(machine.id) && names.contains(&volume.name));
        let names: Vec<_> = ours.iter().map(|volume| volume.name.as_str()).collect();
        if names.is_empty() { Ok(()) } else { Ok(storage.mark_used(&names)?) }
    }

    /// Removes the machine's disks and snapshots, and what the storage keeps beside them.
    pub fn remove_volumes(&self, machine: &Machine) -> Result<(), Failure> {
        let storage = self.storage();
        let mut last = None;
        for _ in 0..TRIES {
            let mut ours = match storage.volumes() {
                Ok(volumes) => volumes,
                // Without the group there are no volumes.
                Err(StorageError::GroupMissing(_)) => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            ours.retain(|volume| volume.machine == Some(machine.id) && storage.is_made_for(machine, volume));
            if ours.is_empty() {
                return Ok(storage.clear(machine)?);
            }
            let names: Vec<_> = ours.iter().map(|volume| volume.name.as_str()).collect();
            match storage.remove(&names) {
                // What is left is seen at once.
                Ok(()) | Err(StorageError::VolumeMissing) => {}
                Err(error) => {
                    last = Some(format!("the volumes {}: {error}", names.join(", ")));
                    std::thread::sleep(PAUSE);
                }
            }
        }
        let detail = last.unwrap_or_else(|| "its volumes come back".to_owned());
        Err(Fault::RemovalFailed { detail }.into())
    }
}

/// Reads the first bytes of a device, which identify its file system.
pub(super) fn head(device: &Path) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    File::open(device)?.take(filesystem::HEAD as u64).read_to_end(&mut head)?;
    Ok(head)
}
