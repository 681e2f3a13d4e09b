//! `info`, `make-volumes`, `make-filesystems`, and the volumes' part of `undo`.

use std::time::Duration;

use super::guard::MachineLock;
use super::{Failure, Host, limits};
use crate::config::ImageSettings;
use crate::model::fault::{self, Fault};
use crate::model::size::{Amount, GiB};
use crate::model::wire::Volume;
use crate::node::host::{HostState, Machines, Storage};
use crate::node::hypervisor::HypervisorError;
use crate::node::lvm::{self, LvmError};
use crate::system::clock;
use crate::system::exec::{self, ExecError, Run};

/// How often, and with what pauses, a volume that is in use is tried again. What holds it is on its way out: a
/// domain's device, a mount namespace whose last process was killed, udev that looks at a new device.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_secs(1);

impl Host {
    /// What the host has. The toolstack and LVM are asked at the same time.
    pub fn state(&self) -> HostState {
        let taken = clock::millis();
        let (machines, storage) = std::thread::scope(|scope| {
            let domains = scope.spawn(|| self.hypervisor()?.domains());
            let storage = scope.spawn(|| self.lvm().all());
            let memory = self.hypervisor().and_then(|h| h.memory().map(|memory| (h.name(), memory)));
            let ended = || HypervisorError::Other("the listing broke off".to_owned());
            let machines = memory.and_then(|(toolstack, memory)| {
                let domains = domains.join().unwrap_or_else(|_| Err(ended()))?;
                Ok(Machines { toolstack: toolstack.to_owned(), memory, domains })
            });
            let ended = || LvmError::Other("the listing broke off".to_owned());
            let storage = storage.join().unwrap_or_else(|_| Err(ended()));
            let storage = storage.map(|(group, volumes)| Storage { group, volumes });
            (machines, storage)
        });
        let fault = |failure: Failure| {
            failure.fault.unwrap_or(Fault::ToolstackMissing { detail: fault::detail(&failure.detail) })
        };
        HostState {
            taken,
            machines: machines.map_err(|error| fault(error.into())),
            storage: storage.map_err(|error| fault(error.into())),
        }
    }

    /// Makes the root and the swap volume. Those that are there already, and ours, are as good.
    pub fn make_volumes(&self, lock: &MachineLock, image: &ImageSettings, disk: GiB) -> Result<(), Failure> {
        let lvm = self.lvm();
        let there = lvm.volumes()?;
        let group = &self.config.general.volume_group_name;
        let exists = |name: &str| Fault::VolumeExists { volume: format!("{group}/{name}") };
        for (name, size) in [
            (lvm::root_volume(&lock.machine), disk.amount()),
            (lvm::swap_volume(&lock.machine), image.swap.amount()),
        ] {
            match there.iter().find(|volume| volume.name == name) {
                Some(volume) if volume.machine == Some(lock.id) => {}
                Some(_) => return Err(exists(&name).into()),
                None => lvm.create(&name, size, lock.id).map_err(|error| match error {
                    LvmError::VolumeExists => exists(&name).into(),
                    LvmError::NoSpace => self.no_space(size),
                    other => Failure::from(other),
                })?,
            }
        }
        Ok(())
    }

    fn no_space(&self, needed: Amount) -> Failure {
        match self.lvm().group() {
            Ok(group) => Fault::NotEnoughSpace { needed, free: group.free }.into(),
            Err(error) => error.into(),
        }
    }

    /// A volume of the machine, which must carry its tag and not be in use: a running machine's disk, written to
    /// from here, would be lost, and LVM itself does not prevent that.
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

    /// The same of a volume from which no machine has been started yet: all that is on it vGrid wrote. What a machine's
    /// owner wrote, who is root in it, is never mounted to be written to.
    pub fn unused_volume(&self, lock: &MachineLock, name: &str) -> Result<Volume, Failure> {
        let volume = self.volume(lock, name)?;
        if self.lvm().unused()?.iter().any(|unused| unused.name == volume.name) {
            Ok(volume)
        } else {
            Err(Failure::internal(format!("a machine has been started from the volume {name} before")))
        }
    }

    /// Notes, before a machine is started for the first time, that its volumes are its own from now on.
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

    /// The same as [`volume`](Self::volume), of a machine that has just ended: what still holds its volume is waited for.
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

    /// Makes the file system, by the image's own command, and the swap area, on volumes that were never used.
    pub fn make_filesystems(&self, lock: &MachineLock, image: &ImageSettings) -> Result<(), Failure> {
        let (root, swap) = (lvm::root_volume(&lock.machine), lvm::swap_volume(&lock.machine));
        let mkswap = exec::find(&["mkswap"]).map(|path| path.to_string_lossy().into_owned());
        let mkswap = [mkswap.unwrap_or_else(|| "mkswap".to_owned())];
        for (name, command) in [(root, &image.make_filesystem[..]), (swap, &mkswap[..])] {
            let volume = self.unused_volume(lock, &name)?;
            let [program, args @ ..] = command else {
                return Err(Failure::internal("node.cfg: an empty XenDeployerFSCreateCmd"));
            };
            let run = Run::new(program).args(args).arg(self.lvm().device(&volume.name)).limit(limits::MAKE);
            run.run().map_err(|error| making_failed(program, &error))?;
        }
        Ok(())
    }

    /// Removes the machine's volumes: those that have both its tag and its names.
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
                // Where there is no group, there is no volume.
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

fn making_failed(program: &str, error: &ExecError) -> Failure {
    let what = program.rsplit('/').next().unwrap_or(program);
    match error {
        ExecError::TimedOut { limit, .. } => {
            Fault::TimedOut { what: what.to_owned(), seconds: limit.as_secs() }.into()
        }
        ExecError::Failed { stderr, .. } => {
            // The first line of the mke2fs family is its version.
            let said: Vec<_> = stderr.lines().filter(|line| !line.starts_with("mke2fs ")).collect();
            Fault::FilesystemFailed { detail: fault::detail(&format!("{what}: {}", said.join("\n"))) }.into()
        }
        ExecError::NotStarted { source, .. } | ExecError::Pipe { source, .. } => {
            Fault::FilesystemFailed { detail: format!("{what}: {source}") }.into()
        }
    }
}
