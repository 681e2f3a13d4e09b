//! The registry that a node obeys: the first whose server it meets, remembered in its state directory.
//!
//! A server whose registry was lost and made anew knows none of the machines. A node that remembers takes no orders
//! from it and believes nothing that it says of them.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::model::names::RegistryId;

use super::lock;

/// How long one request waits for another that writes the file.
const PATIENCE: Duration = Duration::from_secs(3);

/// Where the registry that a node obeys is remembered, by its state directory.
pub fn file(state: &Path) -> PathBuf {
    state.join("registry")
}

/// The registry that this node obeys; `None` before it has met a server.
///
/// # Errors
/// What the system says, or [`io::ErrorKind::InvalidData`] when the file holds no identity. It is never taken for
/// absent then: whoever comes next would be obeyed.
pub fn read(state: &Path) -> io::Result<Option<RegistryId>> {
    match std::fs::read_to_string(file(state)) {
        Ok(text) => text.trim().parse().map(Some).map_err(|_| {
            let text = format!("{} does not hold the identity of a registry", file(state).display());
            io::Error::new(io::ErrorKind::InvalidData, text)
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The registry that this node obeys: `met`, and from now on, if it has met none before.
///
/// # Errors
/// As for [`read`], and what the system says when the file can't be written.
pub fn read_or_set(state: &Path, met: RegistryId) -> io::Result<RegistryId> {
    if let Some(known) = read(state)? {
        return Ok(known);
    }
    let Some(_lock) = lock::take_within(&state.join("registry.lock"), PATIENCE)? else {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "the identity of the registry is being written"));
    };
    if let Some(known) = read(state)? {
        return Ok(known);
    }
    // Whole and on the disk before it has its name. What a kill leaves is the next one's to overwrite.
    let fresh = state.join(".registry.new");
    let mut file = std::fs::File::create(&fresh)?;
    writeln!(file, "{met}")?;
    file.sync_all()?;
    std::fs::rename(&fresh, self::file(state))?;
    std::fs::File::open(state)?.sync_all()?;
    Ok(met)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_registry_that_is_met_is_the_one_that_is_obeyed() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(read(state.path()).unwrap(), None);
        let ids: Vec<_> = (0..8).map(|_| RegistryId::generate()).collect();
        let obeyed: Vec<_> = std::thread::scope(|scope| {
            let met: Vec<_> =
                ids.iter().map(|id| scope.spawn(|| read_or_set(state.path(), *id).unwrap())).collect();
            met.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(ids.contains(&obeyed[0]) && obeyed.iter().all(|id| *id == obeyed[0]), "{obeyed:?}");
        assert_eq!(read_or_set(state.path(), RegistryId::generate()).unwrap(), obeyed[0]);
        assert!(!state.path().join(".registry.new").exists());
    }

    #[test]
    fn what_is_no_identity_is_not_taken_for_none() {
        let state = tempfile::tempdir().unwrap();
        for text in ["", "x", "0\n"] {
            std::fs::write(file(state.path()), text).unwrap();
            assert_eq!(read(state.path()).unwrap_err().kind(), io::ErrorKind::InvalidData);
            assert!(read_or_set(state.path(), RegistryId::generate()).is_err());
            assert_eq!(std::fs::read_to_string(file(state.path())).unwrap(), text);
        }
    }
}
