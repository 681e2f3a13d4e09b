//! The registry's file: how it is made, backed up, checked and put back, and who has it open.
//!
//! Everybody who opens the registry shares the lock of a file beside it. Who makes it or puts another in its place holds
//! that lock alone. What is made is made under another name and gets its own when it is whole and on the disk, so a kill
//! at any moment leaves the registry as it was, or as it should be.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::Uid;
use rusqlite::{Connection, OpenFlags, backup::Backup};

use crate::model::lease::Moment;
use crate::model::names::RegistryId;
use crate::server::registry::{
    PATIENCE, Reader, Registry, RegistryError, connect, identity, known_version, migrate,
};
use crate::system::{clock, lock};

/// Its owner writes, its group may read.
const MODE: u32 = 0o640;

/// How long whoever wants the registry alone waits for the others.
const ALONE: Duration = Duration::from_secs(10);

/// Pages that a backup copies at a time; between two times it lets others write.
const PAGES: std::os::raw::c_int = 256;

/// A path that differs in the last part's ending.
fn beside(file: &Path, ending: &str) -> PathBuf {
    let mut path = file.as_os_str().to_owned();
    path.push(ending);
    PathBuf::from(path)
}

fn unusable(file: &Path, reason: &dyn ToString) -> RegistryError {
    RegistryError::Unusable { file: file.to_owned(), reason: reason.to_string() }
}

fn folder(file: &Path) -> &Path {
    file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Whether a file with something in it is in the registry's place. It is not opened: to open a pipe is to wait for ever.
pub(super) fn look(file: &Path) -> Result<(), RegistryError> {
    let no_registry = |what| Err(RegistryError::NotRegistry { file: file.to_owned(), what });
    let facts = match std::fs::metadata(file) {
        Ok(facts) => facts,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(RegistryError::Missing { file: file.to_owned() });
        }
        Err(error) => return Err(unusable(file, &error)),
    };
    let kind = facts.file_type();
    match () {
        () if kind.is_dir() => no_registry("it is a folder"),
        () if kind.is_fifo() => no_registry("it is a pipe"),
        () if !kind.is_file() => no_registry("it is no file"),
        () if facts.len() == 0 => no_registry("it is empty"),
        () => Ok(()),
    }
}

/// The file whose lock all share who have the registry open.
fn lock_file(file: &Path) -> PathBuf {
    beside(file, ".lock")
}

/// Shares the registry with all others who have it open.
pub(super) fn share(file: &Path) -> Result<File, RegistryError> {
    let path = lock_file(file);
    let held = lock::share_within(&path, PATIENCE).map_err(|error| unusable(&path, &error))?;
    hand_over(&path, folder(file)).map_err(|error| unusable(&path, &error))?;
    held.ok_or(RegistryError::Busy)
}

/// Has the registry's place for oneself.
fn alone(file: &Path) -> Result<File, RegistryError> {
    let path = lock_file(file);
    let held = lock::take_within(&path, ALONE).map_err(|error| unusable(&path, &error))?;
    hand_over(&path, folder(file)).map_err(|error| unusable(&path, &error))?;
    held.ok_or_else(|| RegistryError::InUse { file: file.to_owned() })
}

/// Gives what root has made to the user whom the folder belongs to.
fn hand_over(path: &Path, folder: &Path) -> io::Result<()> {
    if !Uid::effective().is_root() {
        return Ok(());
    }
    let (ours, theirs) = (std::fs::metadata(path)?, std::fs::metadata(folder)?);
    if ours.uid() == theirs.uid() { Ok(()) } else { chown(path, Some(theirs.uid()), Some(theirs.gid())) }
}

/// Removes what an attempt has left that was killed. The caller has the registry for itself.
fn sweep(file: &Path) -> io::Result<()> {
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned() + ".";
    for entry in std::fs::read_dir(folder(file))? {
        let entry = entry?;
        let other = entry.file_name().to_string_lossy().into_owned();
        // With SQLite's own files: `-new`, `-new-wal`, `-new-journal` …
        if other.strip_prefix(&name).is_some_and(|rest| rest.contains("-new")) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Brings a new database into the registry's place, or into that of a backup: whole, on the disk, with its owner and mode.
fn settle(fresh: &Path, file: &Path) -> io::Result<()> {
    std::fs::set_permissions(fresh, Permissions::from_mode(MODE))?;
    hand_over(fresh, folder(file))?;
    File::open(fresh)?.sync_all()?;
    std::fs::rename(fresh, file)?;
    File::open(folder(file))?.sync_all()
}

/// A registry in a new file, which gets its name later.
fn fresh(
    file: &Path,
    fill: impl FnOnce(&mut Connection) -> Result<(), RegistryError>,
) -> Result<PathBuf, RegistryError> {
    let fresh = beside(file, ".fresh-new");
    let mut connection = Connection::open(&fresh)?;
    fill(&mut connection)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    // Closing writes everything back into the one file.
    connection.close().map_err(|(_, error)| RegistryError::from(error))?;
    Ok(fresh)
}

/// What is in a registry, for those who look after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Which registry it is.
    pub identity: RegistryId,
    /// The version of its schema.
    pub version: u32,
    /// How many machines there are.
    pub machines: u32,
    /// How many saved images.
    pub images: u32,
    /// How many people have used it.
    pub users: u32,
    /// When it last changed, as far as its history tells.
    pub changed: Option<Moment>,
    /// When it was last put back from a backup.
    pub restored: Option<Moment>,
}

fn summary(connection: &Connection, version: u32) -> Result<Summary, RegistryError> {
    let number = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, u32>(0));
    let moment = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, Option<i64>>(0));
    Ok(Summary {
        identity: Reader { connection }.identity()?,
        version,
        machines: number("SELECT count(*) FROM vm WHERE state <> 'notDeployed'")?,
        images: number("SELECT count(*) FROM image")?,
        users: number("SELECT count(*) FROM user")?,
        changed: moment("SELECT max(at) FROM event")?.map(Moment::from_unix),
        restored: moment("SELECT restored FROM identity")?.map(Moment::from_unix),
    })
}

/// Looks at every page and every reference of a database.
fn check(connection: &Connection, file: &Path) -> Result<(), RegistryError> {
    let damaged = |reason: String| RegistryError::Damaged { file: file.to_owned(), reason };
    let said: Result<String, _> = connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0));
    match said {
        Ok(said) if said == "ok" => {}
        Ok(said) => return Err(damaged(said)),
        Err(error) => return Err(damaged(error.to_string())),
    }
    let mut statement = connection.prepare("PRAGMA foreign_key_check")?;
    let orphan = statement.query([])?.next()?.map(|row| row.get::<_, String>(0)).transpose()?;
    match orphan {
        Some(table) => Err(damaged(format!("a row of the table {table} refers to one that is not there"))),
        None => Ok(()),
    }
}

/// A backup, opened and found whole.
fn open_backup(file: &Path) -> Result<(Connection, Summary), RegistryError> {
    look(file)?;
    let connection = connect(file, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let version = known_version(&connection, file)?;
    check(&connection, file)?;
    // Those of versions that had no identity are no registry that a node knows.
    let summary = summary(&connection, version).map_err(|_| RegistryError::NotRegistry {
        file: file.to_owned(),
        what: "it has no identity: it is older than vGrid's backups",
    })?;
    Ok((connection, summary))
}

/// How a registry was put back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// What is in it.
    pub summary: Summary,
    /// Where the one is that was there before; `None` if there was none.
    pub before: Option<PathBuf>,
}

impl Registry {
    /// Makes a registry where there is none. Gives back its identity, and whether it is new. Where there is one, nothing is
    /// changed but its mode, and what killed attempts have left beside it. Root gives it to the user whom its folder belongs to.
    ///
    /// # Errors
    /// [`RegistryError::NotRegistry`] when something else is in its place, [`RegistryError::InUse`], and those of
    /// [`open`](Self::open).
    pub fn init(file: &Path) -> Result<(RegistryId, bool), RegistryError> {
        let held = alone(file)?;
        sweep(file).map_err(|error| unusable(file, &error))?;
        let made = match look(file) {
            Err(RegistryError::Missing { .. }) => {
                let fresh = fresh(file, |connection| {
                    let transaction = connection.transaction()?;
                    migrate(&transaction)?;
                    Ok(transaction.commit()?)
                })?;
                settle(&fresh, file).map_err(|error| unusable(file, &error))?;
                true
            }
            other => {
                other?;
                std::fs::set_permissions(file, Permissions::from_mode(MODE))
                    .map_err(|error| unusable(file, &error))?;
                false
            }
        };
        drop(held);
        let identity = Self::open(file)?.read(|reader| reader.identity())?;
        Ok((identity, made))
    }

    /// As [`init`](Self::init), and opens it.
    ///
    /// # Errors
    /// As for [`init`](Self::init).
    pub fn create(file: &Path) -> Result<Self, RegistryError> {
        Self::init(file)?;
        Self::open(file)
    }

    /// Copies the registry, as it is at one moment, to a new file, which only its owner and group can read. Others may read
    /// and write the registry meanwhile.
    ///
    /// # Errors
    /// [`RegistryError::Unusable`] when the file is there already or can't be written, and those of
    /// [`open`](Self::open).
    pub fn backup(file: &Path, to: &Path) -> Result<Summary, RegistryError> {
        let registry = Self::open(file)?;
        if std::fs::symlink_metadata(to).is_ok() {
            return Err(unusable(to, &"it is there already, and no backup is overwritten"));
        }
        let fresh = beside(to, ".vgrid-new");
        let copied = (|| {
            copy(&registry.connection, &fresh)?;
            let connection = connect(&fresh, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
            check(&connection, &fresh)?;
            let version = known_version(&connection, &fresh)?;
            let summary = summary(&connection, version)?;
            connection.close().map_err(|(_, error)| RegistryError::from(error))?;
            std::fs::set_permissions(&fresh, Permissions::from_mode(MODE))
                .and_then(|()| File::open(&fresh)?.sync_all())
                // Not renamed: somebody may have made that file meanwhile.
                .and_then(|()| std::fs::hard_link(&fresh, to))
                .and_then(|()| File::open(folder(to))?.sync_all())
                .map_err(|error| unusable(to, &error))?;
            Ok(summary)
        })();
        // If it could not be made there may be nothing to remove.
        let _ = std::fs::remove_file(&fresh);
        copied
    }

    /// Looks at all of a registry, or of a backup of one.
    ///
    /// # Errors
    /// [`RegistryError::Damaged`], [`RegistryError::NotRegistry`], [`RegistryError::TooNew`], and those of
    /// [`open`](Self::open).
    pub fn verify(file: &Path) -> Result<Summary, RegistryError> {
        open_backup(file).map(|(_, summary)| summary)
    }

    /// Puts a backup in the registry's place, when nobody has that open. The one that was there is kept beside it. Deploys wait
    /// until upkeep has compared the hosts with it (see [`Reader::awaits_comparison`]).
    ///
    /// # Errors
    /// [`RegistryError::InUse`], [`RegistryError::OtherRegistry`] when the one that is there is another and `force` is not
    /// given, and those of [`verify`](Self::verify) about the backup.
    pub fn restore(file: &Path, from: &Path, force: bool) -> Result<Restored, RegistryError> {
        let (backup, kept) = open_backup(from)?;
        let held = alone(file)?;
        sweep(file).map_err(|error| unusable(file, &error))?;
        let now = clock::now();
        let is_there = std::fs::symlink_metadata(file).is_ok();
        if let Ok(present) = known_identity(file)
            && present != kept.identity
            && !force
        {
            return Err(RegistryError::OtherRegistry {
                file: file.to_owned(),
                present,
                backup: kept.identity,
            });
        }
        let fresh = fresh(file, |connection| {
            Backup::new(&backup, connection)?.run_to_completion(PAGES, Duration::ZERO, None)?;
            let transaction = connection.transaction()?;
            migrate(&transaction)?;
            identity::mark_restored(&transaction, now)?;
            Ok(transaction.commit()?)
        })?;
        let before = is_there.then(|| beside(file, &format!(".before-{}", now.unix())));
        if let Some(before) = &before {
            put_aside(file, before).map_err(|error| unusable(file, &error))?;
        }
        settle(&fresh, file).map_err(|error| unusable(file, &error))?;
        drop(held);
        Ok(Restored { summary: Self::verify(file)?, before })
    }
}

/// The identity of the registry that is in a place, if one is there that can be read.
fn known_identity(file: &Path) -> Result<RegistryId, RegistryError> {
    look(file)?;
    let connection = connect(file, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    known_version(&connection, file)?;
    // What is still in the side file goes into the one that is put aside.
    let _ = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    Reader { connection: &connection }.identity()
}

/// Gives the present file another name, with SQLite's side files, which would be taken for the next one's.
fn put_aside(file: &Path, before: &Path) -> io::Result<()> {
    for ending in ["-wal", "-shm", "-journal", ""] {
        match std::fs::rename(beside(file, ending), beside(before, ending)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Copies a database by SQLite's own means, into one file that has no side files.
fn copy(from: &Connection, to: &Path) -> Result<(), RegistryError> {
    match std::fs::remove_file(to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(unusable(to, &error)),
        _ => {}
    }
    let mut connection = Connection::open(to)?;
    Backup::new(from, &mut connection)?.run_to_completion(PAGES, Duration::from_millis(5), None)?;
    connection.pragma_update(None, "journal_mode", "delete")?;
    connection.close().map_err(|(_, error)| error.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::registry::vm::tests::entered;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn live(file: &Path) -> u32 {
        Registry::verify(file).unwrap().machines
    }

    #[test]
    fn what_killed_attempts_left_goes_with_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("registry.sqlite");
        for left in ["0123456789ab-new", "0123456789ab-new-wal", "fresh-new", "fresh-new-journal"] {
            std::fs::write(beside(&file, &format!(".{left}")), "half").unwrap();
        }
        let (first, made) = Registry::init(&file).unwrap();
        assert!(made);
        assert_eq!(names(dir.path()), ["registry.sqlite", "registry.sqlite.lock"]);
        assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o777, MODE);
        assert_eq!(Registry::init(&file).unwrap(), (first, false), "it is not made twice");
    }

    #[test]
    fn what_is_no_registry_is_called_so_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("folder")).unwrap();
        nix::unistd::mkfifo(&at("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::fs::write(at("empty"), "").unwrap();
        std::fs::write(at("text"), "x".repeat(5000)).unwrap();
        let other = Connection::open(at("other")).unwrap();
        other.execute_batch("CREATE TABLE t (x); PRAGMA user_version = 3").unwrap();
        for name in ["folder", "pipe", "empty", "text", "other"] {
            let file = at(name);
            for outcome in [
                Registry::open(&file).map(drop),
                Registry::open_to_read(&file).map(drop),
                Registry::inspect(&file).map(drop),
                Registry::init(&file).map(drop),
                Registry::verify(&file).map(drop),
                Registry::restore(&at("none"), &file, true).map(drop),
            ] {
                assert!(matches!(outcome, Err(RegistryError::NotRegistry { .. })), "{name}: {outcome:?}");
            }
        }
        assert!(!at("none").exists());
    }

    #[test]
    fn a_backup_is_put_back_and_the_registry_of_before_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (file, backup) = (dir.path().join("registry.sqlite"), dir.path().join("backup"));
        let mut registry = Registry::create(&file).unwrap();
        entered(&mut registry, "alice", "node1", "vm1");
        let summary = Registry::backup(&file, &backup).unwrap();
        assert_eq!((summary.machines, summary.restored), (1, None));
        assert_eq!(std::fs::metadata(&backup).unwrap().mode() & 0o777, MODE);
        assert!(Registry::backup(&file, &backup).is_err(), "none is overwritten");
        entered(&mut registry, "alice", "node1", "vm2");
        assert!(!registry.read(|reader| reader.awaits_comparison()).unwrap());

        let refused = Registry::restore(&file, &backup, false);
        assert!(matches!(refused, Err(RegistryError::InUse { .. })), "{refused:?}");
        assert_eq!(live(&file), 2);
        drop(registry);
        let restored = Registry::restore(&file, &backup, false).unwrap();
        assert_eq!((restored.summary.machines, restored.summary.identity), (1, summary.identity));
        let before = restored.before.unwrap();
        assert_eq!(live(&before), 2, "what was there is kept, to the last transaction");
        let mut registry = Registry::open(&file).unwrap();
        assert!(registry.read(|reader| reader.awaits_comparison()).unwrap());
        let all_are = |writer: &crate::server::registry::Writer<'_>| writer.compared();
        let compared: Result<(), RegistryError> = registry.write(all_are);
        compared.unwrap();
        assert!(!registry.read(|reader| reader.awaits_comparison()).unwrap());
        let left: Vec<_> = names(dir.path()).into_iter().filter(|name| name.contains("-new")).collect();
        assert_eq!(left, [""; 0]);
    }

    #[test]
    fn another_registry_is_not_put_in_its_place_by_mistake() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let ours = Registry::init(&at("ours")).unwrap().0;
        let theirs = Registry::init(&at("theirs")).unwrap().0;
        Registry::backup(&at("theirs"), &at("backup")).unwrap();
        let refused = Registry::restore(&at("ours"), &at("backup"), false).unwrap_err();
        let words = refused.to_string();
        assert!(words.contains(&ours.to_string()) && words.contains(&theirs.to_string()), "{words}");
        assert_eq!(Registry::verify(&at("ours")).unwrap().identity, ours);
        Registry::restore(&at("ours"), &at("backup"), true).unwrap();
        assert_eq!(Registry::verify(&at("ours")).unwrap().identity, theirs);
        // Where the registry was lost, or is damaged, there is nothing to be mistaken about.
        std::fs::remove_file(at("ours")).unwrap();
        assert_eq!(Registry::restore(&at("ours"), &at("backup"), false).unwrap().before, None);
        std::fs::write(at("ours"), "x".repeat(5000)).unwrap();
        assert!(Registry::restore(&at("ours"), &at("backup"), false).unwrap().before.is_some());
        assert_eq!(Registry::verify(&at("ours")).unwrap().identity, theirs);
    }

    #[test]
    fn damage_is_found() {
        use std::io::{Seek as _, Write as _};
        let dir = tempfile::tempdir().unwrap();
        let (file, backup) = (dir.path().join("registry.sqlite"), dir.path().join("backup"));
        let mut registry = Registry::create(&file).unwrap();
        for n in 1..60 {
            entered(&mut registry, "alice", "node1", &format!("vm{n}"));
        }
        drop(registry);
        Registry::backup(&file, &backup).unwrap();
        let mut damaged = std::fs::OpenOptions::new().write(true).open(&backup).unwrap();
        damaged.seek(io::SeekFrom::Start(3 * 4096)).unwrap();
        damaged.write_all(&vec![0x5a; 9 * 4096]).unwrap();
        for outcome in
            [Registry::verify(&backup).map(drop), Registry::restore(&file, &backup, false).map(drop)]
        {
            assert!(matches!(outcome, Err(RegistryError::Damaged { .. })), "{outcome:?}");
        }
        assert_eq!(live(&file), 59);
    }
}
