//! What machines become. Pure: from a machine and what happens to it comes a [`Change`], which the registry applies. The
//! one place that decides what goes with a state: stage, fault, order, what is wanted, what is kept.

use crate::model::fault::Fault;
use crate::model::lease::{Lease, Moment, Term};
use crate::model::names::PhysicalHost;
use crate::model::stage::{Order, OrderNumber, Stage};
use crate::model::state::{Event, State};
use crate::model::wire::{News, Report};

use crate::server::registry::vm::{Change, OnNode, Placed, Saving, Vm, Wanted};

use super::leases;

/// When something happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    /// The time, as everything else is told by.
    pub moment: Moment,
    /// The same in milliseconds, from which orders get their numbers.
    pub millis: u64,
}

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

/// What becomes of that when the order comes to nothing: nothing is tried again behind the owner's back.
fn wanted_after_failure(order: Order) -> Option<Wanted> {
    match order {
        Order::Start | Order::Reboot => Some(Wanted::Stopped),
        Order::Stop => Some(Wanted::Running),
        Order::Deploy | Order::Terminate | Order::Save => None,
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

/// Somebody gives an order about a machine that is there. `None` if its state does not allow it. `saving` goes with the order
/// to save its disk.
pub fn ordered(vm: &Vm, order: Order, interest: Interest, saving: Option<Saving>, at: At) -> Option<Change> {
    let again = is_again(vm, order);
    let given = after(vm, event(order)?, at, |vm| {
        give(vm, order, again, at);
        match interest {
            Interest::Owner => vm.wanted = wanted(order).unwrap_or(vm.wanted),
            Interest::Portal | Interest::Recovery => {}
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
    Some(Change::with(given, format!("{order} ordered"), if again { "again" } else { "" }))
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
    let noted = Change::with(beside(vm, |vm| vm.deletion = None), what, detail);
    noted.then(|vm| Some(ordered(vm, Order::Start, Interest::Portal, None, at)?.telling(Order::Start)))
}

/// A machine's node did not take an order that was given before. It becomes what the table of states says, unless it got
/// another order meanwhile, which counts then.
pub fn refused(vm: &Vm, order: Order, fault: &Fault, taken: OnNode, at: At) -> Change {
    let line = (format!("{order} failed"), fault.to_string());
    let failed = (vm.order == order).then(|| {
        after(vm, undone(vm, order), at, |vm| {
            came_to_nothing(vm, order, fault);
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
fn came_to_nothing(vm: &mut Vm, order: Order, fault: &Fault) {
    vm.fault = Some(fault.clone());
    vm.wanted = wanted_after_failure(order).unwrap_or(vm.wanted);
}

/// The portal waits no longer for what was ordered last.
pub fn given_up(vm: &Vm, fault: &Fault, on_node: OnNode, at: At) -> Option<Change> {
    let order = vm.order;
    let failed = after(vm, Event::Failed, at, |vm| {
        came_to_nothing(vm, order, fault);
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
    let set = Change::with(set, "lease set", format!("{term}; {told}"));
    if vm.state != State::Expired {
        return set;
    }
    let and_then = match vm.wanted {
        Wanted::Stopped => set.clone().then(|vm| after(vm, Event::Stopped, at, |_| {}).map(Change::silent)),
        Wanted::Running => set
            .clone()
            .then(|vm| Some(ordered(vm, Order::Start, Interest::Owner, None, at)?.telling(Order::Start))),
    };
    and_then.unwrap_or(set)
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
                came_to_nothing(vm, report.order, fault);
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
    Some(ordered(vm, Order::Start, Interest::Recovery, None, at)?.telling(Order::Start))
}
