//! Prepared disks and their clones: what is done once, when a disk is kept, and what makes a clone a
//! disk of its own, with its own UUID and its own size.
//!
//! Only vGrid has written to such a disk, so root's programs may read it. They work on files, without
//! a loop device, wherever they can. A disk without a file system at its beginning, such as that of a
//! whole machine with partitions, needs nothing but its size, which its file has already.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use nix::fcntl::OFlag;

use super::failure::Failure;
use super::host::Host;
use super::limits;
use super::namespace::in_a_namespace;
use super::nobody::program;
use super::volumes::head;
use crate::node::filesystem::{self, Kind};
use crate::system::exec::Run;

/// The mount options for enlarging a file system.
const OPTIONS: &str = "nodev,nosuid,noexec,noatime";

fn kind(disk: &Path) -> Result<Option<Kind>, Failure> {
    let read = head(disk).map_err(|error| Failure::internal(format!("{}: {error}", disk.display())))?;
    Ok(filesystem::kind(&read))
}

fn tool(name: &str, args: &[&str], disk: &Path) -> Result<(), Failure> {
    let run = Run::new(program(name)).args(args.iter().copied()).arg(disk).limit(limits::OWN);
    run.run().map(|_| ()).map_err(Failure::internal)
}

/// Returns whether a command of `node.cfg` gives each file system the same UUID: `-U` of mke2fs(8)
/// and mkfs.btrfs(8), `-m uuid=` of mkfs.xfs(8).
fn fixes_uuid(command: &[String]) -> bool {
    command.iter().any(|arg| arg.starts_with("-U") || arg.starts_with("--uuid") || arg.contains("uuid="))
}

/// Does to a disk that is kept what would cost each clone time. tune2fs and resize2fs demand that an
/// ext file system was checked after it was last mounted.
pub(super) fn settle(disk: &Path) -> Result<(), Failure> {
    match kind(disk)? {
        Some(Kind::Ext) => tool("e2fsck", &["-fp"], disk),
        Some(Kind::Xfs | Kind::Btrfs) | None => Ok(()),
    }
}

impl Host {
    /// Makes a clone its own: gives its file system an UUID of its own, unless `command`, which made
    /// it, fixes that, and has it fill the disk. All is written when it returns.
    pub(super) fn make_own(
        &self,
        disk: &Path,
        mount_point: &Path,
        command: &[String],
        is_larger: bool,
    ) -> Result<(), Failure> {
        let kind = kind(disk)?;
        if !fixes_uuid(command) {
            match kind {
                Some(Kind::Ext) => tool("tune2fs", &["-U", "random"], disk)?,
                Some(Kind::Xfs) => tool("xfs_admin", &["-f", "-U", "generate"], disk)?,
                Some(Kind::Btrfs) => tool("btrfstune", &["-f", "-u"], disk)?,
                None => {}
            }
        }
        if let Some(kind) = kind.filter(|_| is_larger) {
            match kind {
                Kind::Ext => tool("resize2fs", &[], disk)?,
                Kind::Xfs => self.grow_mounted(disk, kind, mount_point, "xfs_growfs", &["-d"])?,
                Kind::Btrfs => {
                    self.grow_mounted(disk, kind, mount_point, "btrfs", &["filesystem", "resize", "max"])?;
                }
            }
        }
        sync(disk, self.storage().is_block())
            .map_err(|error| Failure::internal(format!("{}: {error}", disk.display())))
    }

    /// Has a file system that can only grow while it is mounted fill the disk. A command in `node.cfg`
    /// may give all of them the same UUID.
    fn grow_mounted(
        &self,
        disk: &Path,
        kind: Kind,
        target: &Path,
        what: &str,
        args: &[&str],
    ) -> Result<(), Failure> {
        let device = self.storage().attach_at(disk)?;
        let options = format!("{OPTIONS}{}", kind.when_copied());
        in_a_namespace(target, || {
            let mount = Run::new(program("mount")).args(["-n", "-t", kind.mount_type(), "-o", &options]);
            mount.arg(device.path()).arg(target).run().map_err(Failure::internal)?;
            let grown = tool(what, args, target);
            let unmount = Run::new(program("umount")).arg("-n").arg(target).limit(limits::UNMOUNT);
            let unmounted = unmount.run().map(|_| ()).map_err(Failure::internal);
            grown.and(unmounted)
        })?;
        File::open(device.path()).and_then(|device| device.sync_all()).map_err(Failure::internal)
    }
}

/// Without this, nobody would hear of what could not be written. A volume's path is a link to its
/// device, which udev made.
fn sync(path: &Path, is_block: bool) -> io::Result<()> {
    let flags = if is_block { OFlag::empty() } else { OFlag::O_NOFOLLOW };
    OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fixed_uuid_is_seen_in_the_command() {
        let fixes = |text: &str| fixes_uuid(&text.split(' ').map(str::to_owned).collect::<Vec<_>>());
        assert!(!fixes("/sbin/mkfs.ext4 -q -O none,has_journal -L root"));
        assert!(!fixes("/sbin/mkfs.xfs -q -m reflink=1"));
        assert!(fixes("/sbin/mkfs.ext4 -q -U 0a5b6d74-4a2c-4b34-9a05-1d1a4d0f7e11"));
        assert!(fixes("/sbin/mkfs.ext4 -q -U0a5b6d74-4a2c-4b34-9a05-1d1a4d0f7e11"));
        assert!(fixes("/sbin/mkfs.xfs -q -m crc=1,uuid=0a5b6d74-4a2c-4b34-9a05-1d1a4d0f7e11"));
        assert!(fixes("/sbin/mkfs.btrfs --uuid 0a5b6d74-4a2c-4b34-9a05-1d1a4d0f7e11"));
    }
}
