//! Mount namespaces in which the file systems of machines are mounted. However a verb ends, no
//! mount is left behind: the namespace disappears with its last process.

use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::failure::Failure;
use super::guard;
use crate::system::log::{self, Level};

/// Runs some work in a mount namespace of its own. The mount point `target` exists only during that
/// time.
pub(super) fn in_a_namespace(
    target: &Path,
    work: impl FnOnce() -> Result<(), Failure> + Send,
) -> Result<(), Failure> {
    with_mount_points(&[target], work)
}

/// The same with several mount points.
pub(super) fn with_mount_points(
    targets: &[&Path],
    work: impl FnOnce() -> Result<(), Failure> + Send,
) -> Result<(), Failure> {
    for target in targets {
        match std::fs::create_dir(target) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(Failure::internal(format!("{}: {error}", target.display())));
            }
            _ => {}
        }
    }
    // The namespace belongs to a separate thread, so that this one can remove the directories.
    let result = std::thread::scope(|scope| scope.spawn(|| isolate().and_then(|()| work())).join());
    for target in targets {
        guard::remove_directory(target)?;
    }
    result.unwrap_or_else(|_| Err(Failure::internal("the work in the namespace broke off")))
}

/// Moves this thread, and whatever it starts, into a mount namespace in which it can't affect the
/// rest of the system.
fn isolate() -> Result<(), Failure> {
    unshare(CloneFlags::CLONE_NEWNS).map_err(|error| Failure::internal(format!("unshare: {error}")))?;
    // Otherwise the mounts made here would be visible everywhere.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .map_err(|error| Failure::internal(format!("making mounts private: {error}")))?;
    seal();
    Ok(())
}

/// Makes every file system read-only for this thread and its children. If an archive got past tar's
/// own checks and out of its directory, it still could not change anything. Later mounts are not
/// affected.
fn seal() {
    let table = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
    for point in table.lines().filter_map(|line| line.split(' ').nth(4)) {
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
        let result = mount(None::<&str>, unescaped(point).as_str(), None::<&str>, flags, None::<&str>);
        if let Err(error) = result {
            // Some pseudo file systems refuse. tar's own checks still apply.
            log::event(Level::Info, "unpack.not-sealed", &[("file", &point), ("why", &error)]);
        }
    }
}

/// Decodes a mount point from mountinfo, in which blanks and similar characters are octal
/// (proc(5)).
fn unescaped(point: &str) -> String {
    ["\\040", "\\011", "\\012", "\\134"]
        .iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(point.to_owned(), |point, (code, plain)| point.replace(code, plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_unescaped() {
        assert_eq!(unescaped("/mnt/a\\040b\\134c"), "/mnt/a b\\c");
    }
}
