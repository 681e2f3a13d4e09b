//! One helper at a time for one machine, and an end to those that a killed one left behind.
//!
//! The lock is a file in a folder of root's. Its content names the holder: its process number, which is also
//! the number of the session that it and all the programs it runs belong to, when it was started, and the id of
//! the machine. A holder that ends by itself removes it; so a lock that is free and names a holder tells of one
//! that was killed, some of whose programs (a tar, a mkfs) may still be running.

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::Failure;
use crate::model::fault::Fault;
use crate::model::names::{MachineName, VmId};
use crate::system::lock;
use crate::system::log::{self, Level};

/// The folder of locks and mount points; gone with the next boot.
const DIR: &str = "/run/vgrid";

/// How long a verb waits for another on the same machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long `undo` waits before it kills the other, and again before it gives up.
const SHORT: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Holder {
    pid: i32,
    /// Field 22 of /proc/PID/stat: tells a process from a later one with the same number.
    started: u64,
    id: VmId,
}

/// The lock of one machine, held.
#[derive(Debug)]
pub struct MachineLock {
    /// The machine's id.
    pub id: VmId,
    /// The machine's name.
    pub machine: MachineName,
    /// Held as long as it is open.
    _file: File,
    path: PathBuf,
}

/// Makes the folder if need be, and sees that it is root's alone.
fn run_directory() -> Result<PathBuf, Failure> {
    let dir = PathBuf::from(DIR);
    match std::fs::DirBuilder::new().mode(0o700).create(&dir) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(Failure::internal(format!("{DIR}: {error}")));
        }
        _ => {}
    }
    let facts =
        std::fs::symlink_metadata(&dir).map_err(|error| Failure::internal(format!("{DIR}: {error}")))?;
    if facts.is_dir() && facts.uid() == 0 && facts.mode() & 0o777 == 0o700 {
        Ok(dir)
    } else {
        Err(Failure::internal(format!("{DIR} is not a folder that belongs to root alone (mode 0700)")))
    }
}

/// The right to start a machine, for a host starts one after the other.
#[derive(Debug)]
pub struct StartLock {
    _file: Option<File>,
}

impl StartLock {
    /// How long a start waits for the others. It happens after that, too, for it may succeed all the same.
    const PATIENCE: Duration = Duration::from_secs(180);

    /// Waits until no other machine is being started. Several at once slow each other down so much that
    /// the toolstack's own limits are hit: libxl gives a hotplug script 40 s (seen on an emulated host with five).
    pub fn take() -> Result<Self, Failure> {
        let path = run_directory()?.join("start.lock");
        let file = lock::take_within(&path, Self::PATIENCE).map_err(Failure::internal)?;
        if file.is_none() {
            log::event(Level::Warning, "start.crowded", &[("waited", &Self::PATIENCE.as_secs())]);
        }
        Ok(Self { _file: file })
    }
}

impl MachineLock {
    /// Takes the lock, waiting for another verb to end.
    pub fn take(id: VmId, machine: &MachineName) -> Result<Self, Failure> {
        let path = run_directory()?.join(format!("{machine}.lock"));
        match lock::take_within(&path, PATIENCE).map_err(Failure::internal)? {
            Some(file) => Self::hold(id, machine, file, path),
            None => Err(Failure::internal(format!("another helper is at work on {machine}"))),
        }
    }

    /// Takes the lock from whoever is at work on the same machine.
    pub fn take_over(id: VmId, machine: &MachineName) -> Result<Self, Failure> {
        let path = run_directory()?.join(format!("{machine}.lock"));
        if let Some(file) = lock::take_within(&path, SHORT).map_err(Failure::internal)? {
            return Self::hold(id, machine, file, path);
        }
        // Somebody else's machine of the same name: theirs is waited for, not killed.
        if let Some(holder) =
            File::open(&path).ok().as_mut().and_then(holder).filter(|holder| holder.id == id)
        {
            end_session(&holder);
        }
        match lock::take_within(&path, PATIENCE).map_err(Failure::internal)? {
            Some(file) => Self::hold(id, machine, file, path),
            None => {
                Err(Fault::RemovalFailed { detail: format!("other work on {machine} does not end") }.into())
            }
        }
    }

    fn hold(id: VmId, machine: &MachineName, mut file: File, path: PathBuf) -> Result<Self, Failure> {
        if let Some(killed) = holder(&mut file) {
            end_session(&killed);
        }
        let pid = std::process::id().cast_signed();
        let started = Process::read(pid).map(|own| own.started).unwrap_or_default();
        let mut write = || {
            file.set_len(0)?;
            file.rewind()?;
            file.write_all(&serde_json::to_vec(&Holder { pid, started, id })?)
        };
        write().map_err(|error| Failure::internal(format!("{}: {error}", path.display())))?;
        Ok(Self { id, machine: machine.clone(), _file: file, path })
    }

    /// Where the machine's root volume is mounted, in the helper's own mount namespace.
    pub fn mount_point(&self) -> PathBuf {
        self.path.with_extension("root")
    }
}

impl Drop for MachineLock {
    /// The file goes before the lock does; who waits for it notices (see [`lock::try_take`]).
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            log::event(
                Level::Error,
                "lock.not-removed",
                &[("file", &self.path.display()), ("error", &error)],
            );
        }
    }
}

fn holder(file: &mut File) -> Option<Holder> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(4096).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

/// A running process, by /proc (see proc(5)).
#[derive(Debug)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    session: i32,
    started: u64,
}

impl Process {
    fn read(pid: i32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in parentheses, may hold anything; the fields after it are: state ppid pgrp session …
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        // A zombie (state Z) holds nothing and can't be killed.
        if fields.first() == Some(&"Z") {
            return None;
        }
        Some(Self { pid, session: fields.get(3)?.parse().ok()?, started: fields.get(19)?.parse().ok()? })
    }

    /// All of them.
    pub fn all() -> Vec<Self> {
        std::fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter_map(Self::read)
            .collect()
    }

    fn strings(&self, name: &str) -> Vec<String> {
        let bytes = std::fs::read(format!("/proc/{}/{name}", self.pid)).unwrap_or_default();
        bytes
            .split(|&byte| byte == 0)
            .filter(|part| !part.is_empty())
            .map(|part| String::from_utf8_lossy(part).into_owned())
            .collect()
    }

    /// Its arguments, its name first.
    pub fn arguments(&self) -> Vec<String> {
        self.strings("cmdline")
    }

    /// Whether it belongs to root.
    pub fn is_roots(&self) -> bool {
        std::fs::metadata(format!("/proc/{}", self.pid)).is_ok_and(|facts| facts.uid() == 0)
    }

    /// Whether it has the environment that [`crate::system::exec`] gives to what it runs.
    fn has_our_environment(&self) -> bool {
        let environment = self.strings("environ");
        [format!("PATH={}", crate::system::detach::PATH), "HOME=/".to_owned(), "LC_ALL=C".to_owned()]
            .iter()
            .all(|variable| environment.contains(variable))
    }

    /// Kills it; one that is gone is no error.
    pub fn kill(&self) {
        let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
    }
}

/// Kills a helper and all that it runs, or what is still running of one that is gone.
fn end_session(holder: &Holder) {
    let own = std::process::id().cast_signed();
    if holder.pid == own || holder.pid <= 1 {
        return;
    }
    let is_holder = |process: &Process| process.pid == holder.pid && process.started == holder.started;
    // Again and again: a program may start another while the list is read.
    for round in 0..100 {
        let processes: Vec<_> = Process::all().into_iter().filter(|p| p.session == holder.pid).collect();
        // The number has been given to another session since.
        if processes.iter().any(|process| process.pid == holder.pid && !is_holder(process)) {
            return;
        }
        let ours: Vec<_> = processes
            .into_iter()
            .filter(|p| is_holder(p) || p.started >= holder.started && p.has_our_environment())
            .collect();
        if ours.is_empty() {
            return;
        }
        for process in &ours {
            if round == 0 {
                let arguments = process.arguments().join(" ");
                log::event(Level::Warning, "helper.killed", &[("pid", &process.pid), ("argv", &arguments)]);
            }
            process.kill();
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Kills the processes that `minds` says would start the machine again.
pub fn kill_minders(minds: impl Fn(&[String]) -> bool) {
    for process in Process::all() {
        if process.is_roots() && minds(&process.arguments()) {
            log::event(Level::Info, "minder.killed", &[("pid", &process.pid)]);
            process.kill();
        }
    }
}

/// Lifts the limits that the caller may have set: sudo passes them on, and LVM or tar must not be stopped half-way
/// by a limit on the size of files or on processor time.
pub fn lift_limits() -> nix::Result<()> {
    for resource in [
        Resource::RLIMIT_FSIZE,
        Resource::RLIMIT_CPU,
        Resource::RLIMIT_AS,
        Resource::RLIMIT_DATA,
        Resource::RLIMIT_NPROC,
    ] {
        setrlimit(resource, RLIM_INFINITY, RLIM_INFINITY)?;
    }
    Ok(())
}

/// Removes an empty folder; one that is not there is no error.
pub fn remove_directory(path: &Path) -> Result<(), Failure> {
    match std::fs::remove_dir(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Failure::internal(format!("{}: {error}", path.display())))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read() {
        let own = Process::read(std::process::id().cast_signed()).unwrap();
        assert_eq!(own.session, nix::unistd::getsid(None).unwrap().as_raw());
        assert!(own.started > 0);
        assert!(Process::all().iter().any(|process| process.pid == own.pid));
        assert!(!own.arguments().is_empty());
    }

    #[test]
    fn a_session_whose_number_was_given_away_is_left_alone() {
        // This process is in some session; were it killed, the test would notice.
        let own = Process::read(std::process::id().cast_signed()).unwrap();
        let id = VmId::generate();
        end_session(&Holder { pid: own.session, started: own.started + 1_000_000, id });
        end_session(&Holder { pid: own.pid, started: own.started, id });
        end_session(&Holder { pid: 1, started: 0, id });
    }
}
