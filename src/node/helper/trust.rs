//! Which folders and files root may rely on: those that nobody but root can change, all the way up.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::Failure;

/// Whether nobody but root can write there.
fn is_roots(path: &Path) -> std::io::Result<bool> {
    let facts = std::fs::symlink_metadata(path)?;
    Ok(facts.uid() == 0 && facts.mode() & 0o022 == 0)
}

/// Resolves the links in a folder's path and checks each part of what results. Only the result may be used:
/// the links could be changed by somebody meanwhile.
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

/// Checks a file and the folder that it is in.
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
        // A link in a folder of others to one that is root's is resolved, and only then judged.
        assert_eq!(directory(Path::new("/proc/self/root/usr")).ok(), directory(Path::new("/usr")).ok());
        let dir = tempfile::tempdir().unwrap();
        assert!(file(&dir.path().join("none")).is_err());
        std::fs::write(dir.path().join("some"), "").unwrap();
        assert!(file(&dir.path().join("some")).is_err(), "below /tmp");
    }
}
