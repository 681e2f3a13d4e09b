//! Files that share blocks until one of them is written to (ioctl_ficlone(2)), as XFS and Btrfs can do.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::fcntl::OFlag;
use rustix::fs::{XattrFlags, fremovexattr, fsetxattr, ioctl_ficlone, lgetxattr};

use crate::model::size::Amount;
use crate::node::files::{self, FileError};

/// The extended attribute of a machine's disk that says how much of it may be shared, in MiB. It
/// goes away with the disk, and a copy of the disk does not have it.
const SHARED: &str = "user.vgrid.shared";

/// Opens a new file in a folder, which goes away unless it gets a name.
pub(super) fn unnamed(folder: &Path, mode: u32) -> io::Result<File> {
    let options = |options: &mut OpenOptions| options.custom_flags(OFlag::O_TMPFILE.bits()).open(folder);
    options(OpenOptions::new().read(true).write(true).mode(mode))
}

/// Returns whether files in that folder can be cloned.
pub(super) fn are_possible(folder: &Path) -> bool {
    let new = || unnamed(folder, 0o600);
    new().and_then(|from| clone(&new()?, &from)).is_ok()
}

/// Opens a file that is no symbolic link.
pub(super) fn open(path: &Path, options: &mut OpenOptions) -> Result<File, FileError> {
    options.custom_flags(OFlag::O_NOFOLLOW.bits()).open(path).map_err(files::at(path))
}

/// Makes a file share all blocks of another.
pub(super) fn clone(to: &File, from: &File) -> io::Result<()> {
    Ok(ioctl_ficlone(to, from)?)
}

/// Returns the space that a file occupies, rounded up.
pub(super) fn taken(facts: &Metadata) -> Amount {
    // Blocks of 512 bytes (stat(2)).
    Amount::from_mib(facts.blocks().div_ceil(2048))
}

/// Records how much of a disk may be shared. This is on disk when it returns.
pub(super) fn mark_shared(disk: &File, shared: Amount) -> io::Result<()> {
    fsetxattr(disk, SHARED, shared.mib().to_string().as_bytes(), XattrFlags::empty())?;
    disk.sync_all()
}

/// Returns how much of a disk it may share with others at most. The disk takes that much more once
/// it has been written to everywhere.
pub(super) fn shared(disk: &Path) -> Amount {
    let mut text = [0; 20];
    let length = lgetxattr(disk, SHARED, &mut text[..]).unwrap_or_default();
    let text = text.get(..length).and_then(|text| std::str::from_utf8(text).ok());
    Amount::from_mib(text.and_then(|text| text.parse().ok()).unwrap_or_default())
}

/// Records that a disk shares nothing. Most have no such record.
pub(super) fn forget_shared(disk: &File) {
    let _ = fremovexattr(disk, SHARED);
}
