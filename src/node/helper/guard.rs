//! Ensures that only one helper at a time works on a machine, and that only one prepares images ahead,
//! and kills what an aborted helper left running.
//!
//! The lock is a file in a directory that only root can access. It records its holder: the process
//! id, which is also the id of the session that the holder and all its programs belong to, the
//! start time, and the machine's id, if it is a machine's lock. A holder that exits normally removes
//! the file. So a lock that is free but records a holder belonged to a helper that was killed, and some
//! of its programs (tar, mkfs) may still be running.

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

use super::failure::Failure;
use crate::model::fault::Fault;
use crate::model::names::{MachineName, VmId};
use crate::node::Machine;
use crate::system::lock;
use crate::system::log::{self, Level};
use crate::system::process::Process;

/// The directory of locks and mount points. It is emptied on reboot.
const DIR: &str = "/run/vgrid";

/// How long a verb waits for another one on the same machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a verb that takes over waits before it kills the holder.
const SHORT: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Holder {
    pid: i32,
    /// See [`Process::started`].
    started: u64,
    /// The machine.
    #[serde(default)]
    id: Option<VmId>,
}

/// The lock of a machine, while it is held.
#[derive(Debug)]
pub struct MachineLock {
    /// The machine.
    pub machine: Machine,
    /// Holds the lock while open.
    _file: File,
    path: PathBuf,
}

/// Creates the directory if it is missing, and checks that only root can access it.
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

/// The right to start a machine. Only one is started at a time on a host.
#[derive(Debug)]
pub struct StartLock {
    _file: Option<File>,
}

impl StartLock {
    /// How long a start waits for others. Then it goes ahead anyway, since it may still succeed.
    const PATIENCE: Duration = Duration::from_secs(180);

    /// Waits until no other machine is being started. Simultaneous starts slow each other down so
    /// much that they exceed the toolstack's own limits: libxl gives a hotplug script 40 s
    /// (observed with five machines on an emulated host).
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
    /// Takes the lock, waiting for another verb to finish.
    pub fn take(id: VmId, machine: &MachineName) -> Result<Self, Failure> {
        let path = run_directory()?.join(format!("{machine}.lock"));
        match lock::take_within(&path, PATIENCE).map_err(Failure::internal)? {
            Some(file) => Self::hold(id, machine, file, path),
            None => Err(Failure::internal(format!("another helper is at work on {machine}"))),
        }
    }

    /// Takes the lock, unless another verb is at work on the machine.
    pub fn try_take(machine: &Machine) -> Result<Option<Self>, Failure> {
        let path = run_directory()?.join(format!("{}.lock", machine.name));
        match lock::take_within(&path, Duration::ZERO).map_err(Failure::internal)? {
            Some(file) => Self::hold(machine.id, &machine.name, file, path).map(Some),
            None => Ok(None),
        }
    }

    /// Takes the lock, killing the holder if it does not finish soon.
    pub fn take_over(id: VmId, machine: &MachineName) -> Result<Self, Failure> {
        let path = run_directory()?.join(format!("{machine}.lock"));
        if let Some(file) = lock::take_within(&path, SHORT).map_err(Failure::internal)? {
            return Self::hold(id, machine, file, path);
        }
        // Work on another machine with the same name is waited for, not killed.
        if let Some(holder) =
            File::open(&path).ok().as_mut().and_then(holder).filter(|holder| holder.id == Some(id))
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
        enter(&mut file, &path, Some(id))?;
        Ok(Self { machine: Machine { id, name: machine.clone() }, _file: file, path })
    }

    /// Returns the mount point of the machine's root volume, in the helper's own mount namespace.
    pub fn mount_point(&self) -> PathBuf {
        self.path.with_extension("root")
    }

    /// Returns the mount point of the snapshot that is copied to the machine's root volume.
    pub fn source_point(&self) -> PathBuf {
        self.path.with_extension("source")
    }
}

impl Drop for MachineLock {
    /// Removes the file before the lock is released. Anyone waiting for it notices (see
    /// [`lock::try_take`]).
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            log::event(
                Level::Error,
                "lock.not-removed",
                &[
                    ("vm", &self.machine.id),
                    ("machine", &self.machine.name),
                    ("file", &self.path.display()),
                    ("why", &error),
                ],
            );
        }
    }
}

/// The lock of images that are prepared ahead, while it is held. The disk that is being made belongs to
/// its holder.
#[derive(Debug)]
pub struct AheadLock {
    /// Holds the lock while open.
    _file: File,
    path: PathBuf,
}

impl AheadLock {
    /// Returns the lock's file. No machine has that name.
    fn path() -> Result<PathBuf, Failure> {
        Ok(run_directory()?.join("ahead.lock"))
    }

    /// Takes the lock to remove what was left, unless a helper prepares an image. This one must not be
    /// killed for the next that does, so it is not recorded.
    pub fn try_take() -> Result<Option<Self>, Failure> {
        let path = Self::path()?;
        let file = lock::take_within(&path, Duration::ZERO).map_err(Failure::internal)?;
        let Some(mut file) = file else { return Ok(None) };
        end_last(&mut file);
        file.set_len(0).map_err(|error| Failure::internal(format!("{}: {error}", path.display())))?;
        Ok(Some(Self { _file: file, path }))
    }

    /// Takes the lock, killing the holder if it does not finish soon. Nobody waits for that one any more:
    /// there is one worker that prepares images, and it has one helper.
    pub fn take_over() -> Result<Self, Failure> {
        let path = Self::path()?;
        if let Some(file) = lock::take_within(&path, SHORT).map_err(Failure::internal)? {
            return Self::hold(file, path);
        }
        if let Ok(mut file) = File::open(&path) {
            end_last(&mut file);
        }
        match lock::take_within(&path, PATIENCE).map_err(Failure::internal)? {
            Some(file) => Self::hold(file, path),
            None => Err(Failure::internal("another helper that prepares images does not end")),
        }
    }

    fn hold(mut file: File, path: PathBuf) -> Result<Self, Failure> {
        enter(&mut file, &path, None)?;
        Ok(Self { _file: file, path })
    }

    /// Returns the mount point of the disk, in the helper's own mount namespace.
    pub fn mount_point(&self) -> PathBuf {
        self.path.with_extension("root")
    }
}

impl Drop for AheadLock {
    /// As for a machine's lock.
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            log::event(Level::Error, "lock.not-removed", &[("file", &self.path.display()), ("why", &error)]);
        }
    }
}

/// Ends the holder that a lock records, or what it left running.
fn end_last(file: &mut File) {
    if let Some(holder) = holder(file) {
        end_session(&holder);
    }
}

/// Ends what the last holder of a lock left running, and records this process as its holder.
fn enter(file: &mut File, path: &Path, id: Option<VmId>) -> Result<(), Failure> {
    end_last(file);
    let pid = std::process::id().cast_signed();
    let started = Process::read(pid).map(|own| own.started).unwrap_or_default();
    let mut write = || {
        file.set_len(0)?;
        file.rewind()?;
        file.write_all(&serde_json::to_vec(&Holder { pid, started, id })?)
    };
    write().map_err(|error| Failure::internal(format!("{}: {error}", path.display())))
}

fn holder(file: &mut File) -> Option<Holder> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(4096).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

/// Returns whether a process has the environment that [`crate::system::exec`] sets.
fn has_our_environment(process: &Process) -> bool {
    let environment = process.environment();
    [format!("PATH={}", crate::system::detach::PATH), "HOME=/".to_owned(), "LC_ALL=C".to_owned()]
        .iter()
        .all(|variable| environment.contains(variable))
}

/// Kills a helper and everything it runs, or what a dead one left running.
fn end_session(holder: &Holder) {
    let own = std::process::id().cast_signed();
    if holder.pid == own || holder.pid <= 1 {
        return;
    }
    let is_holder = |process: &Process| process.pid == holder.pid && process.started == holder.started;
    // Repeatedly, because a program may start another while the list is being read.
    for round in 0..100 {
        let processes: Vec<_> = Process::all().into_iter().filter(|p| p.session == holder.pid).collect();
        // The id has been reused by another session.
        if processes.iter().any(|process| process.pid == holder.pid && !is_holder(process)) {
            return;
        }
        let ours: Vec<_> = processes
            .into_iter()
            .filter(|p| is_holder(p) || p.started >= holder.started && has_our_environment(p))
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

/// Lifts the resource limits that the caller may have set. sudo passes them on, and a limit on file
/// size or CPU time must not stop LVM or tar halfway.
pub fn lift_limits() -> nix::Result<()> {
    for resource in [Resource::RLIMIT_FSIZE, Resource::RLIMIT_CPU, Resource::RLIMIT_AS, Resource::RLIMIT_DATA]
    {
        setrlimit(resource, RLIM_INFINITY, RLIM_INFINITY)?;
    }
    // Unlike the others, it is finite everywhere, and in a container root may lack the capability to
    // lift it (CAP_SYS_RESOURCE). It does not apply to root's own processes (setrlimit(2)).
    match setrlimit(Resource::RLIMIT_NPROC, RLIM_INFINITY, RLIM_INFINITY) {
        Err(Errno::EPERM) => {
            let (_, hard) = getrlimit(Resource::RLIMIT_NPROC)?;
            setrlimit(Resource::RLIMIT_NPROC, hard, hard)
        }
        outcome => outcome,
    }
}

/// Removes an empty directory. It is no error if there is none.
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
    fn a_session_with_a_reused_id_is_left_alone() {
        // This process is in some session. If it were killed, the test would notice.
        let own = Process::read(std::process::id().cast_signed()).unwrap();
        let id = Some(VmId::generate());
        end_session(&Holder { pid: own.session, started: own.started + 1_000_000, id });
        end_session(&Holder { pid: own.pid, started: own.started, id });
        end_session(&Holder { pid: 1, started: 0, id });
    }
}
