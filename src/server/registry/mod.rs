//! The registry: everything the portal remembers, in one SQLite file. The only place with SQL.
//!
//! Programs live for one request, so what counts is how fast the file opens. The schema is migrated
//! only when `user_version` is out of date. Only `vgrid-registry init` ([`Registry::init`]) creates
//! the file: a missing registry is an error and is never replaced by an empty one. Each piece of
//! work is one transaction: readers see one consistent state ([`Registry::read`]); writers take the
//! write lock before they read ([`Registry::write`]), so what they have read is still true when
//! they write.
//!
//! WAL lets pages render while another process writes. `synchronous` stays at FULL because an order
//! goes to a node only after it is on disk.

pub mod closed;
pub mod event;
pub mod file;
pub mod host;
pub mod identity;
pub mod image;
pub mod mail;
pub mod notice;
pub mod orphan;
pub mod request;
mod schema;
pub mod snapshot;
pub mod unreachable;
pub mod upkeep;
pub mod user;
pub mod vm;

use std::fmt::Display;
use std::fs::File;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use rusqlite::types::FromSql;
use rusqlite::{Connection, ErrorCode, OpenFlags, Row, Transaction, TransactionBehavior};
use schema::{MIGRATIONS, NEWEST, OLDEST, SCHEMA};
use thiserror::Error;

use crate::model::lease::Moment;
use crate::model::names::RegistryId;
use crate::server::registry::event::Actor;
use crate::system::clock;

/// How long a writer waits for others before it gives up. A hundred deploys at once take a second
/// or two, one after another; Apache gives a CGI program a minute.
const PATIENCE: Duration = Duration::from_secs(20);

/// Why an operation on the registry failed. `Display` is for the log.
#[derive(Debug, Error)]
pub enum RegistryError {
    /// Other processes held the write lock for longer than a request can wait. Retrying helps.
    #[error("the registry was locked by others for {} s", PATIENCE.as_secs())]
    Busy,
    /// There is no registry. It is not created on the spot, because its disk may merely not be
    /// mounted.
    #[error(
        "there is no registry {}. Is its disk mounted? Bring the registry back from a backup: vgrid-registry restore \
         FILE. Only for a new portal: vgrid-registry init",
        file.display()
    )]
    Missing {
        /// Where the registry should be.
        file: PathBuf,
    },
    /// Something else is in the registry's place.
    #[error(
        "{} is no registry: {what}. Move it away, then bring the registry back from a backup: vgrid-registry restore FILE",
        file.display()
    )]
    NotRegistry {
        /// Where the registry should be.
        file: PathBuf,
        /// What is there instead.
        what: &'static str,
    },
    /// Another process has the registry open, and exclusive access was needed.
    #[error(
        "{} is in use. Stop Apache and wait for upkeep (systemctl stop apache2; pkill -x vgrid-upkeep), then try again",
        file.display()
    )]
    InUse {
        /// The registry's file.
        file: PathBuf,
    },
    /// The file is damaged.
    #[error("{} is damaged: {reason}", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What SQLite reports.
        reason: String,
    },
    /// The backup is of another registry than the one to be replaced.
    #[error(
        "{} is the registry {present}, and the backup is of {backup}. The hosts would refuse it. If you mean it: --force",
        file.display()
    )]
    OtherRegistry {
        /// The registry's file.
        file: PathBuf,
        /// The identity of the registry that is there.
        present: RegistryId,
        /// The identity of the registry in the backup.
        backup: RegistryId,
    },
    /// The file can't be opened or created.
    #[error("{}: {reason}", file.display())]
    Unusable {
        /// The registry's file.
        file: PathBuf,
        /// What SQLite or the system reports.
        reason: String,
    },
    /// The schema was written by a later version of vGrid.
    #[error("the registry has version {found}, and this program knows only {known}")]
    TooNew {
        /// The schema version of the file.
        found: u32,
        /// The newest version that this program supports.
        known: u32,
    },
    /// The schema is older than any that this program can migrate.
    #[error(
        "the registry {} has version {found}, from before vGrid's first release, and this program can use only {OLDEST} \
         and later. Move it away, then bring the registry back from a later backup: vgrid-registry restore FILE. Only if \
         there is none: vgrid-registry init",
        file.display()
    )]
    TooOld {
        /// The registry's file.
        file: PathBuf,
        /// Its schema version.
        found: u32,
    },
    /// The file holds a value that this program never writes.
    #[error("the registry holds {value:?} as {column}")]
    Corrupt {
        /// The column.
        column: String,
        /// Its value.
        value: String,
    },
    /// SQLite failed to execute a statement.
    #[error("{0}")]
    Sql(rusqlite::Error),
}

impl From<rusqlite::Error> for RegistryError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy,
            _ => Self::Sql(error),
        }
    }
}

/// The time of a transaction: one moment for everything in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    /// The time, in seconds.
    pub moment: Moment,
    /// The same time in milliseconds, from which orders get their numbers.
    pub millis: u64,
}

impl At {
    /// Returns the time of a whole second.
    pub fn of(moment: Moment) -> Self {
        Self { moment, millis: u64::try_from(moment.unix()).unwrap_or_default().saturating_mul(1000) }
    }
}

/// An open registry.
#[derive(Debug)]
pub struct Registry {
    connection: Connection,
    /// The shared lock. Declared after the connection so that it is dropped after it.
    _held: File,
    actor: Actor,
    /// The time at which everything happens, if the clock is stopped.
    stopped: Option<Moment>,
}

/// Read access within one transaction: all reads see the same moment.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'c> {
    connection: &'c Connection,
}

/// Read and write access within one transaction that holds the write lock from the start.
///
/// The transaction has one time and one actor, and whatever it records is attributed to them.
#[derive(Debug)]
pub struct Writer<'c> {
    reader: Reader<'c>,
    at: At,
    actor: &'c Actor,
}

impl<'c> Deref for Writer<'c> {
    type Target = Reader<'c>;

    fn deref(&self) -> &Reader<'c> {
        &self.reader
    }
}

impl<'c> Writer<'c> {
    /// Returns read access to the same transaction.
    pub fn reader(&self) -> Reader<'c> {
        self.reader
    }

    /// Returns the time of this transaction: when it got the write lock.
    pub fn at(&self) -> At {
        self.at
    }

    /// Returns the same time as [`at`](Self::at), in seconds.
    pub fn now(&self) -> Moment {
        self.at.moment
    }

    /// Returns the same transaction at another time, to fill a registry with a past. For tests.
    pub fn back_at(&self, moment: Moment) -> Writer<'_> {
        Writer { reader: self.reader, at: At::of(moment), actor: self.actor }
    }

    /// Returns the actor to which its writes are attributed.
    pub fn actor(&self) -> &'c Actor {
        self.actor
    }
}

impl Registry {
    /// Opens the registry, migrating it if necessary. Never creates it: see [`init`](Self::init).
    ///
    /// # Errors
    /// [`RegistryError::Missing`], [`RegistryError::NotRegistry`], [`RegistryError::Unusable`] if
    /// the file can't be opened, [`RegistryError::TooNew`], [`RegistryError::TooOld`], or
    /// [`RegistryError::Busy`] while other processes are migrating it.
    pub fn open(file: &Path) -> Result<Self, RegistryError> {
        let mut registry = Self::connect(file, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        if registry.connection.is_readonly("main")? {
            return Err(RegistryError::Unusable {
                file: file.to_owned(),
                reason: "this user may not write it".to_owned(),
            });
        }
        if registry.version(file)? < NEWEST {
            registry.write(|writer| migrate(writer.connection))?;
        }
        Ok(registry)
    }

    /// Opens the registry only to [`read`](Self::read) it, which is slightly faster because SQLite
    /// does not touch its side files.
    pub fn open_to_read(file: &Path) -> Result<Self, RegistryError> {
        match Self::connect(file, OpenFlags::SQLITE_OPEN_READ_ONLY) {
            Ok(registry) if registry.version(file).is_ok_and(|version| version == NEWEST) => Ok(registry),
            // The file is missing, too old, or needs a recovery that only a writer can perform.
            _ => Self::open(file),
        }
    }

    /// Returns the files of a registry. Each write changes one of them: it goes to the second,
    /// which is copied into the first from time to time. Source: "Write-Ahead Logging" in SQLite's
    /// documentation.
    pub fn files(file: &Path) -> [PathBuf; 2] {
        let mut log = file.as_os_str().to_owned();
        log.push("-wal");
        [file.to_owned(), log.into()]
    }

    /// Returns the schema version of a registry without creating or migrating anything.
    pub fn inspect(file: &Path) -> Result<u32, RegistryError> {
        Self::connect(file, OpenFlags::SQLITE_OPEN_READ_ONLY)?.version(file)
    }

    fn connect(file: &Path, access: OpenFlags) -> Result<Self, RegistryError> {
        file::look(file)?;
        let held = file::share(file)?;
        Ok(Self { connection: connect(file, access)?, _held: held, actor: Actor::portal(), stopped: None })
    }

    /// Attributes everything done from now on to `actor`. The default actor is the portal itself.
    #[must_use]
    pub fn acting(mut self, actor: Actor) -> Self {
        self.actor = actor;
        self
    }

    /// Stops the clock: from now on everything happens at that time. For tests.
    pub fn stop_clock(&mut self, at: Moment) {
        self.stopped = Some(at);
    }

    /// Returns the current time, or the time at which the clock is stopped.
    pub fn now(&self) -> Moment {
        self.stopped.unwrap_or_else(clock::now)
    }

    fn at(&self) -> At {
        match self.stopped {
            Some(moment) => At::of(moment),
            None => At { moment: clock::now(), millis: clock::millis() },
        }
    }

    /// Returns the actor to which writes are attributed.
    pub fn actor(&self) -> &Actor {
        &self.actor
    }

    fn version(&self, file: &Path) -> Result<u32, RegistryError> {
        known_version(&self.connection, file)
    }

    /// Runs `work` with read access in one transaction.
    ///
    /// # Errors
    /// The error of `work`, or a [`RegistryError`].
    pub fn read<T, E: From<RegistryError>>(
        &self,
        work: impl FnOnce(Reader<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let transaction = self.connection.unchecked_transaction().map_err(RegistryError::from)?;
        let result = work(Reader { connection: &transaction })?;
        transaction.commit().map_err(RegistryError::from)?;
        Ok(result)
    }

    /// Runs `work` under the write lock, in one transaction: if it fails, nothing is changed.
    /// `work` must not take long, and above all must not call a node.
    ///
    /// # Errors
    /// The error of `work`, or a [`RegistryError`]; [`RegistryError::Busy`] if the lock could not
    /// be taken in time.
    pub fn write<T, E: From<RegistryError>>(
        &mut self,
        work: impl FnOnce(&Writer<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        self.transact(&self.actor, || self.at(), work)
    }

    /// Like [`write`](Self::write), but attributed to another actor.
    pub fn write_as<T, E: From<RegistryError>>(
        &mut self,
        actor: &Actor,
        work: impl FnOnce(&Writer<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        self.transact(actor, || self.at(), work)
    }

    fn transact<T, E: From<RegistryError>>(
        &self,
        actor: &Actor,
        at: impl FnOnce() -> At,
        work: impl FnOnce(&Writer<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let transaction = Transaction::new_unchecked(&self.connection, TransactionBehavior::Immediate)
            .map_err(RegistryError::from)?;
        // Not before: taking the lock may have taken a while.
        let at = at();
        let result = work(&Writer { reader: Reader { connection: &transaction }, at, actor })?;
        transaction.commit().map_err(RegistryError::from)?;
        Ok(result)
    }
}

fn connect(file: &Path, access: OpenFlags) -> Result<Connection, RegistryError> {
    let unusable =
        |error: rusqlite::Error| RegistryError::Unusable { file: file.into(), reason: error.to_string() };
    // Only one thread uses the connection, so SQLite's own mutexes are not needed.
    let connection =
        Connection::open_with_flags(file, access | OpenFlags::SQLITE_OPEN_NO_MUTEX).map_err(unusable)?;
    connection.busy_timeout(PATIENCE).map_err(unusable)?;
    Ok(connection)
}

fn version(connection: &Connection) -> Result<u32, RegistryError> {
    Ok(connection.query_row("PRAGMA user_version", [], |row| row.get(0))?)
}

/// Returns the schema version of a registry that this program can use.
fn known_version(connection: &Connection, file: &Path) -> Result<u32, RegistryError> {
    let no_registry = |what| RegistryError::NotRegistry { file: file.to_owned(), what };
    let found = match version(connection) {
        Err(RegistryError::Sql(error)) if error.sqlite_error_code() == Some(ErrorCode::NotADatabase) => {
            return Err(no_registry("it is no SQLite database"));
        }
        found => not_beyond(NEWEST, found?)?,
    };
    // Other programs use `user_version`, too. Skipped for an up-to-date file, which is opened all
    // the time: if it were not ours, the pages would soon show that.
    let is_ours = found == NEWEST || {
        const TABLES: &str =
            "SELECT count(*) FROM sqlite_schema WHERE name IN ('user', 'vm', 'host', 'event')";
        found > 0 && connection.query_row(TABLES, [], |row| row.get::<_, u32>(0))? == 4
    };
    match found {
        _ if !is_ours => Err(no_registry("it is the database of another program")),
        ..OLDEST => Err(RegistryError::TooOld { file: file.to_owned(), found }),
        _ => Ok(found),
    }
}

/// Accepts a schema version that a program supporting versions up to `known` can use.
fn not_beyond(known: u32, found: u32) -> Result<u32, RegistryError> {
    if found > known { Err(RegistryError::TooNew { found, known }) } else { Ok(found) }
}

/// Brings a registry to the newest version, or fills an empty file. Within a transaction.
fn migrate(connection: &Connection) -> Result<(), RegistryError> {
    // Read again under the lock: another process may have migrated the file in the meantime.
    let found = version(connection)?;
    if found == 0 {
        connection.execute_batch(&without_comments(SCHEMA))?;
        identity::assign(connection)?;
    } else {
        for (_, step) in MIGRATIONS.iter().filter(|(to, _)| *to > found) {
            connection.execute_batch(step)?;
        }
    }
    connection.pragma_update(None, "user_version", NEWEST)?;
    Ok(())
}

/// Removes the comments from SQL statements, none of which contains two hyphens otherwise.
fn without_comments(sql: &str) -> String {
    sql.lines().map(|line| line.split("--").next().unwrap_or_default().trim_end().to_owned() + "\n").collect()
}

/// Reads the columns of a row in the order of the query. By position, because looking up column
/// names took a quarter of the time of a page.
struct Cells<'r> {
    row: &'r Row<'r>,
    next: usize,
}

impl<'r> Cells<'r> {
    fn of(row: &'r Row<'r>) -> Self {
        Self { row, next: 0 }
    }

    fn get<T: FromSql>(&mut self) -> Result<T, RegistryError> {
        let value = self.row.get(self.next)?;
        self.next += 1;
        Ok(value)
    }

    fn text(&mut self) -> Result<&'r str, RegistryError> {
        let value = self.row.get_ref(self.next)?;
        self.next += 1;
        value.as_str().map_err(|_| self.corrupt(&format!("{value:?}")))
    }

    /// Reads a text that `read` recognizes.
    fn word<T>(&mut self, read: impl FnOnce(&str) -> Option<T>) -> Result<T, RegistryError> {
        let text = self.text()?;
        read(text).ok_or_else(|| self.corrupt(&text))
    }

    /// Parses a text.
    fn parsed<T: FromStr>(&mut self) -> Result<T, RegistryError> {
        self.word(|text| text.parse().ok())
    }

    /// Parses a text, or returns `None` for NULL.
    fn perhaps<T: FromStr>(&mut self) -> Result<Option<T>, RegistryError> {
        let text: Option<String> = self.get()?;
        text.map(|text| text.parse().map_err(|_| self.corrupt(&text))).transpose()
    }

    /// Reads an integer into a narrower type.
    fn number<T: TryFrom<i64>>(&mut self) -> Result<T, RegistryError> {
        let value: i64 = self.get()?;
        T::try_from(value).map_err(|_| self.corrupt(&value))
    }

    /// Reads an integer that `read` recognizes.
    fn whole<T>(&mut self, read: impl FnOnce(i64) -> Option<T>) -> Result<T, RegistryError> {
        let value: i64 = self.get()?;
        read(value).ok_or_else(|| self.corrupt(&value))
    }

    /// Returns the error about the column that was read last.
    fn corrupt(&self, value: &dyn Display) -> RegistryError {
        let name = self.row.as_ref().column_name(self.next.saturating_sub(1));
        RegistryError::Corrupt { column: name.unwrap_or("?").to_owned(), value: value.to_string() }
    }
}

/// Returns all rows of a query.
fn all<T>(
    connection: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
    read: impl Fn(Cells<'_>) -> Result<T, RegistryError>,
) -> Result<Vec<T>, RegistryError> {
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query(params)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(read(Cells::of(row))?);
    }
    Ok(found)
}

#[cfg(test)]
impl Registry {
    /// Like [`write`](Self::write), at a time chosen by the test.
    pub(in crate::server) fn write_at<T, E: From<RegistryError>>(
        &mut self,
        moment: Moment,
        work: impl FnOnce(&Writer<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        self.transact(&self.actor, || At::of(moment), work)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn many_at_once_make_one_registry() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("registry.sqlite");
        std::thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| {
                    let registry = Registry::create(&file).unwrap();
                    assert_eq!(registry.version(&file).unwrap(), NEWEST);
                });
            }
        });
        let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|f| f.unwrap().file_name()).collect();
        assert!(!left.iter().any(|name| name.to_string_lossy().contains("-new")), "{left:?}");
    }

    #[test]
    fn nobody_makes_a_registry_who_only_opens_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("registry.sqlite");
        for opened in [Registry::open(&file).map(drop), Registry::open_to_read(&file).map(drop)] {
            assert!(matches!(opened, Err(RegistryError::Missing { .. })), "{opened:?}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing was made");
    }

    #[test]
    fn a_registry_of_the_future_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("registry.sqlite");
        let registry = Registry::create(&file).unwrap();
        registry.connection.pragma_update(None, "user_version", 99).unwrap();
        assert!(matches!(Registry::open(&file), Err(RegistryError::TooNew { found: 99, .. })));
        assert!(matches!(Registry::open_to_read(&file), Err(RegistryError::TooNew { found: 99, .. })));
    }

    /// A registry of the oldest version, with machines in every state.
    const OLD: &str = include_str!("../../../tests/data/golden/registry.sql");

    fn of_the_oldest_version(file: &Path) -> Connection {
        let connection = Connection::open(file).unwrap();
        connection.pragma_update(None, "journal_mode", "wal").unwrap();
        connection.execute_batch(OLD).unwrap();
        assert_eq!(version(&connection).unwrap(), OLDEST);
        connection
    }

    /// Enters a machine as programs of the oldest version did.
    fn enter_old(connection: &Connection, id: &str, name: &str) -> rusqlite::Result<usize> {
        connection.execute(
            "INSERT INTO vm (id, owner, virtual_host, physical_host, image, memory_mib, disk_gib, label,
                lease, state, last_order, sequence, created, changed, expires, deadline, on_node, was_deployed,
                order_number, placed)
             VALUES (?1, 'alice', ?2, 'localhost', 'tiny', 128, 1, 'x', '7d', 'deploying', 'deploy', 0, 1, 2, 3, 99,
                'maybe', 0, 5, 'chosen')",
            (id, name),
        )
    }

    /// Returns the machines of a registry, whatever its version: id, state, order, number of the last
    /// report, percent, place in the queue, and the events in the history.
    fn machines(connection: &Connection) -> Vec<(String, [String; 6])> {
        let sql = "SELECT id, state, last_order, sequence, percent, place,
                       (SELECT group_concat(what) FROM (SELECT what FROM event WHERE vm = vm.id ORDER BY rowid))
                   FROM vm ORDER BY id";
        let mut statement = connection.prepare(sql).unwrap();
        let text = |row: &Row<'_>, at| -> rusqlite::Result<String> {
            Ok(match row.get::<_, rusqlite::types::Value>(at)? {
                rusqlite::types::Value::Text(text) => text,
                other => format!("{other:?}"),
            })
        };
        let rows = statement.query_map([], |row| {
            let text = |at| text(row, at);
            Ok((text(0)?, [text(1)?, text(2)?, text(3)?, text(4)?, text(5)?, text(6)?]))
        });
        rows.unwrap().map(Result::unwrap).collect()
    }

    /// Returns the columns and constraints of a statement as a set: columns that were added later
    /// come last in its text.
    fn parts(sql: &str) -> BTreeSet<String> {
        let (mut parts, mut depth) = (vec![String::new()], 0);
        for letter in sql.chars().filter(|letter| !letter.is_whitespace()) {
            depth += i32::from(letter == '(') - i32::from(letter == ')');
            let splits = matches!((letter, depth), (',' | '(', 1) | (')', 0));
            if splits { parts.push(String::new()) } else { parts.last_mut().unwrap().push(letter) }
        }
        parts.into_iter().collect()
    }

    #[test]
    fn a_registry_of_the_oldest_version_comes_through() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("registry.sqlite");
        let old = of_the_oldest_version(&file);
        let before = machines(&old);
        let states: BTreeSet<&str> = before.iter().map(|(_, facts)| facts[0].as_str()).collect();
        // The oldest version had all states but this one.
        let all = crate::model::state::State::ALL.into_iter().map(crate::model::state::State::as_str);
        assert_eq!(states, all.filter(|state| *state != "resizing").collect(), "{states:?}");
        // The file is opened by a page first, and by many at once.
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    Registry::open_to_read(&file).unwrap();
                });
            }
        });
        let mut registry = Registry::open(&file).unwrap();
        assert_eq!(registry.version(&file).unwrap(), NEWEST);
        assert_eq!(machines(&registry.connection), before);
        for (id, [state, order, ..]) in &before {
            let id = id.parse().unwrap();
            let vm = registry.read(|reader| reader.vm(id)).unwrap().unwrap();
            assert_eq!((vm.state.as_str(), vm.order.as_str()), (state.as_str(), order.as_str()));
            assert!(vm.spec.cpus.is_default(), "machines had one processor");
        }
        // Indexes and references are the same as in a new registry.
        let shape = |connection: &Connection| -> Vec<(String, BTreeSet<String>)> {
            let sql = "SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name";
            let mut statement = connection.prepare(sql).unwrap();
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, String>(1)?))).unwrap();
            rows.map(Result::unwrap).map(|(name, sql)| (name, parts(&sql))).collect()
        };
        let fresh = Registry::create(&dir.path().join("fresh.sqlite")).unwrap();
        assert_eq!(shape(&registry.connection), shape(&fresh.connection));
        let orphan = "INSERT INTO event (vm, at, who, origin, what, detail)
                      VALUES ('nobody', 1, 'x', 'x', 'x', 'x')";
        assert!(registry.connection.execute(orphan, []).is_err(), "a history of no machine");
        assert_eq!(registry.connection.query_row("PRAGMA foreign_key_check", [], |_| Ok(())).ok(), None);
        // Names are still unique.
        let id = "01936f5e-8c3e-7a37-a6b3-1f3c1f7c9f07";
        assert!(enter_old(&registry.connection, id, "vm1").is_err());
        // A program of the old version that has the file open can finish its work; the next one
        // sees that it can't use the file.
        let live = |registry: &Registry| {
            registry.read(|reader| reader.live_by_host()).unwrap().values().sum::<u32>()
        };
        let count = live(&registry);
        enter_old(&old, id, "vm77").unwrap();
        assert_eq!(live(&registry), count + 1);
        let found = version(&old).unwrap();
        assert!(matches!(
            not_beyond(OLDEST, found),
            Err(RegistryError::TooNew { found: NEWEST, known: OLDEST })
        ));
        let stopped: Result<_, RegistryError> = registry.write(|writer| {
            let vm = writer.vm("01936f5e-0000-7000-8000-000000000001".parse().unwrap())?.unwrap();
            writer.advance(&vm, crate::model::state::Event::Stop, |_| {})
        });
        assert!(stopped.unwrap().is_some());
    }

    #[test]
    fn a_registry_from_before_the_oldest_version_is_refused_with_a_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("registry.sqlite");
        let old = of_the_oldest_version(&file);
        old.pragma_update(None, "user_version", OLDEST - 1).unwrap();
        let before = machines(&old);
        let refusals = [
            Registry::open(&file).map(drop),
            Registry::open_to_read(&file).map(drop),
            Registry::init(&file).map(drop),
            Registry::verify(&file).map(drop),
            Registry::restore(&dir.path().join("none"), &file, true).map(drop),
        ];
        for refused in refusals {
            let error = refused.unwrap_err();
            assert!(matches!(error, RegistryError::TooOld { found: 10, .. }), "{error:?}");
            let sentence = error.to_string();
            assert!(sentence.contains("has version 10") && sentence.contains("restore FILE"), "{sentence}");
        }
        assert_eq!((version(&old).unwrap(), machines(&old)), (OLDEST - 1, before), "it was changed");
        assert!(!dir.path().join("none").exists());
    }

    #[test]
    fn the_file_takes_every_state_and_order_and_no_others() {
        use crate::model::stage::Order;
        use crate::model::state::State;
        let dir = tempfile::tempdir().unwrap();
        let mut registry = Registry::create(&dir.path().join("registry.sqlite")).unwrap();
        vm::tests::entered(&mut registry, "alice", "node1", "vm1");
        let set = |state: &str, deadline: Option<i64>, order: &str| {
            registry
                .connection
                .execute("UPDATE vm SET state = ?1, deadline = ?2, last_order = ?3", (state, deadline, order))
                .is_ok()
        };
        for state in State::ALL {
            for &order in Order::ALL {
                let moves = state.is_transitional();
                assert!(set(state.as_str(), moves.then_some(5), order.as_str()), "{state} {order}");
                assert!(!set(state.as_str(), (!moves).then_some(5), order.as_str()), "{state} {order}");
            }
        }
        assert!(!set("asleep", None, "stop") && !set("stopped", None, "suspend"));
    }

    #[test]
    fn the_file_takes_as_many_processors_as_the_program_and_no_more() {
        use crate::model::size::Cpus;
        let dir = tempfile::tempdir().unwrap();
        let mut registry = Registry::create(&dir.path().join("registry.sqlite")).unwrap();
        let vm = vm::tests::entered(&mut registry, "alice", "node1", "vm1");
        let set = |cpus: u32| registry.connection.execute("UPDATE vm SET cpus = ?1", [cpus]).is_ok();
        for cpus in [Cpus::MIN, Cpus::MAX] {
            assert!(set(cpus));
            let read = registry.read(|reader| reader.vm(vm.id)).unwrap().unwrap();
            assert_eq!(read.spec.cpus.get(), cpus);
        }
        assert!(!set(Cpus::MIN - 1) && !set(Cpus::MAX + 1));
    }

    #[test]
    fn a_registry_that_cannot_be_made_is_named() {
        let missing = Path::new("/nonexistent/registry.sqlite");
        let error = Registry::open(missing).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/registry.sqlite"), "{error}");
    }

    #[test]
    fn an_error_undoes_the_work() {
        let dir = tempfile::tempdir().unwrap();
        let mut registry = Registry::create(&dir.path().join("registry.sqlite")).unwrap();
        let failed: Result<(), RegistryError> = registry.write(|writer| {
            writer.register(&"a b".parse().unwrap())?;
            Err(RegistryError::Busy)
        });
        assert!(failed.is_err());
        let known = registry.read(|reader| reader.raw_name(&user::Owner::of(&"a b".parse().unwrap())));
        assert_eq!(known.unwrap(), None);
    }
}
