//! Checks which directories and files root may trust: those that only root can change, including
//! all parent directories.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::files::{FileError, at};

/// Returns whether only root can write there.
fn is_roots(path: &Path) -> std::io::Result<bool> {
    let facts = std::fs::symlink_metadata(path)?;
    Ok(facts.uid() == 0 && facts.mode() & 0o022 == 0)
}

/// Resolves the symlinks in a directory's path and checks each part of the result. Use only the
/// result: others might change the symlinks in the meantime.
pub fn directory(path: &Path) -> Result<PathBuf, FileError> {
    let real = path.canonicalize().map_err(at(path))?;
    for part in real.ancestors() {
        if !is_roots(part).map_err(at(part))? {
            return Err(FileError::Shared { path: path.to_owned(), part: part.to_owned() });
        }
    }
    Ok(real)
}

/// Resolves and checks a file and its directory, as [`directory`] does.
pub fn file(path: &Path) -> Result<PathBuf, FileError> {
    let real = path.canonicalize().map_err(at(path))?;
    directory(real.parent().unwrap_or(Path::new("/")))?;
    if is_roots(&real).map_err(at(path))? {
        Ok(real)
    } else {
        Err(FileError::Writable { path: path.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_others_can_change_are_not_trusted() {
        assert!(directory(Path::new("/tmp")).is_err());
        assert!(directory(Path::new("/nonexistent")).is_err());
        // A symlink in a user's directory to one of root's is resolved first, and then checked.
        assert_eq!(directory(Path::new("/proc/self/root/usr")).ok(), directory(Path::new("/usr")).ok());
        let dir = tempfile::tempdir().unwrap();
        assert!(file(&dir.path().join("none")).is_err());
        std::fs::write(dir.path().join("some"), "").unwrap();
        assert!(file(&dir.path().join("some")).is_err(), "below /tmp");
    }
}
