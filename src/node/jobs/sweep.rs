//! Cleaning up after killed workers: unfinished work, locks without a record, half-written records.

use std::io;
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::node::WORKER;
use crate::system::clock;
use crate::system::log::{self, Level};

use super::{Jobs, Record};

/// Seconds between two attempts to finish the same work.
const PAUSE: i64 = 60;

impl Jobs {
    /// Starts a worker for each piece of work that was abandoned, and removes what a killed process
    /// left behind between two steps. Never fails, because every request begins with it; errors are
    /// logged.
    pub fn sweep(&self) {
        if let Err(error) = self.try_sweep() {
            log::event(Level::Error, "sweep.failed", &[("why", &error)]);
        }
    }

    fn try_sweep(&self) -> io::Result<()> {
        self.resume_work()?;
        self.remove_bare_locks()?;
        self.remove_half_records()
    }

    fn resume_work(&self) -> io::Result<()> {
        let now = clock::now();
        let due = |record: &Record| {
            record.is_unfinished() && record.tried.is_none_or(|tried| !(0..PAUSE).contains(&now.since(tried)))
        };
        for record in self.list()?.iter().filter(|record| due(record)) {
            let Some(taken) = self.take(record.id, Duration::ZERO)? else { continue };
            // Read again, under the lock: it may have been finished in the meantime.
            match taken.read() {
                Ok(Some(record)) if due(&record) => {
                    log::event(
                        Level::Warning,
                        "job.found",
                        &[("vm", &record.id), ("machine", &record.machine), ("since", &record.since)],
                    );
                    if let Err(error) = taken.start("recover") {
                        log::event(
                            Level::Error,
                            "worker.not-started",
                            &[("vm", &record.id), ("machine", &record.machine), ("why", &error)],
                        );
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn remove_bare_locks(&self) -> io::Result<()> {
        for (_, id) in self.files(".lock")? {
            if !self.record_file(id).exists()
                && let Some(taken) = self.take(id, Duration::ZERO)?
                && !self.record_file(id).exists()
            {
                std::fs::remove_file(self.lock_file(id))?;
                drop(taken);
            }
        }
        Ok(())
    }

    fn remove_half_records(&self) -> io::Result<()> {
        for (path, id) in self.files(".json.new")? {
            if let Some(taken) = self.take(id, Duration::ZERO)? {
                match std::fs::remove_file(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
                if !self.record_file(id).exists() {
                    std::fs::remove_file(self.lock_file(id))?;
                }
                drop(taken);
            }
        }
        Ok(())
    }

    /// Kills the worker that holds the lock of a record. Does nothing if that process is not a
    /// worker for this machine.
    pub fn stop_worker(record: &Record) {
        let Some(worker) = record.worker.filter(|&worker| worker > 1) else { return };
        let read = |name: &str| std::fs::read(format!("/proc/{worker}/{name}")).unwrap_or_default();
        let is_ours = std::fs::read_link(format!("/proc/{worker}/exe"))
            .is_ok_and(|exe| exe.to_string_lossy().trim_end_matches(" (deleted)") == WORKER)
            && read("cmdline").split(|&byte| byte == 0).any(|arg| arg == record.id.to_string().as_bytes());
        if is_ours {
            log::event(
                Level::Info,
                "worker.killed",
                &[("vm", &record.id), ("machine", &record.machine), ("pid", &worker)],
            );
            let worker = Pid::from_raw(worker);
            // A worker that does not lead a process group (yet) is killed alone. It is no error if
            // it is already gone.
            if killpg(worker, Signal::SIGKILL).is_err() {
                let _ = kill(worker, Signal::SIGKILL);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::names::VmId;
    use crate::node::jobs::record::tests::terminating;
    use crate::node::jobs::tests::names;

    #[test]
    fn a_sweep_removes_leftovers_but_nothing_that_is_locked() {
        let state = tempfile::tempdir().unwrap();
        let jobs = Jobs::open(state.path()).unwrap();
        let (orphan, held, half) = (VmId::generate(), VmId::generate(), VmId::generate());
        drop(jobs.take(orphan, Duration::ZERO).unwrap());
        let taken = jobs.take(held, Duration::ZERO).unwrap();
        std::fs::write(jobs.dir.join(format!(".{half}.json.new")), "{").unwrap();
        jobs.sweep();
        assert_eq!(names(&jobs.dir), [format!("{held}.lock")]);
        drop(taken);
    }

    #[test]
    fn a_process_that_is_no_worker_is_not_killed() {
        // This process itself is not a worker.
        let pid = i32::try_from(std::process::id()).unwrap();
        Jobs::stop_worker(&Record { worker: Some(pid), ..terminating() });
    }
}
