//! The records of the machines on this host: `jobs/ID.json` in the state directory, with a lock beside each.
//!
//! A record is written before anything of the machine is made, and removed after all of it is gone. Whoever
//! works on a machine holds its lock (see [`lock`]); the kernel frees it when the worker dies, and that is
//! how the next request finds what is unfinished. Files are replaced, never rewritten, so a reader sees a
//! whole one, and always through the same temporary name under the same lock, so a kill leaves at most one
//! behind, which the next sweep removes.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::model::fault::Fault;
use crate::model::lease::Moment;
use crate::model::names::{MachineName, RequestId, SavedImage, VirtualHost, VmId};
use crate::model::size::Amount;
use crate::model::stage::{Order, OrderNumber, Stage};
use crate::model::wire::{DeployOrder, Job, MachineOrder};
use crate::system::log::{self, Level};
use crate::system::{clock, detach, lock};

use super::WORKER;

/// Seconds between two tries to finish what could not be finished.
const PAUSE: i64 = 60;

/// The image that a machine's disk is being saved as, or was when that was ordered last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saving {
    /// The image.
    pub image: SavedImage,
    /// Its file, from just before that gets its name.
    #[serde(default)]
    pub file: Option<Packed>,
}

/// The file of an image that has been written: enough to know it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packed {
    /// Its inode.
    pub inode: u64,
    /// Its size.
    pub bytes: u64,
}

impl From<&Metadata> for Packed {
    fn from(facts: &Metadata) -> Self {
        Self { inode: facts.ino(), bytes: facts.len() }
    }
}

/// What is known of one machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The machine.
    pub id: VmId,
    /// Its name.
    pub machine: MachineName,
    /// The name it has in the DNS.
    pub virtual_host: VirtualHost,
    /// How it was ordered; absent when a terminate is all that this node ever heard of it.
    pub order: Option<DeployOrder>,
    /// Its address.
    pub ip: Option<Ipv4Addr>,
    /// The size of its swap volume.
    pub swap: Amount,
    /// What was ordered last.
    pub work: Order,
    /// The number of that order; none that is older is carried out any more.
    #[serde(default)]
    pub number: OrderNumber,
    /// Whether that has been carried out or given up, so that nothing is left to do but to tell.
    pub done: bool,
    /// How far it has come.
    pub stage: Option<Stage>,
    /// Why it failed. After a deploy, what was made is being removed.
    pub failed: Option<Fault>,
    /// Whether the server knows how the work ended.
    pub told: bool,
    /// Whether the machine has been stopped: its configuration is put aside, and it has no domain.
    pub stopped: bool,
    /// The request that ordered the work, for the log.
    pub request: RequestId,
    /// The number of the last report.
    pub sequence: u32,
    /// When the work was ordered.
    pub since: Moment,
    /// When this record was last written, in milliseconds since 1970.
    pub changed: u64,
    /// The worker's process.
    pub worker: Option<i32>,
    /// When finishing it was last tried and did not succeed.
    pub tried: Option<Moment>,
    /// What its disk becomes, if that is what was ordered last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saving: Option<Saving>,
}

impl Record {
    /// The record of a deploy that is about to begin.
    pub fn new(
        order: DeployOrder,
        machine: MachineName,
        ip: Option<Ipv4Addr>,
        swap: Amount,
        request: RequestId,
        now: Moment,
    ) -> Self {
        let blank = Self::blank(order.id, machine, order.virtual_host.clone(), Order::Deploy, request, now);
        Self { number: order.number, order: Some(order), ip, swap, ..blank }
    }

    /// The record of a terminate of which this node knows nothing but the order.
    pub fn unknown(order: &MachineOrder, machine: MachineName, request: RequestId, now: Moment) -> Self {
        let blank =
            Self::blank(order.id, machine, order.virtual_host.clone(), Order::Terminate, request, now);
        Self { number: order.number, ..blank }
    }

    fn blank(
        id: VmId,
        machine: MachineName,
        virtual_host: VirtualHost,
        work: Order,
        request: RequestId,
        now: Moment,
    ) -> Self {
        Self {
            id,
            machine,
            virtual_host,
            order: None,
            ip: None,
            swap: Amount::default(),
            work,
            number: OrderNumber::default(),
            done: false,
            stage: None,
            failed: None,
            told: false,
            stopped: false,
            request,
            sequence: 0,
            since: now,
            changed: 0,
            worker: None,
            tried: None,
            saving: None,
        }
    }

    /// The record of another order about the same machine.
    pub fn ordered(self, work: Order, number: OrderNumber, request: RequestId, now: Moment) -> Self {
        Self {
            work,
            number,
            done: false,
            stage: None,
            failed: None,
            told: false,
            request,
            since: now,
            worker: None,
            tried: None,
            saving: None,
            ..self
        }
    }

    /// Whether there is something left to do for a worker.
    pub fn is_unfinished(&self) -> bool {
        !self.done || !self.told
    }

    /// Whether a deploy has been accepted and has not begun.
    fn waits(&self) -> bool {
        self.work == Order::Deploy
            && !self.done
            && self.failed.is_none()
            && matches!(self.stage, None | Some(Stage::Accepted))
    }

    /// The record for `node/info`.
    pub fn job(&self) -> Job {
        Job {
            id: self.id,
            machine: self.machine.clone(),
            work: (!self.done).then_some(self.work),
            stage: self.stage.filter(|_| !self.done),
            stopped: self.stopped,
            since: self.since,
            number: self.number,
            order: self.order.clone(),
        }
    }
}

/// Why a record can't be had.
#[derive(Debug, Error)]
pub enum JobError {
    /// The file can't be read or written.
    #[error("{}: {source}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What is in it is no record.
    #[error("{}: {source}", file.display())]
    Garbled {
        /// The file.
        file: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
}

/// Held while the host's free memory and space are read and promised.
#[derive(Debug)]
pub struct NodeLock {
    _file: File,
}

/// Held by the worker of a deploy while it is at work.
#[derive(Debug)]
pub struct Slot {
    _file: File,
}

/// All records.
#[derive(Debug, Clone)]
pub struct Jobs {
    state: PathBuf,
    dir: PathBuf,
}

/// The lock of one machine's record, held.
#[derive(Debug)]
pub struct Taken {
    jobs: Jobs,
    id: VmId,
    lock: File,
}

impl Jobs {
    /// The records below a state directory, which must exist.
    pub fn open(state: &Path) -> io::Result<Self> {
        let dir = state.join("jobs");
        match std::fs::DirBuilder::new().mode(0o700).create(&dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        Ok(Self { state: state.to_owned(), dir })
    }

    /// Where the host's last known state is kept.
    pub fn host_file(&self) -> PathBuf {
        self.state.join("host.json")
    }

    fn record_file(&self, id: VmId) -> PathBuf {
        self.dir.join(format!("{id}.json"))
    }

    fn lock_file(&self, id: VmId) -> PathBuf {
        self.dir.join(format!("{id}.lock"))
    }

    /// Takes the node's lock, waiting for at most `limit`.
    pub fn lock_node(&self, limit: Duration) -> io::Result<Option<NodeLock>> {
        Ok(lock::take_within(&self.state.join("node.lock"), limit)?.map(|file| NodeLock { _file: file }))
    }

    /// Takes one of the `most` places for deploys at work, if one is free. The kernel frees it when the worker
    /// ends, however it ends.
    pub fn take_slot(&self, most: u8) -> io::Result<Option<Slot>> {
        for number in 1..=most {
            if let Some(file) = lock::try_take(&self.state.join(format!("slot-{number}.lock")))? {
                return Ok(Some(Slot { _file: file }));
            }
        }
        Ok(None)
    }

    /// The place of a deploy among those that wait, from 1. Ids are in the order in which the server made them.
    pub fn place(&self, id: VmId) -> io::Result<u32> {
        let before = self.list()?.iter().filter(|record| record.waits() && record.id < id).count();
        Ok(u32::try_from(before).unwrap_or(u32::MAX).saturating_add(1))
    }

    /// Takes the lock of a machine's record, waiting for at most `limit`.
    pub fn take(&self, id: VmId, limit: Duration) -> io::Result<Option<Taken>> {
        let lock = lock::take_within(&self.lock_file(id), limit)?;
        Ok(lock.map(|lock| Taken { jobs: self.clone(), id, lock }))
    }

    /// Takes over the lock that a worker has been given as standard input; if that is something else (started
    /// by hand), tries to take it anew.
    pub fn adopt(&self, id: VmId) -> io::Result<Option<Taken>> {
        let given = File::from(io::stdin().as_fd().try_clone_to_owned()?);
        if lock::is_file_at(&given, &self.lock_file(id))? && given.try_lock().is_ok() {
            return Ok(Some(Taken { jobs: self.clone(), id, lock: given }));
        }
        drop(given);
        self.take(id, Duration::ZERO)
    }

    /// Reads a record; `None` if there is none.
    pub fn read(&self, id: VmId) -> Result<Option<Record>, JobError> {
        let file = self.record_file(id);
        match std::fs::read(&file) {
            Ok(json) => match serde_json::from_slice(&json) {
                Ok(record) => Ok(Some(record)),
                Err(source) => Err(JobError::Garbled { file, source }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(JobError::File { file, source }),
        }
    }

    /// All records that can be read; of the others the log tells.
    pub fn list(&self) -> io::Result<Vec<Record>> {
        let mut records = Vec::new();
        for (_, id) in self.files(".json")? {
            match self.read(id) {
                Ok(Some(record)) => records.push(record),
                Ok(None) => {}
                Err(error) => log::event(Level::Error, "job.unreadable", &[("error", &error)]),
            }
        }
        records.sort_by_key(|record| record.id);
        Ok(records)
    }

    /// The files of that kind, with the ids that they are named after.
    fn files(&self, ending: &str) -> io::Result<Vec<(PathBuf, VmId)>> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let id = name.strip_suffix(ending).map(|name| name.trim_start_matches('.'));
            if let Some(id) = id.and_then(|id| id.parse().ok()) {
                files.push((path, id));
            }
        }
        Ok(files)
    }

    /// Replaces a file as a whole. The caller holds the lock that this file goes with.
    pub fn write(&self, file: &Path, bytes: &[u8], durable: bool) -> io::Result<()> {
        let temporary = temporary(file);
        let write = || {
            let mut new =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            new.write_all(bytes)?;
            if durable {
                new.sync_all()?;
            }
            std::fs::rename(&temporary, file)?;
            // Without this the file survives a loss of power, but perhaps under no name.
            if durable && let Some(dir) = file.parent() {
                File::open(dir)?.sync_all()?;
            }
            Ok(())
        };
        let result = write();
        if result.is_err() {
            // What is left is the next sweep's, if this fails, too (a full disk).
            let _ = std::fs::remove_file(&temporary);
        }
        result
    }

    /// Finds work that nobody is doing any more, and starts a worker for each; removes what a kill left between
    /// two steps. Called at the beginning of every request, so it never fails, it only logs.
    pub fn sweep(&self) {
        if let Err(error) = self.try_sweep() {
            log::event(Level::Error, "sweep.failed", &[("error", &error)]);
        }
    }

    fn try_sweep(&self) -> io::Result<()> {
        let now = clock::now();
        let due = |record: &Record| {
            record.is_unfinished() && record.tried.is_none_or(|tried| !(0..PAUSE).contains(&now.since(tried)))
        };
        for record in self.list()?.iter().filter(|record| due(record)) {
            let Some(taken) = self.take(record.id, Duration::ZERO)? else { continue };
            // Again, under the lock: it may have been finished meanwhile.
            match taken.read() {
                Ok(Some(record)) if due(&record) => {
                    log::event(
                        Level::Warning,
                        "job.found",
                        &[("vm", &record.id), ("machine", &record.machine), ("since", &record.since)],
                    );
                    if let Err(error) = taken.start("recover") {
                        log::event(Level::Error, "worker.not-started", &[("error", &error)]);
                    }
                }
                _ => {}
            }
        }
        for (_, id) in self.files(".lock")? {
            if !self.record_file(id).exists()
                && let Some(taken) = self.take(id, Duration::ZERO)?
                && !self.record_file(id).exists()
            {
                std::fs::remove_file(self.lock_file(id))?;
                drop(taken);
            }
        }
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

    /// Kills the worker of a record whose lock is held. Nothing happens when that process is none of ours.
    pub fn stop_worker(record: &Record) {
        let Some(worker) = record.worker.filter(|&worker| worker > 1) else { return };
        let read = |name: &str| std::fs::read(format!("/proc/{worker}/{name}")).unwrap_or_default();
        let is_ours = std::fs::read_link(format!("/proc/{worker}/exe"))
            .is_ok_and(|exe| exe.to_string_lossy().trim_end_matches(" (deleted)") == WORKER)
            && read("cmdline").split(|&byte| byte == 0).any(|arg| arg == record.id.to_string().as_bytes());
        if is_ours {
            log::event(Level::Info, "worker.killed", &[("vm", &record.id), ("worker", &worker)]);
            let worker = Pid::from_raw(worker);
            // A worker that is not (yet) the leader of a group is killed alone; one that is gone is no error.
            if killpg(worker, Signal::SIGKILL).is_err() {
                let _ = kill(worker, Signal::SIGKILL);
            }
        }
    }
}

fn temporary(file: &Path) -> PathBuf {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    file.with_file_name(format!(".{name}.new"))
}

impl Taken {
    /// Reads the record; `None` if there is none.
    pub fn read(&self) -> Result<Option<Record>, JobError> {
        self.jobs.read(self.id)
    }

    /// Writes the record, so that it survives a loss of power.
    pub fn write(&self, record: &mut Record) -> Result<(), JobError> {
        self.put(record, true)
    }

    /// Writes the record; a loss of power may undo that.
    pub fn note(&self, record: &mut Record) -> Result<(), JobError> {
        self.put(record, false)
    }

    fn put(&self, record: &mut Record, durable: bool) -> Result<(), JobError> {
        record.changed = clock::millis();
        let file = self.jobs.record_file(self.id);
        serde_json::to_vec_pretty(record)
            .map_err(io::Error::from)
            .and_then(|json| self.jobs.write(&file, &json, durable))
            .map_err(|source| JobError::File { file, source })
    }

    /// Removes record and lock. Whoever waits for the lock finds a new one, and no record.
    pub fn delete(self) -> Result<(), JobError> {
        self.remove()
    }

    /// As [`delete`](Self::delete), for who goes on holding the lock until its end.
    pub fn remove(&self) -> Result<(), JobError> {
        for file in [self.jobs.record_file(self.id), self.jobs.lock_file(self.id)] {
            match std::fs::remove_file(&file) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(JobError::File { file, source });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Starts a worker, to which the lock passes without a gap.
    pub fn start(self, verb: &str) -> io::Result<()> {
        detach::start(Path::new(WORKER), &[verb, &self.id.to_string()], self.lock)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terminating() -> Record {
        let order = MachineOrder {
            id: VmId::generate(),
            number: OrderNumber::default(),
            user: "alice".parse().unwrap(),
            virtual_host: "vm1".parse().unwrap(),
        };
        let machine = "alice_vm1".parse().unwrap();
        Record::unknown(&order, machine, "r".parse().unwrap(), Moment::from_unix(1))
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn records_come_and_go_without_a_trace() {
        let state = tempfile::tempdir().unwrap();
        let jobs = Jobs::open(state.path()).unwrap();
        let mut record = terminating();
        let taken = jobs.take(record.id, Duration::ZERO).unwrap().unwrap();
        assert!(jobs.read(record.id).unwrap().is_none());
        taken.write(&mut record).unwrap();
        assert_eq!(jobs.list().unwrap(), [record.clone()]);
        assert!(jobs.take(record.id, Duration::ZERO).unwrap().is_none(), "it is held");
        taken.delete().unwrap();
        assert_eq!(names(&jobs.dir), [""; 0]);
    }

    #[test]
    fn a_sweep_removes_what_a_kill_left_and_nothing_that_is_held() {
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
    fn the_first_that_came_is_the_first_that_waits() {
        let state = tempfile::tempdir().unwrap();
        let jobs = Jobs::open(state.path()).unwrap();
        let mut ids: Vec<VmId> = (0..3).map(|_| VmId::generate()).collect();
        ids.sort();
        let put = |id: VmId, edit: fn(&mut Record)| {
            let mut record = Record { id, work: Order::Deploy, ..terminating() };
            edit(&mut record);
            jobs.take(id, Duration::ZERO).unwrap().unwrap().write(&mut record).unwrap();
        };
        for id in &ids {
            put(*id, |_| {});
        }
        assert_eq!(ids.iter().map(|id| jobs.place(*id).unwrap()).collect::<Vec<_>>(), [1, 2, 3]);
        put(ids[0], |record| record.stage = Some(Stage::Volumes));
        put(ids[1], |record| record.failed = Some(Fault::PrivilegeRefused));
        assert_eq!(jobs.place(ids[2]).unwrap(), 1, "one is at work, one has failed");
    }

    #[test]
    fn there_are_as_many_slots_as_configured() {
        let state = tempfile::tempdir().unwrap();
        let jobs = Jobs::open(state.path()).unwrap();
        let first = jobs.take_slot(2).unwrap();
        let second = jobs.take_slot(2).unwrap();
        assert!(first.is_some() && second.is_some());
        assert!(jobs.take_slot(2).unwrap().is_none());
        drop(first);
        assert!(jobs.take_slot(2).unwrap().is_some());
    }

    #[test]
    fn a_garbled_record_is_kept_and_not_listed() {
        let state = tempfile::tempdir().unwrap();
        let jobs = Jobs::open(state.path()).unwrap();
        let id = VmId::generate();
        std::fs::write(jobs.record_file(id), "{").unwrap();
        assert!(jobs.list().unwrap().is_empty());
        assert!(matches!(jobs.read(id), Err(JobError::Garbled { .. })));
        jobs.sweep();
        assert_eq!(names(&jobs.dir), [format!("{id}.json")]);
    }

    #[test]
    fn only_a_worker_is_killed_for_one() {
        // This very process is no worker.
        let pid = i32::try_from(std::process::id()).unwrap();
        Jobs::stop_worker(&Record { worker: Some(pid), ..terminating() });
    }
}
