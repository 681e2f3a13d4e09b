//! `grow-volume`: enlarges a machine's root disk, and nothing on it. What is on the disk is its
//! owner's, who has a program in the machine enlarge it.

use crate::model::fault::Fault;
use crate::model::size::{Amount, GiB};
use crate::node::helper::failure::Failure;
use crate::node::helper::guard::MachineLock;
use crate::node::helper::host::Host;
use crate::node::helper::percentages::Percentages;
use crate::node::storage::{Disk, StorageError};

impl Host {
    /// Enlarges the root disk of a machine that does not run, unless it has that size already. What is
    /// new reads as zeros. If this is killed, it is carried on by doing it again.
    pub fn grow_volume(&self, lock: &MachineLock, disk: GiB) -> Result<(), Failure> {
        let machine = &lock.machine;
        let volume = self.volume_at_rest(machine, Disk::Root)?;
        let storage = self.storage();
        let mut percentages = Percentages::default();
        let size = disk.amount();
        storage.grow(machine, Disk::Root, size, &mut |percent| percentages.tell(percent)).map_err(|error| {
            match error {
                StorageError::NoSpace => {
                    let free = storage.space().map_or(Amount::default(), |space| space.free);
                    Fault::NotEnoughSpace { needed: size.minus(volume.size), free }.into()
                }
                other => other.into(),
            }
        })
    }
}
