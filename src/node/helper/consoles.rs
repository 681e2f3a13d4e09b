//! The console logs of machines, and limiting their size.
//!
//! A guest may write to its console without end, and xenconsoled writes all of it to the host's
//! disk. It limits only the rate, to about 60 to 300 KB/s (`RATE_LIMIT_ALLOWANCE` in its io.c). So
//! every `info`, which upkeep calls every few minutes, removes the oldest part.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, OFlag, fallocate};

use super::failure::Failure;
use super::host::Host;
use crate::model::names::MachineName;
use crate::node::files;
use crate::system::log::{self, Level};

/// The disk space above which a console log is trimmed, in bytes.
pub const MOST: u64 = 4 << 20;
/// How much of its end is then kept, in bytes.
const KEPT: u64 = 1 << 20;

impl Host {
    /// Returns the path of a machine's console log; `None` if this host does not log consoles. Of a
    /// machine that has no definition any more, it is where there is a log.
    pub(super) fn console_log(&self, machine: &MachineName) -> Result<Option<PathBuf>, Failure> {
        let mut known = None;
        for hypervisor in self.hypervisors() {
            if let Some(log) = hypervisor.console_log(machine)? {
                if log.symlink_metadata().is_ok() {
                    return Ok(Some(log));
                }
                known.get_or_insert(log);
            }
        }
        Ok(known)
    }

    /// Trims the console logs of vGrid's machines that have grown too large. Errors are only
    /// logged, so that `info` still responds.
    pub(super) fn trim_consoles(&self) {
        for hypervisor in self.all_hypervisors() {
            let machines = match hypervisor.all_installed() {
                Ok(made) => made.into_iter().filter_map(|made| made.machine()).collect::<Vec<_>>(),
                Err(error) => {
                    log::event(Level::Warning, "consoles.not-trimmed", &[("why", &error)]);
                    continue;
                }
            };
            for machine in machines {
                let Ok(Some(path)) = hypervisor.console_log(&machine) else { break };
                trim_console(&machine, &path);
            }
        }
    }
}

fn trim_console(machine: &MachineName, path: &Path) {
    match trim(path, MOST, KEPT) {
        Ok(0) => {}
        Ok(cut) => {
            log::event(Level::Info, "console.trimmed", &[("machine", machine), ("bytes", &cut)]);
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => {
            log::event(
                Level::Warning,
                "console.not-trimmed",
                &[("machine", machine), ("file", &path.display()), ("why", &error)],
            );
        }
    }
}

/// Removes a console log, and the older ones: logrotate's is `.1` (etc/logrotate.d/vgrid), those of
/// virtlogd are `.0` to `.2`, or as many as `max_backups` in virtlogd.conf says.
pub(super) fn remove_log(log: &Path) -> Result<(), Failure> {
    for number in 0..=9 {
        let mut older = log.as_os_str().to_owned();
        older.push(format!(".{number}"));
        files::remove(Path::new(&older))?;
    }
    Ok(files::remove(log)?)
}

/// Returns how many bytes of disk space a file occupies, not counting holes.
pub fn taken(facts: &std::fs::Metadata) -> u64 {
    facts.blocks().saturating_mul(512)
}

/// Removes the beginning of a log that occupies more than `most` bytes, keeping about `kept` bytes
/// of its end. Returns the number of bytes removed. The writer has opened the log with `O_APPEND`,
/// so it continues at the new end.
fn trim(path: &Path, most: u64, kept: u64) -> io::Result<u64> {
    let file = OpenOptions::new().read(true).write(true).custom_flags(OFlag::O_NOFOLLOW.bits()).open(path)?;
    let facts = file.metadata()?;
    if !facts.is_file() || taken(&facts) <= most {
        return Ok(0);
    }
    // Only whole blocks can be removed.
    let block = facts.blksize().max(4096);
    let cut = facts.len().saturating_sub(kept) / block * block;
    if cut == 0 {
        return Ok(0);
    }
    for way in [collapse, punch, rewrite] {
        match way(&file, cut) {
            Err(error) if is_unable(&error) => {}
            other => return other.map(|()| cut),
        }
    }
    Err(io::ErrorKind::Unsupported.into())
}

/// Returns whether the file system does not support the operation. It reports EINVAL if its blocks
/// are larger than the size it declares.
fn is_unable(error: &io::Error) -> bool {
    error
        .raw_os_error()
        .map(Errno::from_raw)
        .is_some_and(|errno| matches!(errno, Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EINVAL))
}

fn offset(cut: u64) -> io::Result<i64> {
    i64::try_from(cut).map_err(|_| io::ErrorKind::FileTooLarge.into())
}

/// Removes the beginning of the file (ext4, XFS). Concurrent writes are kept.
fn collapse(file: &File, cut: u64) -> io::Result<()> {
    Ok(fallocate(file, FallocateFlags::FALLOC_FL_COLLAPSE_RANGE, 0, offset(cut)?)?)
}

/// Frees the space of the beginning, leaving a hole of the same length (Btrfs, tmpfs, ext3).
/// Concurrent writes are kept.
fn punch(file: &File, cut: u64) -> io::Result<()> {
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    Ok(fallocate(file, flags, 0, offset(cut)?)?)
}

/// Rewrites the file with its end only. Concurrent writes may be lost.
fn rewrite(mut file: &File, cut: u64) -> io::Result<()> {
    let mut end = Vec::new();
    file.seek(SeekFrom::Start(cut))?;
    file.read_to_end(&mut end)?;
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(&end)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Creates a log of numbered lines of sixteen bytes each, and returns it with its writer.
    fn log(lines: usize) -> (tempfile::TempDir, File) {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = OpenOptions::new().append(true).create(true).open(dir.path().join("log")).unwrap();
        let text: Vec<String> = (0..lines).map(|n| format!("line {n:010}\n")).collect();
        writer.write_all(text.concat().as_bytes()).unwrap();
        // Otherwise its blocks are not counted yet.
        writer.sync_all().unwrap();
        (dir, writer)
    }

    fn lines(path: &Path) -> Vec<String> {
        let text = std::fs::read_to_string(path).unwrap();
        text.trim_start_matches('\0').lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_log_is_removed_with_the_older_ones() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("guest-a_vm1.log");
        for name in ["guest-a_vm1.log", "guest-a_vm1.log.0", "guest-a_vm1.log.2", "guest-a_vm11.log"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        remove_log(&log).unwrap();
        let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["guest-a_vm11.log"]);
        remove_log(&log).unwrap();
    }

    #[test]
    fn a_long_log_loses_its_beginning_and_not_its_end() {
        const MOST: u64 = 512 << 10;
        let many = (4 << 20) / 16;
        let (dir, mut writer) = log(many);
        let path = dir.path().join("log");
        let cut = trim(&path, MOST, 64 << 10).unwrap();
        assert!(cut > 3 << 20, "{cut}");
        writer.write_all(b"after\n").unwrap();
        writer.sync_all().unwrap();
        let facts = std::fs::metadata(&path).unwrap();
        assert!(taken(&facts) < MOST, "{} bytes are left", taken(&facts));
        let left = lines(&path);
        assert_eq!(left[left.len() - 2..], [format!("line {:010}", many - 1), "after".to_owned()]);
        assert!(left.len() >= (64 << 10) / 16, "{} lines are left", left.len());
        // Now below the limit, it is left alone.
        assert_eq!(trim(&path, MOST, 64 << 10).unwrap(), 0);
    }

    #[test]
    fn each_method_keeps_the_end() {
        for way in [collapse, punch, rewrite] {
            let (dir, mut writer) = log(4096);
            let path = dir.path().join("log");
            let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
            match way(&file, 32 << 10) {
                Err(error) if is_unable(&error) => println!("not on this file system: {error}"),
                other => {
                    other.unwrap();
                    writer.write_all(b"after\n").unwrap();
                    let left = lines(&path);
                    assert_eq!((left.len(), left[0].as_str()), (2049, "line 0000002048"));
                    assert_eq!(left[2048], "after");
                }
            }
        }
    }

    #[test]
    fn a_symlink_in_place_of_a_log_is_not_followed() {
        let (dir, _writer) = log(4096);
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path().join("log"), &link).unwrap();
        assert!(trim(&link, 0, 0).is_err());
        assert_eq!(lines(&dir.path().join("log")).len(), 4096);
    }
}
