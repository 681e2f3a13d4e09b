//! `internal/status`: nodes report how machines are getting on.

use crate::cgi::reply::{Refusal, Reply};
use crate::cgi::serve::InternalCall;
use crate::model::state::{Event, State};
use crate::model::wire::{News, Report, StatusReply, Verdict};
use crate::system::log::{self, Level};
use crate::system::{address, clock};

use super::registry::event::Actor;
use super::registry::vm::{OnNode, Order, Vm};
use super::registry::{Registry, RegistryError, Writer};

/// What a report changed, for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Outcome {
    verdict: Verdict,
    /// What happened to the machine, if something did that people care about.
    news: Option<(&'static str, String)>,
}

/// Answers `internal/status`: a [`Report`] in, a [`StatusReply`] out. The signature has been checked.
///
/// # Errors
/// 400 for what is no report, 403 for one from another address than that of the machine's host, 503 when
/// the registry is locked for too long; the node reports again then.
pub fn handle(call: &InternalCall<'_>) -> Result<Reply, Refusal> {
    let report: Report = serde_json::from_slice(&call.request.body)
        .map_err(|error| Refusal::bad_request(format!("This is not a report: {error}.")))?;
    let mut registry = Registry::open(&call.config.general.registry_file)?;
    let known = registry.read(|reader| reader.vm(report.id))?;
    let from = call.request.from();
    let Some(vm) = known else {
        log::event(Level::Warning, "unknown-machine", &[("machine", &report.id), ("from", &from)]);
        return Reply::json(200, &StatusReply { verdict: Verdict::Abandon });
    };
    // Outside of any transaction: it may ask the DNS.
    if !call.request.remote.is_some_and(|sender| address::belongs_to(sender, vm.physical_host.as_str())) {
        return Err(Refusal::forbidden(format!(
            "Refused: machine {} is on {}, and {from} is not its address.",
            vm.id, vm.physical_host
        )));
    }
    let actor = Actor { who: format!("host {}", vm.physical_host), from };
    let outcome = registry.write(|writer| take(writer, &report, &actor))?;
    if let Some((what, detail)) = &outcome.news {
        log::event(
            Level::Info,
            "report",
            &[
                ("host", &vm.physical_host),
                ("from", &actor.from),
                ("machine", &vm.id),
                ("owner", &vm.owner.as_str()),
                ("name", &vm.virtual_host),
                ("what", what),
                ("detail", detail),
            ],
        );
    }
    Reply::json(200, &StatusReply { verdict: outcome.verdict })
}

/// Makes of a report what it means for the machine as it is now, within a transaction.
fn take(writer: &Writer<'_>, report: &Report, actor: &Actor) -> Result<Outcome, RegistryError> {
    let now = clock::now();
    let Some(vm) = writer.vm(report.id)? else {
        return Ok(Outcome { verdict: Verdict::Abandon, news: None });
    };
    if let Some(facts) = &report.host {
        writer.keep_facts(&vm.physical_host, facts, now)?;
    }
    let outcome = judge(&vm, report);
    let Judged { verdict, event, on_node, news } = outcome;
    let Some(event) = event else {
        if on_node == Some(OnNode::No) {
            writer.not_on_node(vm.id)?;
        }
        if let Some((what, detail)) = &news {
            writer.record(vm.id, now, actor, what, detail)?;
        }
        return Ok(Outcome { verdict, news });
    };
    let changed = writer.advance(&vm, event, now, |vm| {
        vm.sequence = report.sequence;
        vm.on_node = on_node.unwrap_or(vm.on_node);
        match &report.news {
            News::Progress { stage, percent } => {
                vm.stage = Some(*stage);
                vm.percent = *percent;
            }
            News::Deployed | News::Terminated => {
                vm.stage = None;
                vm.percent = None;
                vm.fault = None;
            }
            News::DeployFailed { fault } | News::TerminateFailed { fault } => {
                vm.percent = None;
                vm.fault = Some(fault.clone());
            }
        }
    })?;
    let news = news.filter(|_| changed.is_some());
    if let Some((what, detail)) = &news {
        writer.record(vm.id, now, actor, what, detail)?;
    }
    Ok(Outcome { verdict, news })
}

/// What a report means.
struct Judged {
    verdict: Verdict,
    /// What happens to the machine.
    event: Option<Event>,
    /// What is known about its host now.
    on_node: Option<OnNode>,
    /// A line for its history.
    news: Option<(&'static str, String)>,
}

/// Judges a report by the machine as it is now. Reports may be late, repeated, or about an order that was
/// given up: a machine that counts as failed or gone must not come to life behind its owner's back, so the
/// node is told to undo it.
fn judge(vm: &Vm, report: &Report) -> Judged {
    let nothing = |verdict| Judged { verdict, event: None, on_node: None, news: None };
    let about = match report.news {
        News::Progress { .. } | News::Deployed | News::DeployFailed { .. } => Order::Deploy,
        News::Terminated | News::TerminateFailed { .. } => Order::Terminate,
    };
    let lives = matches!(report.news, News::Progress { .. } | News::Deployed);
    if !vm.state.is_live() {
        let ended = matches!(report.news, News::Terminated | News::DeployFailed { .. });
        return nothing(if ended { Verdict::Continue } else { Verdict::Abandon });
    }
    if vm.state == State::Failed && lives {
        return Judged {
            news: Some(("told to undo it", "it reported work on a machine that counts as failed".to_owned())),
            ..nothing(Verdict::Abandon)
        };
    }
    if about == vm.order && report.sequence < vm.sequence {
        return nothing(Verdict::Continue);
    }
    let happens = |event, on_node, what, detail| Judged {
        verdict: Verdict::Continue,
        event: Some(event),
        on_node: Some(on_node),
        news: Some((what, detail)),
    };
    match (&report.news, vm.state) {
        (News::Progress { stage, .. }, State::Deploying) => Judged {
            // The percentage alone is no news.
            news: (vm.stage != Some(*stage)).then(|| ("stage", stage.to_string())),
            ..happens(Event::Progress, OnNode::Maybe, "", String::new())
        },
        (News::Deployed, State::Deploying) => {
            happens(Event::Deployed, OnNode::Maybe, "deployed", "it runs".to_owned())
        }
        (News::DeployFailed { fault }, State::Deploying) => {
            happens(Event::Failed, OnNode::No, "deploy failed", fault.to_string())
        }
        (News::Terminated, State::Terminating) => {
            happens(Event::Terminated, OnNode::No, "terminated", "nothing of it is left".to_owned())
        }
        // The server had given up waiting for the answer, but the node had the order.
        (News::Terminated, State::Failed) if vm.order == Order::Terminate => {
            happens(Event::Forget, OnNode::No, "terminated", "nothing of it is left".to_owned())
        }
        (News::TerminateFailed { fault }, State::Terminating) => {
            happens(Event::Failed, OnNode::Maybe, "terminate failed", fault.to_string())
        }
        // Undone by the node after all; the reason for which the deploy counts as failed stays.
        (News::Terminated | News::DeployFailed { .. }, State::Failed) if vm.on_node == OnNode::Maybe => {
            Judged {
                on_node: Some(OnNode::No),
                news: Some(("removed by its host", "nothing of it is left there".to_owned())),
                ..nothing(Verdict::Continue)
            }
        }
        _ => nothing(Verdict::Continue),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::fault::Fault;
    use crate::model::stage::{DeployStage, Percent};
    use crate::server::registry::vm::tests::entered;

    struct Ground {
        _dir: tempfile::TempDir,
        registry: Registry,
        vm: Vm,
    }

    impl Ground {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let mut registry = Registry::open(&dir.path().join("registry.sqlite")).unwrap();
            let vm = entered(&mut registry, "alice", "node1", "vm1");
            Self { _dir: dir, registry, vm }
        }

        fn report(&mut self, sequence: u32, news: News) -> Verdict {
            let report = Report { id: self.vm.id, sequence, news, host: None };
            let actor = Actor { who: "host node1".to_owned(), from: "192.0.2.1".to_owned() };
            let outcome = self.registry.write(|writer| take(writer, &report, &actor)).unwrap();
            self.vm = self.registry.read(|reader| reader.vm(report.id)).unwrap().unwrap();
            outcome.verdict
        }

        fn happens(&mut self, event: Event, order: Order) {
            let done: Result<_, RegistryError> = self.registry.write(|writer| {
                writer.advance(&self.vm, event, clock::now(), |vm| {
                    vm.order = order;
                    vm.sequence = 0;
                })
            });
            self.vm = done.unwrap().unwrap();
        }

        fn history(&self) -> Vec<String> {
            let events = self.registry.read(|reader| reader.history(self.vm.id)).unwrap();
            events.into_iter().map(|event| event.what).collect()
        }
    }

    fn progress(stage: DeployStage, percent: u8) -> News {
        News::Progress { stage, percent: Percent::try_from(percent).ok() }
    }

    fn fault() -> Fault {
        Fault::StartFailed { detail: "x".to_owned() }
    }

    #[test]
    fn a_deploy_is_followed_to_its_end() {
        let mut ground = Ground::new();
        assert_eq!(ground.report(1, progress(DeployStage::Accepted, 0)), Verdict::Continue);
        assert_eq!(ground.report(2, progress(DeployStage::Unpack, 10)), Verdict::Continue);
        assert_eq!(ground.report(3, progress(DeployStage::Unpack, 90)), Verdict::Continue);
        assert_eq!(ground.vm.percent.map(u8::from), Some(90));
        assert_eq!(ground.report(4, News::Deployed), Verdict::Continue);
        assert_eq!((ground.vm.state, ground.vm.stage), (State::Deployed, None));
        assert_eq!(ground.history(), ["stage", "stage", "deployed"]);
    }

    #[test]
    fn late_and_repeated_reports_change_nothing() {
        let mut ground = Ground::new();
        ground.report(5, progress(DeployStage::Unpack, 50));
        assert_eq!(ground.report(4, progress(DeployStage::Volumes, 0)), Verdict::Continue);
        assert_eq!(ground.vm.stage, Some(DeployStage::Unpack));
        ground.report(6, News::Deployed);
        assert_eq!(ground.report(6, News::Deployed), Verdict::Continue);
        assert_eq!(ground.report(7, News::DeployFailed { fault: fault() }), Verdict::Continue);
        assert_eq!(ground.vm.state, State::Deployed);
        ground.happens(Event::Terminate, Order::Terminate);
        assert_eq!(ground.report(8, News::Deployed), Verdict::Continue);
        assert_eq!(ground.vm.state, State::Terminating);
        assert_eq!(ground.report(1, News::Terminated), Verdict::Continue);
        assert_eq!(ground.vm.state, State::NotDeployed);
        assert_eq!(ground.report(9, News::Deployed), Verdict::Abandon);
    }

    #[test]
    fn a_failed_deploy_leaves_nothing_and_keeps_its_reason() {
        let mut ground = Ground::new();
        ground.report(1, progress(DeployStage::Start, 0));
        ground.report(2, News::DeployFailed { fault: fault() });
        assert_eq!((ground.vm.state, ground.vm.on_node), (State::Failed, OnNode::No));
        assert_eq!(ground.vm.fault, Some(fault()));
        assert_eq!(ground.vm.stage, Some(DeployStage::Start), "how far it had come");
    }

    #[test]
    fn what_counts_as_failed_does_not_come_to_life() {
        let mut ground = Ground::new();
        ground.happens(Event::Failed, Order::Deploy);
        assert_eq!(ground.report(1, progress(DeployStage::Accepted, 0)), Verdict::Abandon);
        assert_eq!(ground.vm.on_node, OnNode::Maybe);
        assert_eq!(ground.report(2, News::DeployFailed { fault: fault() }), Verdict::Continue);
        assert_eq!((ground.vm.state, ground.vm.on_node), (State::Failed, OnNode::No));
    }

    #[test]
    fn a_terminate_that_was_given_up_may_still_succeed() {
        let mut ground = Ground::new();
        ground.report(1, News::Deployed);
        ground.happens(Event::Terminate, Order::Terminate);
        ground.report(1, News::TerminateFailed { fault: fault() });
        assert_eq!((ground.vm.state, ground.vm.on_node), (State::Failed, OnNode::Maybe));
        ground.report(2, News::Terminated);
        assert_eq!(ground.vm.state, State::NotDeployed);
    }

    #[test]
    fn an_unknown_machine_is_to_be_abandoned() {
        let mut ground = Ground::new();
        let report = Report {
            id: crate::model::names::VmId::generate(),
            sequence: 1,
            news: News::Deployed,
            host: None,
        };
        let actor = Actor { who: String::new(), from: String::new() };
        let outcome = ground.registry.write(|writer| take(writer, &report, &actor)).unwrap();
        assert_eq!(outcome.verdict, Verdict::Abandon);
    }
}
