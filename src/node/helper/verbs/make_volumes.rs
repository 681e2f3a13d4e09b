//! `make-volumes`: creates a machine's root and swap volumes.

use crate::config::ImageSettings;
use crate::model::fault::Fault;
use crate::model::size::{Amount, GiB};
use crate::node::helper::failure::Failure;
use crate::node::helper::guard::MachineLock;
use crate::node::helper::host::Host;
use crate::node::lvm::{self, LvmError};

impl Host {
    /// Creates the root and the swap volume. A volume that the machine already has is kept.
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
}
