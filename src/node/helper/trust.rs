//! Which folders and files root may trust: those that root alone can change, all the way up.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::failure::Failure;

/// Whether root alone can write there.
fn is_roots(path: &Path) -> std::io::Result<bool> {
    let facts = std::fs::symlink_metadata(path)?;
    Ok(facts.uid() == 0 && facts.mode() & 0o022 == 0)
}

/// Resolves the links in a folder's path and checks each part of the result. Use only the result:
/// others may change the links meanwhile.
pub fn directory(path: &Path) -> Result<PathBuf, Failure> {
    let real =
        path.canonicalize().map_err(|error| Failure::internal(format!("{}: {error}", path.display())))?;
    for part in real.ancestors() {
        match is_roots(part) {
            Ok(true) => {}
            Ok(false) => {
                return Err(Failure::internal(format!(
                    "{}: not root's alone ({} can be changed by others), so the helper does not use it",
                    path.display(),
                    part.display()
                )));
            }
            Err(error) => return Err(Failure::internal(format!("{}: {error}", part.display()))),
        }
    }
    Ok(real)
}

/// Resolves and checks a file and the folder it is in, as [`directory`] does.
pub fn file(path: &Path) -> Result<PathBuf, Failure> {
    let real =
        path.canonicalize().map_err(|error| Failure::internal(format!("{}: {error}", path.display())))?;
    directory(real.parent().unwrap_or(Path::new("/")))?;
    match is_roots(&real) {
        Ok(true) => Ok(real),
        Ok(false) => Err(Failure::internal(format!(
            "{}: others than root can change it, so the helper does not use it",
            path.display()
        ))),
        Err(error) => Err(Failure::internal(format!("{}: {error}", path.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_can_change_is_not_trusted() {
        assert!(directory(Path::new("/tmp")).is_err());
        assert!(directory(Path::new("/nonexistent")).is_err());
        // A link in somebody's folder to one of root's is resolved first, and then judged.
        assert_eq!(directory(Path::new("/proc/self/root/usr")).ok(), directory(Path::new("/usr")).ok());
        let dir = tempfile::tempdir().unwrap();
        assert!(file(&dir.path().join("none")).is_err());
        std::fs::write(dir.path().join("some"), "").unwrap();
        assert!(file(&dir.path().join("some")).is_err(), "below /tmp");
    }
}
