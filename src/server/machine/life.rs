//! What machines become. Pure: from a machine and what happens to it comes a [`Change`], which the registry applies. The
//! one place that decides what goes with a state: stage, fault, order, what is wanted, what is kept.

use super::leases;
use crate::model::fault::Fault;
use crate::model::lease::{Lease, Term};
use crate::model::names::PhysicalHost;
use crate::model::stage::{Order, OrderNumber, Stage};
use crate::model::state::{self, Event, State};
use crate::model::wire::{News, Report};
use crate::server::registry::At;
use crate::server::registry::vm::{Change, OnNode, Placed, Saving, Vm, Wanted};

/// In whose interest an order is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Its owner's, who wants it to be so from now on.
    Owner,
    /// The portal's: what its owner wants stays as it is.
    Portal,
    /// The portal's, after something went wrong that is still to be read.
    Recovery,
}

/// What happens to a machine that is there when an order about it is given; `None` for a deploy, which makes it.
pub fn event(order: Order) -> Option<Event> {
    match order {
        Order::Deploy => None,
        Order::Terminate => Some(Event::Terminate),
        Order::Stop => Some(Event::Stop),
        Order::Start => Some(Event::Start),
        Order::Reboot => Some(Event::Reboot),
        Order::Save => Some(Event::Save),
    }
}

/// What an order says about what the owner of a machine wants it to be from now on; `None` if that is nothing.
fn wanted(order: Order) -> Option<Wanted> {
    match order {
        Order::Start | Order::Reboot => Some(Wanted::Running),
        Order::Stop => Some(Wanted::Stopped),
        Order::Deploy | Order::Terminate | Order::Save => None,
    }
}

/// What becomes of that when the order comes to nothing: what the machine is then, so that nothing is tried again behind the
/// owner's back.
fn wanted_after_failure(order: Order, becomes: Option<State>) -> Option<Wanted> {
    match (order, becomes?) {
        (Order::Start | Order::Stop | Order::Reboot, State::Deployed) => Some(Wanted::Running),
        (Order::Start | Order::Stop | Order::Reboot, State::Stopped) => Some(Wanted::Stopped),
        _ => None,
    }
}

/// The machine after an event, changed by `edit` besides; `None` if the event means nothing in its state.
fn after(vm: &Vm, event: Event, at: At, edit: impl FnOnce(&mut Vm)) -> Option<Vm> {
    let mut new = vm.clone();
    edit(&mut new);
    new.after(event, at.moment)
}

/// The machine changed by `edit`, in the state in which it was.
fn beside(vm: &Vm, edit: impl FnOnce(&mut Vm)) -> Vm {
    let mut new = vm.clone();
    edit(&mut new);
    new
}

// ----- orders -----

/// Somebody gives an order about a machine that is there, which its host must be told ([`Change::next`]). `None` if its state
/// does not allow it. `saving` goes with the order to save its disk.
pub fn ordered(vm: &Vm, order: Order, interest: Interest, saving: Option<Saving>, at: At) -> Option<Change> {
    let again = is_again(vm, order);
    let given = after(vm, event(order)?, at, |vm| {
        give(vm, order, again, at);
        if interest == Interest::Owner {
            vm.wanted = wanted(order).unwrap_or(vm.wanted);
        }
        if order == Order::Save && vm.state == State::Stopped {
            // It is not to be started afterwards.
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

/// Whether an order is under way, so that giving it once more is giving it again.
fn is_again(vm: &Vm, order: Order) -> bool {
    vm.order == order && vm.state.is_transitional()
}

fn give(vm: &mut Vm, order: Order, again: bool, at: At) {
    vm.order = order;
    // The same order given again is the same order to its node, which carries it out once.
    if !again {
        vm.number = vm.number.next(at.millis);
    }
    vm.sequence = 0;
    vm.stage = None;
    vm.percent = None;
    // The same order given again is about the same image.
    vm.saving = vm.saving.take().filter(|_| order == Order::Save);
}

/// A machine that was stopped by the end of its lease, which is not over after all, becomes what it was.
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

/// A machine's node did not take an order that was given before. It becomes what the table of states says, unless it got
/// another order meanwhile, which counts then.
pub fn refused(vm: &Vm, order: Order, fault: &Fault, taken: OnNode, at: At) -> Change {
    let line = (format!("{order} failed"), fault.to_string());
    let failed = (vm.order == order).then(|| {
        let event = undone(vm, order);
        after(vm, event, at, |vm| {
            came_to_nothing(vm, order, event, fault);
            // Of any other machine something is there, whether its node took the order or not.
            if order == Order::Deploy {
                vm.on_node = taken;
            }
            // What its node never had it won't carry out; else the name is kept for what it may still report.
            vm.saving = vm.saving.take().filter(|_| taken == OnNode::Maybe);
        })
    });
    let Some(failed) = failed.flatten() else { return Change::with(vm.clone(), line.0, line.1) };
    // A disk that is kept for a while after the lease is still kept for that while.
    let expires = order == Order::Save && failed.deletion.is_some();
    let failed = if expires { after(&failed, Event::Expire, at, |_| {}).unwrap_or(failed) } else { failed };
    Change::with(failed, line.0, line.1)
}

/// What happens to a machine whose node did not take an order. A disk can be saved of machines that run and of
/// machines that don't; which it was is known from what is wanted, and from the end of its lease.
fn undone(vm: &Vm, order: Order) -> Event {
    let ran = vm.wanted == Wanted::Running && vm.deletion.is_none();
    if order == Order::Save && ran { Event::Deployed } else { Event::Failed }
}

/// What every order leaves that came to nothing.
fn came_to_nothing(vm: &mut Vm, order: Order, event: Event, fault: &Fault) {
    vm.fault = Some(fault.clone());
    vm.wanted = wanted_after_failure(order, state::next(vm.state, event)).unwrap_or(vm.wanted);
}

/// The portal waits no longer for what was ordered last.
pub fn given_up(vm: &Vm, fault: &Fault, on_node: OnNode, at: At) -> Option<Change> {
    let order = vm.order;
    let failed = after(vm, Event::Failed, at, |vm| {
        came_to_nothing(vm, order, Event::Failed, fault);
        vm.on_node = on_node;
    })?;
    Some(Change::with(failed, format!("{order} failed"), fault.to_string()))
}

/// A machine that is being deployed, and of which nothing is on its host, is given to another host: with another order
/// number, for it is another order.
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
    // The new host is left in peace with it as long as the first one was.
    new.changed = at.moment;
    let detail = format!("{}: {fault} It is tried on {host} instead.", vm.physical_host);
    Some(Change::with(new, "moved to another host", detail))
}

/// A machine is gone without its host being told: by force, or because nothing of it is there.
pub fn forgotten(vm: &Vm, why: &str, at: At) -> Option<Change> {
    let gone = after(vm, Event::Forget, at, |vm| vm.order = Order::Terminate)?;
    Some(Change::with(gone, "removed", why))
}

/// A machine that has just been entered is one that its host has already.
pub fn adopted(vm: &Vm, number: OrderNumber, runs: bool, at: At) -> Option<Change> {
    let mut adopted = after(vm, Event::Deployed, at, |vm| vm.number = number)?;
    if !runs {
        adopted = after(&adopted, Event::Stopped, at, |vm| vm.wanted = Wanted::Stopped)?;
    }
    Some(Change::with(adopted, "adopted", format!("it was unknown on {}", vm.physical_host)))
}

// ----- leases -----

/// The lease of a machine that is stopped has ended: its disk is kept for the grace at least.
pub fn expired(vm: &Vm, grace: Lease, at: At) -> Option<Change> {
    // A date that was given once holds: it is not put off by saving the disk, for instance.
    let deletion = vm.deletion.unwrap_or_else(|| at.moment.plus_seconds(grace.seconds()));
    let expired = after(vm, Event::Expire, at, |vm| vm.deletion = Some(deletion))?;
    let detail = format!("it is stopped; its disk is kept until {deletion} at least");
    Some(Change::with(expired, "lease ended", detail))
}

/// A machine is guarded against being terminated by hand, or no longer. `None` if it is so already.
pub fn protected(vm: &Vm, protected: bool) -> Option<Change> {
    let what = if protected { "protected" } else { "no longer protected" };
    let change =
        || Change::with(beside(vm, |vm| vm.protected = protected), what, "against being terminated by hand");
    (protected != vm.protected).then(change)
}

/// A machine's lease is set anew, from now. What had expired becomes what it was then: it is stopped, or its host must be
/// told to start it ([`Change::next`]).
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

/// The date before which a machine's disk is not removed is so long from now.
pub fn kept_for(vm: &Vm, grace: Lease, at: At) -> Change {
    let deletion = at.moment.plus_seconds(grace.seconds());
    Change::silent(beside(vm, |vm| vm.deletion = Some(deletion)))
}

// ----- what hosts are found to have -----

/// A machine should be on its host and is not. `None` if it has no name that a host could know.
pub fn missing(vm: &Vm) -> Option<Change> {
    let machine = vm.machine_name().ok()?;
    let missing = beside(vm, |vm| vm.fault = Some(Fault::MachineMissing { machine }));
    Some(Change::with(missing, "missing", "its host has no such machine any more"))
}

/// A machine was missing and is there again.
pub fn found_again(vm: &Vm) -> Change {
    Change::with(beside(vm, |vm| vm.fault = None), "found again", "its host has it")
}

/// A machine is stopped, and the portal believed that it runs.
pub fn found_stopped(vm: &Vm, at: At) -> Option<Change> {
    let stopped = after(vm, Event::Stopped, at, |vm| vm.wanted = Wanted::Stopped)?;
    Some(Change::with(stopped, "found stopped", "it does not run on its host"))
}

/// A machine runs, and the portal believed that it is stopped.
pub fn found_running(vm: &Vm, at: At) -> Option<Change> {
    let running = after(vm, Event::Deployed, at, |vm| {
        vm.wanted = Wanted::Running;
        vm.fault = None;
    })?;
    Some(Change::with(running, "found running", "it runs on its host"))
}

/// A machine that was to be removed is gone from its host.
pub fn found_gone(vm: &Vm, at: At) -> Option<Change> {
    let gone = after(vm, Event::Terminated, at, |vm| vm.on_node = OnNode::No)?;
    Some(Change::with(gone, "terminated", "nothing of it is left"))
}

/// Nothing of a machine is on its host, whatever else is known of it.
pub fn not_there(vm: &Vm) -> Change {
    Change::silent(beside(vm, |vm| vm.on_node = OnNode::No))
}

/// A machine has not answered so many times in a row.
pub fn silent(vm: &Vm, times: u32) -> Change {
    Change::silent(beside(vm, |vm| vm.silent = times))
}

// ----- reports -----

/// What a node's report changes, whatever else follows from it.
pub fn reported(vm: &Vm, report: &Report, event: Event, on_node: Option<OnNode>, at: At) -> Option<Vm> {
    after(vm, event, at, |vm| {
        vm.sequence = report.sequence;
        vm.on_node = on_node.unwrap_or(vm.on_node);
        match &report.news {
            News::Progress { stage, percent, place } => {
                vm.stage = Some(*stage);
                vm.percent = *percent;
                vm.place = place.filter(|place| *place > 0 && *stage == Stage::Accepted);
            }
            News::Done | News::Saved { .. } => {
                vm.stage = None;
                vm.percent = None;
                // Of a machine that is started again because its disk could not be saved: still to be read.
                vm.fault = vm.fault.take().filter(|_| vm.state == State::Starting);
                vm.saving = None;
                // It was stopped after all, though the server had given the order up.
                if report.order == Order::Stop && vm.state == State::Deployed {
                    vm.wanted = Wanted::Stopped;
                }
            }
            News::Failed { fault } => {
                vm.saving = None;
                // How far it had come is shown with what is failed for good.
                vm.stage = vm.stage.filter(|_| matches!(report.order, Order::Deploy | Order::Terminate));
                vm.percent = None;
                came_to_nothing(vm, report.order, event, fault);
            }
        }
    })
}

/// A reboot that had been given up was done all the same: it runs, as before, but nothing is wrong.
pub fn mended(vm: &Vm) -> Vm {
    beside(vm, |vm| vm.fault = None)
}

/// A disk was saved of a machine that was stopped before, though that had been given up.
pub fn saved_late(vm: &Vm) -> Vm {
    beside(vm, |vm| {
        vm.saving = None;
        vm.fault = None;
    })
}

/// What comes after a machine was stopped by its node: its lease is over, or it is started again, because its lease was
/// extended meanwhile or its disk has been saved. `before` is the machine as it was before that report.
pub fn after_stop(vm: &Vm, before: &Vm, order: Order, grace: Lease, at: At) -> Option<Change> {
    if vm.state != State::Stopped {
        return None;
    }
    if leases::is_over(vm, at.moment) {
        return expired(vm, grace, at);
    }
    // A stop that counted as given up, and was carried out all the same, is what was asked for.
    let for_a_while = match order {
        Order::Stop => before.state == State::Stopping,
        order => order == Order::Save,
    };
    if !for_a_while || vm.wanted != Wanted::Running {
        return None;
    }
    // What went wrong with saving is still to be read.
    ordered(vm, Order::Start, Interest::Recovery, None, at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::lease::Moment;
    use crate::model::state::next;
    use crate::server::registry::Registry;
    use crate::server::registry::vm::tests::entered;

    const AT: At = At { moment: Moment::from_unix(1_000_000), millis: 1_000_000_000 };

    /// A machine in a state, as it would be if its last order was the one that led there.
    fn machine(state: State) -> Vm {
        let dir = tempfile::tempdir().unwrap();
        let mut registry = Registry::create(&dir.path().join("registry.sqlite")).unwrap();
        let vm = entered(&mut registry, "alice", "node1", "vm1");
        let order = match state {
            State::Stopping => Order::Stop,
            State::Starting => Order::Start,
            State::Rebooting => Order::Reboot,
            State::Saving => Order::Save,
            State::Terminating => Order::Terminate,
            _ => Order::Deploy,
        };
        let deletion = (state == State::Expired).then_some(Moment::from_unix(2_000_000));
        let deadline = state.is_transitional().then_some(Moment::from_unix(999_999));
        Vm { state, order, deletion, deadline, sequence: 7, ..vm }
    }

    fn saving() -> Saving {
        Saving { name: "new".parse().unwrap(), then_terminate: true }
    }

    fn fault() -> Fault {
        Fault::HostSilent { host: "node1".parse().unwrap(), seconds: 7 }
    }

    /// What is true of every machine.
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
                let vm = Vm { fault: Some(fault()), ..machine(state) };
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
        // What comes to nothing is not tried again behind their back, and what runs on is still wanted to.
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
        // Its host says that it shut it down, and could not start it.
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
                assert_eq!(history, [(format!("{order} failed"), fault().to_string())]);
            }
            // Another was given meanwhile.
            let other = Vm { order: Order::Terminate, ..machine(State::Terminating) };
            if order != Order::Terminate {
                assert_eq!(refused(&other, order, &fault(), OnNode::No, AT).vm, other);
            }
        }
        // A disk that was stopped, or kept after its lease, is that again.
        let stopped = Vm { wanted: Wanted::Stopped, ..machine(State::Saving) };
        assert_eq!(refused(&stopped, Order::Save, &fault(), OnNode::No, AT).vm.state, State::Stopped);
        let kept = Vm { deletion: Some(Moment::from_unix(5)), ..machine(State::Saving) };
        let kept = refused(&kept, Order::Save, &fault(), OnNode::No, AT).vm;
        assert_eq!((kept.state, kept.deletion), (State::Expired, Some(Moment::from_unix(5))));
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
