//! The running processes, as /proc lists them (proc(5)).

use std::os::unix::fs::MetadataExt as _;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A running process.
#[derive(Debug)]
pub struct Process {
    /// The process id.
    pub pid: i32,
    /// The session that it belongs to.
    pub session: i32,
    /// When it was started, in clock ticks since boot: field 22 of /proc/PID/stat, which
    /// distinguishes a process from a later one with the same id.
    pub started: u64,
}

impl Process {
    /// Reads one process. Returns `None` if there is none with that id, or only a zombie, which
    /// holds no resources and can't be killed.
    pub fn read(pid: i32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in parentheses, may contain anything. It is followed by: state ppid pgrp
        // session …
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        if fields.first() == Some(&"Z") {
            return None;
        }
        Some(Self { pid, session: fields.get(3)?.parse().ok()?, started: fields.get(19)?.parse().ok()? })
    }

    /// Lists all running processes.
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

    /// Returns its command line, starting with the program's name.
    pub fn arguments(&self) -> Vec<String> {
        self.strings("cmdline")
    }

    /// Returns its environment as `NAME=VALUE`; empty if it belongs to another user.
    pub fn environment(&self) -> Vec<String> {
        self.strings("environ")
    }

    /// Returns whether it runs as root.
    pub fn is_roots(&self) -> bool {
        std::fs::metadata(format!("/proc/{}", self.pid)).is_ok_and(|facts| facts.uid() == 0)
    }

    /// Kills it. It is no error if it no longer exists.
    pub fn kill(&self) {
        let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
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
}
