//! `unpack`: mount, tar and unmount in one verb, in a mount namespace of its own. However it ends, no mount is
//! left: the namespace goes with its last process.

use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::guard::{self, MachineLock};
use super::{Failure, Host, limits};
use crate::model::fault::{self, Fault};
use crate::model::names::ImageTag;
use crate::model::size::Amount;
use crate::node::lvm;
use crate::system::exec::{self, ExecError, Run};
use crate::system::log::{self, Level};

impl Host {
    /// Unpacks standard input, a plain tar stream, into the machine's root volume.
    pub fn unpack(&self, lock: &MachineLock, image: &ImageTag) -> Result<(), Failure> {
        let volume = self.volume(lock, &lvm::root_volume(&lock.machine))?;
        let device = self.lvm().device(&volume.name);
        let target = lock.mount_point();
        in_a_namespace(&target, || fill(&device, &target, image, volume.size))
    }
}

/// Does something with a mount point, which exists while it is done, in a mount namespace that exists no longer.
pub(super) fn in_a_namespace(
    target: &Path,
    work: impl FnOnce() -> Result<(), Failure> + Send,
) -> Result<(), Failure> {
    match std::fs::create_dir(target) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(Failure::internal(format!("{}: {error}", target.display())));
        }
        _ => {}
    }
    // A thread of its own has a namespace of its own, so that this one can remove the folder.
    let result = std::thread::scope(|scope| scope.spawn(|| apart().and_then(|()| work())).join());
    guard::remove_directory(target)?;
    result.unwrap_or_else(|_| Err(Failure::internal("the work in the namespace broke off")))
}

/// Gives this thread, and what it starts, a mount namespace in which it can do no harm elsewhere.
fn apart() -> Result<(), Failure> {
    unshare(CloneFlags::CLONE_NEWNS).map_err(|error| Failure::internal(format!("unshare: {error}")))?;
    // Else a mount made here would be seen by all.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .map_err(|error| Failure::internal(format!("making mounts private: {error}")))?;
    seal();
    Ok(())
}

pub(super) fn program(name: &str) -> PathBuf {
    exec::find(&[name]).unwrap_or_else(|| PathBuf::from(name))
}

fn fill(device: &Path, target: &Path, image: &ImageTag, size: Amount) -> Result<(), Failure> {
    // For the time of unpacking nothing in the image can be run or opened as a device from here; the modes
    // themselves are kept.
    Run::new(program("mount"))
        .args(["-n", "-o", "nodev,nosuid,noexec,noatime"])
        .arg(device)
        .arg(target)
        .run()
        .map_err(|error| Fault::FilesystemFailed { detail: fault::detail(error.stderr()) })?;
    let unpacked = Run::new(program("tar"))
        .args(["--extract", "--file=-", "--preserve-permissions", "--same-owner", "--numeric-owner"])
        .args(["--xattrs", "--xattrs-include=*", "--warning=no-timestamp", "--directory"])
        .arg(target)
        .inherit_input()
        .limit(limits::TAR)
        .run();
    // Unmounting writes what is still in memory, and so belongs to the work.
    let unmounted = Run::new(program("umount")).arg("-n").arg(target).limit(limits::UNMOUNT).run();
    if let Err(error) = unpacked {
        return Err(tar_failed(&error, image, size).into());
    }
    unmounted.map(|_| ()).map_err(|error| match error {
        ExecError::TimedOut { limit, .. } => {
            Fault::TimedOut { what: "Writing the image".to_owned(), seconds: limit.as_secs() }.into()
        }
        error => Failure::from(Fault::FilesystemFailed { detail: fault::detail(error.stderr()) }),
    })
}

fn tar_failed(error: &ExecError, image: &ImageTag, partition: Amount) -> Fault {
    match error {
        // The second is what tar says when only a part of its last block found room.
        ExecError::Failed { stderr, .. }
            if stderr.contains("No space left on device") || stderr.contains(": Wrote only ") =>
        {
            Fault::ImageTooLarge { tag: image.clone(), partition }
        }
        ExecError::TimedOut { limit, .. } => {
            Fault::TimedOut { what: "Unpacking the image".to_owned(), seconds: limit.as_secs() }
        }
        ExecError::Failed { stderr, .. } => {
            let first = stderr.lines().next().unwrap_or_default();
            let said = first.rsplit_once("tar: ").map_or(first, |(_, said)| said);
            Fault::ImageCorrupt { tag: image.clone(), detail: fault::detail(said) }
        }
        ExecError::NotStarted { source, .. } | ExecError::Pipe { source, .. } => {
            Fault::ImageCorrupt { tag: image.clone(), detail: format!("tar: {source}") }
        }
    }
}

/// Makes every file system read-only, as this thread and its children see it: should an archive find a way
/// past tar's own checks and out of its folder, it can change nothing. What is mounted later is not affected.
fn seal() {
    let table = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
    for point in table.lines().filter_map(|line| line.split(' ').nth(4)) {
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
        let result = mount(None::<&str>, unescaped(point).as_str(), None::<&str>, flags, None::<&str>);
        if let Err(error) = result {
            // Some pseudo file systems refuse; tar's own checks still stand.
            log::event(Level::Info, "unpack.not-sealed", &[("mount", &point), ("error", &error)]);
        }
    }
}

/// A mount point as it is, of its form in mountinfo, where blanks and the like are octal (proc(5)).
fn unescaped(point: &str) -> String {
    ["\\040", "\\011", "\\012", "\\134"]
        .iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(point.to_owned(), |point, (code, plain)| point.replace(code, plain))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt as _;

    #[test]
    fn tars_words_become_faults() {
        let tag: ImageTag = "tiny".parse().unwrap();
        let size = Amount::from_mib(1024);
        let said = |stderr: &str| {
            let error = ExecError::Failed {
                argv: String::new(),
                status: std::process::ExitStatus::from_raw(2 << 8),
                stdout: Vec::new(),
                stderr: stderr.to_owned(),
            };
            tar_failed(&error, &tag, size)
        };
        assert_eq!(
            said(
                "/usr/bin/tar: ./usr/lib/x: Cannot write: No space left on device\n/usr/bin/tar: Exiting with failure status due to previous errors"
            ),
            Fault::ImageTooLarge { tag: tag.clone(), partition: size }
        );
        assert_eq!(
            said(
                "/usr/bin/tar: zeros: Wrote only 8704 of 10240 bytes\n/usr/bin/tar: Exiting with failure status"
            ),
            Fault::ImageTooLarge { tag: tag.clone(), partition: size }
        );
        assert_eq!(
            said("/usr/bin/tar: This does not look like a tar archive\n/usr/bin/tar: Exiting"),
            Fault::ImageCorrupt {
                tag: tag.clone(),
                detail: "This does not look like a tar archive".to_owned()
            }
        );
    }

    #[test]
    fn mount_points_are_unescaped() {
        assert_eq!(unescaped("/mnt/a\\040b\\134c"), "/mnt/a b\\c");
    }
}
