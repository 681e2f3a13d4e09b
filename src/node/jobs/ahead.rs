//! Images that the host prepares while it is idle, by a worker that has no order and no record.
//!
//! There is at most one, which holds a lock as long as it lives. What could not be prepared is remembered
//! in `ahead.json`, with its key, so that a damaged image is not unpacked each time that upkeep comes by:
//! it is tried again once it has another key, which it has as soon as its file changes, or after a day.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Durability, JobError, Jobs};
use crate::model::fault::Fault;
use crate::model::lease::Moment;
use crate::node::WORKER;
use crate::node::storage::prepared::Key;
use crate::system::log::{self, Level};
use crate::system::{clock, detach, lock};

/// After how many seconds it is tried again to prepare an image that has not changed.
const PAUSE: i64 = 24 * 3600;

/// Why an image could not be prepared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// What it was to be prepared from.
    pub key: Key,
    /// When that was.
    pub at: Moment,
    /// Why it failed.
    pub why: Fault,
}

impl Failed {
    fn counts(&self, now: Moment) -> bool {
        (0..PAUSE).contains(&now.since(self.at))
    }
}

/// The right to prepare images, while it is held.
#[derive(Debug)]
pub struct AheadLock {
    jobs: Jobs,
    _file: File,
}

impl Jobs {
    fn ahead_lock(&self) -> PathBuf {
        self.state.join("ahead.lock")
    }

    fn ahead_file(&self) -> PathBuf {
        ahead_file(&self.state)
    }

    /// Returns whether no order is being carried out on this host, or waits.
    pub fn is_idle(&self) -> io::Result<bool> {
        Ok(self.list()?.iter().all(|record| !record.is_unfinished()))
    }

    /// Has images prepared, unless that is being done, or an order is, or it has failed lately. Never fails,
    /// because the host gets on without; errors are logged.
    pub fn prepare_ahead(&self, images: &[Key]) {
        if images.is_empty() {
            return;
        }
        let failed = not_prepared(&self.state).unwrap_or_else(|error| {
            log::event(Level::Error, "ahead.unreadable", &[("why", &error)]);
            Vec::new()
        });
        let due = images.iter().filter(|key| failed.iter().all(|failed| failed.key != **key));
        let due: Vec<_> = due.map(ToString::to_string).collect();
        if let Err(error) = self.start_ahead(&due) {
            log::event(Level::Error, "worker.not-started", &[("why", &error)]);
        }
    }

    fn start_ahead(&self, due: &[String]) -> io::Result<()> {
        if due.is_empty() || !self.is_idle()? {
            return Ok(());
        }
        let Some(lock) = lock::try_take(&self.ahead_lock())? else { return Ok(()) };
        let args: Vec<_> = std::iter::once("prepare").chain(due.iter().map(String::as_str)).collect();
        detach::start(Path::new(WORKER), &args, lock)
    }

    /// Adopts the lock that a worker was given as standard input, or takes it if the worker was started by
    /// hand. `None` if another worker prepares images.
    pub fn adopt_ahead(&self) -> io::Result<Option<AheadLock>> {
        let path = self.ahead_lock();
        let given = File::from(io::stdin().as_fd().try_clone_to_owned()?);
        let is_it = lock::is_file_at(&given, &path)? && given.try_lock().is_ok();
        let file = if is_it {
            Some(given)
        } else {
            drop(given);
            lock::try_take(&path)?
        };
        Ok(file.map(|file| AheadLock { jobs: self.clone(), _file: file }))
    }
}

fn ahead_file(state: &Path) -> PathBuf {
    state.join("ahead.json")
}

/// Lists what could not be prepared and is not tried again yet, as it is remembered in a state directory.
pub fn not_prepared(state: &Path) -> Result<Vec<Failed>, JobError> {
    let file = ahead_file(state);
    let json = match std::fs::read(&file) {
        Ok(json) => json,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(JobError::File { file, source }),
    };
    let now = clock::now();
    match serde_json::from_slice::<Vec<Failed>>(&json) {
        Ok(mut failed) => {
            failed.retain(|failed| failed.counts(now));
            Ok(failed)
        }
        Err(source) => Err(JobError::Garbled { file, source }),
    }
}

impl AheadLock {
    /// Records whether an image could be prepared: `why` not, if it could not.
    pub fn note(&self, key: &Key, why: Option<Fault>) -> Result<(), JobError> {
        // What can't be read is replaced.
        let mut failed = not_prepared(&self.jobs.state).unwrap_or_default();
        let before = failed.clone();
        failed.retain(|failed| failed.key.tag != key.tag);
        failed.extend(why.map(|why| Failed { key: key.clone(), at: clock::now(), why }));
        if failed == before {
            return Ok(());
        }
        let file = self.jobs.ahead_file();
        serde_json::to_vec_pretty(&failed)
            .map_err(io::Error::from)
            .and_then(|json| self.jobs.write(&file, &json, Durability::Unsynced))
            .map_err(|source| JobError::File { file, source })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::node::jobs::record::tests::terminating;

    fn key(text: &str) -> Key {
        text.parse().unwrap()
    }

    #[test]
    fn a_failure_counts_until_the_image_changes_or_a_day_has_passed() {
        let state = tempfile::tempdir().unwrap();
        let jobs = Jobs::open(state.path()).unwrap();
        let (old, new, other) =
            (key("tiny.0123456789abcdef"), key("tiny.1123456789abcdef"), key("other.0123456789abcdef"));
        let keys = || -> Vec<Key> {
            not_prepared(state.path()).unwrap().into_iter().map(|failed| failed.key).collect()
        };
        assert_eq!(keys(), []);
        let lock = jobs.adopt_ahead().unwrap().unwrap();
        assert!(jobs.adopt_ahead().unwrap().is_none(), "there is one worker");
        let fault = || Some(Fault::ImageMissing { tag: "tiny".parse().unwrap() });
        lock.note(&old, fault()).unwrap();
        lock.note(&other, fault()).unwrap();
        assert_eq!(keys(), [old.clone(), other.clone()]);
        // Another file of the same image.
        lock.note(&new, fault()).unwrap();
        assert_eq!(keys(), [other.clone(), new.clone()]);
        lock.note(&new, None).unwrap();
        assert_eq!(keys(), vec![other.clone()]);

        let at = |seconds: i64| {
            let at = Moment::from_unix(clock::now().unix() + seconds);
            let failed = [Failed { key: other.clone(), at, why: fault().unwrap() }];
            std::fs::write(jobs.ahead_file(), serde_json::to_vec(&failed).unwrap()).unwrap();
            keys().len()
        };
        // Nor does one from the future count, if the clock has been set.
        assert_eq!((at(-PAUSE + 60), at(-PAUSE - 60), at(60)), (1, 0, 0));
        std::fs::write(jobs.ahead_file(), "[").unwrap();
        assert!(matches!(not_prepared(state.path()), Err(JobError::Garbled { .. })));
        lock.note(&new, fault()).unwrap();
        assert_eq!(keys(), [new]);
    }

    #[test]
    fn a_host_with_an_order_is_not_idle() {
        let state = tempfile::tempdir().unwrap();
        let jobs = Jobs::open(state.path()).unwrap();
        assert!(jobs.is_idle().unwrap());
        let mut record = terminating();
        jobs.take(record.id, Duration::ZERO).unwrap().unwrap().write(&mut record).unwrap();
        assert!(!jobs.is_idle().unwrap());
        (record.done, record.told) = (true, true);
        jobs.take(record.id, Duration::ZERO).unwrap().unwrap().write(&mut record).unwrap();
        assert!(jobs.is_idle().unwrap());
    }
}
