//! Compares what a host has with what the registry says. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::fault::Fault;
use crate::model::lease::Moment;
use crate::model::names::VmId;
use crate::model::spec::Sizes;
use crate::model::state::State;
use crate::model::wire::{Job, NodeInfo, Part};
use crate::server::machine::leases;
use crate::server::registry::vm::{OnNode, Vm, Wanted};
use crate::server::upkeep::plan::{Action, Step};

/// How long a machine must not have changed before the host's view outweighs the registry's, in
/// seconds: an order may still be on its way.
const QUIET: i64 = 120;

/// Plans what to do about the machines that should be on a host.
pub fn machines(vms: &[&Vm], info: &NodeInfo, now: Moment) -> Vec<Step> {
    let view = View::new(info);
    let mut steps = Vec::new();
    for vm in vms {
        if let Some(action) = machine(vm, &view, now) {
            steps.push(Step { vm: (*vm).clone(), action });
        }
    }
    steps
}

/// A host's answer, indexed. `None` is what it could not find out: what is not in an empty list may
/// still be there.
struct View<'a> {
    jobs: BTreeMap<VmId, &'a Job>,
    volumes: Option<BTreeSet<VmId>>,
    domains: Option<BTreeSet<&'a str>>,
    /// The names of the machines that it has records of.
    recorded: BTreeSet<&'a str>,
}

impl<'a> View<'a> {
    fn new(info: &'a NodeInfo) -> Self {
        let volumes = || info.volumes.iter().filter_map(|volume| volume.machine).collect();
        let domains = || info.domains.iter().map(|domain| domain.name.as_str()).collect();
        Self {
            jobs: info.jobs.iter().map(|job| (job.id, job)).collect(),
            volumes: info.knows(Part::Volumes).then(volumes),
            domains: info.knows(Part::Domains).then(domains),
            recorded: info.jobs.iter().map(|job| job.machine.as_str()).collect(),
        }
    }

    /// Returns whether a machine runs. A domain with its name belongs to another machine if the
    /// host has a record with that name and none of this machine: the owner has made a new machine
    /// with the old name, which a restored registry does not know.
    fn runs(&self, vm: &Vm, name: &str) -> Option<bool> {
        let is_its = self.jobs.contains_key(&vm.id) || !self.recorded.contains(name);
        self.domains.as_ref().map(|domains| domains.contains(name) && is_its)
    }
}

fn machine(vm: &Vm, view: &View<'_>, now: Moment) -> Option<Action> {
    let job = view.jobs.get(&vm.id);
    // Whether the host has a record of it and is not working on it.
    let idle = job.is_some_and(|job| job.work.is_none());
    // An idle job means that the deploy succeeded. The report may have gone to the registry as it
    // was before a restore.
    let is_quiet = !(-QUIET..QUIET).contains(&now.since(vm.changed));
    if vm.state == State::Deploying && idle && is_quiet {
        return Some(Action::FoundRunning);
    }
    if let Some(deadline) = vm.deadline
        && deadline <= now
    {
        let fault = Fault::TimedOut { what: format!("the order to {}", vm.order), seconds: waited(vm, now) };
        return Some(Action::GiveUp { fault, on_node: OnNode::Maybe });
    }
    // An order may still be on its way. A change far in the future does not count: the clock has
    // been set back.
    if !is_quiet {
        return None;
    }
    let name = vm.machine_name().ok()?;
    let runs = view.runs(vm, name.as_str());
    let has_disk = view.volumes.as_ref().map(|volumes| volumes.contains(&vm.id));
    let there = job.is_some() || runs == Some(true) || has_disk == Some(true);
    let gone = job.is_none() && runs == Some(false) && has_disk == Some(false);
    let at_work = job.is_some_and(|job| job.work == Some(vm.order));
    match vm.state {
        State::Deploying | State::Saving if job.is_none() => {
            let fault = match vm.state {
                State::Saving => Fault::SaveInterrupted,
                _ => Fault::Interrupted { stage: vm.stage },
            };
            Some(Action::GiveUp { fault, on_node: if gone { OnNode::No } else { OnNode::Maybe } })
        }
        State::Terminating if gone => Some(Action::Gone),
        // The record shows no work on this order: the order never arrived, or its last report was
        // lost and will be repeated.
        State::Stopping
        | State::Starting
        | State::Rebooting
        | State::Saving
        | State::Resizing
        | State::Terminating
            if !at_work && there =>
        {
            Some(Action::Again)
        }
        State::Deployed | State::Stopped | State::Expired if gone => {
            (!vm.is_missing()).then_some(Action::Missing)
        }
        State::Deployed | State::Stopped | State::Expired if vm.is_missing() && there => {
            Some(Action::FoundAgain)
        }
        State::Deployed | State::Stopped | State::Expired if other_sizes(vm, job).is_some() => {
            other_sizes(vm, job).map(Action::FoundSizes)
        }
        State::Deployed if idle && runs == Some(false) => Some(Action::FoundStopped),
        State::Stopped if idle && runs == Some(true) => Some(Action::FoundRunning),
        State::Stopped
            if idle && runs == Some(false) && vm.wanted == Wanted::Running && !leases::is_over(vm, now) =>
        {
            Some(Action::Resume)
        }
        State::Failed if gone && vm.on_node == OnNode::Maybe => Some(Action::NothingThere),
        _ => None,
    }
}

/// Returns the sizes that a machine has on its host, which is not at work on it, if the registry has
/// others, or does not know whether it has been given others.
fn other_sizes(vm: &Vm, job: Option<&&Job>) -> Option<Sizes> {
    let job = job.filter(|job| job.work.is_none())?;
    let there = job.order.as_ref()?.spec.sizes();
    (there != vm.spec.sizes() || vm.resizing.is_some()).then_some(there)
}

/// Returns how long a machine has been in transition, in seconds.
fn waited(vm: &Vm, now: Moment) -> u64 {
    u64::try_from(now.since(vm.changed)).unwrap_or_default()
}

/// Plans what to do about machines in transition on a host that can't be queried.
pub fn unreachable(vms: &[&Vm], fault: &Fault, now: Moment) -> Vec<Step> {
    let late = |vm: &&&Vm| vm.deadline.is_some_and(|deadline| deadline <= now);
    let action = || Action::GiveUp { fault: fault.clone(), on_node: OnNode::Maybe };
    vms.iter().filter(late).map(|vm| Step { vm: (*vm).clone(), action: action() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::stage::Order;
    use crate::model::state::Event;
    use crate::model::wire::DeployOrder;
    use crate::server::orphans::find::tests::{domain, info};
    use crate::server::registry::vm::tests::entered;
    use crate::server::registry::{Registry, RegistryError};

    const NOW: Moment = Moment::from_unix(1_000_000);

    fn vm(state: State) -> Vm {
        let dir = tempfile::tempdir().unwrap();
        let mut registry = Registry::create(&dir.path().join("registry.sqlite")).unwrap();
        let vm = entered(&mut registry, "alice", "node1", "vm1");
        let long_ago = NOW.plus_seconds(-QUIET);
        let events: &[Event] = match state {
            State::Deploying => &[],
            State::Deployed => &[Event::Deployed],
            State::Stopping => &[Event::Deployed, Event::Stop],
            State::Stopped => &[Event::Deployed, Event::Stopped],
            State::Starting => &[Event::Deployed, Event::Stopped, Event::Start],
            State::Rebooting => &[Event::Deployed, Event::Reboot],
            State::Saving => &[Event::Deployed, Event::Save],
            State::Resizing => &[Event::Deployed, Event::Stopped, Event::Resize],
            State::Expired => &[Event::Deployed, Event::Stopped, Event::Expire],
            State::Terminating => &[Event::Terminate],
            State::Failed => &[Event::Failed],
            State::NotDeployed => &[Event::Forget],
        };
        let order = match state {
            State::Stopping => Order::Stop,
            State::Starting => Order::Start,
            State::Rebooting => Order::Reboot,
            State::Saving => Order::Save,
            State::Resizing => Order::Resize,
            State::Terminating => Order::Terminate,
            _ => Order::Deploy,
        };
        let done: Result<Vm, RegistryError> = registry.write_at(long_ago, |writer| {
            events.iter().try_fold(vm, |vm, event| {
                Ok(writer.advance(&vm, *event, |vm| vm.order = order)?.expect("an event for its state"))
            })
        });
        // It was recorded long before.
        Vm { deadline: done.as_ref().unwrap().deadline.map(|_| NOW.plus_seconds(9)), ..done.unwrap() }
    }

    fn job(vm: &Vm, work: Option<Order>) -> Job {
        let (id, machine, number) = (vm.id, vm.machine_name().unwrap(), vm.number);
        Job { id, machine, work, stage: None, stopped: false, since: NOW, number, order: None }
    }

    fn judged(vm: &Vm, info: &NodeInfo) -> Option<Action> {
        machines(&[vm], info, NOW).pop().map(|step| step.action)
    }

    #[test]
    fn what_a_host_says_as_the_server_does_needs_nothing() {
        for (state, work, runs) in [
            (State::Deploying, Some(Order::Deploy), false),
            (State::Deployed, None, true),
            (State::Stopping, Some(Order::Stop), true),
            (State::Starting, Some(Order::Start), true),
            (State::Rebooting, Some(Order::Reboot), false),
            (State::Saving, Some(Order::Save), false),
            (State::Resizing, Some(Order::Resize), false),
            (State::Expired, None, false),
            (State::Terminating, Some(Order::Terminate), false),
        ] {
            let vm = vm(state);
            let mut info = info();
            info.jobs.push(job(&vm, work));
            if runs {
                info.domains.push(domain("alice_vm1"));
            }
            assert_eq!(judged(&vm, &info), None, "{state}");
        }
    }

    #[test]
    fn every_live_state_has_an_end_when_its_host_knows_nothing() {
        for state in State::ALL.into_iter().filter(|state| state.is_live()) {
            let vm = vm(state);
            let action = judged(&vm, &info());
            let expected = match state {
                State::Deploying | State::Saving => {
                    assert!(
                        matches!(action, Some(Action::GiveUp { on_node: OnNode::No, .. })),
                        "{state}: {action:?}"
                    );
                    continue;
                }
                State::Terminating => Some(Action::Gone),
                State::Failed => Some(Action::NothingThere),
                State::Deployed | State::Stopped | State::Expired => Some(Action::Missing),
                // The deadline ends it.
                State::Stopping | State::Starting | State::Rebooting | State::Resizing => None,
                State::NotDeployed => unreachable!(),
            };
            assert_eq!(action, expected, "{state}");
            if state.is_transitional() {
                let late = Vm { deadline: Some(NOW), ..vm };
                assert!(matches!(judged(&late, &info()), Some(Action::GiveUp { .. })), "{state}");
            }
        }
    }

    #[test]
    fn a_machine_that_was_deployed_while_nobody_remembers_is_deployed() {
        let vm = vm(State::Deploying);
        let mut told = info();
        told.jobs.push(job(&vm, None));
        for deadline in [vm.deadline, Some(NOW)] {
            assert_eq!(judged(&Vm { deadline, ..vm.clone() }, &told), Some(Action::FoundRunning));
        }
    }

    #[test]
    fn a_host_that_lost_an_order_gets_it_again() {
        for state in [
            State::Stopping,
            State::Starting,
            State::Rebooting,
            State::Saving,
            State::Resizing,
            State::Terminating,
        ] {
            let vm = vm(state);
            let mut info = info();
            info.jobs.push(job(&vm, None));
            assert_eq!(judged(&vm, &info), Some(Action::Again), "{state}");
            for moment in [NOW, NOW.plus_seconds(5)] {
                let fresh = Vm { changed: moment, ..vm.clone() };
                assert_eq!(judged(&fresh, &info), None, "{state}: it may be on its way");
            }
        }
    }

    #[test]
    fn what_runs_runs_and_what_is_stopped_is_stopped() {
        let running = vm(State::Deployed);
        let mut told = info();
        told.jobs.push(job(&running, None));
        assert_eq!(judged(&running, &told), Some(Action::FoundStopped));
        // For instance after saving its disk was given up.
        let stopped = vm(State::Stopped);
        let mut told = info();
        told.jobs.push(job(&stopped, None));
        assert_eq!(judged(&stopped, &told), Some(Action::Resume));
        let over = Vm { expires: Some(NOW), ..stopped.clone() };
        assert_eq!(judged(&over, &told), None, "its lease is");
        let wanted = Vm { wanted: Wanted::Stopped, ..stopped.clone() };
        assert_eq!(judged(&wanted, &told), None);
        let mut told = info();
        told.jobs.push(job(&stopped, None));
        told.domains.push(domain("alice_vm1"));
        assert_eq!(judged(&stopped, &told), Some(Action::FoundRunning));
        let machine = running.machine_name().unwrap();
        let missing = Vm { fault: Some(Fault::MachineMissing { machine }), ..running };
        assert_eq!(judged(&missing, &info()), None, "it is known");
        told.jobs = vec![job(&missing, None)];
        assert_eq!(judged(&missing, &told), Some(Action::FoundAgain));
    }

    #[test]
    fn a_machine_has_the_sizes_that_it_has_on_its_host() {
        let with = |vm: &Vm, sizes: Sizes, work: Option<Order>| {
            let order = DeployOrder {
                id: vm.id,
                number: vm.number,
                user: vm.owner.user_name().clone(),
                physical_host: vm.physical_host.clone(),
                virtual_host: vm.virtual_host.clone(),
                spec: vm.spec.clone().with(sizes),
            };
            let mut told = info();
            told.jobs.push(Job { order: Some(order), ..job(vm, work) });
            if vm.state == State::Deployed {
                told.domains.push(domain("alice_vm1"));
            }
            told
        };
        for state in [State::Stopped, State::Deployed, State::Expired] {
            let vm = Vm { wanted: Wanted::Stopped, ..vm(state) };
            let old = vm.spec.sizes();
            let new = Sizes { disk: "5".parse().unwrap(), ..old };
            assert_eq!(judged(&vm, &with(&vm, old, None)), None, "{state}");
            assert_eq!(judged(&vm, &with(&vm, new, None)), Some(Action::FoundSizes(new)), "{state}");
            // The portal has given up a change, and its host knows what became of it.
            let open = Vm { resizing: Some(new), ..vm };
            for sizes in [old, new] {
                let found = judged(&open, &with(&open, sizes, None));
                assert_eq!(found, Some(Action::FoundSizes(sizes)), "{state}");
            }
            let at_work = judged(&open, &with(&open, old, Some(Order::Resize)));
            assert_eq!(at_work, None, "{state}: its host does not know yet");
        }
    }

    #[test]
    fn a_machine_whose_name_another_has_taken_is_missing() {
        let old = vm(State::Deployed);
        let mut told = info();
        told.domains.push(domain("alice_vm1"));
        assert_eq!(judged(&old, &told), None, "whose it is nobody says");
        let new = vm(State::Deployed);
        told.jobs.push(job(&new, None));
        assert_eq!(judged(&old, &told), Some(Action::Missing));
        assert_eq!(judged(&new, &told), None);
        // The record of a removal may outlive the machine.
        told.jobs.push(job(&old, Some(Order::Terminate)));
        assert_eq!(judged(&new, &told), None);
    }

    #[test]
    fn what_a_host_can_not_find_out_is_not_taken_for_gone() {
        for state in State::ALL.into_iter().filter(|state| state.is_live()) {
            let vm = vm(state);
            for unknown in [vec![Part::Domains], vec![Part::Volumes], vec![Part::Domains, Part::Volumes]] {
                let told = NodeInfo { unknown: unknown.clone(), ..info() };
                match judged(&vm, &told) {
                    None => {}
                    Some(Action::GiveUp { on_node: OnNode::Maybe, .. }) => {
                        assert!(matches!(state, State::Deploying | State::Saving), "{state} {unknown:?}");
                    }
                    action => panic!("{state} {unknown:?}: {action:?}"),
                }
            }
            // With a record, and a toolstack that does not answer: whether it runs is unknown.
            let mut told = NodeInfo { unknown: vec![Part::Domains], ..info() };
            told.jobs.push(job(&vm, None));
            if !state.is_transitional() && state != State::Failed {
                assert_eq!(judged(&vm, &told), None, "{state}");
            }
        }
        let machine = vm(State::Deployed).machine_name().unwrap();
        let missing = Vm { fault: Some(Fault::MachineMissing { machine }), ..vm(State::Deployed) };
        let told = NodeInfo { unknown: vec![Part::Volumes], ..info() };
        assert_eq!(judged(&missing, &told), None, "nobody has seen it again");
    }
}
