//! Prepared disks as files, `DIRECTORY/prepared/TAG.KEY.raw`, and of saved images `TAG.KEY.saved`, and
//! clones of them.
//!
//! A clone shares all blocks with what it was cloned from until one of both is written to
//! (ioctl_ficlone(2)); XFS and Btrfs can do that. Nothing mounts a prepared disk, so it may be removed
//! at any time.
//!
//! The folder is root's alone. A file gets its name once it is complete and synced; until then it
//! has another: one if it is a clone of a machine's disk, under the lock of all that makes or removes such
//! files, and one if it is made from an image's file, which takes minutes, under a lock of the caller's.

use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::clones::{clone, forget_shared, mark_shared, open, taken, unnamed};
use super::folders::{self, folder};
use super::{Files, attach, discard};
use crate::model::lease::Moment;
use crate::model::size::Amount;
use crate::node::files::{self, FileError};
use crate::node::storage::prepared::{Finish, Keeping, Kept, Key, Kind, Prepared};
use crate::node::storage::snapshots::Complete;
use crate::node::storage::{Device, Disk, Storage as _, StorageError};
use crate::node::{Machine, trust};
use crate::system::lock;
use crate::system::log::{self, Level};

/// The folder's name. No machine has it, because machines' folders are named by ids.
const FOLDER: &str = "prepared";

/// The ending of the name of an image's disk. That of a saved image's is in its key.
const ENDING: &str = ".raw";

/// The name of a clone of a machine's disk that is not complete. Tags don't begin with a dot.
const UNFINISHED: &str = ".unfinished";

/// The name of a disk that is made from an image's file and is not complete.
const AHEAD: &str = ".ahead";

/// The name of the lock. Who holds it may change the folder.
const LOCK: &str = ".lock";

/// How long it is waited for the lock. Without it, nothing is kept, and the next deploy tries again.
const PATIENCE: Duration = Duration::from_secs(60);

/// The folder of prepared disks.
#[derive(Debug, Clone, Copy)]
pub struct Reflinks<'a> {
    directory: &'a Path,
}

fn file_name(key: &Key) -> String {
    match key.kind {
        Kind::Image => format!("{key}{ENDING}"),
        Kind::Saved => key.to_string(),
    }
}

fn key_of(file_name: &str) -> Option<Key> {
    let key: Key = file_name.strip_suffix(ENDING).unwrap_or(file_name).parse().ok()?;
    (self::file_name(&key) == file_name).then_some(key)
}

impl<'a> Reflinks<'a> {
    /// Refers to the folder in the directory of the machines' folders.
    pub fn new(directory: &'a Path) -> Self {
        Self { directory }
    }

    fn root(self, machine: &Machine) -> PathBuf {
        folder(self.directory, machine.id).join(folders::file_name(Disk::Root))
    }

    fn file(self, key: &Key) -> PathBuf {
        self.directory.join(FOLDER).join(file_name(key))
    }

    /// Opens the disk with that key. It can be cloned even if it is removed meanwhile.
    fn find(self, key: &Key) -> Result<Option<(File, Metadata)>, FileError> {
        let path = self.file(key);
        match path.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            _ => trust::directory(&self.directory.join(FOLDER))?,
        };
        let file = open(&path, OpenOptions::new().read(true))?;
        let facts = file.metadata().map_err(files::at(&path))?;
        Ok(Some((file, facts)))
    }

    fn ahead(self) -> PathBuf {
        self.directory.join(FOLDER).join(AHEAD)
    }

    /// Returns how much more space the disk that is being prepared will take at most.
    pub(super) fn coming(self) -> Amount {
        let facts = self.ahead().symlink_metadata();
        facts.map_or(Amount::default(), |facts| Amount::from_mib(facts.len() >> 20).minus(taken(&facts)))
    }

    /// Lists the prepared disks, by their files' names and facts.
    fn list(self) -> Result<Vec<Kept>, FileError> {
        let folder = self.directory.join(FOLDER);
        if folder.symlink_metadata().is_err() {
            return Ok(Vec::new());
        }
        let folder = trust::directory(&folder)?;
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&folder).map_err(files::at(&folder))? {
            let path = entry.map_err(files::at(&folder))?.path();
            let Some(key) = path.file_name().and_then(|name| name.to_str()).and_then(key_of) else {
                continue;
            };
            // It may have been removed a moment ago.
            if let Ok(facts) = path.symlink_metadata() {
                let size = Amount::from_mib(facts.len() >> 20);
                let made = Some(Moment::from_unix(facts.mtime()));
                found.push(Kept { key, size, holds: taken(&facts), made });
            }
        }
        Ok(found)
    }

    /// Lists the prepared disks. If the folder can't be used, there are none: who prepares one says why.
    pub(super) fn kept(self) -> Vec<Kept> {
        self.list().unwrap_or_default()
    }

    /// Removes those prepared disks.
    fn remove_where(self, is_old: impl Fn(&Kept) -> bool) -> Result<(), FileError> {
        for kept in self.list()?.iter().filter(|kept| is_old(kept)) {
            let path = self.file(&kept.key);
            files::remove(&path)?;
            log::event(Level::Info, "prepared.removed", &[("file", &path.display())]);
        }
        Ok(())
    }

    fn make_folder(self) -> Result<PathBuf, FileError> {
        let folder = trust::directory(self.directory)?.join(FOLDER);
        match DirBuilder::new().mode(0o700).create(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(files::at(&folder)(error)),
            _ => trust::directory(&folder),
        }
    }
}

impl Prepared for Reflinks<'_> {
    fn can_clone(&self, machine: &Machine) -> Result<bool, StorageError> {
        let disk = self.root(machine);
        let from = open(&disk, OpenOptions::new().read(true))?;
        let folder = disk.parent().unwrap_or(self.directory);
        Ok(unnamed(folder, 0o600).is_ok_and(|to| clone(&to, &from).is_ok()))
    }

    /// An empty file costs nothing.
    fn create_with_clone(
        &self,
        _machine: &Machine,
        _key: &Key,
        _disks: &[(Disk, Amount)],
    ) -> Result<bool, StorageError> {
        Ok(false)
    }

    /// Beyond the original's end, the disk stays as it is.
    fn clone_to(&self, machine: &Machine, key: &Key, most: Amount) -> Result<Option<Amount>, StorageError> {
        let Some((original, facts)) = self.find(key)? else { return Ok(None) };
        let size = Amount::from_mib(facts.len() >> 20);
        if size > most {
            return Ok(None);
        }
        let disk = self.root(machine);
        let file = open(&disk, OpenOptions::new().read(true).write(true))?;
        // First the mark: a clone without it would seem to have all the space that it may need.
        mark_shared(&file, taken(&facts)).and_then(|()| clone(&file, &original)).map_err(files::at(&disk))?;
        Ok(Some(size))
    }

    fn keep(&self, machine: &Machine, key: &Key, finish: &Finish<'_>) -> Result<Keeping, StorageError> {
        let disk = self.root(machine);
        let folder = self.make_folder()?;
        let Some(_lock) = lock_within(&folder, PATIENCE)? else { return Ok(Keeping::Needless) };
        let from = open(&disk, OpenOptions::new().read(true).write(true))?;
        let facts = from.metadata().map_err(files::at(&disk))?;
        if self.find(key)?.is_some_and(|(_, there)| there.len() <= facts.len()) {
            return Ok(Keeping::Needless);
        }
        if !key.may_take(taken(&facts), Files::new(self.directory).space()?.free, &self.list()?) {
            return Ok(Keeping::TooLarge);
        }
        let unfinished = folder.join(UNFINISHED);
        // Left by a helper that was killed.
        files::remove(&unfinished)?;
        let make = || -> Result<(), StorageError> {
            let to = open(&unfinished, OpenOptions::new().write(true).create_new(true).mode(0o600))?;
            let cloned = mark_shared(&from, taken(&facts)).and_then(|()| clone(&to, &from));
            cloned.map_err(files::at(&unfinished))?;
            finish(&unfinished)?;
            to.sync_all().map_err(files::at(&unfinished))?;
            Ok(files::rename(&unfinished, &self.file(key))?)
        };
        let made = make();
        files::remove(&unfinished)?;
        if made.is_err() {
            // It shares nothing after all.
            forget_shared(&from);
        }
        made?;
        self.remove_where(|other| other.key.is_older_than(key))?;
        Ok(Keeping::Done)
    }

    fn all(&self) -> Result<Vec<Kept>, StorageError> {
        Ok(self.list()?)
    }

    fn begin(&self, size: Amount) -> Result<Device, StorageError> {
        self.make_folder()?;
        if size > Files::new(self.directory).space()?.free {
            return Err(StorageError::NoSpace);
        }
        let path = self.ahead();
        let file = open(&path, OpenOptions::new().write(true).create_new(true).mode(0o600))?;
        file.set_len(size.bytes()).map_err(files::at(&path))?;
        attach(&path)
    }

    fn complete(&self, key: &Key, finish: &Finish<'_>) -> Result<(), StorageError> {
        let path = self.ahead();
        finish(&path)?;
        let file = open(&path, OpenOptions::new().read(true))?;
        file.sync_all().map_err(files::at(&path))?;
        let folder = self.make_folder()?;
        let Some(_lock) = lock_within(&folder, PATIENCE)? else {
            return Err(StorageError::Other(format!("{} is held by others", folder.join(LOCK).display())));
        };
        if self.find(key)?.is_some() {
            return Ok(discard(&path)?);
        }
        files::rename(&path, &self.file(key))?;
        Ok(self.remove_where(|other| other.key.is_older_than(key))?)
    }

    fn has_begun(&self) -> Result<bool, StorageError> {
        Ok(self.ahead().symlink_metadata().is_ok())
    }

    fn abandon(&self) -> Result<(), StorageError> {
        Ok(discard(&self.ahead())?)
    }

    fn size(&self, key: &Key) -> Result<Option<Amount>, StorageError> {
        Ok(self.find(key)?.map(|(_, facts)| Amount::from_mib(facts.len() >> 20)))
    }

    /// Before and afterward, all that the disk has not for itself is promised to it.
    fn replace(
        &self,
        machine: &Machine,
        key: &Key,
        reserved: Amount,
        complete: &Complete<'_>,
    ) -> Result<(), StorageError> {
        let (original, facts) = self.find(key)?.ok_or(StorageError::VolumeMissing)?;
        let files = Files::new(self.directory);
        files.space()?.must_hold(taken(&facts), reserved)?;
        files.replace_by(machine, &original, complete)
    }

    fn empty(&self, machine: &Machine) -> Result<(), StorageError> {
        Ok(empty(&self.root(machine))?)
    }

    fn remove(&self, key: &Key) -> Result<(), StorageError> {
        Ok(files::remove(&self.file(key))?)
    }

    fn sweep(&self, is_of_use: &dyn Fn(&Kept) -> bool) -> Result<(), StorageError> {
        let folder = self.directory.join(FOLDER);
        if folder.symlink_metadata().is_err() {
            return Ok(());
        }
        let folder = trust::directory(&folder)?;
        let Some(_lock) = lock_within(&folder, Duration::ZERO)? else { return Ok(()) };
        files::remove(&folder.join(UNFINISHED))?;
        Ok(self.remove_where(|kept| !is_of_use(kept))?)
    }
}

fn lock_within(folder: &Path, limit: Duration) -> Result<Option<File>, FileError> {
    let path = folder.join(LOCK);
    lock::take_within(&path, limit).map_err(files::at(&path))
}

fn empty(disk: &Path) -> Result<(), FileError> {
    let file = open(disk, OpenOptions::new().write(true))?;
    let empty = || {
        let size = file.metadata()?.len();
        file.set_len(0)?;
        forget_shared(&file);
        file.set_len(size)
    };
    empty().map_err(files::at(disk))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::names::VmId;

    fn keys() -> [Key; 2] {
        ["tiny.0000000000000000", "tiny.1111111111111111"].map(|key| key.parse().unwrap())
    }

    #[test]
    fn files_are_named_by_their_key() {
        for tag in ["tiny", "debian-12.5", "a.0123456789abcdef", "x_y+z"] {
            for kind in ["", ".saved"] {
                let key: Key = format!("{tag}.0123456789abcdef{kind}").parse().unwrap();
                assert_eq!(key_of(&file_name(&key)), Some(key), "{tag}");
            }
        }
        let saved = "tiny.0123456789abcdef.saved";
        assert_eq!(file_name(&saved.parse().unwrap()), saved);
        for name in [
            UNFINISHED,
            AHEAD,
            LOCK,
            "tiny.raw",
            "tiny.0123456789abcde.raw",
            "tiny.0123456789ABCDEF.raw",
            "tiny.0123456789abcdef",
            "tiny.0123456789abcdef.saved.raw",
            "tiny.0123456789abcdef.raw.saved",
            "tiny.saved",
            ".0123456789abcdef.raw",
            "..0123456789abcdef.raw",
            "a b.0123456789abcdef.raw",
        ] {
            assert_eq!(key_of(name), None, "{name}");
        }
        assert!(FOLDER.parse::<VmId>().is_err(), "it is no machine");
    }

    #[test]
    fn old_and_unfinished_ones_are_swept_unless_somebody_is_at_work() {
        if !nix::unistd::geteuid().is_root() {
            println!("only root has a folder of root: not tried here");
            return;
        }
        let directory = tempfile::tempdir_in("/run").unwrap();
        let prepared = Reflinks::new(directory.path());
        prepared.sweep(&|_| false).unwrap();
        assert!(!directory.path().join(FOLDER).exists());
        let folder = prepared.make_folder().unwrap();
        assert_eq!(std::fs::metadata(&folder).unwrap().mode() & 0o777, 0o700);
        let keys = keys();
        let gone: Key = "gone.0000000000000000".parse().unwrap();
        let saved: Key = "tiny.0000000000000000.saved".parse().unwrap();
        let names = || {
            let all = std::fs::read_dir(&folder).unwrap();
            let mut names: Vec<_> =
                all.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.retain(|name| name != LOCK);
            names.sort();
            names
        };
        let all = [
            UNFINISHED.to_owned(),
            file_name(&gone),
            file_name(&keys[0]),
            file_name(&keys[1]),
            file_name(&saved),
            "notes".into(),
        ];
        for name in &all {
            std::fs::write(folder.join(name), "x").unwrap();
        }
        let now = crate::system::clock::now();
        let is_of_use = |kept: &Kept| {
            assert!(kept.made.is_some_and(|made| (0..60).contains(&now.since(made))), "{kept:?}");
            kept.key == keys[1]
        };
        let held = lock_within(&folder, Duration::ZERO).unwrap().unwrap();
        prepared.sweep(&is_of_use).unwrap();
        assert_eq!(names().len(), all.len());
        drop(held);
        prepared.sweep(&is_of_use).unwrap();
        // What vGrid has not made stays.
        assert_eq!(names(), ["notes".to_owned(), file_name(&keys[1])]);
        assert!(prepared.find(&keys[1]).unwrap().is_some() && prepared.find(&keys[0]).unwrap().is_none());
        prepared.remove(&keys[1]).unwrap();
        assert!(prepared.find(&keys[1]).unwrap().is_none());
        // Others could have put something there.
        std::fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        std::fs::write(folder.join(file_name(&keys[1])), "x").unwrap();
        assert!(prepared.find(&keys[1]).is_err() && prepared.sweep(&is_of_use).is_err());
    }

    #[test]
    fn a_disk_that_is_being_prepared_counts_for_nothing_but_space() {
        if !nix::unistd::geteuid().is_root() {
            println!("only root can attach disks: not tried here");
            return;
        }
        let directory = tempfile::tempdir_in("/run").unwrap();
        let prepared = Reflinks::new(directory.path());
        let (size, nothing) = (Amount::from_mib(2), Amount::default());
        assert_eq!((prepared.has_begun(), prepared.coming()), (Ok(false), nothing));
        let device = prepared.begin(size).unwrap();
        assert!(prepared.begin(size).is_err(), "there is one");
        assert_eq!((prepared.has_begun(), prepared.coming(), prepared.all()), (Ok(true), size, Ok(vec![])));
        std::fs::write(device.path(), "content").unwrap();
        drop(device);
        // A sweep of others leaves it alone, and its maker may abandon it, attached or not.
        prepared.sweep(&|_| false).unwrap();
        assert_eq!(prepared.has_begun(), Ok(true));
        prepared.abandon().unwrap();
        std::mem::forget(prepared.begin(size).unwrap());
        prepared.abandon().unwrap();
        prepared.abandon().unwrap();
        assert_eq!((prepared.has_begun(), prepared.coming()), (Ok(false), nothing));
        let huge = Files::new(directory.path()).space().unwrap().size.plus(size);
        assert!(matches!(prepared.begin(huge), Err(StorageError::NoSpace)));

        let keys = keys();
        for key in &keys {
            drop(prepared.begin(size).unwrap());
            prepared.complete(key, &|_| Ok(())).unwrap();
            let kept = prepared.all().unwrap();
            assert_eq!((kept.len(), &kept[0].key, kept[0].size), (1, key, size), "the older one is gone");
        }
        drop(prepared.begin(size).unwrap());
        let failed = prepared.complete(&keys[0], &|_| Err(StorageError::NoSpace));
        let there: Vec<_> = prepared.kept().into_iter().map(|kept| kept.key).collect();
        assert_eq!((failed, there), (Err(StorageError::NoSpace), vec![keys[1].clone()]));
        prepared.complete(&keys[1], &|_| Ok(())).unwrap();
        assert_eq!((prepared.has_begun(), prepared.kept().len()), (Ok(false), 1));
    }

    #[test]
    fn nothing_is_kept_where_files_cannot_be_cloned() {
        if !nix::unistd::geteuid().is_root() {
            println!("only root has a folder of root: not tried here");
            return;
        }
        let directory = tempfile::tempdir_in("/run").unwrap();
        let prepared = Reflinks::new(directory.path());
        let machine = Machine { id: VmId::generate(), name: "alice_vm1".parse().unwrap() };
        let disk = prepared.root(&machine);
        std::fs::create_dir(disk.parent().unwrap()).unwrap();
        std::fs::write(&disk, "content").unwrap();
        // tmpfs does not clone.
        assert!(!prepared.can_clone(&machine).unwrap());
        let key: Key = "tiny.0123456789abcdef".parse().unwrap();
        let kept = prepared.keep(&machine, &key, &|_| unreachable!("it is not cloned"));
        assert!(kept.is_err() && prepared.find(&key).unwrap().is_none());
        assert_eq!(prepared.clone_to(&machine, &key, Amount::from_mib(1)), Ok(None));
        assert!(!directory.path().join(FOLDER).join(UNFINISHED).exists());
        assert_eq!(super::super::clones::shared(&disk), Amount::default());
        // Nor does a disk go back to what can't be cloned, and it is left as it is.
        let go_back =
            || prepared.replace(&machine, &key, Amount::default(), &|_, _| unreachable!("it is not cloned"));
        assert_eq!((prepared.size(&key), go_back()), (Ok(None), Err(StorageError::VolumeMissing)));
        std::fs::write(prepared.file(&key), vec![0; 1 << 20]).unwrap();
        assert_eq!(prepared.size(&key), Ok(Some(Amount::from_mib(1))));
        assert!(go_back().is_err());
        let left: Vec<_> =
            std::fs::read_dir(disk.parent().unwrap()).unwrap().map(|e| e.unwrap().path()).collect();
        assert_eq!((left, std::fs::read(&disk).unwrap()), (vec![disk.clone()], b"content".to_vec()));
        prepared.empty(&machine).unwrap();
        assert_eq!(std::fs::read(&disk).unwrap(), [0; 7]);
        std::os::unix::fs::symlink(&disk, directory.path().join("link")).unwrap();
        assert!(empty(&directory.path().join("link")).is_err());
    }
}
