//! Snapshots as files, `DIRECTORY/ID/NAME.snapshot`: clones of the machine's root disk, taken when they
//! were last modified.
//!
//! A clone is of one moment, also while QEMU writes to the disk: the file systems that can clone hold
//! the file's lock meanwhile, after they have written out what was in memory. Observed with XFS.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::AtFlags;
use nix::unistd::linkat;

use super::clones::{clone, mark_shared, open, shared, shared_now, taken, unnamed};
use super::folders::{file_name, folder};
use super::{Files, attach, discard};
use crate::model::lease::Moment;
use crate::model::names::{SnapshotName, VmId};
use crate::model::size::Amount;
use crate::model::wire::{Snapshot, Volume};
use crate::node::files::{self, FileError};
use crate::node::storage::snapshots::{Complete, Snapshots};
use crate::node::storage::{Device, Disk, Storage as _, StorageError};
use crate::node::{Machine, trust};

/// The ending of a snapshot's name.
const ENDING: &str = ".snapshot";

/// The name of a disk that is about to replace another.
pub(super) const UNFINISHED: &str = "root.unfinished";

fn file_of(name: &SnapshotName) -> String {
    format!("{name}{ENDING}")
}

/// Returns the name of the snapshot that is in a file of that name.
pub(super) fn name_of(file: &str) -> Option<SnapshotName> {
    file.strip_suffix(ENDING)?.parse().ok()
}

/// Lists the snapshots of a machine.
pub(super) fn all(directory: &Path, id: VmId) -> Result<Vec<Volume>, FileError> {
    let folder = folder(directory, id);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&folder).map_err(files::at(&folder))? {
        let path = entry.map_err(files::at(&folder))?.path();
        let Some(file) = path.file_name().and_then(|file| file.to_str()) else { continue };
        let Some(name) = name_of(file) else { continue };
        let facts = path.symlink_metadata().map_err(files::at(&path))?;
        if facts.is_file() {
            let snapshot = Snapshot { name, taken: Moment::from_unix(facts.mtime()), holds: taken(&facts) };
            found.push(Volume {
                name: format!("{id}/{file}"),
                size: Amount::from_mib(facts.len().div_ceil(1 << 20)),
                machine: Some(id),
                open: false,
                snapshot: Some(snapshot),
            });
        }
    }
    Ok(found)
}

impl Files<'_> {
    fn folder_of(self, machine: &Machine) -> Result<PathBuf, FileError> {
        trust::directory(&folder(self.directory, machine.id))
    }
}

impl Files<'_> {
    fn snapshot_of(self, id: VmId, name: &SnapshotName) -> Result<File, StorageError> {
        let folder = folder(self.directory, id);
        if folder.symlink_metadata().is_err() {
            return Err(StorageError::VolumeMissing);
        }
        existing(&trust::directory(&folder)?.join(file_of(name)), OpenOptions::new().read(true))
    }

    /// Replaces a machine's root disk by a clone of a file, once that is complete. It keeps its size.
    pub(super) fn replace_by(
        self,
        machine: &Machine,
        original: &File,
        complete: &Complete<'_>,
    ) -> Result<(), StorageError> {
        let folder = self.folder_of(machine)?;
        let (disk, unfinished) = (folder.join(file_name(Disk::Root)), folder.join(UNFINISHED));
        let size =
            existing(&disk, OpenOptions::new().read(true))?.metadata().map_err(files::at(&disk))?.len();
        discard(&unfinished)?;
        let begin = || -> io::Result<(File, bool)> {
            let to = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
            let facts = original.metadata()?;
            // First the mark: a clone without it would seem to have all the space that it may need.
            mark_shared(&to, taken(&facts))?;
            clone(&to, original)?;
            to.set_len(size.max(facts.len()))?;
            to.sync_all()?;
            Ok((to, facts.len() < size))
        };
        let make = || -> Result<(), StorageError> {
            let (to, is_larger) = begin().map_err(files::at(&unfinished))?;
            complete(&unfinished, is_larger)?;
            Ok(to.sync_all().map_err(files::at(&unfinished))?)
        };
        if let Err(error) = make() {
            discard(&unfinished)?;
            return Err(error);
        }
        files::rename(&unfinished, &disk)?;
        Ok(sync(&folder)?)
    }
}

fn sync(folder: &Path) -> Result<(), FileError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(files::at(folder))
}

/// Opens a file that must be there.
fn existing(path: &Path, options: &mut OpenOptions) -> Result<File, StorageError> {
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(StorageError::VolumeMissing),
        _ => Ok(open(path, options)?),
    }
}

impl Snapshots for Files<'_> {
    /// The disk shares all its blocks from then on, so it may need as many others as it has.
    fn take(&self, machine: &Machine, name: &SnapshotName, reserved: Amount) -> Result<(), StorageError> {
        let folder = self.folder_of(machine)?;
        let (path, disk) = (folder.join(file_of(name)), folder.join(file_name(Disk::Root)));
        let from = existing(&disk, OpenOptions::new().read(true))?;
        if path.symlink_metadata().is_ok() {
            return Err(StorageError::VolumeExists);
        }
        let facts = from.metadata().map_err(files::at(&disk))?;
        let shared_before = shared(&disk);
        self.space()?.must_hold(taken(&facts).minus(shared_before), reserved)?;
        let make = || -> io::Result<Amount> {
            let to = unnamed(&folder, 0o400)?;
            // The machine may be writing to it, so how much there is to share is only known afterwards.
            mark_shared(&from, Amount::from_mib(facts.len().div_ceil(1 << 20)))?;
            clone(&to, &from)?;
            to.sync_all()?;
            // linkat(2): the way to give an unnamed file a name without CAP_DAC_READ_SEARCH.
            let unnamed = format!("/proc/self/fd/{}", to.as_raw_fd());
            linkat(
                nix::fcntl::AT_FDCWD,
                unnamed.as_str(),
                nix::fcntl::AT_FDCWD,
                &path,
                AtFlags::AT_SYMLINK_FOLLOW,
            )?;
            Ok(taken(&to.metadata()?))
        };
        let made = make();
        let shares = *made.as_ref().unwrap_or(&shared_before);
        mark_shared(&from, shares).map_err(files::at(&disk))?;
        made.map_err(files::at(&path))?;
        Ok(sync(&folder)?)
    }

    fn roll_back(&self, machine: &Machine, name: &SnapshotName) -> Result<(), StorageError> {
        let snapshot = self.folder_of(machine)?.join(file_of(name));
        let snapshot = existing(&snapshot, OpenOptions::new().read(true))?;
        self.replace_by(machine, &snapshot, &|_, _| Ok(()))
    }

    /// What the disk does not share any more is its own, and not promised to it a second time. XFS lets
    /// go of the blocks of a file that was removed only later, but of one that was cut off at once.
    fn delete(&self, machine: &Machine, name: &SnapshotName) -> Result<(), StorageError> {
        let folder = self.folder_of(machine)?;
        let (snapshot, unfinished) = (folder.join(file_of(name)), folder.join(UNFINISHED));
        discard(&unfinished)?;
        if snapshot.symlink_metadata().is_ok() {
            files::rename(&snapshot, &unfinished)?;
            let file = open(&unfinished, OpenOptions::new().write(true))?;
            file.set_len(0).and_then(|()| file.sync_all()).map_err(files::at(&unfinished))?;
            files::remove(&unfinished)?;
        }
        let disk = folder.join(file_name(Disk::Root));
        let (before, now) = (shared(&disk), shared_now(&disk));
        if let Some(now) = now.filter(|now| *now < before) {
            let root = open(&disk, OpenOptions::new().read(true))?;
            mark_shared(&root, now).map_err(files::at(&disk))?;
        }
        Ok(())
    }

    fn lend(&self, to: &Machine, of: VmId, name: &SnapshotName) -> Result<Device, StorageError> {
        let from = self.snapshot_of(of, name)?;
        let copy = self.folder_of(to)?.join(UNFINISHED);
        discard(&copy)?;
        let make = || -> io::Result<()> {
            let to = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&copy)?;
            clone(&to, &from)
        };
        make().map_err(files::at(&copy))?;
        attach(&copy)
    }

    fn take_back(&self, to: &Machine) -> Result<(), StorageError> {
        Ok(discard(&self.folder_of(to)?.join(UNFINISHED))?)
    }

    fn clone_to(&self, machine: &Machine, of: VmId, name: &SnapshotName) -> Result<(), StorageError> {
        let from = self.snapshot_of(of, name)?;
        let disk = self.folder_of(machine)?.join(file_name(Disk::Root));
        let to = existing(&disk, OpenOptions::new().read(true).write(true))?;
        let facts = from.metadata().map_err(files::at(&disk))?;
        if facts.len() > to.metadata().map_err(files::at(&disk))?.len() {
            return Err(StorageError::NoSpace);
        }
        // First, so that nobody takes it for a disk that only vGrid has written to.
        self.mark_used(&[&self.name(machine, Disk::Root)])?;
        let cloned = mark_shared(&to, taken(&facts)).and_then(|()| clone(&to, &from));
        Ok(cloned.and_then(|()| to.sync_all()).map_err(files::at(&disk))?)
    }

    /// A disk is replaced in one step. What a killed helper left beside it is removed by the next one,
    /// or with the machine.
    fn unfinished(&self, _volumes: &[Volume]) -> Vec<Machine> {
        Vec::new()
    }

    fn finish(&self, _machine: &Machine) -> Result<(), StorageError> {
        Ok(())
    }
}
