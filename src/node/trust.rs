//! Checks which directories and files root may trust: those that only root can change, including
//! all parent directories.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

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

/// Returns whether only root can change what is at a path, or put something else there. Others may
/// create files in a folder that is sticky, but can't replace root's (unlink(2)).
fn is_fixed(path: &Path) -> std::io::Result<bool> {
    let facts = std::fs::symlink_metadata(path)?;
    let is_closed = facts.is_symlink() || facts.mode() & 0o022 == 0;
    Ok(facts.uid() == 0 && (is_closed || facts.is_dir() && facts.mode() & 0o1000 != 0))
}

/// Opens a file for reading that only root can change or replace, even in a folder in which others
/// may create files, such as `imageDirectory`. A file with several names is refused: others may
/// have given it the name that is asked for, if the host allows them (`fs.protected_hardlinks`).
pub fn open(path: &Path) -> Result<File, FileError> {
    let real = path.canonicalize().map_err(at(path))?;
    for part in path.ancestors().chain(real.ancestors()) {
        if !is_fixed(part).map_err(at(part))? {
            return Err(FileError::Writable { path: part.to_owned() });
        }
    }
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(&real).map_err(at(&real))?;
    let facts = file.metadata().map_err(at(&real))?;
    let is_roots = facts.uid() == 0 && facts.mode() & 0o022 == 0;
    if facts.is_file() && is_roots && facts.nlink() == 1 {
        Ok(file)
    } else {
        Err(FileError::Writable { path: real })
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

    #[test]
    fn only_roots_file_is_opened_in_a_folder_of_others() {
        use std::fs::{Permissions, set_permissions};
        use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

        if !nix::unistd::geteuid().is_root() {
            println!("only root can give files away: not tried here");
            return;
        }
        // As imageDirectory.
        let dir = tempfile::tempdir_in("/run").unwrap();
        let inside = |name: &str| dir.path().join(name);
        let mode = |path: &Path, mode| set_permissions(path, Permissions::from_mode(mode)).unwrap();
        chown(dir.path(), None, Some(33)).unwrap();
        mode(dir.path(), 0o1775);
        std::fs::write(inside("image"), "of root").unwrap();
        mode(&inside("image"), 0o644);
        symlink("image", inside("latest")).unwrap();
        assert!(open(&inside("image")).is_ok() && open(&inside("latest")).is_ok());
        std::fs::write(inside("saved"), "of www-data").unwrap();
        chown(inside("saved"), Some(33), None).unwrap();
        std::fs::write(inside("shared"), "of a group").unwrap();
        mode(&inside("shared"), 0o664);
        std::fs::create_dir(inside("folder")).unwrap();
        chown(inside("folder"), Some(33), None).unwrap();
        std::fs::write(inside("folder/image"), "").unwrap();
        symlink("image", inside("planted")).unwrap();
        std::os::unix::fs::lchown(inside("planted"), Some(33), None).unwrap();
        nix::unistd::mkfifo(&inside("pipe"), nix::sys::stat::Mode::from_bits_truncate(0o644)).unwrap();
        for refused in
            ["saved", "shared", "folder", "folder/image", "planted", "planted/image", "pipe", "none"]
        {
            assert!(open(&inside(refused)).is_err(), "{refused}");
        }
        std::fs::hard_link(inside("image"), inside("linked")).unwrap();
        assert!(open(&inside("linked")).is_err());
        std::fs::remove_file(inside("linked")).unwrap();
        assert!(open(&inside("image")).is_ok());
        // Without the sticky bit, www-data may replace it.
        mode(dir.path(), 0o775);
        assert!(open(&inside("image")).is_err());
    }
}
