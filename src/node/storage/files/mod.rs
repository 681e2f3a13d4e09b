//! Disks as raw files: `DIRECTORY/ID/root.raw` and `swap.raw`, where ID is the machine's id.
//!
//! The directory is root's alone. A machine's folder is its own by its name; a file `new` in it says
//! that no machine has been started from the disks yet. Disks are sparse: what their machines have
//! not written yet takes no space, but is promised to them, and does not count as free.
//!
//! Facts, observed with QEMU 10.0 and libvirt 9.0: libvirt gives a disk to its own user while the
//! machine runs, and back to root at its end; QEMU holds open file description locks on a disk
//! (fcntl_locking(2)) for as long as it has it open, which shows that it is in use even if libvirt
//! does not answer.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::sys::statvfs::statvfs;

mod clones;
pub mod folders;
mod prepared;
mod snapshots;

use self::folders::{file_name, folder, make_folder, remove_folder};
use self::prepared::Reflinks;
use super::prepared::Prepared;
use super::snapshots::Snapshots;
use super::{Device, Disk, Space, Standing, Storage, StorageError, Survey};
use crate::model::names::VmId;
use crate::model::size::Amount;
use crate::model::stage::Percent;
use crate::model::wire::Volume;
use crate::node::files::FileError;
use crate::node::{Machine, files, trust};
use crate::system::exec::{self, Run};
use crate::system::log::{self, Level};

/// The file that marks a machine's disks as unused.
const UNUSED: &str = "new";

/// With less space than this left, in bytes, the storage is full.
const FULL: u64 = 1 << 20;

/// The time limit of losetup.
const LIMIT: Duration = Duration::from_secs(60);

/// The directory of the machines' folders.
#[derive(Debug, Clone, Copy)]
pub struct Files<'a> {
    directory: &'a Path,
}

/// Returns which disk of its machine a volume of that name, `ID/FILE`, is.
pub fn disk(volume: &str) -> Option<Disk> {
    let (_, name) = volume.split_once('/')?;
    Disk::ALL.iter().copied().find(|&disk| file_name(disk) == name)
}

impl From<FileError> for StorageError {
    fn from(error: FileError) -> Self {
        if error.is_no_space() { Self::NoSpace } else { Self::Directory(error.to_string()) }
    }
}

impl<'a> Files<'a> {
    /// Refers to the directory, which need not exist.
    pub fn new(directory: &'a Path) -> Self {
        Self { directory }
    }

    /// Lists the machines that have a folder.
    fn machines(self) -> Result<Vec<VmId>, FileError> {
        let directory = trust::directory(self.directory)?;
        let mut ids = Vec::new();
        for entry in std::fs::read_dir(&directory).map_err(files::at(&directory))? {
            let entry = entry.map_err(files::at(&directory))?;
            ids.extend(entry.file_name().to_str().and_then(|name| name.parse::<VmId>().ok()));
        }
        Ok(ids)
    }

    /// Lists the disks of one machine and its snapshots, each with the part of its size that it will
    /// take no more space for.
    fn disks(self, id: VmId, attached: &[PathBuf]) -> Result<Vec<(Volume, Amount)>, FileError> {
        let mut disks = Vec::new();
        for &disk in Disk::ALL {
            let path = folder(self.directory, id).join(file_name(disk));
            let facts = match path.symlink_metadata() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other.map_err(files::at(&path))?,
            };
            if !facts.is_file() {
                continue;
            }
            let is_attached = attached.contains(&path);
            let volume = Volume {
                name: volume_name(id, disk),
                size: Amount::from_mib(facts.len().div_ceil(1 << 20)),
                machine: Some(id),
                open: is_attached || is_locked(&path).map_err(files::at(&path))?,
                snapshot: None,
            };
            // Where it still shares blocks, it will need others once it writes there.
            let own = Amount::from_mib(facts.blocks() / 2048).minus(clones::shared(&path));
            disks.push((volume, own));
        }
        // Nothing is ever written to a snapshot.
        disks.extend(snapshots::all(self.directory, id)?.into_iter().map(|volume| {
            let size = volume.size;
            (volume, size)
        }));
        Ok(disks)
    }

    fn list(self) -> Result<Vec<(Volume, Amount)>, FileError> {
        let attached = attached().into_iter().map(|(_, file)| file).collect::<Vec<_>>();
        let mut all = Vec::new();
        for id in self.machines()? {
            all.extend(self.disks(id, &attached)?);
        }
        Ok(all)
    }

    fn space_beside(self, disks: &[(Volume, Amount)]) -> Result<Space, StorageError> {
        let facts = statvfs(self.directory).map_err(|errno| {
            StorageError::Directory(format!("{}: {}", self.directory.display(), errno.desc()))
        })?;
        let amount = |blocks: u64| Amount::from_mib(blocks.saturating_mul(facts.fragment_size()) >> 20);
        let promised: Amount = disks.iter().map(|(volume, own)| volume.size.minus(*own)).sum();
        let promised = promised.plus(Reflinks::new(self.directory).coming());
        Ok(Space {
            size: amount(facts.blocks()),
            free: amount(facts.blocks_available()).minus(promised),
            extent: Amount::from_mib(1),
            fill: None,
        })
    }

    /// Returns the file of a volume, if it has the name of one.
    fn file(self, name: &str) -> Result<(VmId, PathBuf), StorageError> {
        let (id, file) = name.split_once('/').ok_or(StorageError::VolumeMissing)?;
        let id = id.parse::<VmId>().map_err(|_| StorageError::VolumeMissing)?;
        if disk(name).is_none() && snapshots::name_of(file).is_none() {
            return Err(StorageError::VolumeMissing);
        }
        Ok((id, folder(self.directory, id).join(file)))
    }
}

fn volume_name(id: VmId, disk: Disk) -> String {
    format!("{id}/{}", file_name(disk))
}

impl Files<'_> {
    fn remove_disk(self, name: &str) -> Result<(), StorageError> {
        let (_, path) = self.file(name)?;
        detach_all(&path);
        match is_locked(&path) {
            Ok(true) => return Err(StorageError::InUse),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(StorageError::VolumeMissing),
            Ok(false) | Err(_) => {}
        }
        Ok(files::remove(&path)?)
    }

    fn make_empty(self, machine: &Machine, disk: Disk, size: Amount) -> Result<(), StorageError> {
        let folder = make_folder(self.directory, machine.id)?;
        let path = folder.join(file_name(disk));
        if path.symlink_metadata().is_ok() {
            return Err(StorageError::VolumeExists);
        }
        // First the mark: a disk that somebody finds without it counts as used.
        let mark = folder.join(UNUSED);
        let options =
            |file: &Path| OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(file);
        options(&mark).and_then(|mark| mark.sync_all()).map_err(files::at(&mark))?;
        let make = || -> io::Result<()> {
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            file.set_len(size.bytes())?;
            file.sync_all()?;
            File::open(&folder)?.sync_all()
        };
        Ok(make().map_err(files::at(&path))?)
    }
}

impl Storage for Files<'_> {
    fn survey(&self) -> Result<Survey, StorageError> {
        let disks = self.list()?;
        let space = self.space_beside(&disks)?;
        let keeps = clones::are_possible(self.directory);
        let prepared = keeps.then(|| Reflinks::new(self.directory).kept());
        Ok(Survey { space, volumes: disks.into_iter().map(|(volume, _)| volume).collect(), prepared })
    }

    fn space(&self) -> Result<Space, StorageError> {
        self.space_beside(&self.list()?)
    }

    fn is_full(&self) -> bool {
        statvfs(self.directory)
            .is_ok_and(|facts| facts.blocks_available().saturating_mul(facts.fragment_size()) < FULL)
    }

    fn volumes(&self) -> Result<Vec<Volume>, StorageError> {
        Ok(self.list()?.into_iter().map(|(volume, _)| volume).collect())
    }

    fn name(&self, machine: &Machine, disk: Disk) -> String {
        volume_name(machine.id, disk)
    }

    fn is_made_for(&self, machine: &Machine, volume: &Volume) -> bool {
        self.file(&volume.name).is_ok_and(|(id, _)| id == machine.id)
    }

    fn displayed(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    fn create(&self, machine: &Machine, disks: &[(Disk, Amount)]) -> Result<(), StorageError> {
        let needed: Amount = disks.iter().map(|(_, size)| *size).sum();
        if needed > self.space()?.free {
            return Err(StorageError::NoSpace);
        }
        disks.iter().try_for_each(|(disk, size)| self.make_empty(machine, *disk, *size))
    }

    /// A sparse file has only zeros beyond its old end.
    fn grow(
        &self,
        machine: &Machine,
        disk: Disk,
        size: Amount,
        _tell: &mut dyn FnMut(Percent) -> io::Result<()>,
    ) -> Result<(), StorageError> {
        let path = trust::directory(&folder(self.directory, machine.id))?.join(file_name(disk));
        let file = OpenOptions::new().write(true).custom_flags(OFlag::O_NOFOLLOW.bits()).open(&path);
        let file = match file {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(StorageError::VolumeMissing),
            other => other.map_err(files::at(&path))?,
        };
        let facts = file.metadata().map_err(files::at(&path))?;
        if !facts.is_file() {
            return Err(StorageError::VolumeMissing);
        }
        if facts.len() >= size.bytes() {
            return Ok(());
        }
        // All of it is promised from now on.
        if size.minus(Amount::from_mib(facts.len() >> 20)) > self.space()?.free {
            return Err(StorageError::NoSpace);
        }
        Ok(file.set_len(size.bytes()).and_then(|()| file.sync_all()).map_err(files::at(&path))?)
    }

    fn path(&self, machine: &Machine, disk: Disk) -> PathBuf {
        folder(self.directory, machine.id).join(file_name(disk))
    }

    fn is_block(&self) -> bool {
        false
    }

    fn attach(&self, machine: &Machine, disk: Disk) -> Result<Device, StorageError> {
        attach(&trust::directory(&folder(self.directory, machine.id))?.join(file_name(disk)))
    }

    fn attach_at(&self, path: &Path) -> Result<Device, StorageError> {
        attach(path)
    }

    fn release(&self, machine: &Machine) {
        let folder = folder(self.directory, machine.id);
        for (device, _) in attached().into_iter().filter(|(_, file)| file.parent() == Some(&folder)) {
            detach(&device);
        }
    }

    fn unused(&self) -> Result<Vec<Volume>, StorageError> {
        let is_unused = |volume: &Volume| {
            volume
                .machine
                .is_some_and(|id| folder(self.directory, id).join(UNUSED).symlink_metadata().is_ok())
        };
        Ok(self.volumes()?.into_iter().filter(is_unused).collect())
    }

    /// Each time, it is both disks of the machine.
    fn mark_used(&self, names: &[&str]) -> Result<(), StorageError> {
        for name in names {
            let (id, _) = self.file(name)?;
            let folder = folder(self.directory, id);
            files::remove(&folder.join(UNUSED))?;
            File::open(&folder).and_then(|folder| folder.sync_all()).map_err(files::at(&folder))?;
        }
        Ok(())
    }

    /// All that is in the machines' folders was made by vGrid.
    fn standing(&self, _name: &str) -> Result<Option<Standing>, StorageError> {
        Ok(None)
    }

    fn remove(&self, names: &[&str]) -> Result<(), StorageError> {
        let removed: Vec<_> = names.iter().map(|name| self.remove_disk(name)).collect();
        removed.into_iter().collect()
    }

    fn clear(&self, machine: &Machine) -> Result<(), StorageError> {
        let folder = folder(self.directory, machine.id);
        if Disk::ALL.iter().all(|&disk| folder.join(file_name(disk)).symlink_metadata().is_err()) {
            files::remove(&folder.join(UNUSED))?;
            discard(&folder.join(snapshots::UNFINISHED))?;
            remove_folder(self.directory, machine.id)?;
        }
        Ok(())
    }

    fn prepared(&self) -> Option<Box<dyn Prepared + '_>> {
        Some(Box::new(Reflinks::new(self.directory)))
    }

    fn snapshots(&self) -> Result<Box<dyn Snapshots + '_>, StorageError> {
        if clones::are_possible(self.directory) {
            Ok(Box::new(*self))
        } else {
            Err(StorageError::NoSnapshots("this host keeps disks on a file system that can't clone files"))
        }
    }
}

/// Returns whether another program holds a lock on a file, as QEMU does on the disks of a running
/// machine.
fn is_locked(path: &Path) -> io::Result<bool> {
    let file = OpenOptions::new().read(true).custom_flags(OFlag::O_NOFOLLOW.bits()).open(path)?;
    let mut lock = range(libc::F_WRLCK, 0, 0);
    match fcntl(&file, FcntlArg::F_OFD_GETLK(&mut lock)) {
        Ok(_) => Ok(i32::from(lock.l_type) != libc::F_UNLCK),
        // A file system without locks.
        Err(Errno::EINVAL | Errno::ENOLCK | Errno::EOPNOTSUPP) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Describes a lock on `len` bytes of a file, or on all of it if that is 0 (fcntl_locking(2)).
// The constants are from 0 to 2.
#[allow(clippy::cast_possible_truncation)]
fn range(kind: i32, start: i64, len: i64) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start,
        l_len: len,
        l_pid: 0,
    }
}

fn losetup() -> Run {
    let program = exec::find(&["losetup"]).unwrap_or_else(|| PathBuf::from("losetup"));
    Run::new(program).limit(LIMIT)
}

/// Attaches a file to a loop device. It is writable even for a file system that is mounted read-only, so
/// that the kernel can replay its journal.
fn attach(path: &Path) -> Result<Device, StorageError> {
    let output = losetup()
        .args(["--find", "--show", "--nooverlap"])
        .arg(path)
        .run()
        .map_err(|error| StorageError::Other(error.to_string()))?;
    let device = PathBuf::from(output.text().trim());
    if !device.starts_with("/dev") {
        return Err(StorageError::Other(format!("losetup names no device: {}", output.text())));
    }
    Ok(Device { path: device, is_loop: true })
}

/// Lists the loop devices of this host with their files (Linux: ABI/testing/sysfs-block-loop).
fn attached() -> Vec<(PathBuf, PathBuf)> {
    let read = |name: &str| -> Option<(PathBuf, PathBuf)> {
        let file = std::fs::read_to_string(format!("/sys/block/{name}/loop/backing_file")).ok()?;
        Some((Path::new("/dev").join(name), PathBuf::from(file.trim_end_matches('\n'))))
    };
    let blocks = std::fs::read_dir("/sys/block").into_iter().flatten();
    blocks.filter_map(|entry| read(entry.ok()?.file_name().to_str()?)).collect()
}

/// Detaches what helpers that were killed left attached of a file.
fn detach_all(path: &Path) {
    for (device, _) in attached().into_iter().filter(|(_, file)| file == path) {
        detach(&device);
    }
}

/// Removes a file that only helpers use, if it is there.
fn discard(path: &Path) -> Result<(), FileError> {
    detach_all(path);
    files::remove(path)
}

/// Detaches a loop device. A failure is only logged: what depends on it fails for itself.
pub(super) fn detach(device: &Path) {
    if let Err(why) = losetup().arg("--detach").arg(device).run() {
        log::event(Level::Warning, "loop.not-detached", &[("file", &device.display()), ("why", &why)]);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_volume_is_named_by_its_machine_and_its_file() {
        let id = VmId::generate();
        let machine = Machine { id, name: "alice_vm1".parse().unwrap() };
        let files = Files::new(Path::new("/m"));
        for &disk in Disk::ALL {
            let name = files.name(&machine, disk);
            assert_eq!(super::disk(&name), Some(disk));
            assert_eq!(files.file(&name).unwrap(), (id, files.path(&machine, disk)));
        }
        for bad in [
            "",
            "root.raw",
            "../root.raw",
            "x/root.raw",
            &format!("{id}/domain.xml"),
            &format!("{id}/../root.raw"),
        ] {
            assert_eq!(files.file(bad), Err(StorageError::VolumeMissing), "{bad}");
        }
    }

    #[test]
    fn a_disk_that_a_program_has_locked_is_open() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(!is_locked(file.path()).unwrap());
        // QEMU takes shared locks on single bytes from 100 and 200 on (its block/file-posix.c).
        let lock = range(libc::F_RDLCK, 100, 1);
        fcntl(file.as_file(), FcntlArg::F_OFD_SETLK(&lock)).unwrap();
        assert!(is_locked(file.path()).unwrap());
        assert!(is_locked(Path::new("/nonexistent")).is_err());
    }

    #[test]
    fn disks_are_made_attached_and_removed() {
        if !nix::unistd::geteuid().is_root() {
            println!("only root can attach disks: not tried here");
            return;
        }
        let directory = tempfile::tempdir_in("/run").unwrap();
        let files = Files::new(directory.path());
        let machine = Machine { id: VmId::generate(), name: "alice_vm1".parse().unwrap() };
        let other = Machine { id: VmId::generate(), ..machine.clone() };
        let size = Amount::from_mib(2);
        // Others use this file system, too, so both are asked as one, and again if that was not so.
        let available = || {
            let facts = statvfs(directory.path()).unwrap();
            Amount::from_mib((facts.blocks_available() * facts.fragment_size()) >> 20)
        };
        let promises = |least: u64| {
            (0..20).any(|_| available().minus(files.space().unwrap().free) >= Amount::from_mib(least))
        };
        let before = files.space().unwrap();
        for &disk in Disk::ALL {
            files.create(&machine, &[(disk, size)]).unwrap();
            assert_eq!(files.create(&machine, &[(disk, size)]), Err(StorageError::VolumeExists));
        }
        files.create(&other, &[(Disk::Root, size)]).unwrap();
        let huge = before.size.plus(size);
        assert_eq!(files.create(&other, &[(Disk::Swap, huge)]), Err(StorageError::NoSpace));
        assert!(promises(6) && !promises(100));
        assert!(!files.is_full());

        let grow = |to| files.grow(&other, Disk::Root, to, &mut |_| unreachable!("there is nothing to do"));
        let path = files.path(&other, Disk::Root);
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().write_all(b"there before").unwrap();
        for size in [Amount::from_mib(5), Amount::from_mib(4)] {
            grow(size).unwrap();
            let content = std::fs::read(&path).unwrap();
            assert_eq!(content.len(), 5 << 20);
            assert!(content.starts_with(b"there before") && content[12..].iter().all(|&byte| byte == 0));
        }
        assert!(promises(9));
        assert_eq!(grow(huge), Err(StorageError::NoSpace));
        assert_eq!(files.volumes().unwrap().iter().map(|volume| volume.size.mib()).max(), Some(5));
        let missing = files.grow(&other, Disk::Swap, size, &mut |_| Ok(()));
        assert_eq!(missing, Err(StorageError::VolumeMissing));

        let root = files.name(&machine, Disk::Root);
        let is_open =
            || files.volumes().unwrap().into_iter().find(|volume| volume.name == root).unwrap().open;
        assert!(!is_open());
        let device = files.attach(&machine, Disk::Root).unwrap();
        std::fs::write(device.path(), "on the disk").unwrap();
        assert!(is_open());
        drop(device);
        assert!(!is_open());
        assert!(std::fs::read(files.path(&machine, Disk::Root)).unwrap().starts_with(b"on the disk"));
        // As after a helper that was killed.
        std::mem::forget(files.attach(&machine, Disk::Root).unwrap());
        files.release(&machine);
        assert!(!is_open());

        assert_eq!(files.unused().unwrap().len(), 3);
        files.mark_used(&[&root]).unwrap();
        let unused: Vec<_> = files.unused().unwrap().into_iter().map(|volume| volume.machine).collect();
        assert_eq!(unused, [Some(other.id)]);

        std::mem::forget(files.attach(&machine, Disk::Swap).unwrap());
        for &disk in Disk::ALL {
            let name = files.name(&machine, disk);
            files.remove(&[&name]).unwrap();
            assert_eq!(files.remove(&[&name]), Err(StorageError::VolumeMissing));
            files.clear(&machine).unwrap();
            assert_eq!(folder(directory.path(), machine.id).exists(), disk == Disk::Root);
        }
        assert!(!folder(directory.path(), machine.id).exists());
        assert_eq!(files.volumes().unwrap().len(), 1);
        files.remove(&[&files.name(&other, Disk::Root)]).unwrap();
        // As after a helper that was killed, or found the disk full, before it had made a disk: it
        // begins with the mark.
        assert!(folder(directory.path(), other.id).join(UNUSED).exists());
        files.clear(&other).unwrap();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
