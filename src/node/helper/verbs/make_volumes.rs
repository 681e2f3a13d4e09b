//! `make-volumes`: creates a machine's disks.

use crate::config::ImageSettings;
use crate::model::fault::Fault;
use crate::model::size::{Amount, GiB};
use crate::node::helper::failure::Failure;
use crate::node::helper::guard::MachineLock;
use crate::node::helper::host::Host;
use crate::node::storage::{Disk, Storage, StorageError};

impl Host {
    /// Creates the root and the swap disk. A disk that the machine already has is kept.
    pub fn make_volumes(&self, lock: &MachineLock, image: &ImageSettings, disk: GiB) -> Result<(), Failure> {
        let machine = &lock.machine;
        let storage = self.storage();
        let there = storage.volumes()?;
        let exists = |name: &str| Fault::VolumeExists { volume: storage.displayed(name) };
        for (disk, size) in [(Disk::Root, disk.amount()), (Disk::Swap, image.swap.amount())] {
            let name = storage.name(machine, disk);
            match there.iter().find(|volume| volume.name == name) {
                Some(volume) if volume.machine == Some(machine.id) => {}
                Some(_) => return Err(exists(&name).into()),
                None => storage.create(machine, disk, size).map_err(|error| match error {
                    StorageError::VolumeExists => exists(&name).into(),
                    StorageError::NoSpace => no_space(storage.as_ref(), size),
                    other => Failure::from(other),
                })?,
            }
        }
        Ok(())
    }
}

fn no_space(storage: &dyn Storage, needed: Amount) -> Failure {
    match storage.space() {
        Ok(space) => Fault::NotEnoughSpace { needed, free: space.free }.into(),
        Err(error) => error.into(),
    }
}
