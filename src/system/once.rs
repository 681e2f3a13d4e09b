//! Replay protection: a directory of nonces that have been used.

use std::fs::{DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use crate::model::lease::Moment;
use crate::model::sign::{MAX_SKEW, Nonce};

/// The number of seconds whose nonces share a directory, so that expired ones can be removed a
/// directory at a time, without listing all of them.
const SPAN: i64 = 1024;

/// Marks the nonce of a message as used. The message was signed at `time`, which must be within
/// [`MAX_SKEW`] of `now`. Returns `false` if the nonce had been used before.
///
/// # Errors
/// The I/O error if the directory can't be written. The message must not be acted on then: it might
/// be a replay.
pub fn mark_used(folder: &Path, nonce: &Nonce, time: Moment, now: Moment) -> io::Result<bool> {
    let span = folder.join((time.unix() / SPAN).to_string());
    DirBuilder::new().recursive(true).mode(0o700).create(&span)?;
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(span.join(nonce.as_str())) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
        Err(error) => return Err(error),
    }
    let oldest = (now.unix() - MAX_SKEW) / SPAN;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let number: Option<i64> = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if number.is_some_and(|number| number < oldest) {
            match std::fs::remove_dir_all(entry.path()) {
                // Another request has already removed it.
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_used_once_and_removed_after_it_expires() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("seen");
        let (one, other) = (Nonce::generate(), Nonce::generate());
        let time = Moment::from_unix(10 * SPAN);
        assert!(mark_used(&folder, &one, time, time).unwrap());
        assert!(mark_used(&folder, &other, time, time).unwrap());
        // For as long as its signature would be accepted.
        for late in [0, 1, MAX_SKEW] {
            assert!(!mark_used(&folder, &one, time, time.plus_seconds(late)).unwrap(), "{late}");
        }
        let later = time.plus_seconds(2 * SPAN);
        assert!(mark_used(&folder, &Nonce::generate(), later, later).unwrap());
        let left: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|f| f.unwrap().file_name()).collect();
        assert_eq!(left, ["12"], "expired directories are removed");
    }

    #[test]
    fn only_one_of_several_concurrent_uses_succeeds() {
        let dir = tempfile::tempdir().unwrap();
        let nonce = Nonce::generate();
        let time = Moment::from_unix(5);
        let first = std::thread::scope(|scope| {
            let tries: Vec<_> =
                (0..16).map(|_| scope.spawn(|| mark_used(dir.path(), &nonce, time, time).unwrap())).collect();
            tries.into_iter().map(|t| t.join().unwrap()).filter(|first| *first).count()
        });
        assert_eq!(first, 1);
    }
}
