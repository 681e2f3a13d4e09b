//! `unpack`: unpacks an image into a machine's root volume.
//!
//! It mounts, runs tar and unmounts in a single call, in a mount namespace of its own. No machine
//! has been started from the volume yet, so only vGrid has written to it. It is mounted only if its
//! actual type is one of the few supported ones. tar writes to it as nobody, with as few
//! capabilities as possible.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use nix::unistd::syncfs;

use crate::model::fault::{self, Fault};
use crate::model::names::ImageTag;
use crate::model::size::Amount;
use crate::node::filesystem;
use crate::node::helper::failure::Failure;
use crate::node::helper::guard::MachineLock;
use crate::node::helper::host::Host;
use crate::node::helper::limits;
use crate::node::helper::namespace::in_a_namespace;
use crate::node::helper::nobody::{as_nobody_with, program};
use crate::node::helper::volumes::head;
use crate::node::storage::Disk;
use crate::system::exec::{ExecError, ProgramOutput, Run};
use crate::system::log::{self, Level};

/// The capabilities that tar needs to unpack a complete system: to assign files to any owner, and
/// to write to files that it no longer owns. See capabilities(7).
const RIGHTS: &str = "-all,+chown,+dac_override,+fowner,+fsetid,+mknod,+setfcap";

/// The mount options for filling a file system. During that time, nothing in it can be executed, or
/// opened as a device, on this host.
const OPTIONS: &str = "nodev,nosuid,noexec,noatime";

/// An extended attribute that, on a kernel without SELinux, only a fully privileged root can set.
const LABELS: &str = "security.selinux";

/// The file that makes a system with SELinux relabel all files on its first boot (selinux(8)).
const RELABEL: &str = ".autorelabel";

impl Host {
    /// Unpacks standard input, a plain tar stream, into the machine's root volume. No machine may
    /// have been started from it yet.
    pub fn unpack(&self, lock: &MachineLock, image: &ImageTag) -> Result<(), Failure> {
        self.listing.keep();
        let volume = self.unused_volume(&lock.machine, Disk::Root)?;
        let device = self.storage().attach(&lock.machine, Disk::Root)?;
        let target = lock.mount_point();
        let unpack = || {
            let unpacked = unpacker(&target).inherit_input().limit(limits::TAR).run();
            let output = unpacked.map_err(|error| tar_failed(&error, image, volume.size))?;
            // tar stops at the end of the archive. Read the rest, so that the writer does not get an
            // error.
            io::copy(&mut io::stdin().lock(), &mut io::sink())
                .map_err(|error| Failure::internal(format!("standard input: {error}")))?;
            Ok(output)
        };
        in_a_namespace(&target, || fill(device.path(), &target, unpack))
            .map_err(|failure| self.unless_full(failure))
    }
}

/// Mounts a file system that has just been made, has tar unpack into it, and unmounts it.
///
/// The kernel writes most of it after tar has ended, and tells of errors then only those who ask
/// (sync(2), fsync(2)): on a storage that is full, tar and umount succeed.
pub(super) fn fill(
    device: &Path,
    target: &Path,
    unpack: impl FnOnce() -> Result<ProgramOutput, Failure>,
) -> Result<(), Failure> {
    let unreadable = |error: io::Error| Failure::internal(format!("{}: {error}", device.display()));
    let lost = |error: io::Error| {
        let detail = fault::detail(&format!("what was unpacked could not be written: {error}"));
        Failure::from(Fault::FilesystemFailed { detail })
    };
    let read = head(device).map_err(unreadable)?;
    let disk = File::open(device).map_err(unreadable)?;
    let kind = filesystem::kind(&read).ok_or_else(|| Fault::FilesystemFailed {
        detail: "what XenDeployerFSCreateCmd of node.cfg makes is none of ext2, ext3, ext4, xfs, btrfs"
            .to_owned(),
    })?;
    Run::new(program("mount"))
        .args(["-n", "-t", kind.mount_type(), "-o", &format!("{OPTIONS}{}", kind.on_errors())])
        .arg(device)
        .arg(target)
        .run()
        .map_err(|error| Fault::FilesystemFailed { detail: fault::detail(&error.said()) })?;
    let root = File::open(target).map_err(unreadable)?;
    let unpacked = unpack()
        .and_then(|output| if output.stderr.contains(LABELS) { have_it_relabelled(target) } else { Ok(()) });
    let written = syncfs(root.as_fd()).map_err(|errno| lost(errno.into()));
    // Otherwise it can't be unmounted.
    drop(root);
    // Unmounting flushes what is still in memory, so it is part of the work.
    let unmounted = Run::new(program("umount")).arg("-n").arg(target).limit(limits::UNMOUNT).run();
    unpacked?;
    written?;
    unmounted.map_err(|error| match error {
        ExecError::TimedOut { limit, .. } => {
            Fault::TimedOut { what: "Writing the image".to_owned(), seconds: limit.as_secs() }.into()
        }
        error => Failure::from(Fault::FilesystemFailed { detail: fault::detail(&error.said()) }),
    })?;
    disk.sync_all().map_err(lost)
}

/// Prepares the tar that unpacks an image.
pub(super) fn unpacker(target: &Path) -> Run {
    as_nobody_with(RIGHTS, "tar")
        .args(["--extract", "--file=-", "--preserve-permissions", "--same-owner", "--numeric-owner"])
        .args(["--xattrs", "--xattrs-include=*", "--warning=no-timestamp", "--directory"])
        .arg(target)
}

/// Makes the machine itself set the labels that tar could not set.
fn have_it_relabelled(target: &Path) -> Result<(), Failure> {
    let file = target.join(RELABEL);
    log::event(Level::Info, "unpack.not-labelled", &[("file", &file.display())]);
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
    match made {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(Failure::internal(format!("{RELABEL}: {error}")))
        }
        _ => Ok(()),
    }
}

pub(super) fn tar_failed(error: &ExecError, image: &ImageTag, partition: Amount) -> Fault {
    match error {
        // tar prints the second message if only part of its last block could be written.
        ExecError::Failed { stderr, .. }
            if stderr.contains("No space left on device") || stderr.contains(": Wrote only ") =>
        {
            Fault::ImageTooLarge { tag: image.clone(), partition }
        }
        ExecError::TimedOut { limit, .. } => {
            Fault::TimedOut { what: "Unpacking the image".to_owned(), seconds: limit.as_secs() }
        }
        ExecError::Failed { .. } => {
            let said = error.said();
            let first = said.lines().next().unwrap_or_default();
            let message = first.rsplit_once("tar: ").map_or(first, |(_, message)| message);
            Fault::ImageCorrupt { tag: image.clone(), detail: fault::detail(message) }
        }
        ExecError::NotStarted { source, .. } | ExecError::Pipe { source, .. } => {
            Fault::ImageCorrupt { tag: image.clone(), detail: format!("tar: {source}") }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    #[test]
    fn messages_of_tar_become_faults() {
        let tag: ImageTag = "tiny".parse().unwrap();
        let size = Amount::from_mib(1024);
        let fault_for = |stderr: &str| {
            let error = ExecError::Failed {
                argv: String::new(),
                status: std::process::ExitStatus::from_raw(2 << 8),
                stdout: Vec::new(),
                stderr: stderr.to_owned(),
            };
            tar_failed(&error, &tag, size)
        };
        assert_eq!(
            fault_for(
                "/usr/bin/tar: ./usr/lib/x: Cannot write: No space left on device\n/usr/bin/tar: Exiting with failure status due to previous errors"
            ),
            Fault::ImageTooLarge { tag: tag.clone(), partition: size }
        );
        assert_eq!(
            fault_for(
                "/usr/bin/tar: zeros: Wrote only 8704 of 10240 bytes\n/usr/bin/tar: Exiting with failure status"
            ),
            Fault::ImageTooLarge { tag: tag.clone(), partition: size }
        );
        assert_eq!(
            fault_for("/usr/bin/tar: This does not look like a tar archive\n/usr/bin/tar: Exiting"),
            Fault::ImageCorrupt {
                tag: tag.clone(),
                detail: "This does not look like a tar archive".to_owned()
            }
        );
    }

    #[test]
    fn tar_restores_a_system_with_few_rights() {
        use std::fs::Permissions;
        use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};

        if !nix::unistd::geteuid().is_root() {
            println!("only root can give its rights away: not tried here");
            return;
        }
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::set_permissions(to.path(), Permissions::from_mode(0o700)).unwrap();
        for (name, owner, mode) in [("sudo", 0, 0o4755), ("wall", 1234, 0o2755), ("closed/key", 4321, 0o400)]
        {
            let file = from.path().join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, name).unwrap();
            chown(&file, Some(owner), Some(owner + 1)).unwrap();
            std::fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
        }
        std::fs::set_permissions(from.path().join("closed"), Permissions::from_mode(0o000)).unwrap();
        chown(from.path().join("closed"), Some(5678), Some(5679)).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", from.path().join("link")).unwrap();
        let label = "--pax-option=SCHILY.xattr.security.selinux:=system_u:object_r:bin_t:s0";
        let packed = Run::new(program("tar"))
            .args(["--create", "--format=posix", label, "--directory"])
            .arg(from.path())
            .arg(".")
            .run()
            .unwrap();
        let output = unpacker(to.path()).input(packed.stdout).run().unwrap();
        // Whether nobody may set a label depends on the kernel. If not, tar warns and continues.
        let listed = Run::new("python3")
            .args(["-c", "import os, sys; print(os.listxattr(sys.argv[1]))"])
            .arg(to.path().join("wall"))
            .run()
            .unwrap();
        assert_ne!(listed.text().contains(LABELS), output.stderr.contains(LABELS), "{}", output.stderr);
        for name in ["sudo", "wall", "closed", "closed/key", "link", "."] {
            let facts = |dir: &Path| {
                let facts = std::fs::symlink_metadata(dir.join(name)).unwrap();
                (facts.mode(), facts.uid(), facts.gid(), facts.mtime())
            };
            assert_eq!(facts(to.path()), facts(from.path()), "{name}");
        }
        let status = as_nobody_with(RIGHTS, "cat").arg("/proc/self/status").run().unwrap().text();
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        assert_eq!(field("Uid:"), Some("65534\t65534\t65534\t65534"));
        // CAP_CHOWN, DAC_OVERRIDE, FOWNER and FSETID are 0, 1, 3 and 4, MKNOD is 27, SETFCAP 31.
        let rights = 1 << 0 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 27 | 1_u64 << 31;
        for set in ["CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
            assert_eq!(field(set).map(|set| u64::from_str_radix(set, 16)), Some(Ok(rights)), "{set}");
        }
    }

    #[test]
    fn missing_labels_are_set_on_the_first_boot() {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            have_it_relabelled(dir.path()).unwrap();
        }
        assert_eq!(std::fs::metadata(dir.path().join(RELABEL)).unwrap().len(), 0);
        // A file of that name in the image is kept, and not followed.
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::os::unix::fs::symlink(outside.path().join("x"), dir.path().join(RELABEL)).unwrap();
        have_it_relabelled(dir.path()).unwrap();
        assert!(!outside.path().join("x").exists());
    }
}
