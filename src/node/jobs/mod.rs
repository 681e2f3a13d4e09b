//! The records of the machines on this host: `jobs/ID.json` in the state directory, each with a
//! lock next to it.
//!
//! | file | what is there |
//! | --- | --- |
//! | `mod` | [`Jobs`] finds, locks, reads and replaces records; [`RecordLock`] is the lock of one |
//! | [`record`] | the content of a record |
//! | [`queue`] | which deploys are running, and which are waiting |
//! | [`sweep`] | finds what killed workers left behind |
//! | [`ahead`] | which images are prepared while no order is carried out |
//!
//! A record is written before any part of the machine is created, and removed after all of it is
//! gone. Whoever works on a machine holds its lock (see [`lock`]). The kernel releases the lock
//! when the worker dies; a free lock next to an unfinished record is how the next request finds
//! abandoned work. Files are replaced, never rewritten, so readers always see a complete one. The
//! temporary file always has the same name, under the same lock, so a killed process leaves at most
//! one behind, and the next sweep removes it.

pub mod ahead;
pub mod queue;
pub mod record;
pub mod sweep;

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use crate::model::names::VmId;
use crate::system::log::{self, Level};
use crate::system::{clock, detach, lock};

use super::WORKER;

pub use queue::{Slot, Turn};
pub use record::{Record, Saving};

/// Why a record can't be read or written.
#[derive(Debug, Error)]
pub enum JobError {
    /// The file can't be read or written.
    #[error("{}: {source}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The content is not a record.
    #[error("{}: {source}", file.display())]
    Garbled {
        /// The file.
        file: PathBuf,
        /// The cause.
        source: serde_json::Error,
    },
}

/// Whether a written file must survive a power failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// It must; the write waits for the disk.
    Synced,
    /// It may be lost.
    Unsynced,
}

/// The node's lock, held while the host's free memory and space are read and promised.
#[derive(Debug)]
pub struct NodeLock {
    _file: File,
}

/// All records of this host.
#[derive(Debug, Clone)]
pub struct Jobs {
    state: PathBuf,
    dir: PathBuf,
}

/// The lock of one machine's record, while it is held.
#[derive(Debug)]
pub struct RecordLock {
    jobs: Jobs,
    id: VmId,
    lock: File,
}

impl Jobs {
    /// Opens the records below a state directory, which must exist.
    pub fn open(state: &Path) -> io::Result<Self> {
        let dir = state.join("jobs");
        match std::fs::DirBuilder::new().mode(0o700).create(&dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        Ok(Self { state: state.to_owned(), dir })
    }

    /// The file in which the host's last known state is cached.
    pub fn host_file(&self) -> PathBuf {
        self.state.join("host.json")
    }

    fn record_file(&self, id: VmId) -> PathBuf {
        self.dir.join(format!("{id}.json"))
    }

    fn lock_file(&self, id: VmId) -> PathBuf {
        self.dir.join(format!("{id}.lock"))
    }

    /// Takes the node's lock, waiting at most `limit`.
    pub fn lock_node(&self, limit: Duration) -> io::Result<Option<NodeLock>> {
        Ok(lock::take_within(&self.state.join("node.lock"), limit)?.map(|file| NodeLock { _file: file }))
    }

    /// Takes the lock of a machine's record, waiting at most `limit`.
    pub fn take(&self, id: VmId, limit: Duration) -> io::Result<Option<RecordLock>> {
        let lock = lock::take_within(&self.lock_file(id), limit)?;
        Ok(lock.map(|lock| RecordLock { jobs: self.clone(), id, lock }))
    }

    /// Adopts the lock that a worker was given as standard input. If standard input is something
    /// else (the worker was started by hand), tries to take the lock.
    pub fn adopt(&self, id: VmId) -> io::Result<Option<RecordLock>> {
        let given = File::from(io::stdin().as_fd().try_clone_to_owned()?);
        if lock::is_file_at(&given, &self.lock_file(id))? && given.try_lock().is_ok() {
            return Ok(Some(RecordLock { jobs: self.clone(), id, lock: given }));
        }
        drop(given);
        self.take(id, Duration::ZERO)
    }

    /// Reads a record; `None` if there is none.
    pub fn read(&self, id: VmId) -> Result<Option<Record>, JobError> {
        let file = self.record_file(id);
        match std::fs::read(&file) {
            Ok(json) => match serde_json::from_slice(&json) {
                Ok(record) => Ok(Some(record)),
                Err(source) => Err(JobError::Garbled { file, source }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(JobError::File { file, source }),
        }
    }

    /// Returns all readable records, and logs the others.
    pub fn list(&self) -> io::Result<Vec<Record>> {
        let mut records = Vec::new();
        for (_, id) in self.files(".json")? {
            match self.read(id) {
                Ok(Some(record)) => records.push(record),
                Ok(None) => {}
                Err(error) => log::event(Level::Error, "job.unreadable", &[("vm", &id), ("why", &error)]),
            }
        }
        records.sort_by_key(|record| record.id);
        Ok(records)
    }

    /// Lists the files with that extension, each with the id in its name.
    fn files(&self, ending: &str) -> io::Result<Vec<(PathBuf, VmId)>> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let id = name.strip_suffix(ending).map(|name| name.trim_start_matches('.'));
            if let Some(id) = id.and_then(|id| id.parse().ok()) {
                files.push((path, id));
            }
        }
        Ok(files)
    }

    /// Replaces a file atomically. The caller holds the lock that guards it.
    pub fn write(&self, file: &Path, bytes: &[u8], durability: Durability) -> io::Result<()> {
        let is_durable = durability == Durability::Synced;
        let temporary = temporary(file);
        let write = || {
            let mut new =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            new.write_all(bytes)?;
            if is_durable {
                new.sync_all()?;
            }
            std::fs::rename(&temporary, file)?;
            // Without this, the file's content survives a power failure, but perhaps not its name.
            if is_durable && let Some(dir) = file.parent() {
                File::open(dir)?.sync_all()?;
            }
            Ok(())
        };
        let result = write();
        if result.is_err() {
            // If this fails as well (on a full disk), the next sweep removes it.
            let _ = std::fs::remove_file(&temporary);
        }
        result
    }
}

fn temporary(file: &Path) -> PathBuf {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    file.with_file_name(format!(".{name}.new"))
}

impl RecordLock {
    /// Reads the record; `None` if there is none.
    pub fn read(&self) -> Result<Option<Record>, JobError> {
        self.jobs.read(self.id)
    }

    /// Writes the record so that it survives a power failure.
    pub fn write(&self, record: &mut Record) -> Result<(), JobError> {
        self.put(record, Durability::Synced)
    }

    /// Writes the record, which may be lost in a power failure.
    pub fn note(&self, record: &mut Record) -> Result<(), JobError> {
        self.put(record, Durability::Unsynced)
    }

    fn put(&self, record: &mut Record, durability: Durability) -> Result<(), JobError> {
        record.changed = clock::millis();
        let file = self.jobs.record_file(self.id);
        serde_json::to_vec_pretty(record)
            .map_err(io::Error::from)
            .and_then(|json| self.jobs.write(&file, &json, durability))
            .map_err(|source| JobError::File { file, source })
    }

    /// Removes the record and the lock. Anyone waiting for the lock gets a new one, and finds no
    /// record.
    pub fn delete(self) -> Result<(), JobError> {
        self.remove()
    }

    /// Like [`delete`](Self::delete), for a caller that holds the lock until it exits.
    pub fn remove(&self) -> Result<(), JobError> {
        for file in [self.jobs.record_file(self.id), self.jobs.lock_file(self.id)] {
            match std::fs::remove_file(&file) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(JobError::File { file, source });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Starts a worker and hands the lock over to it, so that it is never free in between.
    pub fn start(self, verb: &str) -> io::Result<()> {
        detach::start(Path::new(WORKER), &[verb, &self.id.to_string()], self.lock)
    }
}

#[cfg(test)]
mod tests {
    use super::record::tests::terminating;
    use super::*;

    /// Returns the sorted names of the files in a directory.
    pub fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_deleted_record_leaves_no_files() {
        let state = tempfile::tempdir().unwrap();
        let jobs = Jobs::open(state.path()).unwrap();
        let mut record = terminating();
        let taken = jobs.take(record.id, Duration::ZERO).unwrap().unwrap();
        assert!(jobs.read(record.id).unwrap().is_none());
        taken.write(&mut record).unwrap();
        assert_eq!(jobs.list().unwrap(), [record.clone()]);
        assert!(jobs.take(record.id, Duration::ZERO).unwrap().is_none(), "it is held");
        taken.delete().unwrap();
        assert_eq!(names(&jobs.dir), [""; 0]);
    }

    #[test]
    fn a_corrupt_record_is_kept_but_not_listed() {
        let state = tempfile::tempdir().unwrap();
        let jobs = Jobs::open(state.path()).unwrap();
        let id = VmId::generate();
        std::fs::write(jobs.record_file(id), "{").unwrap();
        assert!(jobs.list().unwrap().is_empty());
        assert!(matches!(jobs.read(id), Err(JobError::Garbled { .. })));
        jobs.sweep();
        assert_eq!(names(&jobs.dir), [format!("{id}.json")]);
    }
}
