//! Reports to the server while an order is carried out, and the effect of its verdicts.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use crate::config::{self, Common};
use crate::model::names::MachineName;
use crate::model::stage::{Order, Percent, Stage};
use crate::model::wire::{HostFacts, News, Report, StatusReply, Verdict};
use crate::node::host::{self, HostState};
use crate::node::jobs::{JobError, Jobs, NodeLock, Record};
use crate::node::report::Reporter;
use crate::system::log::{self, Level};

use super::{Stop, Worker};

/// The maximum age of the host's state in the report of a stage. None is asked for: that would hold up
/// the work, or the machine that is booting.
const HOST_AGE: Duration = Duration::from_secs(30);

/// The time between two reports of a percentage.
const INTERVAL: Duration = Duration::from_secs(2);

/// State shared between the working thread and the reporting thread.
#[derive(Debug, Default)]
pub(super) struct Progress {
    percent: AtomicU8,
    abandoned: AtomicBool,
}

impl Progress {
    /// Notes the progress of the work for the next report. Returns whether to continue.
    #[must_use]
    pub(super) fn note(&self, percent: Percent) -> bool {
        self.percent.store(percent.get(), Ordering::Relaxed);
        !self.is_abandoned()
    }

    fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed)
    }
}

/// What it takes to send a report while the worker goes on.
struct Messenger<'a> {
    reporter: Reporter<'a>,
    config: &'a config::Node,
    common: &'a Common,
    jobs: Jobs,
    machine: MachineName,
}

impl Messenger<'_> {
    /// Sends a progress report once. A lost report does not stop the work: the server may be back for
    /// the next one.
    fn send(&self, report: &Report) -> Verdict {
        match self.reporter.send(report) {
            Ok(StatusReply { verdict, .. }) => verdict,
            Err(error) => {
                log::event(
                    Level::Warning,
                    "report.lost",
                    &[
                        ("vm", &report.id),
                        ("machine", &self.machine),
                        ("sequence", &report.sequence),
                        ("why", &error),
                    ],
                );
                Verdict::Continue
            }
        }
    }

    /// Sends it with the host's state, if that is known.
    fn send_with_host(&self, mut report: Report) -> Verdict {
        report.host = self.facts(|lock| host::known(&self.jobs, lock, host::ago(HOST_AGE)));
        self.send(&report)
    }

    /// Returns what a state of the host means to the server.
    fn facts(&self, state: impl FnOnce(&NodeLock) -> Option<HostState>) -> Option<HostFacts> {
        let lock = self.jobs.lock_node(Duration::from_secs(5)).ok().flatten()?;
        let state = state(&lock)?;
        let records = self.jobs.list().ok()?;
        Some(state.facts(&records, self.config, self.common))
    }
}

impl<'a> Worker<'a> {
    /// Does the work of a stage. Its beginning is recorded first, and reported meanwhile. The next one
    /// begins once the server has answered.
    ///
    /// # Errors
    /// [`Stop::Abandoned`], after the work, if the server has given up the deploy.
    pub(super) fn in_stage<T>(
        &mut self,
        stage: Stage,
        work: impl FnOnce(&mut Self) -> Result<T, Stop>,
    ) -> Result<T, Stop> {
        self.record_stage(stage)?;
        let report = self.report(progress(stage, None), None)?;
        let messenger = self.messenger();
        let (outcome, verdict) = thread::scope(|scope| {
            let sending = scope.spawn(move || messenger.send_with_host(report));
            let outcome = work(self);
            (outcome, sending.join().unwrap_or(Verdict::Continue))
        });
        if self.must_abandon(verdict) { Err(Stop::Abandoned) } else { outcome }
    }

    /// Records the beginning of a stage.
    fn record_stage(&mut self, stage: Stage) -> Result<(), Stop> {
        self.record.stage = Some(stage);
        self.write_record()?;
        log::event(
            Level::Info,
            "stage.begun",
            &[
                ("vm", &self.record.id),
                ("machine", &self.record.machine),
                ("order", &self.record.work),
                ("stage", &stage.as_str()),
            ],
        );
        Ok(())
    }

    /// Reports a stage, and the position of a waiting deploy in the queue.
    pub(super) fn report_stage(&mut self, stage: Stage, place: Option<u32>) -> Result<(), Stop> {
        let report = self.report(progress(stage, place), None)?;
        let verdict = self.messenger().send_with_host(report);
        if self.must_abandon(verdict) { Err(Stop::Abandoned) } else { Ok(()) }
    }

    fn messenger(&self) -> Messenger<'a> {
        Messenger {
            reporter: self.reporter.clone(),
            config: self.config,
            common: self.common,
            jobs: self.jobs.clone(),
            machine: self.record.machine.clone(),
        }
    }

    /// Runs `work` while another thread reports its progress.
    ///
    /// # Errors
    /// [`Stop::Abandoned`] if the server gave the work up in the meantime; [`Progress::note`] then
    /// returned `false` to `work`.
    pub(super) fn while_reporting<T>(
        &mut self,
        stage: Stage,
        work: impl FnOnce(&Progress) -> T,
    ) -> Result<T, Stop> {
        let progress = Progress::default();
        let (done, ended) = channel::<()>();
        let outcome = thread::scope(|scope| {
            let progress = &progress;
            scope.spawn(move || self.report_percentages(stage, progress, &ended));
            let outcome = work(progress);
            drop(done);
            outcome
        });
        if progress.is_abandoned() { Err(Stop::Abandoned) } else { Ok(outcome) }
    }

    /// Reports each new percentage until the other end of `ended` is dropped.
    fn report_percentages(&mut self, stage: Stage, progress: &Progress, ended: &Receiver<()>) {
        let mut last = 0;
        while ended.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
            let now = progress.percent.load(Ordering::Relaxed);
            if now == last {
                continue;
            }
            last = now;
            let news = News::Progress { stage, percent: Percent::try_from(now).ok(), place: None };
            let Ok(report) = self.report(news, None) else { continue };
            let verdict = self.messenger().send(&report);
            if self.must_abandon(verdict) {
                progress.abandoned.store(true, Ordering::Relaxed);
                return;
            }
        }
    }

    /// Creates the next report.
    pub(super) fn report(&mut self, news: News, host: Option<HostFacts>) -> Result<Report, JobError> {
        self.record.sequence = self.record.sequence.saturating_add(1);
        self.lock.note(&mut self.record)?;
        let Record { id, work: order, number, sequence, .. } = self.record;
        Ok(Report { id, order, number, sequence, news, host })
    }

    /// Returns the host's present state for a report; `None` if it can't be determined now.
    pub(super) fn host(&self) -> Option<HostFacts> {
        let since = host::ago(Duration::ZERO);
        self.messenger().facts(|lock| host::state(&self.jobs, lock, since, || self.helper.info()).ok())
    }

    /// Returns what the host's state is for a report, as a helper has just found it.
    pub(super) fn facts(&self, state: HostState) -> Option<HostFacts> {
        let since = state.taken;
        self.messenger().facts(|lock| host::state(&self.jobs, lock, since, || Ok(state)).ok())
    }

    /// Returns whether the work must be undone because of the server's verdict. This applies only
    /// to a deploy, and only before its machine is started: a machine that has run has a disk that
    /// may be wanted, whatever the server's view.
    pub(super) fn must_abandon(&self, verdict: Verdict) -> bool {
        let never_ran = self.record.work == Order::Deploy
            && !self.record.done
            && !matches!(self.record.stage, Some(Stage::Start | Stage::Verify));
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
}

fn progress(stage: Stage, place: Option<u32>) -> News {
    let percent = matches!(stage, Stage::Unpack | Stage::Pack | Stage::Grow).then(|| Percent::of(0, 1));
    News::Progress { stage, percent, place }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::names::RegistryId;
    use crate::model::sign::Key;
    use crate::node::worker::tests::{TestNode, TestServer};

    /// Returns whether work is abandoned because of the server's answer at the beginning of a
    /// stage.
    fn is_abandoned(server: &TestServer, bound: RegistryId, work: Order, stage: Stage) -> bool {
        let node = TestNode::new(&server.start(1), bound);
        let mut worker = node.worker(|record| record.work = work);
        let mut worked = false;
        let outcome = worker.in_stage(stage, |_| {
            worked = true;
            Ok(())
        });
        assert!(node.jobs().read(node.order.id).unwrap().is_some(), "the record stays");
        let is_abandoned = matches!(outcome, Err(Stop::Abandoned));
        assert!(worked, "{work} {stage}");
        is_abandoned
    }

    #[test]
    fn only_a_deploy_that_never_ran_is_abandoned() {
        let server = TestServer::saying(r#"{"verdict":"abandon"}"#);
        for &order in Order::ALL {
            for &stage in order.stages() {
                let expected = order == Order::Deploy && !matches!(stage, Stage::Start | Stage::Verify);
                let abandoned = is_abandoned(&server, server.registry, order, stage);
                assert_eq!(abandoned, expected, "{order} {stage}");
            }
        }
    }

    #[test]
    fn a_machine_unknown_to_the_server_is_kept() {
        let server = TestServer::saying(r#"{"verdict":"unknown"}"#);
        for &order in Order::ALL {
            for &stage in order.stages() {
                assert!(!is_abandoned(&server, server.registry, order, stage), "{order} {stage}");
            }
        }
    }

    #[test]
    fn verdicts_of_other_servers_are_ignored() {
        let server = TestServer::saying(r#"{"verdict":"abandon"}"#);
        let stranger = TestServer { key: Key::new(&"x".repeat(64)).unwrap(), ..server.clone() };
        assert!(!is_abandoned(&stranger, server.registry, Order::Deploy, Stage::Volumes));
        // It has the key, but another registry: it lost the one that contains the machines.
        assert!(!is_abandoned(&server, RegistryId::generate(), Order::Deploy, Stage::Volumes));
        assert!(is_abandoned(&server, server.registry, Order::Deploy, Stage::Volumes));
    }
}
