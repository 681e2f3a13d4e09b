//! `pack-disk`: writes the whole disk of a stopped machine to standard output: a line of JSON that
//! announces the size ([`PackHeader`]), then the disk. Root copies bytes, and looks at none.

use std::fs::File;
use std::io::{self, Read as _, Write as _};

use super::pack::PackHeader;
use crate::node::helper::failure::Failure;
use crate::node::helper::guard::MachineLock;
use crate::node::helper::host::Host;
use crate::node::storage::Disk;

impl Host {
    /// Writes the machine's root volume to standard output. The machine must be stopped.
    pub fn pack_disk(&self, lock: &MachineLock) -> Result<(), Failure> {
        let machine = &lock.machine;
        self.must_not_run(machine)?;
        let volume = self.volume_at_rest(machine, Disk::Root)?;
        let device = self.storage().attach(machine, Disk::Root)?;
        let disk = File::open(device.path())
            .map_err(|error| Failure::internal(format!("{}: {error}", device.path().display())))?;
        let size = volume.size.bytes();
        let header = PackHeader { expected: size, most: size };
        let mut out = io::stdout().lock();
        let copied = header
            .write(&mut out)
            .and_then(|()| io::copy(&mut disk.take(size), &mut out))
            .and_then(|copied| out.flush().map(|()| copied))
            .map_err(|error| Failure::internal(format!("copying the disk: {error}")))?;
        if copied == size {
            Ok(())
        } else {
            Err(Failure::internal(format!("the disk has only {copied} of {size} bytes")))
        }
    }
}
