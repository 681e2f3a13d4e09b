//! Starting work that outlives the request that triggered it.
//!
//! The worker is a separate program, so no process with threads or open files ever forks. The CGI
//! program starts it with only a lock, as its standard input (see [`super::lock`]); the worker then
//! detaches itself. Tested under mod_cgi and mod_cgid: a worker that has closed all of Apache's
//! descriptors and has its own session survives the end of the request and a reload, restart or
//! stop of Apache. A service manager that kills the whole control group can still kill it at any
//! moment.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::{Mode, umask};

/// The search path of a worker and of everything it starts.
pub const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// Starts a worker and does not wait for it. `lock` becomes its standard input, so the lock passes
/// from this process to the worker without a gap.
pub fn start(worker: &Path, args: &[&str], lock: File) -> io::Result<()> {
    let mut command = Command::new(worker);
    command.args(args).env_clear().env("PATH", PATH).env("HOME", "/").env("LC_ALL", "C");
    if let Some(dir) = std::env::var_os("VGRID_CONFIG_DIR") {
        command.env("VGRID_CONFIG_DIR", dir);
    }
    command.stdin(Stdio::from(lock)).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/");
    // Not waited for: this process is about to exit, and init adopts the worker.
    command.spawn().map(|_| ())
}

/// Ensures that the environment is empty and that this process is able to start its own session,
/// which identifies it and all its children. Called first thing in the helper.
///
/// To do so it executes the program again: in place, or, if the process leads a process group (as
/// when started from a shell), as a child that it waits for.
pub fn reexec_clean() -> io::Result<()> {
    let leads = nix::unistd::getpgrp() == nix::unistd::getpid();
    if !leads && std::env::vars_os().next().is_none() {
        return Ok(());
    }
    let mut command = Command::new(std::env::current_exe()?);
    command.args(std::env::args_os().skip(1)).env_clear();
    if leads {
        let status = command.status()?;
        std::process::exit(status.code().unwrap_or(1));
    }
    Err(command.exec())
}

/// Detaches a worker: gives it its own session, only the three standard descriptors, a known umask
/// and no core dumps. Called first thing in a worker.
pub fn detach_process() -> io::Result<()> {
    match nix::unistd::setsid() {
        // EPERM: already a process group leader, as when started from a shell. Nothing to do.
        Ok(_) | Err(nix::errno::Errno::EPERM) => {}
        Err(error) => return Err(error.into()),
    }
    close_inherited()?;
    umask(Mode::from_bits_truncate(0o077));
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    Ok(())
}

/// Closes every descriptor above standard error. Apache leaks some of its own.
pub fn close_inherited() -> io::Result<()> {
    // Collect the numbers first, because the directory listing itself uses a descriptor.
    let open: Vec<i32> = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    for fd in open.into_iter().filter(|&fd| fd > 2) {
        // The listing's own descriptor is already closed, so its close fails.
        let _ = nix::unistd::close(fd);
    }
    Ok(())
}
