//! Reading, writing and removing files as root.

use std::fs::OpenOptions;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use thiserror::Error;

/// Why root can't use a file.
#[derive(Debug, Error)]
pub enum FileError {
    /// The operation failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file could not be renamed.
    #[error("{} to {}: {source}", from.display(), to.display())]
    Rename {
        /// Its name.
        from: PathBuf,
        /// The new name.
        to: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Others than root can change a directory above it.
    #[error("{}: not root's alone ({} can be changed by others), so the helper does not use it", path.display(), part.display())]
    Shared {
        /// The path as configured.
        path: PathBuf,
        /// The directory that others can change.
        part: PathBuf,
    },
    /// Others than root can change the file itself.
    #[error("{}: others than root can change it, so the helper does not use it", path.display())]
    Writable {
        /// The file.
        path: PathBuf,
    },
}

impl FileError {
    /// Returns whether the file system, or the quota on it, is full.
    pub fn is_no_space(&self) -> bool {
        let (Self::Io { source, .. } | Self::Rename { source, .. }) = self else { return false };
        matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

/// Returns a function that adds the path to an I/O error.
pub fn at(path: &Path) -> impl FnOnce(io::Error) -> FileError + use<> {
    let path = path.to_owned();
    move |source| FileError::Io { path, source }
}

/// Reads at most `most` bytes of a file; empty if there is no such file. A symlink is an error.
pub fn read_text(file: &Path, most: u64) -> Result<String, FileError> {
    let mut bytes = Vec::new();
    let read = OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(file)
        .and_then(|file| file.take(most).read_to_end(&mut bytes));
    match read {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(file)(error)),
        _ => Ok(String::from_utf8_lossy(&bytes).into_owned()),
    }
}

/// Creates a file that only root can read, writes it, and syncs it. If that fails, for example on a
/// full disk, there is no file.
pub fn write_new(path: &Path, content: impl AsRef<[u8]>) -> Result<(), FileError> {
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(at(path))?;
    let written = file.write_all(content.as_ref()).and_then(|()| file.sync_all());
    if written.is_err() {
        remove(path)?;
    }
    written.map_err(at(path))
}

/// Renames a file and syncs the directory.
pub fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    let renamed = std::fs::rename(from, to).and_then(|()| match to.parent() {
        // Otherwise the old name could reappear after a power failure.
        Some(dir) => std::fs::File::open(dir)?.sync_all(),
        None => Ok(()),
    });
    renamed.map_err(|source| FileError::Rename { from: from.to_owned(), to: to.to_owned(), source })
}

/// Removes a file. It is no error if there is none.
pub fn remove(file: &Path) -> Result<(), FileError> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(file)(error)),
        _ => Ok(()),
    }
}
