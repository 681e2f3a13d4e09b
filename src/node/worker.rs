//! The worker: carries out one order, apart from the request that brought it.
//!
//! `vgrid-worker begin|recover ID`, with the machine's lock as standard input. It may be killed at any moment:
//! the record says what was being done, and `recover` undoes a deploy, a start or half an image, and carries on what
//! leads to less (a stop, a removal) or back to where it was (a reboot).

use std::io;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};

use crate::config::{self, Common};
use crate::model::fault::{self, Fault};
use crate::model::names::VmId;
use crate::model::size::Amount;
use crate::model::stage::{Order, Percent, Stage};
use crate::model::wire::{DeployOrder, HostFacts, News, NextOrder, Report, StatusReply, Verdict};
use crate::system::log::{self, Level};
use crate::system::{clock, detach, pin};

use super::host;
use super::image::{self, CopyError};
use super::jobs::{JobError, Jobs, Record, Saving, Slot, Taken};
use super::privileged::Helper;
use super::report::Reporter;
use super::saved::{self, Draft, Packed, Store};

/// How old what a report says about the host may be.
const HOST_AGE: Duration = Duration::from_secs(15);

/// How often progress is reported at most.
const PROGRESS: Duration = Duration::from_secs(2);

/// How often a deploy that waits looks whether it is its turn.
const LOOK: Duration = Duration::from_secs(1);

/// How often it looks after the others: one whose worker was killed would be waited for in vain.
const SWEEP: u64 = 10;

/// How often it tells that it still waits: the server gives up what it does not hear of.
const KEEP_ALIVE: Duration = Duration::from_secs(300);

/// How long it waits for the node's lock before it reserves space for an image all the same.
const RESERVE: Duration = Duration::from_secs(30);

#[derive(Debug, Parser)]
#[command(name = "vgrid-worker", version, about = "Carries out one order on a vGrid node")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum Verb {
    /// Carry out the order of this record
    Begin {
        /// The machine's id
        id: VmId,
    },
    /// Bring the work of a worker that is gone to an end
    Recover {
        /// The machine's id
        id: VmId,
    },
}

/// The program's `main`: exit status 0 when the order was carried out or its failure reported, 1 when nothing
/// could be done, 2 for bad usage.
pub fn main() -> ExitCode {
    if let Err(error) = detach::cut_off() {
        return fail(&format!("can't detach: {error}"));
    }
    match run(Cli::parse().verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => fail(&sentence),
    }
}

fn fail(sentence: &str) -> ExitCode {
    log::event(Level::Error, "worker.failed", &[("why", &sentence)]);
    // Under Apache nobody reads it; by hand somebody does.
    let _ = io::Write::write_fmt(&mut io::stderr(), format_args!("vgrid-worker: {sentence}\n"));
    ExitCode::FAILURE
}

fn run(verb: Verb) -> Result<(), String> {
    let (Verb::Begin { id } | Verb::Recover { id }) = verb;
    let dir = config::directory();
    let config = config::Node::load(&dir).map_err(|error| error.to_string())?;
    let common = Common::load(&dir).map_err(|error| error.to_string())?;
    let key = config.key().map_err(|error| error.to_string())?;
    let state = &config.general.state_directory;
    let jobs = Jobs::open(state).map_err(|error| format!("{}: {error}", state.display()))?;
    let Some(taken) = jobs.adopt(id).map_err(|error| format!("the lock of {id}: {error}"))? else {
        return Err(format!("another worker is at work on {id}"));
    };
    let registry = pin::read(state).map_err(|error| error.to_string())?;
    let record = match taken.read() {
        Ok(Some(record)) => record,
        Ok(None) => return Err(format!("there is no record of {id}")),
        Err(error) => return Err(error.to_string()),
    };
    let request = record.request.clone();
    log::start("worker", request.clone(), Some(&config.general.log_file));
    let mut worker = Worker {
        reporter: Reporter::new(&config, &key, registry, &request),
        helper: Helper::new(&request),
        config: &config,
        common: &common,
        jobs,
        taken,
        record,
        slot: None,
    };
    worker.record.worker = i32::try_from(std::process::id()).ok();
    worker.save().map_err(|error| error.to_string())?;
    let done = match verb {
        Verb::Begin { .. } => worker.begin(),
        Verb::Recover { .. } => worker.recover(),
    };
    done.map_err(|error| error.to_string())
}

/// Why the work goes no further.
enum Stop {
    /// Something went wrong.
    Failed(Fault),
    /// The server has given up this deploy, and the machine has never run.
    Abandoned,
    /// The record can't be written: whatever was made now would be forgotten.
    Unrecorded(JobError),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Failed(fault)
    }
}

impl From<JobError> for Stop {
    fn from(error: JobError) -> Self {
        Self::Unrecorded(error)
    }
}

struct Worker<'a> {
    config: &'a config::Node,
    common: &'a Common,
    jobs: Jobs,
    taken: Taken,
    record: Record,
    reporter: Reporter<'a>,
    helper: Helper,
    /// Held while a deploy is at work.
    slot: Option<Slot>,
}

impl Worker<'_> {
    fn save(&mut self) -> Result<(), JobError> {
        self.taken.write(&mut self.record)
    }

    fn internal(&self, detail: &str) -> Fault {
        log::event(Level::Error, "worker.internal", &[("vm", &self.record.id), ("detail", &detail)]);
        Fault::Internal { request: self.record.request.to_string() }
    }

    /// What the host has, for a report; absent when it can't be found out now.
    fn host(&self, max_age: Duration) -> Option<HostFacts> {
        let since = host::ago(max_age);
        let lock = self.jobs.lock_node(Duration::from_secs(5)).ok().flatten()?;
        let state = host::state(&self.jobs, &lock, since, || self.helper.info()).ok()?;
        let records = self.jobs.list().ok()?;
        Some(state.facts(&records, &self.common.digest))
    }

    fn report(&mut self, news: News, host: Option<HostFacts>) -> Result<Report, JobError> {
        self.record.sequence = self.record.sequence.saturating_add(1);
        self.taken.note(&mut self.record)?;
        let Record { id, work: order, number, sequence, .. } = self.record;
        Ok(Report { id, order, number, sequence, news, host })
    }

    /// Whether the work is to be undone because the server said so. Only a deploy ever is, and only before its machine is
    /// started: what has run has a disk that somebody may want, whatever the server believes.
    fn obeys(&self, verdict: Verdict) -> bool {
        let never_ran = self.record.work == Order::Deploy
            && !self.record.done
            && !matches!(self.record.stage, Some(Stage::Verify));
        let Record { id, machine, .. } = &self.record;
        match verdict {
            Verdict::Continue => false,
            Verdict::Abandon if never_ran => true,
            Verdict::Abandon | Verdict::Unknown => {
                log::event(
                    Level::Warning,
                    "machine.kept",
                    &[("vm", id), ("machine", machine), ("verdict", &format!("{verdict:?}"))],
                );
                false
            }
        }
    }

    // ----- deploy -----

    fn deploy(&mut self) -> Result<(), JobError> {
        match self.steps() {
            Ok(()) => {
                self.slot = None;
                self.finish(None)
            }
            Err(Stop::Failed(fault)) => self.give_up(fault, false),
            Err(Stop::Abandoned) => {
                log::event(Level::Warning, "deploy.abandoned", &[("vm", &self.record.id)]);
                self.give_up(Fault::Interrupted { stage: self.record.stage }, true)
            }
            Err(Stop::Unrecorded(error)) => Err(error),
        }
    }

    /// All stages, in order. What each makes is removed by the helper's `undo`, whatever stage it failed in.
    fn steps(&mut self) -> Result<(), Stop> {
        let Some(order) = self.record.order.clone() else {
            return Err(self.internal("a deploy without its order").into());
        };
        let (id, machine) = (order.id, self.record.machine.clone());
        for &stage in Order::Deploy.stages() {
            if stage == Stage::Accepted {
                self.wait_for_a_slot()?;
                continue;
            }
            self.enter(stage)?;
            match stage {
                Stage::Volumes => self.helper.make_volumes(id, &machine, &order.image, order.disk)?,
                Stage::Filesystems => self.helper.make_filesystems(id, &machine, &order.image)?,
                Stage::Unpack => self.unpack(&order)?,
                Stage::Configure => {
                    let Some(ip) = self.record.ip else {
                        return Err(self.internal("a deploy without an address").into());
                    };
                    self.helper.configure(id, &machine, &order.image, order.memory, ip, &order.user)?;
                }
                Stage::Start => self.helper.start(id, &machine, order.memory)?,
                Stage::Verify => self.helper.verify(id, &machine)?,
                Stage::Accepted | Stage::Shutdown | Stage::Remove | Stage::Pack => {
                    return Err(self.internal(&format!("a deploy has no stage {stage:?}")).into());
                }
            }
        }
        Ok(())
    }

    /// Waits until this deploy is the first of those that wait, and one fewer than the most is at work.
    fn wait_for_a_slot(&mut self) -> Result<(), Stop> {
        let unreadable = |worker: &Self, error: io::Error| worker.internal(&format!("the queue: {error}"));
        let id = self.record.id;
        self.record.stage = Some(Stage::Accepted);
        self.save()?;
        let mut told: Option<(u32, Instant)> = None;
        for look in 1.. {
            let place = self.jobs.place(id).map_err(|error| unreadable(self, error))?;
            if place == 1 {
                let most = self.config.general.parallel_deploys;
                self.slot = self.jobs.take_slot(most).map_err(|error| unreadable(self, error))?;
            }
            if self.slot.is_some() {
                break;
            }
            if told.is_none_or(|(was, at)| was != place || at.elapsed() >= KEEP_ALIVE) {
                told = Some((place, Instant::now()));
                log::event(Level::Info, "deploy.waits", &[("vm", &id), ("place", &place)]);
                self.progress(Stage::Accepted, Some(place))?;
            }
            if look % SWEEP == 0 {
                self.jobs.sweep();
            }
            std::thread::sleep(LOOK);
        }
        // The next stage says that it has ended.
        if told.is_none() { self.progress(Stage::Accepted, None) } else { Ok(()) }
    }

    /// Records and reports that a stage begins.
    fn enter(&mut self, stage: Stage) -> Result<(), Stop> {
        self.record.stage = Some(stage);
        self.save()?;
        log::event(
            Level::Info,
            "stage",
            &[
                ("vm", &self.record.id),
                ("machine", &self.record.machine),
                ("order", &self.record.work),
                ("stage", &stage.as_str()),
            ],
        );
        self.progress(stage, None)
    }

    /// Reports a stage.
    fn progress(&mut self, stage: Stage, place: Option<u32>) -> Result<(), Stop> {
        let percent = matches!(stage, Stage::Unpack | Stage::Pack).then(|| Percent::of(0, 1));
        let host = self.host(HOST_AGE);
        let report = self.report(News::Progress { stage, percent, place }, host)?;
        match self.reporter.send(&report) {
            Ok(StatusReply { verdict, .. }) if self.obeys(verdict) => Err(Stop::Abandoned),
            Ok(_) => Ok(()),
            // The work goes on: the server may be back when there is more to say.
            Err(error) => {
                log::event(Level::Warning, "report.lost", &[("vm", &report.id), ("error", &error)]);
                Ok(())
            }
        }
    }

    /// Streams the image through the helper's tar, while another thread reports how far it is.
    fn unpack(&mut self, order: &DeployOrder) -> Result<(), Stop> {
        let Ok(settings) = self.config.image(&order.image) else {
            return Err(Fault::ImageUnknown { tag: order.image.clone() }.into());
        };
        let (file, bytes) = saved::source(self.config, order, &settings).map_err(|(fault, error)| {
            log::event(Level::Error, "image.missing", &[("error", &error)]);
            fault
        })?;
        // What is said of a saved image names it; every such name could be a tag.
        let saved = order.saved.as_ref().and_then(|saved| saved.name.as_str().parse().ok());
        let tag = saved.unwrap_or_else(|| order.image.clone());
        let percent = AtomicU8::new(0);
        let abandoned = AtomicBool::new(false);
        let machine = self.record.machine.clone();
        let helper = self.helper.clone();
        let progress = Mutex::new(&mut *self);
        let (done, ended) = channel::<()>();
        let (fed, result) = std::thread::scope(|scope| {
            let (percent, abandoned, progress) = (&percent, &abandoned, &progress);
            scope.spawn(move || report_progress(progress, Stage::Unpack, percent, abandoned, &ended));
            let outcome = helper.unpack(order.id, &machine, &tag, |pipe| {
                image::enlarge(pipe);
                Ok(image::copy(file, pipe, |read| {
                    percent.store(Percent::of(read, bytes).get(), Ordering::Relaxed);
                    !abandoned.load(Ordering::Relaxed)
                }))
            });
            drop(done);
            outcome
        });
        if abandoned.load(Ordering::Relaxed) {
            return Err(Stop::Abandoned);
        }
        // A damaged image makes tar fail, too, and tar's words would hide why.
        match (fed, result) {
            (Some(Ok(Err(CopyError::Corrupt(detail)))), _) => {
                Err(Fault::ImageCorrupt { tag, detail: fault::detail(&detail) }.into())
            }
            (_, Err(fault)) => Err(fault.into()),
            (Some(Ok(Err(CopyError::Nested(folder)))), Ok(())) => {
                Err(Fault::ImageNested { tag, folder: fault::detail(&folder) }.into())
            }
            (Some(Ok(Ok(_))), Ok(())) => Ok(()),
            (Some(Ok(Err(error))), Ok(())) => Err(self.internal(&error.to_string()).into()),
            (Some(Err(error)), Ok(())) => Err(self.internal(&error.to_string()).into()),
            (None, Ok(())) => Err(self.internal("the image was not copied").into()),
        }
    }

    /// Records that the order has been carried out, or was not (`failed`) and never will be, and tells it.
    fn finish(&mut self, failed: Option<Fault>) -> Result<(), JobError> {
        self.record.done = true;
        self.record.stage = None;
        self.record.failed = failed;
        self.save()?;
        let (id, machine, order) = (&self.record.id, &self.record.machine, &self.record.work);
        match &self.record.failed {
            None => log::event(Level::Info, "done", &[("vm", id), ("machine", machine), ("order", order)]),
            Some(fault) => log::event(
                Level::Warning,
                "failed",
                &[("vm", id), ("machine", machine), ("order", order), ("why", fault)],
            ),
        }
        self.tell()
    }

    /// Tells how the work ended.
    fn tell(&mut self) -> Result<(), JobError> {
        let host = self.host(Duration::ZERO);
        let saved = self.record.saving.as_ref().and_then(|saving| saving.file);
        let news = match (self.record.failed.clone(), saved) {
            (Some(fault), _) => News::Failed { fault },
            (None, Some(Packed { bytes, .. })) => News::Saved { bytes },
            (None, None) => News::Done,
        };
        let report = self.report(news, host)?;
        match self.reporter.deliver(&report) {
            Some(StatusReply { verdict, next }) => {
                // Its work is done, so there is none to undo; this logs what the server thinks of it.
                self.obeys(verdict);
                self.record.told = true;
                self.record.tried = None;
                self.record.worker = None;
                self.save()?;
                next.map_or(Ok(()), |next| self.go_on(next))
            }
            None => self.later(),
        }
    }

    /// Carries out what the server wants next with this machine. Should this worker be killed before that is
    /// recorded, the server is told once more how the last work ended, and says it again.
    fn go_on(&mut self, next: NextOrder) -> Result<(), JobError> {
        let NextOrder { order, number } = next;
        if matches!(order, Order::Deploy | Order::Save) || number <= self.record.number {
            log::event(
                Level::Warning,
                "order.refused",
                &[("vm", &self.record.id), ("order", &order), ("number", &number)],
            );
            return Ok(());
        }
        log::event(Level::Info, "order.follows", &[("vm", &self.record.id), ("order", &order)]);
        self.record = self.record.clone().ordered(order, number, self.record.request.clone(), clock::now());
        self.record.worker = i32::try_from(std::process::id()).ok();
        self.save()?;
        self.begin()
    }

    /// Undoes a deploy and says why, unless the server does not want to know (`told`).
    fn give_up(&mut self, fault: Fault, told: bool) -> Result<(), JobError> {
        let fault = match fault {
            // Who calls the helper does not know the stage.
            Fault::Interrupted { stage: None } => Fault::Interrupted { stage: self.record.stage },
            other => other,
        };
        log::event(
            Level::Warning,
            "deploy.failed",
            &[("vm", &self.record.id), ("machine", &self.record.machine), ("why", &fault)],
        );
        // From now on it is a deploy that failed, whatever was ordered last.
        self.record.work = Order::Deploy;
        self.record.done = false;
        self.record.failed = Some(fault.clone());
        self.record.told |= told;
        self.save()?;
        let undone = self.helper.undo(self.record.id, &self.record.machine);
        if let Err(left) = &undone {
            log::event(Level::Error, "undo.failed", &[("vm", &self.record.id), ("why", left)]);
        }
        // What a machine said before it failed is for its owner to read, until the machine is terminated.
        if undone.is_ok() && (self.record.told || !fault.leaves_console()) {
            self.forget_console();
        }
        if !self.record.told {
            let host = self.host(Duration::ZERO);
            let report = self.report(News::Failed { fault }, host)?;
            self.record.told = self.reporter.deliver(&report).is_some();
        }
        if undone.is_ok() && self.record.told { self.forget() } else { self.later() }
    }

    // ----- stop, start, reboot -----

    fn stop(&mut self) -> Result<(), JobError> {
        let result = self.bring_down();
        self.end(result, Self::not_stopped)
    }

    fn start(&mut self) -> Result<(), JobError> {
        let result = self.bring_up();
        self.end(result, Self::not_started)
    }

    fn reboot(&mut self) -> Result<(), JobError> {
        let result = self.bring_down().and_then(|()| self.bring_up());
        self.end(result, Self::not_started)
    }

    /// Records and tells how an order about a machine that is there has ended.
    fn end(
        &mut self,
        result: Result<(), Stop>,
        failed: fn(&mut Self, Fault) -> Result<(), JobError>,
    ) -> Result<(), JobError> {
        match result {
            Ok(()) => self.finish(None),
            Err(Stop::Failed(fault)) => failed(self, fault),
            // No order but a deploy is ever abandoned.
            Err(Stop::Abandoned) => failed(self, Fault::Interrupted { stage: self.record.stage }),
            Err(Stop::Unrecorded(error)) => Err(error),
        }
    }

    fn bring_down(&mut self) -> Result<(), Stop> {
        self.enter(Stage::Shutdown)?;
        self.helper.stop(self.record.id, &self.record.machine)?;
        self.record.stopped = true;
        Ok(self.save()?)
    }

    fn bring_up(&mut self) -> Result<(), Stop> {
        let Some(memory) = self.record.order.as_ref().map(|order| order.memory) else {
            return Err(self.internal("a machine without its order").into());
        };
        let (id, machine) = (self.record.id, self.record.machine.clone());
        self.enter(Stage::Start)?;
        self.record.stopped = false;
        self.save()?;
        self.helper.start(id, &machine, memory)?;
        self.enter(Stage::Verify)?;
        Ok(self.helper.verify(id, &machine)?)
    }

    /// Has the machine come back with its host again, as it did before, and says why it was not stopped.
    fn not_stopped(&mut self, fault: Fault) -> Result<(), JobError> {
        let fault = match fault {
            Fault::Interrupted { .. } => Fault::StopFailed { detail: "the work was interrupted".to_owned() },
            other => other,
        };
        if let Some(memory) = self.record.order.as_ref().map(|order| order.memory)
            && let Err(why) = self.helper.start(self.record.id, &self.record.machine, memory)
        {
            log::event(Level::Error, "start.failed", &[("vm", &self.record.id), ("why", &why)]);
        }
        self.finish(Some(fault))
    }

    /// Stops what may have been started, and says why.
    fn not_started(&mut self, fault: Fault) -> Result<(), JobError> {
        let fault = match fault {
            Fault::Interrupted { .. } => Fault::StartInterrupted { stage: self.record.stage },
            other => other,
        };
        match self.helper.stop(self.record.id, &self.record.machine) {
            Ok(()) => self.record.stopped = true,
            Err(left) => log::event(Level::Error, "stop.failed", &[("vm", &self.record.id), ("why", &left)]),
        }
        self.finish(Some(fault))
    }

    // ----- save -----

    fn save_disk(&mut self) -> Result<(), JobError> {
        let result = self.bring_down().and_then(|()| self.pack());
        self.end(result, Self::not_saved)
    }

    /// Has the helper's tar read the disk, and makes an image of what comes, which gets its name when it is whole.
    fn pack(&mut self) -> Result<(), Stop> {
        let Some(image) = self.record.saving.as_ref().map(|saving| saving.image.clone()) else {
            return Err(self.internal("a disk to be saved, and no name for the image").into());
        };
        self.enter(Stage::Pack)?;
        let exists = || Stop::from(Fault::ImageExists { name: image.name.clone() });
        let store = Store::new(self.config);
        // Looked at again when it is published; a disk need not be read for nothing.
        if store.is_taken(&image).map_err(|error| not_written(&error))? {
            return Err(exists());
        }
        let Some(mut draft) = store.draft(&image).map_err(|error| not_written(&error))? else {
            return Err(exists());
        };
        self.fill(&mut draft)?;
        let packed = draft.seal().map_err(|error| not_written(&error))?;
        if let Some(saving) = &mut self.record.saving {
            saving.file = Some(packed);
        }
        self.save()?;
        draft.publish().map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => exists(),
            _ => not_written(&error).into(),
        })
    }

    /// Compresses the stream from the helper's tar, while another thread reports how far it is. Space is reserved
    /// before anything is written.
    fn fill(&mut self, draft: &mut Draft) -> Result<(), Stop> {
        let percent = AtomicU8::new(0);
        let abandoned = AtomicBool::new(false);
        let (id, machine) = (self.record.id, self.record.machine.clone());
        let compression = self.config.general.saved_images;
        let (helper, jobs) = (self.helper.clone(), self.jobs.clone());
        let progress = Mutex::new(&mut *self);
        let (done, ended) = channel::<()>();
        let mut most = None;
        let (packed, result) = std::thread::scope(|scope| {
            let (percent, abandoned, progress) = (&percent, &abandoned, &progress);
            scope.spawn(move || report_progress(progress, Stage::Pack, percent, abandoned, &ended));
            let outcome = helper.pack(id, &machine, |beginning, pipe| {
                image::enlarge(pipe);
                reserve(&jobs, draft, beginning.expected).map_err(CopyError::Write)?;
                image::pack(pipe, draft, compression, |read| {
                    percent.store(Percent::of(read, beginning.expected).get(), Ordering::Relaxed);
                    // The helper sees to that, too.
                    most = (read > beginning.most).then_some(beginning.most);
                    most.is_none() && !abandoned.load(Ordering::Relaxed)
                })
            });
            drop(done);
            outcome
        });
        if abandoned.load(Ordering::Relaxed) {
            return Err(Stop::Abandoned);
        }
        if let Some(most) = most {
            return Err(Fault::DiskInconsistent { most: Amount::from_mib(most >> 20) }.into());
        }
        // When the disk is full nobody reads what tar writes, so tar fails, too; and when tar fails its stream
        // breaks off.
        match (packed, result) {
            (Some(Err(CopyError::Write(error))), _) => Err(not_written(&error).into()),
            (_, Err(fault)) => Err(fault.into()),
            (Some(Ok(())), Ok(())) => Ok(()),
            (Some(Err(error)), Ok(())) => {
                Err(Fault::SaveFailed { detail: fault::detail(&error.to_string()) }.into())
            }
            (None, Ok(())) => Err(self.internal("the disk was not packed").into()),
        }
    }

    /// Leaves the machine stopped, and says why there is no image.
    fn not_saved(&mut self, fault: Fault) -> Result<(), JobError> {
        let fault = match fault {
            Fault::Interrupted { .. } => Fault::SaveInterrupted,
            other => other,
        };
        if let Some(saving) = &mut self.record.saving {
            saving.file = None;
        }
        // However far it had come, this also ends what a killed helper has left running on the disk.
        match self.helper.stop(self.record.id, &self.record.machine) {
            Ok(()) => self.record.stopped = true,
            Err(left) => log::event(Level::Error, "stop.failed", &[("vm", &self.record.id), ("why", &left)]),
        }
        self.finish(Some(fault))
    }

    /// What is left over of saving a disk: an image that has got its name, or nothing.
    fn recover_save(&mut self) -> Result<(), JobError> {
        let store = Store::new(self.config);
        if let Some(Saving { image, file: Some(packed) }) = &self.record.saving {
            match store.has(image, *packed) {
                Ok(true) => return self.finish(None),
                Ok(false) => {}
                Err(error) => {
                    log::event(Level::Error, "image.lost", &[("image", &image.stem()), ("error", &error)]);
                }
            }
        }
        store.sweep();
        self.not_saved(Fault::SaveInterrupted)
    }

    // ----- terminate -----

    fn terminate(&mut self) -> Result<(), JobError> {
        let (id, machine) = (self.record.id, self.record.machine.clone());
        // What the server thinks of the stages is of no consequence here.
        if let Err(Stop::Unrecorded(error)) = self.enter(Stage::Shutdown) {
            return Err(error);
        }
        if let Err(fault) = self.helper.stop(id, &machine) {
            log::event(Level::Warning, "stop.failed", &[("vm", &id), ("why", &fault)]);
        }
        if let Err(Stop::Unrecorded(error)) = self.enter(Stage::Remove) {
            return Err(error);
        }
        let removed = self.helper.undo(id, &machine);
        match &removed {
            Ok(()) => {
                self.forget_console();
                log::event(
                    Level::Info,
                    "done",
                    &[("vm", &id), ("machine", &machine), ("order", &"terminate")],
                );
            }
            Err(fault) => log::event(Level::Error, "terminate.failed", &[("vm", &id), ("why", fault)]),
        }
        // Of a worker that was at work on an image and was ended for this.
        Store::new(self.config).sweep();
        self.removed(removed)
    }

    /// Tells how a removal has ended, and forgets the machine if it is gone. A server that has never heard of it knows as
    /// much by then as it wants to.
    fn removed(&mut self, removed: Result<(), Fault>) -> Result<(), JobError> {
        let gone = removed.is_ok();
        let host = self.host(Duration::ZERO);
        let report =
            self.report(removed.map_or_else(|fault| News::Failed { fault }, |()| News::Done), host)?;
        let told = self.reporter.deliver(&report).is_some();
        if gone && told { self.forget() } else { self.later() }
    }

    /// Removes what the machine said. Should it stay, that is of no consequence for what the machine took.
    fn forget_console(&self) {
        if let Err(why) = self.helper.forget_console(&self.record.machine) {
            log::event(Level::Warning, "console.kept", &[("vm", &self.record.id), ("why", &why)]);
        }
    }

    // ----- which order -----

    fn begin(&mut self) -> Result<(), JobError> {
        match self.record.work {
            Order::Deploy => self.deploy(),
            Order::Terminate => self.terminate(),
            Order::Stop => self.stop(),
            Order::Start => self.start(),
            Order::Reboot => self.reboot(),
            Order::Save => self.save_disk(),
        }
    }

    /// What is left over.
    fn recover(&mut self) -> Result<(), JobError> {
        log::event(
            Level::Warning,
            "recover.begun",
            &[
                ("vm", &self.record.id),
                ("machine", &self.record.machine),
                ("order", &self.record.work),
                ("stage", &self.record.stage.map_or("none", Stage::as_str)),
            ],
        );
        if self.record.done {
            return self.tell();
        }
        let stage = self.record.stage;
        match self.record.work {
            Order::Deploy => {
                let fault = self.record.failed.clone().unwrap_or(Fault::Interrupted { stage });
                self.give_up(fault, false)
            }
            Order::Start => self.not_started(Fault::StartInterrupted { stage }),
            Order::Save => self.recover_save(),
            Order::Terminate | Order::Stop | Order::Reboot => self.begin(),
        }
    }

    /// Leaves the rest to a later sweep.
    fn later(&mut self) -> Result<(), JobError> {
        self.record.tried = Some(clock::now());
        self.record.worker = None;
        self.save()
    }

    /// Removes the record: nothing of the machine is left, and the server knows.
    fn forget(&mut self) -> Result<(), JobError> {
        self.taken.remove()
    }
}

/// Reserves space for an image, while nobody else on this host does.
fn reserve(jobs: &Jobs, draft: &mut Draft, bytes: u64) -> io::Result<()> {
    let lock = jobs.lock_node(RESERVE)?;
    if lock.is_none() {
        log::event(Level::Warning, "image.crowded", &[("waited", &RESERVE.as_secs())]);
    }
    draft.reserve(bytes)
}

/// Why an image could not be written.
fn not_written(error: &io::Error) -> Fault {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Fault::NoRoomForImage,
        _ => Fault::SaveFailed { detail: fault::detail(&format!("writing it: {error}")) },
    }
}

/// Reports how much of the image has been unpacked or packed, until `ended` is closed.
fn report_progress(
    worker: &Mutex<&mut Worker<'_>>,
    stage: Stage,
    percent: &AtomicU8,
    abandoned: &AtomicBool,
    ended: &std::sync::mpsc::Receiver<()>,
) {
    let mut last = 0;
    while ended.recv_timeout(PROGRESS) == Err(RecvTimeoutError::Timeout) {
        let now = percent.load(Ordering::Relaxed);
        if now == last {
            continue;
        }
        last = now;
        let Ok(mut worker) = worker.lock() else { return };
        let news = News::Progress { stage, percent: Percent::try_from(now).ok(), place: None };
        let Ok(report) = worker.report(news, None) else { continue };
        match worker.reporter.send(&report) {
            Ok(StatusReply { verdict, .. }) if worker.obeys(verdict) => {
                abandoned.store(true, Ordering::Relaxed);
                return;
            }
            Ok(_) => {}
            Err(error) => {
                log::event(Level::Warning, "report.lost", &[("vm", &report.id), ("error", &error)]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use super::*;
    use crate::model::names::RegistryId;
    use crate::model::sign::Key;
    use crate::model::sign::tests::http_answer;
    use crate::model::stage::OrderNumber;
    use crate::model::wire::MachineOrder;

    /// Who answers a node's reports.
    #[derive(Clone)]
    struct Server {
        key: Key,
        registry: RegistryId,
        /// What it says to every report.
        body: String,
    }

    impl Server {
        fn saying(body: &str) -> Self {
            let key = Key::new(&"k".repeat(64)).unwrap();
            Self { key, registry: RegistryId::generate(), body: body.to_owned() }
        }

        /// Takes so many reports. Returns its URL.
        fn start(&self, reports: usize) -> String {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            let server = self.clone();
            std::thread::spawn(move || {
                for _ in 0..reports {
                    let (mut stream, _) = listener.accept().unwrap();
                    let (mut received, mut buffer) = (String::new(), [0; 4096]);
                    while !received.contains("\"news\"") {
                        let length = stream.read(&mut buffer).unwrap();
                        received.push_str(&String::from_utf8_lossy(&buffer[..length]));
                    }
                    let Server { key, registry, body } = &server;
                    let answer = http_answer(&received, key, Some(*registry), (200, "OK"), body);
                    stream.write_all(answer.as_bytes()).unwrap();
                }
            });
            url
        }
    }

    /// A node that has met the server of `registry`, and one machine on it.
    struct Ground {
        dir: tempfile::TempDir,
        config: config::Node,
        common: Common,
        key: Key,
        request: crate::model::names::RequestId,
        registry: RegistryId,
        order: MachineOrder,
    }

    impl Ground {
        fn new(url: &str, registry: RegistryId) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
            write(
                "node.cfg",
                &format!(
                    "[General]\nserverHostname = \"s\"\nserverURL = \"{url}\"\nimageDirectory = \"/none\"\n\
                     volumeGroupName = \"none\"\n"
                ),
            );
            write("common.cfg", "[VMImages]\n[PhysicalHostsPool]\n[VirtualHostsPool]\n");
            let config = config::Node::load(dir.path()).unwrap();
            let common = Common::load(dir.path()).unwrap();
            let order = MachineOrder {
                id: VmId::generate(),
                number: OrderNumber::default().next(5),
                user: "eve".parse().unwrap(),
                virtual_host: "vm9".parse().unwrap(),
            };
            let key = Key::new(&"k".repeat(64)).unwrap();
            Self { dir, config, common, key, request: "abc".parse().unwrap(), registry, order }
        }

        fn jobs(&self) -> Jobs {
            Jobs::open(self.dir.path()).unwrap()
        }

        /// A worker for an order about the machine.
        fn worker(&self, edit: impl FnOnce(&mut Record)) -> Worker<'_> {
            let machine = "eve_vm9".parse().unwrap();
            let mut record = Record::unknown(&self.order, machine, self.request.clone(), clock::now());
            edit(&mut record);
            let jobs = self.jobs();
            let mut worker = Worker {
                reporter: Reporter::new(&self.config, &self.key, Some(self.registry), &self.request),
                helper: Helper::new(&self.request),
                config: &self.config,
                common: &self.common,
                taken: jobs.take(self.order.id, Duration::ZERO).unwrap().unwrap(),
                jobs,
                record,
                slot: None,
            };
            worker.save().unwrap();
            worker
        }
    }

    #[test]
    fn a_machine_that_the_server_never_heard_of_is_forgotten_when_it_is_gone() {
        let server = Server::saying(r#"{"verdict":"unknown"}"#);
        let ground = Ground::new(&server.start(2), server.registry);
        let mut worker = ground.worker(|_| {});
        worker.removed(Err(Fault::RemovalFailed { detail: "in use".to_owned() })).unwrap();
        let left = ground.jobs().read(ground.order.id).unwrap().expect("it is still there");
        assert!(left.tried.is_some() && left.is_unfinished(), "a later sweep carries on: {left:?}");
        worker.removed(Ok(())).unwrap();
        assert_eq!(ground.jobs().read(ground.order.id).unwrap(), None);
    }

    /// Whether work is abandoned for what the server answers when a stage begins.
    fn is_abandoned(server: &Server, obeyed: RegistryId, work: Order, stage: Stage) -> bool {
        let ground = Ground::new(&server.start(1), obeyed);
        let mut worker = ground.worker(|record| record.work = work);
        let outcome = worker.enter(stage);
        assert!(ground.jobs().read(ground.order.id).unwrap().is_some(), "the record stays");
        matches!(outcome, Err(Stop::Abandoned))
    }

    #[test]
    fn only_a_deploy_that_never_ran_is_abandoned() {
        let server = Server::saying(r#"{"verdict":"abandon"}"#);
        for order in Order::ALL {
            for &stage in order.stages() {
                let expected = order == Order::Deploy && stage != Stage::Verify;
                let abandoned = is_abandoned(&server, server.registry, order, stage);
                assert_eq!(abandoned, expected, "{order} {stage}");
            }
        }
    }

    #[test]
    fn a_machine_that_the_server_does_not_know_is_kept() {
        let server = Server::saying(r#"{"verdict":"unknown"}"#);
        for order in Order::ALL {
            for &stage in order.stages() {
                assert!(!is_abandoned(&server, server.registry, order, stage), "{order} {stage}");
            }
        }
    }

    #[test]
    fn who_answers_in_the_server_s_place_is_not_obeyed() {
        let server = Server::saying(r#"{"verdict":"abandon"}"#);
        let stranger = Server { key: Key::new(&"x".repeat(64)).unwrap(), ..server.clone() };
        assert!(!is_abandoned(&stranger, server.registry, Order::Deploy, Stage::Volumes));
        // It knows the key, but has another registry: it lost the one in which the machines are.
        assert!(!is_abandoned(&server, RegistryId::generate(), Order::Deploy, Stage::Volumes));
        assert!(is_abandoned(&server, server.registry, Order::Deploy, Stage::Volumes));
    }

    #[test]
    fn a_machine_that_has_been_made_is_kept_whatever_the_server_says() {
        for body in [r#"{"verdict":"abandon"}"#, r#"{"verdict":"unknown"}"#] {
            let server = Server::saying(body);
            for work in Order::ALL.into_iter().filter(|order| *order != Order::Terminate) {
                let ground = Ground::new(&server.start(1), server.registry);
                let mut worker = ground.worker(|record| record.work = work);
                worker.finish(None).unwrap();
                let kept = ground.jobs().read(ground.order.id).unwrap().expect("its record");
                assert!(kept.done && kept.told && kept.failed.is_none(), "{work}: {kept:?}");
            }
        }
    }

    #[test]
    fn an_order_that_follows_is_carried_out_once() {
        let ground = Ground::new("http://127.0.0.1:1", RegistryId::generate());
        let mut worker = ground.worker(|record| (record.work, record.done) = (Order::Save, true));
        for number in [ground.order.number, OrderNumber::default()] {
            worker.go_on(NextOrder { order: Order::Terminate, number }).unwrap();
            assert_eq!((worker.record.work, worker.record.done), (Order::Save, true));
        }
    }
}
