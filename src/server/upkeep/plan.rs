//! What upkeep finds to do about one machine, as data: planned from what is known, shown by `--dry-run`, carried out
//! under the write lock if the machine still is as it was.

use std::fmt;

use crate::model::fault::Fault;
use crate::model::lease::{Lease, Moment};
use crate::model::stage::Order;
use crate::model::state::{Event, State};
use crate::system::clock;

use crate::server::machine::leases;
use crate::server::machine::moving::Mover;
use crate::server::machine::orders;
use crate::server::registry::event::Actor;
use crate::server::registry::notice::Given;
use crate::server::registry::upkeep::Life;
use crate::server::registry::vm::{OnNode, Vm, Wanted};
use crate::server::registry::{RegistryError, Writer};

/// One thing to do about one machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The machine as it was when this was planned.
    pub vm: Vm,
    /// What to do.
    pub act: Act,
}

/// What can be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Tell its owner that its lease ends: the notice of so long before.
    Warn(Lease),
    /// Stop it, for its lease is over.
    StopForLease,
    /// It is stopped and its lease is over: keep its disk for the grace.
    Expire,
    /// Tell its owner that its lease has ended, and when its disk will be removed.
    TellEnded,
    /// The grace begins anew, for its owner's mail could not be sent yet.
    PutOff,
    /// Its owner can't be told: its disk is kept, and no grace begins.
    Hold,
    /// Its lease is not over after all (the clock was wrong): make it what it was.
    BringBack,
    /// Its grace is over: remove it.
    Delete,
    /// It failed, its lease is over, and nothing of it is on its host: forget it.
    Forget,
    /// It has been on its way for too long, or its host knows nothing of it.
    GiveUp {
        /// What its owner reads.
        fault: Fault,
        /// Whether something of it may be on its host.
        on_node: OnNode,
    },
    /// Its host has removed it, and the server never heard.
    Gone,
    /// It should be there and is not.
    Missing,
    /// It was missing and is there again.
    FoundAgain,
    /// It is stopped, and the server believed that it runs.
    FoundStopped,
    /// It runs, and the server believed that it is stopped.
    FoundRunning,
    /// It is stopped, and its owner wants it to run: what it was stopped for came to nothing.
    Resume,
    /// Nothing of it is on its host, and the server was not sure.
    NothingThere,
    /// Its host does not know its last order: give it again.
    Again,
    /// The server knows that it is gone, and it is there: have it removed.
    RemoveLeftover,
    /// It did not answer; so many times in a row by now.
    Silent(u32),
    /// It answers again.
    Answers,
    /// Its owner is told that it does not answer.
    TellSilent,
    /// It did not answer for so long that it is removed, as configured.
    DeleteSilent,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Vm { virtual_host, owner, physical_host, state, .. } = &self.vm;
        write!(f, "{virtual_host} of {} on {physical_host} ({state}): ", owner.as_str())?;
        match &self.act {
            Act::Warn(before) => write!(f, "tell its owner that its lease ends within {before}"),
            Act::StopForLease => f.write_str("stop it, for its lease is over"),
            Act::Expire => f.write_str("its lease is over; keep its disk for the grace"),
            Act::TellEnded => f.write_str("tell its owner that its lease has ended"),
            Act::PutOff => f.write_str("begin its grace anew, for its owner's mail still waits"),
            Act::Hold => f.write_str("keep its disk, for its owner has no address and can't be told"),
            Act::BringBack => f.write_str("bring it back, for its lease is not over"),
            Act::Delete => f.write_str("remove it, for its grace is over"),
            Act::Forget => f.write_str("forget it: it failed, and nothing of it is on its host"),
            Act::GiveUp { fault, .. } => write!(f, "give up waiting: {fault}"),
            Act::Gone => f.write_str("its host has removed it"),
            Act::Missing => f.write_str("its host has no such machine any more"),
            Act::FoundAgain => f.write_str("its host has it again"),
            Act::FoundStopped => f.write_str("it is stopped"),
            Act::FoundRunning => f.write_str("it runs"),
            Act::Resume => f.write_str("start it, for its owner wants it to run"),
            Act::NothingThere => f.write_str("nothing of it is on its host"),
            Act::Again => write!(f, "tell its host again: {}", self.vm.order),
            Act::RemoveLeftover => {
                f.write_str("it is gone, and its host still has something of it: remove that")
            }
            Act::Silent(times) => write!(f, "no answer, for the {times}. time"),
            Act::Answers => f.write_str("it answers again"),
            Act::TellSilent => f.write_str("tell its owner that it does not answer"),
            Act::DeleteSilent => f.write_str("remove it, for it has not answered for so long"),
        }
    }
}

/// What carrying out a plan needs to know.
#[derive(Debug, Clone, Copy)]
pub struct Ground<'a> {
    /// When this run began.
    pub now: Moment,
    /// The portal's own clock.
    pub life: Life,
    /// How long disks are kept.
    pub grace: Lease,
    /// In whose name things are done.
    pub actor: &'a Actor,
    /// Who finds another host for what could not be made.
    pub mover: Mover<'a>,
}

/// What carrying out a step has led to: the machine as it is now, and the order that its host must be told.
pub type Done = (Vm, Option<Order>);

/// The name of the notice that is given so long before the end of a lease.
pub fn warning(before: Lease) -> String {
    format!("ends in {before}")
}

/// The name of the notice that is given when a lease has ended.
pub const ENDED: &str = "ended";

/// The name of the notice about a machine that does not answer.
pub const SILENT: &str = "silent";

/// Carries out a step under the write lock. `None` if the machine is not what it was when the step was planned: the
/// next run looks again.
///
/// # Errors
/// [`RegistryError`] when SQLite refuses.
pub fn carry_out(
    writer: &Writer<'_>,
    ground: Ground<'_>,
    step: &Step,
) -> Result<Option<Done>, RegistryError> {
    let Some(vm) = writer.vm(step.vm.id)? else { return Ok(None) };
    let was = &step.vm;
    let same = vm.state == was.state
        && vm.order == was.order
        && vm.number == was.number
        && vm.physical_host == was.physical_host
        && vm.sequence == was.sequence
        && vm.expires == was.expires
        && vm.wanted == was.wanted;
    if !same {
        return Ok(None);
    }
    let hand = Hand { writer, ground, vm };
    match &step.act {
        Act::Warn(before) => hand.warn(*before),
        // Not its owner's wish: an extension starts it again.
        Act::StopForLease => hand.order(Order::Stop, |_| {}),
        Act::Expire => {
            let Ground { now, grace, actor, .. } = ground;
            Ok(leases::expire(writer, &hand.vm, grace, now, actor)?.map(|vm| (vm, None)))
        }
        Act::TellEnded | Act::PutOff => hand.begin_grace(),
        Act::Hold => hand.hold(),
        Act::BringBack => hand.bring_back(),
        Act::Delete | Act::DeleteSilent => hand.order(Order::Terminate, |_| {}),
        Act::Forget => hand.happens(
            Event::Forget,
            "removed",
            "its lease is over, and nothing of it is on its host",
            |vm| vm.order = Order::Terminate,
        ),
        Act::GiveUp { fault, on_node } => hand.give_up(fault, *on_node),
        Act::Gone => hand.happens(Event::Terminated, "terminated", "nothing of it is left", |vm| {
            vm.on_node = OnNode::No;
        }),
        Act::Missing => hand.missing(),
        Act::FoundAgain => {
            writer.forget_fault(hand.vm.id)?;
            hand.noted("found again", "its host has it")
        }
        Act::FoundStopped => {
            hand.happens(Event::Stopped, "found stopped", "it does not run on its host", |vm| {
                vm.wanted = Wanted::Stopped;
            })
        }
        Act::FoundRunning => hand.happens(Event::Deployed, "found running", "it runs on its host", |vm| {
            vm.wanted = Wanted::Running;
            vm.fault = None;
        }),
        Act::Resume => {
            // What it was stopped for is still to be read.
            let fault = hand.vm.fault.clone();
            hand.order(Order::Start, |vm| vm.fault = fault)
        }
        Act::NothingThere => {
            writer.not_on_node(hand.vm.id)?;
            Ok(Some((hand.vm, None)))
        }
        Act::Again => {
            let order = hand.vm.order;
            hand.order(order, |_| {})
        }
        Act::RemoveLeftover => {
            hand.record("removal ordered", "its host still had something of it")?;
            // Its last order is done; this is another.
            let number = hand.vm.number.next(clock::millis());
            Ok(Some((Vm { number, ..hand.vm }, Some(Order::Terminate))))
        }
        Act::Silent(times) => {
            writer.set_silent(hand.vm.id, *times)?;
            Ok(Some((hand.vm, None)))
        }
        Act::Answers => {
            writer.set_silent(hand.vm.id, 0)?;
            writer.forget_notice(hand.vm.id, SILENT)?;
            Ok(Some((hand.vm, None)))
        }
        Act::TellSilent => hand.tell_silent(),
    }
}

/// One machine under the write lock.
struct Hand<'a> {
    writer: &'a Writer<'a>,
    ground: Ground<'a>,
    vm: Vm,
}

impl Hand<'_> {
    fn record(&self, what: &str, detail: &str) -> Result<(), RegistryError> {
        self.writer.record(self.vm.id, self.ground.now, self.ground.actor, what, detail)
    }

    /// That a notice is given now.
    fn given(&self) -> Given {
        Given { at: self.ground.now, lived: self.ground.life.lived }
    }

    /// The end of the lease that notices are about.
    fn lease_end(&self) -> Moment {
        self.vm.expires.unwrap_or(self.ground.now)
    }

    fn noted(self, what: &str, detail: &str) -> Result<Option<Done>, RegistryError> {
        self.record(what, detail)?;
        Ok(Some((self.vm, None)))
    }

    fn happens(
        &self,
        event: Event,
        what: &str,
        detail: &str,
        edit: impl FnOnce(&mut Vm),
    ) -> Result<Option<Done>, RegistryError> {
        let changed = self.writer.advance(&self.vm, event, self.ground.now, edit)?;
        if changed.is_some() {
            self.record(what, detail)?;
        }
        Ok(changed.map(|vm| (vm, None)))
    }

    fn order(&self, order: Order, edit: impl FnOnce(&mut Vm)) -> Result<Option<Done>, RegistryError> {
        let given = orders::give_with(self.writer, &self.vm, order, self.ground.actor, edit)?;
        Ok(given.map(|vm| (vm, Some(order))))
    }

    fn warn(self, before: Lease) -> Result<Option<Done>, RegistryError> {
        let end = self.lease_end();
        if !self.writer.note(self.vm.id, &warning(before), end, self.given())? {
            return Ok(None);
        }
        Ok(Some((self.vm, None)))
    }

    fn begin_grace(self) -> Result<Option<Done>, RegistryError> {
        let deletion = self.ground.now.plus_seconds(self.ground.grace.seconds());
        self.writer.forget_notice(self.vm.id, ENDED)?;
        self.writer.note(self.vm.id, ENDED, self.lease_end(), self.given())?;
        self.writer.set_deletion(self.vm.id, deletion)?;
        Ok(Some((Vm { deletion: Some(deletion), ..self.vm }, None)))
    }

    /// Its grace begins when its owner has been told, and not before.
    fn hold(self) -> Result<Option<Done>, RegistryError> {
        let deletion = self.ground.now.plus_seconds(self.ground.grace.seconds());
        self.writer.forget_notice(self.vm.id, ENDED)?;
        self.writer.set_deletion(self.vm.id, deletion)?;
        Ok(Some((Vm { deletion: Some(deletion), ..self.vm }, None)))
    }

    fn bring_back(&self) -> Result<Option<Done>, RegistryError> {
        if self.vm.wanted == Wanted::Stopped {
            let detail = "the clock was wrong when it ended";
            return self.happens(Event::Stopped, "lease not over", detail, |vm| vm.deletion = None);
        }
        self.record("lease not over", "the clock was wrong when it ended")?;
        self.order(Order::Start, |vm| vm.deletion = None)
    }

    fn give_up(&self, fault: &Fault, on_node: OnNode) -> Result<Option<Done>, RegistryError> {
        let order = self.vm.order;
        if self.vm.state == State::Deploying
            && on_node == OnNode::No
            && let Some(moved) =
                self.ground.mover.elsewhere(self.writer, &self.vm, fault, self.ground.actor)?
        {
            return Ok(Some((moved, Some(Order::Deploy))));
        }
        self.happens(Event::Failed, &format!("{order} failed"), &fault.to_string(), |vm| {
            vm.fault = Some(fault.clone());
            vm.on_node = on_node;
            vm.wanted = orders::wanted_after_failure(order).unwrap_or(vm.wanted);
        })
    }

    fn missing(self) -> Result<Option<Done>, RegistryError> {
        let Ok(machine) = self.vm.machine_name() else { return Ok(None) };
        self.writer.set_fault(self.vm.id, &Fault::MachineMissing { machine })?;
        self.noted("missing", "its host has no such machine any more")
    }

    fn tell_silent(self) -> Result<Option<Done>, RegistryError> {
        // Not about a lease: one for each silence.
        if !self.writer.note(self.vm.id, SILENT, self.vm.created, self.given())? {
            return Ok(None);
        }
        Ok(Some((self.vm, None)))
    }
}
