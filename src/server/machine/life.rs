//! The life cycle of machines. Pure: from a machine and an event it computes a [`Change`], which
//! the registry applies. This is the only place that decides what accompanies a state: stage,
//! fault, order, what the owner wants, what is kept.

use super::leases;
use crate::model::fault::Fault;
use crate::model::lease::{Lease, Term};
use crate::model::names::PhysicalHost;
use crate::model::spec::Sizes;
use crate::model::stage::{Order, OrderNumber};
use crate::model::state::{self, Event, State};
use crate::model::wire::{News, Report};
use crate::server::registry::At;
use crate::server::registry::vm::{Change, OnNode, Placed, Saving, Vm, Wanted};

/// On whose behalf an order is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// The owner's: the order sets what they want from now on.
    Owner,
    /// The portal's: what the owner wants stays unchanged.
    Portal,
    /// The portal's, after a failure: what the owner wants and the fault stay unchanged, so that
    /// the owner can still read what went wrong.
    Recovery,
}

/// Returns the event that an order causes; `None` for a deploy, which creates the machine.
pub fn event(order: Order) -> Option<Event> {
    match order {
        Order::Deploy => None,
        Order::Terminate => Some(Event::Terminate),
        Order::Stop => Some(Event::Stop),
        Order::Start => Some(Event::Start),
        Order::Reboot => Some(Event::Reboot),
        Order::Save => Some(Event::Save),
        Order::Resize => Some(Event::Resize),
    }
}

/// Returns what an order reveals about the state the owner wants from now on, if anything.
fn wanted(order: Order) -> Option<Wanted> {
    match order {
        Order::Start | Order::Reboot => Some(Wanted::Running),
        // A machine that is given other sizes is stopped, and must not be started behind its owner's back.
        Order::Stop | Order::Resize => Some(Wanted::Stopped),
        Order::Deploy | Order::Terminate | Order::Save => None,
    }
}

/// Returns what the owner counts as wanting after an order fails: the state the machine is then in,
/// so that nothing is retried behind their back.
fn wanted_after_failure(order: Order, becomes: Option<State>) -> Option<Wanted> {
    match (order, becomes?) {
        (Order::Start | Order::Stop | Order::Reboot, State::Deployed) => Some(Wanted::Running),
        (Order::Start | Order::Stop | Order::Reboot, State::Stopped) => Some(Wanted::Stopped),
        _ => None,
    }
}

/// Returns the machine after an event and `edit`; `None` if the event is not valid in its state.
fn after(vm: &Vm, event: Event, at: At, edit: impl FnOnce(&mut Vm)) -> Option<Vm> {
    let mut new = vm.clone();
    edit(&mut new);
    new.after(event, at.moment)
}

/// Returns the machine after `edit`, in the same state as before.
fn beside(vm: &Vm, edit: impl FnOnce(&mut Vm)) -> Vm {
    let mut new = vm.clone();
    edit(&mut new);
    new
}

// ----- orders -----

/// An order about an existing machine, to be sent to its host ([`Change::next`]). `None` if the
/// machine's state does not allow it. `saving` accompanies an order to save the disk.
pub fn ordered(vm: &Vm, order: Order, interest: Interest, saving: Option<Saving>, at: At) -> Option<Change> {
    let again = is_again(vm, order);
    if order == Order::Resize && vm.resizing.is_none() {
        return None;
    }
    let given = after(vm, event(order)?, at, |vm| {
        give(vm, order, again, at);
        if interest == Interest::Owner {
            vm.wanted = wanted(order).unwrap_or(vm.wanted);
        }
        if order == Order::Save && vm.state == State::Stopped {
            // A stopped machine must not be started after the save.
            vm.wanted = Wanted::Stopped;
        }
        vm.saving = saving.or(vm.saving.take());
        if interest != Interest::Recovery {
            vm.fault = None;
        }
    })?;
    let detail = if again { "again" } else { "" };
    Some(Change { next: Some(order), ..Change::with(given, format!("{order} ordered"), detail) })
}

/// An order to give a stopped machine these sizes, to be sent to its host ([`Change::next`]). `None`
/// if the machine's state does not allow it.
pub fn resize_ordered(vm: &Vm, sizes: Sizes, at: At) -> Option<Change> {
    let told = vm.spec.sizes().changed_to(sizes);
    let with = beside(vm, |vm| vm.resizing = Some(sizes));
    let mut change = ordered(&with, Order::Resize, Interest::Owner, None, at)?;
    if !is_again(vm, Order::Resize) {
        change.history = vec![(format!("{} ordered", Order::Resize), told)];
    }
    Some(change)
}

/// An order about a snapshot of a machine's disk, which its host carries out at once. The machine is
/// what it was. Later orders have higher numbers, so an order that arrives late changes nothing.
pub fn snapshot_ordered(vm: &Vm, at: At) -> Change {
    Change::silent(beside(vm, |vm| vm.number = vm.number.next(at.millis)))
}

/// Returns whether this order is already under way, so that giving it again repeats it.
fn is_again(vm: &Vm, order: Order) -> bool {
    vm.order == order && vm.state.is_transitional()
}

fn give(vm: &mut Vm, order: Order, again: bool, at: At) {
    vm.order = order;
    // A repeated order keeps its number, so its node carries it out only once.
    if !again {
        vm.number = vm.number.next(at.millis);
    }
    vm.sequence = 0;
    vm.stage = None;
    vm.percent = None;
    // A repeated save still concerns the same image.
    vm.saving = vm.saving.take().filter(|_| order == Order::Save);
}

/// Returns a machine to its earlier state: it was stopped because its lease ended, but the lease
/// has not ended after all.
pub fn brought_back(vm: &Vm, at: At) -> Option<Change> {
    let (what, detail) = ("lease not over", "the clock was wrong when it ended");
    if vm.wanted == Wanted::Stopped {
        let stopped = after(vm, Event::Stopped, at, |vm| vm.deletion = None)?;
        return Some(Change::with(stopped, what, detail));
    }
    let back = beside(vm, |vm| vm.deletion = None);
    let started = ordered(&back, Order::Start, Interest::Portal, None, at)?;
    Some(Change::with(back, what, detail).and(|_| Some(started)))
}

/// The node did not accept an order. The machine moves to the state that the table of states gives,
/// unless it has received another order in the meantime, which then takes precedence.
pub fn refused(vm: &Vm, order: Order, fault: &Fault, taken: OnNode, at: At) -> Change {
    let line = (format!("{order} failed"), fault.to_string());
    let failed = (vm.order == order).then(|| {
        let event = undone(vm, order);
        after(vm, event, at, |vm| {
            came_to_nothing(vm, order, event, fault);
            // For any other order the machine exists on its node whether or not the order was
            // accepted.
            if order == Order::Deploy {
                vm.on_node = taken;
            }
            // A node can't save what it was never ordered to save. If it may have the order, the
            // name is kept for a late report.
            vm.saving = vm.saving.take().filter(|_| taken == OnNode::Maybe);
            vm.resizing = vm.resizing.take().filter(|_| order != Order::Resize || taken == OnNode::Maybe);
        })
    });
    let Some(failed) = failed.flatten() else { return Change::with(vm.clone(), line.0, line.1) };
    // A disk that was in its grace period before the save is in it again.
    let expires = order == Order::Save && failed.deletion.is_some();
    let failed = if expires { after(&failed, Event::Expire, at, |_| {}).unwrap_or(failed) } else { failed };
    Change::with(failed, line.0, line.1)
}

/// Returns the event for a machine whose node did not accept an order. A disk can be saved from a
/// running or a stopped machine; what the owner wants and the deletion date show which it was.
fn undone(vm: &Vm, order: Order) -> Event {
    let ran = vm.wanted == Wanted::Running && vm.deletion.is_none();
    if order == Order::Save && ran { Event::Deployed } else { Event::Failed }
}

/// Records what every failed order leaves behind.
fn came_to_nothing(vm: &mut Vm, order: Order, event: Event, fault: &Fault) {
    vm.fault = Some(fault.clone());
    vm.wanted = wanted_after_failure(order, state::next(vm.state, event)).unwrap_or(vm.wanted);
}

/// The portal stops waiting for the last order.
pub fn given_up(vm: &Vm, fault: &Fault, on_node: OnNode, at: At) -> Option<Change> {
    let order = vm.order;
    let failed = after(vm, Event::Failed, at, |vm| {
        came_to_nothing(vm, order, Event::Failed, fault);
        vm.on_node = on_node;
    })?;
    Some(Change::with(failed, format!("{order} failed"), fault.to_string()))
}

/// Gives a machine being deployed, of which nothing exists on its host, to another host. This is a
/// new order, with a number of its own.
pub fn moved(vm: &Vm, host: &PhysicalHost, fault: &Fault, at: At) -> Option<Change> {
    if vm.state != State::Deploying {
        return None;
    }
    let mut new = after(vm, Event::Progress, at, |vm| {
        give(vm, Order::Deploy, false, at);
        vm.physical_host = host.clone();
        vm.placed = Placed::Again;
        vm.place = None;
    })?;
    // The new host gets as much time as the first one had.
    new.changed = at.moment;
    let detail = format!("{}: {fault} It is tried on {host} instead.", vm.physical_host);
    Some(Change::with(new, "moved to another host", detail))
}

/// Removes a machine without telling its host: by force, or because nothing of it is there.
pub fn forgotten(vm: &Vm, why: &str, at: At) -> Option<Change> {
    let gone = after(vm, Event::Forget, at, |vm| vm.order = Order::Terminate)?;
    Some(Change::with(gone, "removed", why))
}

/// Turns a machine that was just recorded into one that already exists on its host.
pub fn adopted(vm: &Vm, number: OrderNumber, runs: bool, at: At) -> Option<Change> {
    let mut adopted = after(vm, Event::Deployed, at, |vm| vm.number = number)?;
    if !runs {
        adopted = after(&adopted, Event::Stopped, at, |vm| vm.wanted = Wanted::Stopped)?;
    }
    Some(Change::with(adopted, "adopted", format!("it was unknown on {}", vm.physical_host)))
}

// ----- leases -----

/// The lease of a stopped machine has ended: its disk is kept for at least the grace period.
pub fn expired(vm: &Vm, grace: Lease, at: At) -> Option<Change> {
    // A deletion date, once given, holds: saving the disk, for example, does not postpone it.
    let deletion = vm.deletion.unwrap_or_else(|| at.moment.plus_seconds(grace.seconds()));
    let expired = after(vm, Event::Expire, at, |vm| vm.deletion = Some(deletion))?;
    let detail = format!("it is stopped; its disk is kept until {deletion} at least");
    Some(Change::with(expired, "lease ended", detail))
}

/// Protects a machine against being terminated by hand, or ends the protection. `None` if nothing
/// changes.
pub fn protected(vm: &Vm, protected: bool) -> Option<Change> {
    let what = if protected { "protected" } else { "no longer protected" };
    let change =
        || Change::with(beside(vm, |vm| vm.protected = protected), what, "against being terminated by hand");
    (protected != vm.protected).then(change)
}

/// Sets a new lease, from now. An expired machine returns to its earlier state: stopped, or started
/// by an order to its host ([`Change::next`]).
pub fn extended(vm: &Vm, term: Term, at: At) -> Change {
    let end = term.end(at.moment);
    let told = end.map_or_else(|| "it never ends".to_owned(), |end| format!("it ends {end}"));
    let set = beside(vm, |vm| {
        vm.lease = term;
        vm.expires = end;
        vm.deletion = None;
    });
    Change::with(set, "lease set", format!("{term}; {told}")).and(|vm| match (vm.state, vm.wanted) {
        (State::Expired, Wanted::Stopped) => after(vm, Event::Stopped, at, |_| {}).map(Change::silent),
        (State::Expired, Wanted::Running) => ordered(vm, Order::Start, Interest::Owner, None, at),
        _ => None,
    })
}

/// Moves the earliest deletion date of a machine's disk to one grace period from now.
pub fn kept_for(vm: &Vm, grace: Lease, at: At) -> Change {
    let deletion = at.moment.plus_seconds(grace.seconds());
    Change::silent(beside(vm, |vm| vm.deletion = Some(deletion)))
}

// ----- what hosts are found to have -----

/// A machine should be on its host but is not. `None` if it has no valid name on a host.
pub fn missing(vm: &Vm) -> Option<Change> {
    let machine = vm.machine_name().ok()?;
    let missing = beside(vm, |vm| vm.fault = Some(Fault::MachineMissing { machine }));
    Some(Change::with(missing, "missing", "its host has no such machine any more"))
}

/// A missing machine is back.
pub fn found_again(vm: &Vm) -> Change {
    Change::with(beside(vm, |vm| vm.fault = None), "found again", "its host has it")
}

/// A machine is stopped although the registry has it as running.
pub fn found_stopped(vm: &Vm, at: At) -> Option<Change> {
    let stopped = after(vm, Event::Stopped, at, |vm| vm.wanted = Wanted::Stopped)?;
    Some(Change::with(stopped, "found stopped", "it does not run on its host"))
}

/// A machine runs although the registry has it as stopped.
pub fn found_running(vm: &Vm, at: At) -> Option<Change> {
    let running = after(vm, Event::Deployed, at, |vm| {
        vm.wanted = Wanted::Running;
        vm.fault = None;
    })?;
    Some(Change::with(running, "found running", "it runs on its host"))
}

/// Its host says which sizes a machine has.
pub fn found_sizes(vm: &Vm, sizes: Sizes) -> Change {
    let told = vm.spec.sizes().changed_to(sizes);
    let found = beside(vm, |vm| {
        vm.spec = vm.spec.clone().with(sizes);
        vm.resizing = None;
    });
    if told.is_empty() { Change::silent(found) } else { Change::with(found, "found resized", told) }
}

/// A machine that was being removed is gone from its host.
pub fn found_gone(vm: &Vm, at: At) -> Option<Change> {
    let gone = after(vm, Event::Terminated, at, |vm| vm.on_node = OnNode::No)?;
    Some(Change::with(gone, "terminated", "nothing of it is left"))
}

/// Nothing of a machine is on its host, whatever its state.
pub fn not_there(vm: &Vm) -> Change {
    Change::silent(beside(vm, |vm| vm.on_node = OnNode::No))
}

/// A machine has failed to answer `times` pings in a row.
pub fn silent(vm: &Vm, times: u32) -> Change {
    Change::silent(beside(vm, |vm| vm.silent = times))
}

// ----- reports -----

/// Applies a node's report, without anything that follows from it.
pub fn reported(vm: &Vm, report: &Report, event: Event, on_node: Option<OnNode>, at: At) -> Option<Vm> {
    after(vm, event, at, |vm| {
        vm.sequence = report.sequence;
        vm.on_node = on_node.unwrap_or(vm.on_node);
        match &report.news {
            News::Progress { stage, percent, place } => {
                vm.stage = Some(*stage);
                vm.percent = *percent;
                vm.place = place.filter(|place| *place > 0 && stage.may_wait());
            }
            News::Done | News::Saved { .. } => {
                vm.stage = None;
                vm.percent = None;
                // A machine that is restarted because saving its disk failed keeps the fault for
                // its owner to read.
                vm.fault = vm.fault.take().filter(|_| vm.state == State::Starting);
                vm.saving = None;
                settle_sizes(vm, report);
                // It was stopped after all, although the server had given the order up.
                if report.order == Order::Stop && vm.state == State::Deployed {
                    vm.wanted = Wanted::Stopped;
                }
            }
            News::Failed { fault } => {
                vm.saving = None;
                settle_sizes(vm, report);
                // For a final failure the last stage is shown, so it is kept.
                vm.stage = vm.stage.filter(|_| matches!(report.order, Order::Deploy | Order::Terminate));
                vm.percent = None;
                came_to_nothing(vm, report.order, event, fault);
            }
        }
    })
}

/// A reboot that was given up happened after all: the machine runs as before, and the fault is
/// cleared.
pub fn mended(vm: &Vm) -> Vm {
    beside(vm, |vm| vm.fault = None)
}

/// A save that was given up succeeded after all; the machine had been stopped before it.
pub fn saved_late(vm: &Vm) -> Vm {
    beside(vm, |vm| {
        vm.saving = None;
        vm.fault = None;
    })
}

/// A change of sizes that was given up has ended after all.
pub fn resized_late(vm: &Vm, report: &Report) -> Vm {
    beside(vm, |vm| {
        if report.news == News::Done {
            vm.fault = None;
        }
        settle_sizes(vm, report);
    })
}

/// Records which sizes a machine has, if a report is about the end of a change of them.
fn settle_sizes(vm: &mut Vm, report: &Report) {
    if report.order == Order::Resize
        && let Some(sizes) = vm.resizing.take()
        && report.news == News::Done
    {
        vm.spec = vm.spec.clone().with(sizes);
    }
}

/// Returns what follows once its node has stopped a machine: the lease expires, or the machine is
/// restarted because its lease was extended in the meantime or its disk has been saved. `before` is
/// the machine as it was before that report.
pub fn after_stop(vm: &Vm, before: &Vm, order: Order, grace: Lease, at: At) -> Option<Change> {
    if vm.state != State::Stopped {
        return None;
    }
    if leases::is_over(vm, at.moment) {
        return expired(vm, grace, at);
    }
    // A stop that was given up but happened after all is what was asked for, so no restart follows.
    let for_a_while = match order {
        Order::Stop => before.state == State::Stopping,
        order => order == Order::Save,
    };
    if !for_a_while || vm.wanted != Wanted::Running {
        return None;
    }
    // The owner must still be able to read why saving failed.
    ordered(vm, Order::Start, Interest::Recovery, None, at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::lease::Moment;
    use crate::model::stage::Stage;
    use crate::model::state::next;
    use crate::server::registry::Registry;
    use crate::server::registry::vm::tests::entered;

    const AT: At = At { moment: Moment::from_unix(1_000_000), millis: 1_000_000_000 };

    /// Returns a machine in a state, as if its last order had led there.
    fn machine(state: State) -> Vm {
        let dir = tempfile::tempdir().unwrap();
        let mut registry = Registry::create(&dir.path().join("registry.sqlite")).unwrap();
        let vm = entered(&mut registry, "alice", "node1", "vm1");
        let order = match state {
            State::Stopping => Order::Stop,
            State::Starting => Order::Start,
            State::Rebooting => Order::Reboot,
            State::Saving => Order::Save,
            State::Resizing => Order::Resize,
            State::Terminating => Order::Terminate,
            _ => Order::Deploy,
        };
        let deletion = (state == State::Expired).then_some(Moment::from_unix(2_000_000));
        let deadline = state.is_transitional().then_some(Moment::from_unix(999_999));
        let resizing = (state == State::Resizing).then(larger);
        Vm { state, order, deletion, deadline, resizing, sequence: 7, ..vm }
    }

    fn larger() -> Sizes {
        Sizes { memory: "512".parse().unwrap(), cpus: "3".parse().unwrap(), disk: "4".parse().unwrap() }
    }

    fn saving() -> Saving {
        Saving { name: "new".parse().unwrap(), then_terminate: true }
    }

    fn fault() -> Fault {
        Fault::HostSilent { host: "node1".parse().unwrap(), seconds: 7 }
    }

    /// Asserts the invariants of every machine.
    #[track_caller]
    fn is_sound(vm: &Vm) {
        assert_eq!(vm.deadline.is_some(), vm.state.is_transitional(), "{vm:?}");
        assert!(vm.place.is_none() || vm.state == State::Deploying, "{vm:?}");
        let ends = vm.saving.as_ref().is_some_and(|saving| saving.then_terminate);
        assert!(
            !ends || vm.state == State::Saving,
            "nothing is removed after a save that was given up: {vm:?}"
        );
        assert_eq!(vm.expires.is_none(), vm.lease == Term::Never, "{vm:?}");
    }

    #[test]
    fn an_order_is_given_where_the_table_of_states_allows_it_and_is_another_unless_it_is_the_same() {
        for state in State::ALL {
            for &order in Order::ALL {
                let resizing = (order == Order::Resize).then(larger);
                let vm = Vm { fault: Some(fault()), resizing, ..machine(state) };
                let with = (order == Order::Save).then(saving);
                let given = ordered(&vm, order, Interest::Owner, with, AT);
                let allowed = event(order).and_then(|event| next(state, event));
                assert_eq!(given.as_ref().map(|given| given.vm.state), allowed, "{order} while {state}");
                let Some(Change { vm: given, history, .. }) = given else { continue };
                is_sound(&given);
                let again = state.is_transitional() && vm.order == order;
                assert_eq!(given.number > vm.number, !again, "{order} while {state}");
                assert_eq!((given.order, given.sequence, &given.fault), (order, 0, &None));
                assert_eq!(given.saving.is_some(), order == Order::Save);
                let detail = if again { "again" } else { "" };
                assert_eq!(history, [(format!("{order} ordered"), detail.to_owned())]);
            }
        }
    }

    #[test]
    fn what_its_owner_wants_changes_by_their_own_orders_alone() {
        let running = machine(State::Deployed);
        let wanted = |interest| ordered(&running, Order::Stop, interest, None, AT).unwrap().vm.wanted;
        assert_eq!(wanted(Interest::Owner), Wanted::Stopped);
        assert_eq!(
            wanted(Interest::Portal),
            Wanted::Running,
            "it is started again when its lease is extended"
        );
        // Failed orders are not retried behind the owner's back, and what keeps running is still
        // wanted running.
        for (order, state, after) in [
            (Order::Stop, State::Stopping, Wanted::Running),
            (Order::Start, State::Starting, Wanted::Stopped),
            (Order::Reboot, State::Rebooting, Wanted::Running),
        ] {
            for wanted in [Wanted::Running, Wanted::Stopped] {
                let vm = Vm { wanted, ..machine(state) };
                assert_eq!(refused(&vm, order, &fault(), OnNode::Maybe, AT).vm.wanted, after, "{order}");
                assert_eq!(given_up(&vm, &fault(), OnNode::Maybe, AT).unwrap().vm.wanted, after, "{order}");
            }
        }
        // The host reports that it shut the machine down and could not start it again.
        let rebooting = machine(State::Rebooting);
        let (order, number) = (Order::Reboot, rebooting.number);
        let news = News::Failed { fault: fault() };
        let report = Report { id: rebooting.id, order, number, sequence: 9, news, host: None };
        let stopped = reported(&rebooting, &report, Event::Stopped, None, AT).unwrap();
        assert_eq!((stopped.state, stopped.wanted), (State::Stopped, Wanted::Stopped));
    }

    #[test]
    fn an_order_that_no_host_took_leaves_what_was_there() {
        for (state, order, after) in [
            (State::Deploying, Order::Deploy, State::Failed),
            (State::Stopping, Order::Stop, State::Deployed),
            (State::Starting, Order::Start, State::Stopped),
            (State::Rebooting, Order::Reboot, State::Deployed),
            (State::Saving, Order::Save, State::Deployed),
            (State::Resizing, Order::Resize, State::Stopped),
            (State::Terminating, Order::Terminate, State::Failed),
        ] {
            let vm = Vm { saving: (order == Order::Save).then(saving), ..machine(state) };
            for taken in [OnNode::No, OnNode::Maybe] {
                let Change { vm: left, history, .. } = refused(&vm, order, &fault(), taken, AT);
                is_sound(&left);
                assert_eq!((left.state, left.fault.as_ref()), (after, Some(&fault())), "{order}");
                let on_node = if order == Order::Deploy { taken } else { OnNode::Maybe };
                assert_eq!(left.on_node, on_node, "{order}");
                assert_eq!(left.saving.is_some(), order == Order::Save && taken == OnNode::Maybe);
                assert_eq!(left.resizing.is_some(), order == Order::Resize && taken == OnNode::Maybe);
                assert_eq!(left.spec, vm.spec);
                assert_eq!(history, [(format!("{order} failed"), fault().to_string())]);
            }
            // Another order was given in the meantime.
            let other = Vm { order: Order::Terminate, ..machine(State::Terminating) };
            if order != Order::Terminate {
                assert_eq!(refused(&other, order, &fault(), OnNode::No, AT).vm, other);
            }
        }
        // A machine that was stopped, or in its grace period, is so again.
        let stopped = Vm { wanted: Wanted::Stopped, ..machine(State::Saving) };
        assert_eq!(refused(&stopped, Order::Save, &fault(), OnNode::No, AT).vm.state, State::Stopped);
        let kept = Vm { deletion: Some(Moment::from_unix(5)), ..machine(State::Saving) };
        let kept = refused(&kept, Order::Save, &fault(), OnNode::No, AT).vm;
        assert_eq!((kept.state, kept.deletion), (State::Expired, Some(Moment::from_unix(5))));
    }

    #[test]
    fn sizes_change_once_it_is_known_that_they_have() {
        let stopped = machine(State::Stopped);
        let old = stopped.spec.sizes();
        assert_eq!(ordered(&stopped, Order::Resize, Interest::Owner, None, AT), None, "to what?");
        let Change { vm: given, history, next } = resize_ordered(&stopped, larger(), AT).unwrap();
        is_sound(&given);
        assert_eq!(
            (given.state, next, given.wanted),
            (State::Resizing, Some(Order::Resize), Wanted::Stopped)
        );
        assert_eq!((given.spec.sizes(), given.resizing), (old, Some(larger())));
        assert_eq!(
            history[0].1,
            "memory from 128 MiB to 512 MiB, processors from 2 to 3, disk from 1 GiB to 4 GiB"
        );
        let again = resize_ordered(&given, larger(), AT).unwrap();
        assert_eq!((again.vm.number, again.history[0].1.as_str()), (given.number, "again"));
        let report = |news| {
            let Vm { id, number, .. } = given;
            Report { id, order: Order::Resize, number, sequence: 9, news, host: None }
        };
        let grown = reported(&given, &report(News::Done), Event::Stopped, None, AT).unwrap();
        assert_eq!((grown.state, grown.spec.sizes(), grown.resizing), (State::Stopped, larger(), None));
        let failed = report(News::Failed { fault: fault() });
        let kept = reported(&given, &failed, Event::Failed, None, AT).unwrap();
        assert_eq!((kept.state, kept.spec.sizes(), kept.resizing), (State::Stopped, old, None));
        assert_eq!(kept.fault, Some(fault()));
        // The portal gave it up, so only its host knows, which may say so in a report, or when asked.
        let open = given_up(&given, &fault(), OnNode::Maybe, AT).unwrap().vm;
        assert_eq!((open.state, open.spec.sizes(), open.resizing), (State::Stopped, old, Some(larger())));
        let late = resized_late(&open, &report(News::Done));
        assert_eq!((late.spec.sizes(), late.resizing, &late.fault), (larger(), None, &None));
        let late = resized_late(&open, &failed);
        assert_eq!((late.spec.sizes(), late.resizing, late.fault), (old, None, Some(fault())));
        let found = found_sizes(&open, larger());
        assert_eq!((found.vm.spec.sizes(), found.vm.resizing, found.history.len()), (larger(), None, 1));
        let found = found_sizes(&open, old);
        assert_eq!((found.vm.spec.sizes(), found.vm.resizing, found.history.len()), (old, None, 0));
        // An order of another kind does not tell.
        let started = ordered(&open, Order::Start, Interest::Owner, None, AT).unwrap().vm;
        assert_eq!((started.spec.sizes(), started.resizing), (old, Some(larger())));
        for state in State::ALL.into_iter().filter(|s| !matches!(s, State::Stopped | State::Resizing)) {
            assert_eq!(resize_ordered(&machine(state), larger(), AT), None, "{state}");
        }
    }

    #[test]
    fn a_lease_that_ended_ends_once() {
        let grace: Lease = "7d".parse().unwrap();
        let first = expired(&machine(State::Stopped), grace, AT).unwrap().vm;
        assert_eq!((first.state, first.deletion), (State::Expired, Some(AT.moment.plus_seconds(7 * 86_400))));
        let later = At { moment: AT.moment.plus_seconds(86_400), ..AT };
        let again = Vm { state: State::Stopped, ..first.clone() };
        assert_eq!(
            expired(&again, grace, later).unwrap().vm.deletion,
            first.deletion,
            "a date that was given holds"
        );
        for state in State::ALL.into_iter().filter(|state| *state != State::Stopped) {
            assert_eq!(expired(&machine(state), grace, AT), None, "{state}");
        }
    }

    #[test]
    fn an_extension_brings_back_what_was_there() {
        let term: Term = "2d".parse().unwrap();
        for state in State::ALL {
            for wanted in [Wanted::Running, Wanted::Stopped] {
                let vm = Vm { wanted, ..machine(state) };
                let Change { vm: new, next, history } = extended(&vm, term, AT);
                is_sound(&new);
                assert_eq!((new.lease, new.expires), (term, Some(AT.moment.plus_seconds(2 * 86_400))));
                assert_eq!(new.deletion, None);
                let (becomes, tells) = match (state, wanted) {
                    (State::Expired, Wanted::Running) => (State::Starting, Some(Order::Start)),
                    (State::Expired, Wanted::Stopped) => (State::Stopped, None),
                    (other, _) => (other, None),
                };
                assert_eq!((new.state, next), (becomes, tells), "{state}");
                assert_eq!(history[0].0, "lease set");
            }
        }
    }

    #[test]
    fn a_machine_is_moved_while_it_is_being_deployed_and_is_another_order_then() {
        let other: PhysicalHost = "node2".parse().unwrap();
        for state in State::ALL {
            let vm = Vm { stage: Some(Stage::Unpack), ..machine(state) };
            let Some(Change { vm: new, history, .. }) = moved(&vm, &other, &fault(), AT) else {
                assert_ne!(state, State::Deploying);
                continue;
            };
            is_sound(&new);
            assert_eq!((state, new.state), (State::Deploying, State::Deploying));
            assert!(new.number > vm.number && new.physical_host == other && new.placed == Placed::Again);
            assert_eq!((new.sequence, new.stage, new.changed), (0, None, AT.moment));
            assert!(history[0].1.contains("It is tried on node2 instead."), "{history:?}");
        }
    }

    #[test]
    fn what_is_found_is_believed_where_it_can_be_true() {
        for state in State::ALL {
            let vm = machine(state);
            let found =
                [found_stopped(&vm, AT), found_running(&vm, AT), found_gone(&vm, AT), brought_back(&vm, AT)];
            for change in found.into_iter().flatten() {
                is_sound(&change.vm);
            }
            assert_eq!(found_gone(&vm, AT).is_some(), state == State::Terminating);
            let known = found_again(&missing(&vm).unwrap().vm).vm;
            assert_eq!(known, Vm { fault: None, ..vm });
        }
    }
}
