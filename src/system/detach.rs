//! Work that outlives the request that asked for it.
//!
//! The worker is a program of its own, so no fork happens in a process that has threads or files open.
//! The CGI program starts it with nothing but a lock as standard input (see [`super::lock`]); the worker
//! then cuts itself off. Measured under mod_cgi and mod_cgid: a worker that has let go of all of Apache's
//! descriptors and has a session of its own lives on after the request, a reload, a restart and a stop;
//! a service manager that kills the whole control group can still kill it at any moment.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::{Mode, umask};

/// The only search path that a worker, and all that it starts, knows.
pub const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// Starts a worker and lets go of it. `lock` becomes its standard input, so that the lock passes from
/// this process to the worker without a gap.
pub fn start(worker: &Path, args: &[&str], lock: File) -> io::Result<()> {
    let mut command = Command::new(worker);
    command.args(args).env_clear().env("PATH", PATH).env("HOME", "/").env("LC_ALL", "C");
    if let Some(dir) = std::env::var_os("VGRID_CONFIG_DIR") {
        command.env("VGRID_CONFIG_DIR", dir);
    }
    command.stdin(Stdio::from(lock)).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/");
    // Not waited for: this process ends in a moment and init inherits the worker.
    command.spawn().map(|_| ())
}

/// Called first thing in the helper: when it returns, the environment is empty and this process can have
/// a session of its own, by which it and all its children are known. To that end the program is started
/// once more: in its place, or, where the process leads a group (started from a shell), as a child that is
/// waited for.
pub fn start_afresh() -> io::Result<()> {
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

/// Called first thing in a worker: a session of its own, no descriptor but the three standard ones, a
/// known umask and no core files.
pub fn cut_off() -> io::Result<()> {
    match nix::unistd::setsid() {
        // EPERM: already the leader of a group, as when started from a shell. Nothing to do then.
        Ok(_) | Err(nix::errno::Errno::EPERM) => {}
        Err(error) => return Err(error.into()),
    }
    close_inherited()?;
    umask(Mode::from_bits_truncate(0o077));
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    Ok(())
}

/// Closes every descriptor above standard error. Apache leaves some open that are not ours.
pub fn close_inherited() -> io::Result<()> {
    // Numbers, not entries: an entry keeps the listing open, and the listing has a descriptor, too.
    let open: Vec<i32> = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    for fd in open.into_iter().filter(|&fd| fd > 2) {
        // The listing's own descriptor is closed by now; that error says nothing.
        let _ = nix::unistd::close(fd);
    }
    Ok(())
}
