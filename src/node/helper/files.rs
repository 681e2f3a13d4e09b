//! Reading, writing and removing files as root.

use std::fs::OpenOptions;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use nix::fcntl::OFlag;

use super::failure::Failure;

/// Reads at most `most` bytes of a file; empty if there is no such file. A symlink is an error.
pub(super) fn read_text(file: &Path, most: u64) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    let read = OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(file)
        .and_then(|file| file.take(most).read_to_end(&mut bytes));
    match read {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Failure::internal(format!("{}: {error}", file.display())))
        }
        _ => Ok(String::from_utf8_lossy(&bytes).into_owned()),
    }
}

/// Creates a file that only root can read, writes it, and syncs it.
pub(super) fn write_new(file: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Renames a file and syncs the directory.
pub(super) fn rename(from: &Path, to: &Path) -> Result<(), Failure> {
    let renamed = std::fs::rename(from, to).and_then(|()| match to.parent() {
        // Otherwise the old name could reappear after a power failure.
        Some(dir) => std::fs::File::open(dir)?.sync_all(),
        None => Ok(()),
    });
    renamed.map_err(|error| Failure::internal(format!("{} to {}: {error}", from.display(), to.display())))
}

/// Removes a file. It is no error if there is none.
pub(super) fn remove(file: &Path) -> Result<(), Failure> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Failure::internal(format!("{}: {error}", file.display())))
        }
        _ => Ok(()),
    }
}
