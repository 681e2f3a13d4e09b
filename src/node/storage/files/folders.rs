//! The machines' folders, `DIRECTORY/ID`, and the names of the disks in them.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::Disk;
use crate::model::names::VmId;
use crate::node::files::{self, FileError};
use crate::node::trust;

/// Returns the name of a disk's file.
pub(super) fn file_name(disk: Disk) -> &'static str {
    match disk {
        Disk::Root => "root.raw",
        Disk::Swap => "swap.raw",
    }
}

/// Returns the folder of a machine, whether or not it exists.
pub fn folder(directory: &Path, id: VmId) -> PathBuf {
    directory.join(id.to_string())
}

/// Creates the folder of a machine unless it exists. Others may pass through it, as QEMU must, but
/// not look around.
pub fn make_folder(directory: &Path, id: VmId) -> Result<PathBuf, FileError> {
    let folder = folder(&trust::directory(directory)?, id);
    match std::fs::create_dir(&folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(files::at(&folder)(error)),
        _ => {}
    }
    // Whatever the umask.
    std::fs::set_permissions(&folder, Permissions::from_mode(0o711)).map_err(files::at(&folder))?;
    trust::directory(&folder)
}

/// Removes the folder of a machine if it is empty.
pub fn remove_folder(directory: &Path, id: VmId) -> Result<(), FileError> {
    let folder = folder(directory, id);
    match std::fs::remove_dir(&folder) {
        Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => {
            Err(files::at(&folder)(error))
        }
        _ => Ok(()),
    }
}
