//! Files that share blocks until one of them is written to (ioctl_ficlone(2)), as XFS and Btrfs can do.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Duration;

use nix::fcntl::OFlag;
use rustix::fs::{XattrFlags, fremovexattr, fsetxattr, ioctl_ficlone, lgetxattr};

use crate::model::size::Amount;
use crate::node::files::{self, FileError};
use crate::system::exec::{self, Run};

/// The extended attribute of a machine's disk that says how much of it may be shared, in MiB. It
/// goes away with the disk, and a copy of the disk does not have it.
const SHARED: &str = "user.vgrid.shared";

/// The time limit of filefrag, which asks for the extents one page after another.
const LIMIT: Duration = Duration::from_secs(60);

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

/// Determines how much of a disk is shared now, rounded up; `None` if that can't be told. Only the file
/// system is asked, and nothing in the disk is read.
pub(super) fn shared_now(disk: &Path) -> Option<Amount> {
    let program = exec::find(&["filefrag"])?;
    let listed = Run::new(program).args(["-v", "-b4096"]).arg(disk).limit(LIMIT).run().ok()?;
    shared_blocks(&listed.text()).map(|blocks| Amount::from_mib(blocks.div_ceil(256)))
}

/// Adds up the shared blocks of 4 KiB in the output of filefrag(8) with `-v -b4096`: a line per extent,
/// its parts separated by colons, from its number to its flags; the fourth is its length. `None` if not
/// all are listed.
fn shared_blocks(listed: &str) -> Option<u64> {
    let (mut blocks, mut count, mut is_whole) = (0, 0, listed.contains(": 0 extents found"));
    for line in listed.lines() {
        let parts: Vec<&str> = line.split(':').map(str::trim).collect();
        let [number, _, _, length, .., flags] = parts[..] else { continue };
        let Ok(number) = number.parse::<u64>() else { continue };
        if number != count {
            return None;
        }
        count += 1;
        let has = |flag| flags.split(',').any(|one| one == flag);
        is_whole = has("last");
        if has("shared") {
            blocks += length.parse::<u64>().ok()?;
        }
    }
    is_whole.then_some(blocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_extents_are_added_up() {
        let listed = include_str!("../../../../tests/data/filefrag-shared.txt");
        assert_eq!(shared_blocks(listed), Some(768 + 768));
        assert_eq!(shared_blocks(&listed.replace("shared", "")), Some(0));
        let none = "File size of empty is 5242880 (1280 blocks of 4096 bytes)\nempty: 0 extents found\n";
        assert_eq!(shared_blocks(none), Some(0));
        // Cut off, or in a form that is not known.
        assert_eq!(shared_blocks(listed.rsplit_once("   2:").unwrap().0), None);
        assert_eq!(shared_blocks(&listed.replace("   1:      768..", "   x:      768..")), None);
        assert_eq!(shared_blocks(&listed.replace("last,", "last;")), None);
        assert_eq!(shared_blocks(""), None);
    }
}
