//! The registry that a node is bound to: that of the first server that contacted it, stored in its
//! state directory.
//!
//! A server whose registry was lost and recreated has none of the machines. A node that is bound
//! to the old registry rejects its requests and ignores its answers.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::model::names::RegistryId;

use super::lock;

/// How long a request waits for another one that is writing the file.
const PATIENCE: Duration = Duration::from_secs(3);

/// Returns the path of the file that stores the registry's identity.
pub fn file(state: &Path) -> PathBuf {
    state.join("registry")
}

/// Reads the registry that this node is bound to; `None` if no server has contacted it yet.
///
/// # Errors
/// The I/O error, or [`io::ErrorKind::InvalidData`] if the file holds no valid identity. Such a
/// file must not count as missing: the node would then bind itself to the next caller.
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

/// Returns the registry that this node is bound to. If there is none yet, binds it to `met`.
///
/// # Errors
/// As for [`read`], and the I/O error if the file can't be written.
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
    // Written and synced before the rename, so the file is never incomplete. The next attempt
    // overwrites what a killed process leaves behind.
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
    fn a_node_is_bound_to_the_first_registry() {
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
    fn an_invalid_identity_does_not_count_as_missing() {
        let state = tempfile::tempdir().unwrap();
        for text in ["", "x", "0\n"] {
            std::fs::write(file(state.path()), text).unwrap();
            assert_eq!(read(state.path()).unwrap_err().kind(), io::ErrorKind::InvalidData);
            assert!(read_or_set(state.path(), RegistryId::generate()).is_err());
            assert_eq!(std::fs::read_to_string(file(state.path())).unwrap(), text);
        }
    }
}
