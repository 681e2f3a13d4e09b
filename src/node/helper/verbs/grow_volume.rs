//! `grow-volume`: enlarges a machine's root disk, and nothing on it. What is on the disk is its
//! owner's, who has a program in the machine enlarge it.

use std::io::{self, Write as _};

use crate::model::fault::Fault;
use crate::model::size::{Amount, GiB};
use crate::model::stage::Percent;
use crate::node::helper::failure::Failure;
use crate::node::helper::guard::MachineLock;
use crate::node::helper::host::Host;
use crate::node::storage::{Disk, StorageError};

impl Host {
    /// Enlarges the root disk of a machine that does not run, unless it has that size already. What is
    /// new reads as zeros. If this is killed, it is carried on by doing it again.
    pub fn grow_volume(&self, lock: &MachineLock, disk: GiB) -> Result<(), Failure> {
        let machine = &lock.machine;
        let volume = self.volume_at_rest(machine, Disk::Root)?;
        let storage = self.storage();
        let mut last = None;
        let mut tell = |percent: Percent| {
            if last.replace(percent) == Some(percent) {
                return Ok(());
            }
            let mut out = io::stdout().lock();
            writeln!(out, "{}", percent.get()).and_then(|()| out.flush())
        };
        let size = disk.amount();
        storage.grow(machine, Disk::Root, size, &mut tell).map_err(|error| match error {
            StorageError::NoSpace => {
                let free = storage.space().map_or(Amount::default(), |space| space.free);
                Fault::NotEnoughSpace { needed: size.minus(volume.size), free }.into()
            }
            other => other.into(),
        })
    }
}
