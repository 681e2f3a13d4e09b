//! Locks that the kernel releases when their holder dies: flock(2) on a file.
//!
//! The lock belongs to the open file description, so a child that inherits the descriptor keeps the
//! lock held after its parent exits. That is how a CGI program hands a job's lock to its worker.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

fn open(path: &Path) -> io::Result<File> {
    // O_NOFOLLOW: the directory may be writable by someone who plants symlinks.
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(nix::fcntl::OFlag::O_NOFOLLOW.bits())
        .open(path)
}

/// Takes the lock; returns `None` if another process holds it. It is held until the file and every
/// copy of its descriptor are closed.
///
/// The holder may remove the file: anyone who had opened it before notices and creates a new one.
pub fn try_take(path: &Path) -> io::Result<Option<File>> {
    loop {
        let file = open(path)?;
        match file.try_lock() {
            Ok(()) if is_file_at(&file, path)? => return Ok(Some(file)),
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

/// Takes a shared lock, waiting at most `limit`; returns `None` if it was held exclusively all that
/// time. Not for locks whose holder may remove the file.
pub fn share_within(path: &Path, limit: Duration) -> io::Result<Option<File>> {
    let file = open(path)?;
    within(limit, || match file.try_lock_shared() {
        Ok(()) => Ok(Some(())),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    })
    .map(|taken| taken.map(|()| file))
}

/// Returns whether an open file is the one currently at `path`.
pub fn is_file_at(file: &File, path: &Path) -> io::Result<bool> {
    let ours = file.metadata()?;
    match std::fs::symlink_metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (ours.dev(), ours.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Takes the lock, waiting at most `limit`; returns `None` if it did not become free.
pub fn take_within(path: &Path, limit: Duration) -> io::Result<Option<File>> {
    within(limit, || try_take(path))
}

/// Retries until an attempt succeeds or the time limit expires.
fn within<T>(limit: Duration, mut attempt: impl FnMut() -> io::Result<Option<T>>) -> io::Result<Option<T>> {
    let end = Instant::now() + limit;
    let mut pause = Duration::from_millis(2);
    loop {
        if let Some(taken) = attempt()? {
            return Ok(Some(taken));
        }
        if Instant::now() >= end {
            return Ok(None);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_exclusive_and_held_until_the_last_copy_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = try_take(&path).unwrap().unwrap();
        let copy = held.try_clone().unwrap();
        drop(held);
        assert!(try_take(&path).unwrap().is_none(), "the copy still holds it");
        assert!(take_within(&path, Duration::from_millis(20)).unwrap().is_none());
        drop(copy);
        assert!(try_take(&path).unwrap().is_some());
    }

    #[test]
    fn a_removed_lock_file_can_be_taken_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = try_take(&path).unwrap().unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(!is_file_at(&held, &path).unwrap());
        assert!(try_take(&path).unwrap().is_some(), "a new file, a new lock");
    }

    #[test]
    fn a_shared_lock_excludes_exclusive_holders() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let share = || share_within(&path, Duration::ZERO).unwrap();
        let (first, second) = (share(), share());
        assert!(first.is_some() && second.is_some());
        assert!(try_take(&path).unwrap().is_none());
        drop((first, second));
        let alone = try_take(&path).unwrap();
        assert!(alone.is_some() && share().is_none());
    }
}
