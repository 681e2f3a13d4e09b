//! `unpack-snapshot`: fills a machine's root disk from a snapshot of another machine.
//!
//! What is in a snapshot was written by a machine's owner, as root in it. So a file system is read as
//! `pack` reads it, from a copy that is mounted read-only, by a tar without rights, and another tar
//! writes it into the file system that has just been made: whatever would make two machines look like
//! one is left out, as in a saved image. A whole disk becomes a copy as it is, which root does not
//! read.

use std::io::{self, Write};
use std::path::Path;

use crate::config::ImageSettings;
use crate::model::fault::Fault;
use crate::model::names::{ImageTag, SnapshotName, VmId};
use crate::model::size::Amount;
use crate::model::stage::Percent;
use crate::node::helper::failure::Failure;
use crate::node::helper::guard::MachineLock;
use crate::node::helper::host::Host;
use crate::node::helper::limits;
use crate::node::helper::namespace::with_mount_points;
use crate::node::helper::nobody::program;
use crate::node::helper::percentages::Percentages;
use crate::node::helper::verbs::pack::{PackHeader, mount_read_only, read_tree};
use crate::node::helper::verbs::snapshot::explain;
use crate::node::helper::verbs::unpack::{fill, tar_failed, unpacker};
use crate::node::image;
use crate::node::storage::Disk;
use crate::system::exec::{ProgramOutput, Run};

impl Host {
    /// Fills the root disk of a machine that has never been started from a snapshot.
    pub fn unpack_snapshot(
        &self,
        lock: &MachineLock,
        tag: &ImageTag,
        settings: &ImageSettings,
        of: VmId,
        name: &SnapshotName,
    ) -> Result<(), Failure> {
        let machine = &lock.machine;
        let volume = self.unused_volume(machine, Disk::Root)?;
        let storage = self.storage();
        let snapshots = storage.snapshots()?;
        if settings.disk.is_some() {
            return snapshots.clone_to(machine, of, name).map_err(|error| explain(error, name));
        }
        let device = storage.attach(machine, Disk::Root)?;
        let lent = snapshots.lend(machine, of, name).map_err(|error| explain(error, name))?;
        let (target, source) = (lock.mount_point(), lock.source_point());
        let copied = with_mount_points(&[&target, &source], || {
            mount_read_only(lent.path(), &source)?;
            let copied = fill(device.path(), &target, || copy(&source, unpacker(&target), tag, volume.size));
            let unmount = Run::new(program("umount")).arg("-n").arg(&source).limit(limits::UNMOUNT).run();
            copied?;
            unmount.map(drop).map_err(Failure::internal)
        });
        drop(lent);
        snapshots.take_back(machine)?;
        copied.map_err(|failure| self.unless_full(of_snapshot(failure, name)))
    }
}

/// Copies what a mounted file system has to a tar that unpacks it.
fn copy(source: &Path, tar: Run, tag: &ImageTag, size: Amount) -> Result<ProgramOutput, Failure> {
    let header = PackHeader::of_mounted(source, size)?;
    let (read, unpacked) = tar.limit(limits::TAR).feed(|to| {
        image::enlarge(to);
        let percentages = Percentages::default();
        read_tree(source, header, &mut Telling { to, written: 0, expected: header.expected, percentages })
    });
    // If the first tar fails, the second misses the end of its archive, and its message would hide the
    // cause.
    match read {
        Some(Ok(Err(failure))) => Err(failure),
        _ => unpacked.map_err(|error| tar_failed(&error, tag, size).into()),
    }
}

/// Passes on what is written to it, and tells the percentages.
struct Telling<W> {
    to: W,
    written: u64,
    expected: u64,
    percentages: Percentages,
}

impl<W: Write> Write for Telling<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.to.write(bytes)?;
        self.written = self.written.saturating_add(count as u64);
        self.percentages.tell(Percent::of(self.written, self.expected))?;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Says of a snapshot what `pack` says of a disk that is to become an image.
fn of_snapshot(failure: Failure, name: &SnapshotName) -> Failure {
    let detail = match &failure.fault {
        Some(Fault::SaveFailed { detail }) => detail.clone(),
        Some(Fault::DiskInconsistent { most }) => {
            format!("its file system yields more than the {most} that the disk can hold")
        }
        _ => return failure,
    };
    Failure { fault: Some(Fault::SnapshotUnreadable { name: name.clone(), detail }), ..failure }
}
