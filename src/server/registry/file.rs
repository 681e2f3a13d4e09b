//! The registry's file: creating, backing up, checking and restoring it, and locking it.
//!
//! Every process that opens the registry shares the lock on a file beside it. A process that
//! creates or replaces the registry holds that lock exclusively. A new file is written under
//! another name and renamed once it is complete and on disk, so a kill at any moment leaves either
//! the old registry or the new one.

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

/// Writable by its owner, readable by its group.
const MODE: u32 = 0o640;

/// How long a process that needs the registry exclusively waits for the others.
const ALONE: Duration = Duration::from_secs(10);

/// Pages copied per step of a backup; between steps other processes can write.
const PAGES: std::os::raw::c_int = 256;

/// Returns the path with `ending` appended to its last component.
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

/// Checks that a non-empty regular file is in the registry's place, without opening it: opening a
/// pipe would block forever.
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

/// Returns the path of the lock file beside the registry.
fn lock_file(file: &Path) -> PathBuf {
    beside(file, ".lock")
}

/// Takes a shared lock on the registry.
pub(super) fn share(file: &Path) -> Result<File, RegistryError> {
    let path = lock_file(file);
    let held = lock::share_within(&path, PATIENCE).map_err(|error| unusable(&path, &error))?;
    hand_over(&path, folder(file)).map_err(|error| unusable(&path, &error))?;
    held.ok_or(RegistryError::Busy)
}

/// Takes an exclusive lock on the registry.
fn alone(file: &Path) -> Result<File, RegistryError> {
    let path = lock_file(file);
    let held = lock::take_within(&path, ALONE).map_err(|error| unusable(&path, &error))?;
    hand_over(&path, folder(file)).map_err(|error| unusable(&path, &error))?;
    held.ok_or_else(|| RegistryError::InUse { file: file.to_owned() })
}

/// Gives a file created by root to the owner of its folder.
fn hand_over(path: &Path, folder: &Path) -> io::Result<()> {
    if !Uid::effective().is_root() {
        return Ok(());
    }
    let (ours, theirs) = (std::fs::metadata(path)?, std::fs::metadata(folder)?);
    if ours.uid() == theirs.uid() { Ok(()) } else { chown(path, Some(theirs.uid()), Some(theirs.gid())) }
}

/// Removes what killed attempts left behind. The caller holds the exclusive lock.
fn sweep(file: &Path) -> io::Result<()> {
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned() + ".";
    for entry in std::fs::read_dir(folder(file))? {
        let entry = entry?;
        let other = entry.file_name().to_string_lossy().into_owned();
        // Includes SQLite's side files: `-new`, `-new-wal`, `-new-journal` …
        if other.strip_prefix(&name).is_some_and(|rest| rest.contains("-new")) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Moves a complete new database into the place of the registry or of a backup, synced to disk and
/// with the right owner and mode.
fn settle(fresh: &Path, file: &Path) -> io::Result<()> {
    std::fs::set_permissions(fresh, Permissions::from_mode(MODE))?;
    hand_over(fresh, folder(file))?;
    File::open(fresh)?.sync_all()?;
    std::fs::rename(fresh, file)?;
    File::open(folder(file))?.sync_all()
}

/// Creates a registry in a new file, to be renamed later.
fn fresh(
    file: &Path,
    fill: impl FnOnce(&mut Connection) -> Result<(), RegistryError>,
) -> Result<PathBuf, RegistryError> {
    let fresh = beside(file, ".fresh-new");
    let mut connection = Connection::open(&fresh)?;
    fill(&mut connection)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    // Closing merges the side files into the one file.
    connection.close().map_err(|(_, error)| RegistryError::from(error))?;
    Ok(fresh)
}

/// A summary of a registry for its maintainers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The registry's identity.
    pub identity: RegistryId,
    /// Its schema version.
    pub version: u32,
    /// The number of machines.
    pub machines: u32,
    /// The number of saved images.
    pub images: u32,
    /// The number of people who have used it.
    pub users: u32,
    /// When it last changed, according to its history.
    pub changed: Option<Moment>,
    /// When it was last restored from a backup.
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

/// Checks every page and every reference of a database.
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

/// Opens a backup and checks that it is intact.
fn open_backup(file: &Path) -> Result<(Connection, Summary), RegistryError> {
    look(file)?;
    let connection = connect(file, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let version = known_version(&connection, file)?;
    check(&connection, file)?;
    let summary = summary(&connection, version)
        .map_err(|_| RegistryError::NotRegistry { file: file.to_owned(), what: "it has no identity" })?;
    Ok((connection, summary))
}

/// The outcome of a restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// A summary of the restored registry.
    pub summary: Summary,
    /// Where the previous registry was moved; `None` if there was none.
    pub before: Option<PathBuf>,
}

impl Registry {
    /// Creates a registry if there is none. Returns its identity and whether it is new.
    ///
    /// An existing registry is left alone, except that its mode is set and the leftovers of killed
    /// attempts are removed. A file created by root is given to the owner of its folder.
    ///
    /// # Errors
    /// [`RegistryError::NotRegistry`] if something else is in its place, [`RegistryError::InUse`],
    /// and the errors of [`open`](Self::open).
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

    /// Calls [`init`](Self::init), then opens the registry.
    pub fn create(file: &Path) -> Result<Self, RegistryError> {
        Self::init(file)?;
        Self::open(file)
    }

    /// Copies a consistent snapshot of the registry to a new file that only its owner and group can
    /// read. Other processes can read and write the registry meanwhile.
    ///
    /// # Errors
    /// [`RegistryError::Unusable`] if the file exists already or can't be written, and the errors
    /// of [`open`](Self::open).
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
                // Not renamed, which would overwrite a file that someone else created in the
                // meantime.
                .and_then(|()| std::fs::hard_link(&fresh, to))
                .and_then(|()| File::open(folder(to))?.sync_all())
                .map_err(|error| unusable(to, &error))?;
            Ok(summary)
        })();
        // If creating it failed there may be nothing to remove.
        let _ = std::fs::remove_file(&fresh);
        copied
    }

    /// Checks a whole registry, or a backup of one.
    ///
    /// # Errors
    /// [`RegistryError::Damaged`], and the errors of [`open`](Self::open).
    pub fn verify(file: &Path) -> Result<Summary, RegistryError> {
        open_backup(file).map(|(_, summary)| summary)
    }

    /// Replaces the registry with a backup while no process has it open, and keeps the previous one
    /// beside it. Deploys wait until upkeep has compared the hosts with the restored registry (see
    /// [`Reader::awaits_comparison`]).
    ///
    /// # Errors
    /// [`RegistryError::InUse`], [`RegistryError::OtherRegistry`] if the existing registry has
    /// another identity and `force` is not set, and the errors of [`verify`](Self::verify) for the
    /// backup.
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

/// Returns the identity of an existing registry, if it can be read.
fn known_identity(file: &Path) -> Result<RegistryId, RegistryError> {
    look(file)?;
    let connection = connect(file, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    known_version(&connection, file)?;
    // Merges the side file into the registry before it is set aside.
    let _ = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    Reader { connection: &connection }.identity()
}

/// Renames the present file together with SQLite's side files, which would otherwise be taken for
/// those of its replacement.
fn put_aside(file: &Path, before: &Path) -> io::Result<()> {
    for ending in ["-wal", "-shm", "-journal", ""] {
        match std::fs::rename(beside(file, ending), beside(before, ending)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Copies a database with SQLite's own backup function, into a single file without side files.
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
        // If the registry is lost or damaged, there is no identity to confuse.
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
