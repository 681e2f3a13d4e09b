//! `make-volumes`: creates a machine's disks.

use crate::config::ImageSettings;
use crate::model::fault::Fault;
use crate::model::names::ImageTag;
use crate::model::size::{Amount, GiB};
use crate::model::spec::Original;
use crate::node::Machine;
use crate::node::helper::failure::Failure;
use crate::node::helper::guard::MachineLock;
use crate::node::helper::host::Host;
use crate::node::helper::source::Source;
use crate::node::storage::{Disk, Storage, StorageError};

impl Host {
    /// Creates the root and the swap disk. A disk that the machine already has is kept. The root disk
    /// begins as a clone of the original's prepared disk, where there is one and that is less work.
    pub fn make_volumes(
        &self,
        lock: &MachineLock,
        tag: &ImageTag,
        image: &ImageSettings,
        disk: GiB,
        original: Original<'_>,
    ) -> Result<(), Failure> {
        self.listing.keep();
        let machine = &lock.machine;
        let storage = self.storage();
        let there = storage.volumes()?;
        let mut wanted = Vec::new();
        for (disk, size) in [(Disk::Root, disk.amount()), (Disk::Swap, image.swap.amount())] {
            let name = storage.name(machine, disk);
            match there.iter().find(|volume| volume.name == name) {
                Some(volume) if volume.machine == Some(machine.id) => {}
                Some(_) => return Err(Fault::VolumeExists { volume: storage.displayed(&name) }.into()),
                None => wanted.push((disk, size)),
            }
        }
        if let Some(source) = Source::of(original, tag, image)
            && self.create_with_clone(lock, source, &wanted)?
        {
            return Ok(());
        }
        storage
            .create(machine, &wanted)
            .map_err(|error| not_created(storage.as_ref(), machine, &wanted, error))
    }
}

/// Explains that disks of a machine could not be created.
fn not_created(
    storage: &dyn Storage,
    machine: &Machine,
    wanted: &[(Disk, Amount)],
    error: StorageError,
) -> Failure {
    match error {
        StorageError::VolumeExists => {
            let names = wanted.iter().map(|(disk, _)| storage.displayed(&storage.name(machine, *disk)));
            Fault::VolumeExists { volume: names.collect::<Vec<_>>().join(" or ") }.into()
        }
        StorageError::NoSpace => match storage.space() {
            Ok(space) => {
                Fault::NotEnoughSpace { needed: wanted.iter().map(|(_, size)| *size).sum(), free: space.free }
                    .into()
            }
            Err(error) => error.into(),
        },
        other => other.into(),
    }
}
