//! The volumes of a machine. Verbs touch only those with both its tag and its names.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::time::Duration;

use super::failure::Failure;
use super::guard::MachineLock;
use super::host::Host;
use crate::model::fault::Fault;
use crate::model::wire::Volume;
use crate::node::filesystem;
use crate::node::lvm::{self, LvmError};

/// How often a busy volume is retried. Its users are about to go away: a domain's device, a mount
/// namespace whose last process was killed, or udev probing a new device.
const TRIES: u32 = 20;
/// The time between two attempts.
const PAUSE: Duration = Duration::from_secs(1);

impl Host {
    /// Finds a volume of the machine. It must have the machine's tag and must not be in use: LVM
    /// does not prevent writing to the disk of a running machine, which would destroy it.
    pub fn volume(&self, lock: &MachineLock, name: &str) -> Result<Volume, Failure> {
        match self.lvm().volumes()?.into_iter().find(|volume| volume.name == name) {
            Some(volume) if volume.machine == Some(lock.id) && volume.open => {
                Err(Failure::internal(format!("the volume {name} is in use")))
            }
            Some(volume) if volume.machine == Some(lock.id) => Ok(volume),
            Some(_) => {
                let group = &self.config.general.volume_group_name;
                Err(Fault::VolumeExists { volume: format!("{group}/{name}") }.into())
            }
            None => Err(Failure::internal(format!("there is no volume {name}"))),
        }
    }

    /// Like [`volume`](Self::volume), for a volume from which no machine has been started yet, so
    /// that only vGrid has written to it. A volume that a machine's owner has written to, as root,
    /// is never mounted writable.
    pub fn unused_volume(&self, lock: &MachineLock, name: &str) -> Result<Volume, Failure> {
        let volume = self.volume(lock, name)?;
        if self.lvm().unused()?.iter().any(|unused| unused.name == volume.name) {
            Ok(volume)
        } else {
            Err(Failure::internal(format!("a machine has been started from the volume {name} before")))
        }
    }

    /// Like [`volume`](Self::volume), for a machine that has just ended. Waits until the volume is
    /// no longer in use.
    pub fn volume_at_rest(&self, lock: &MachineLock, name: &str) -> Result<Volume, Failure> {
        let is_held = |volume: &Volume| volume.name == name && volume.machine == Some(lock.id) && volume.open;
        for _ in 1..TRIES {
            if !self.lvm().volumes()?.iter().any(is_held) {
                break;
            }
            std::thread::sleep(PAUSE);
        }
        self.volume(lock, name)
    }

    /// Marks the machine's volumes as used. From the first start on, their content is under the
    /// owner's control.
    pub fn mark_volumes_used(&self, lock: &MachineLock) -> Result<(), Failure> {
        let lvm = self.lvm();
        let names = [lvm::root_volume(&lock.machine), lvm::swap_volume(&lock.machine)];
        let unused = lvm.unused()?;
        let ours = unused.iter().filter(|volume| volume.machine == Some(lock.id));
        for volume in ours.filter(|volume| names.contains(&volume.name)) {
            lvm.mark_used(&volume.name)?;
        }
        Ok(())
    }

    /// Removes the machine's volumes.
    pub fn remove_volumes(&self, lock: &MachineLock) -> Result<(), Failure> {
        let lvm = self.lvm();
        let names = [lvm::swap_volume(&lock.machine), lvm::root_volume(&lock.machine)];
        let mut last = None;
        for attempt in 0..TRIES {
            if attempt > 0 {
                std::thread::sleep(PAUSE);
            }
            let mut ours = match lvm.volumes() {
                Ok(volumes) => volumes,
                // Without the group there are no volumes.
                Err(LvmError::GroupMissing(_)) => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            ours.retain(|volume| volume.machine == Some(lock.id) && names.contains(&volume.name));
            if ours.is_empty() {
                return Ok(());
            }
            for volume in ours {
                match lvm.remove(&volume.name) {
                    Ok(()) | Err(LvmError::VolumeMissing) => {}
                    Err(error) => last = Some(format!("the volume {}: {error}", volume.name)),
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
