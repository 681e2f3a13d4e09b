//! What upkeep has to do, as data: planned from what is known, shown by `--dry-run`, and carried
//! out under the write lock if the machine has not changed since.

use std::fmt;

use crate::model::fault::Fault;
use crate::model::lease::Lease;
use crate::model::spec::Sizes;
use crate::model::stage::Order;
use crate::model::state::State;
use crate::server::machine::life::{self, Interest};
use crate::server::machine::moving::Mover;
use crate::server::registry::upkeep::Life;
use crate::server::registry::vm::Change;
use crate::server::registry::vm::{OnNode, Vm};
use crate::server::registry::{RegistryError, Writer};

/// An action to carry out on a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The machine as it was when this was planned.
    pub vm: Vm,
    /// What to do.
    pub action: Action,
}

/// The actions of upkeep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Notify its owner that its lease ends; the notice that is due this long before.
    Warn(Lease),
    /// Stop it: its lease is over.
    StopForLease,
    /// It is stopped and its lease is over: keep its disk for the grace period.
    Expire,
    /// Notify its owner that its lease has ended, and when its disk will be removed.
    TellEnded,
    /// Restart its grace period, since the owner's mail is still in the outbox.
    PutOff,
    /// Keep its disk without a grace period, since its owner can't be notified.
    Hold,
    /// Restore its previous state: its lease is not over after all (the clock was wrong).
    BringBack,
    /// Remove it: its grace period is over.
    Delete,
    /// Forget it: it failed, its lease is over, and nothing of it is on its host.
    Forget,
    /// Give up waiting: its order takes too long, or its host has no record of it.
    GiveUp {
        /// The reason, for its owner.
        fault: Fault,
        /// Whether something of it may be on its host.
        on_node: OnNode,
    },
    /// Its host has removed it, but the report was lost.
    Gone,
    /// It is missing from its host.
    Missing,
    /// It was missing and is there again.
    FoundAgain,
    /// It is stopped, though the registry says that it runs.
    FoundStopped,
    /// It runs, though the registry says that it is stopped.
    FoundRunning,
    /// Its host says that it has these sizes, though the registry has others or does not know.
    FoundSizes(Sizes),
    /// It is stopped, though its owner wants it to run: what it was stopped for failed.
    Resume,
    /// Nothing of it is on its host, of which the registry was not certain.
    NothingThere,
    /// Repeat its last order, which its host does not know.
    Again,
    /// It is gone according to the registry, but its host still has something of it: remove that.
    RemoveLeftover,
    /// It did not answer this many times in a row.
    Silent(u32),
    /// It answers again.
    Answers,
    /// Notify its owner that it does not answer.
    TellSilent,
    /// Remove it, as configured, after so long a silence.
    DeleteSilent,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Vm { virtual_host, owner, physical_host, state, .. } = &self.vm;
        write!(f, "{virtual_host} of {} on {physical_host} ({state}): ", owner.as_str())?;
        match &self.action {
            Action::Warn(before) => write!(f, "tell its owner that its lease ends within {before}"),
            Action::StopForLease => f.write_str("stop it, for its lease is over"),
            Action::Expire => f.write_str("its lease is over; keep its disk for the grace"),
            Action::TellEnded => f.write_str("tell its owner that its lease has ended"),
            Action::PutOff => f.write_str("begin its grace anew, for its owner's mail still waits"),
            Action::Hold => f.write_str("keep its disk, for its owner has no address and can't be told"),
            Action::BringBack => f.write_str("bring it back, for its lease is not over"),
            Action::Delete => f.write_str("remove it, for its grace is over"),
            Action::Forget => f.write_str("forget it: it failed, and nothing of it is on its host"),
            Action::GiveUp { fault, .. } => write!(f, "give up waiting: {fault}"),
            Action::Gone => f.write_str("its host has removed it"),
            Action::Missing => f.write_str("its host has no such machine any more"),
            Action::FoundAgain => f.write_str("its host has it again"),
            Action::FoundStopped => f.write_str("it is stopped"),
            Action::FoundRunning => f.write_str("it runs"),
            Action::FoundSizes(Sizes { memory, cpus, disk }) => {
                write!(f, "its host says that it has {memory}, {cpus} and {disk}")
            }
            Action::Resume => f.write_str("start it, for its owner wants it to run"),
            Action::NothingThere => f.write_str("nothing of it is on its host"),
            Action::Again => write!(f, "tell its host again: {}", self.vm.order),
            Action::RemoveLeftover => {
                f.write_str("it is gone, and its host still has something of it: remove that")
            }
            Action::Silent(times) => write!(f, "no answer, {times} in a row"),
            Action::Answers => f.write_str("it answers again"),
            Action::TellSilent => f.write_str("tell its owner that it does not answer"),
            Action::DeleteSilent => f.write_str("remove it, for it has not answered for so long"),
        }
    }
}

/// What it takes to carry out a plan.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The portal's own clock.
    pub life: Life,
    /// The grace period, for which disks are kept.
    pub grace: Lease,
    /// Finds another host for a machine whose deploy failed.
    pub mover: Mover<'a>,
}

/// The result of a step: the machine as it is now, and the order to send to its host.
pub type Done = (Vm, Option<Order>);

/// Returns the name of the notice that is due this long before the end of a lease.
pub fn warning(before: Lease) -> String {
    format!("ends in {before}")
}

/// The name of the notice after the end of a lease.
pub const ENDED: &str = "ended";

/// The name of the notice about a machine that does not answer.
pub const SILENT: &str = "silent";

/// Carries out a step under the write lock. Returns `None` if the machine has changed since the
/// step was planned; the next run looks again.
///
/// # Errors
/// [`RegistryError`] if SQLite fails.
pub fn carry_out(
    writer: &Writer<'_>,
    ground: Context<'_>,
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
    let Context { life: portal, grace, mover } = ground;
    let (at, now, lived) = (writer.at(), writer.now(), portal.lived);
    let order = |order, interest| life::ordered(&vm, order, interest, None, at);
    let change = match &step.action {
        Action::Warn(before) => {
            let is_new = writer.note(vm.id, &warning(*before), vm.expires.unwrap_or(now), lived)?;
            is_new.then(|| Change::silent(vm.clone()))
        }
        Action::TellSilent => {
            // Independent of the lease: one for each period of silence.
            let is_new = writer.note(vm.id, SILENT, vm.created, lived)?;
            is_new.then(|| Change::silent(vm.clone()))
        }
        // Not the owner's wish, so an extension starts it again.
        Action::StopForLease => order(Order::Stop, Interest::Portal),
        Action::Expire => life::expired(&vm, grace, at),
        Action::TellEnded | Action::PutOff => {
            writer.forget_notice(vm.id, ENDED)?;
            writer.note(vm.id, ENDED, vm.expires.unwrap_or(now), lived)?;
            Some(life::kept_for(&vm, grace, at))
        }
        Action::Hold => {
            writer.forget_notice(vm.id, ENDED)?;
            Some(life::kept_for(&vm, grace, at))
        }
        Action::BringBack => life::brought_back(&vm, at),
        Action::Delete | Action::DeleteSilent => order(Order::Terminate, Interest::Portal),
        Action::Forget => life::forgotten(&vm, "its lease is over, and nothing of it is on its host", at),
        Action::GiveUp { fault, on_node } => {
            if vm.state == State::Deploying
                && *on_node == OnNode::No
                && let Some(moved) = mover.elsewhere(writer, &vm, fault)?
            {
                return Ok(Some((moved, Some(Order::Deploy))));
            }
            life::given_up(&vm, fault, *on_node, at)
        }
        Action::Gone => life::found_gone(&vm, at),
        Action::Missing => life::missing(&vm),
        Action::FoundAgain => Some(life::found_again(&vm)),
        Action::FoundStopped => life::found_stopped(&vm, at),
        Action::FoundRunning => life::found_running(&vm, at),
        Action::FoundSizes(sizes) => Some(life::found_sizes(&vm, *sizes)),
        Action::Resume => order(Order::Start, Interest::Recovery),
        Action::NothingThere => Some(life::not_there(&vm)),
        Action::Again => order(vm.order, Interest::Portal),
        Action::RemoveLeftover => {
            writer.record(vm.id, "removal ordered", "its host still had something of it")?;
            // Its last order is done. This is a new one, which need not be recorded.
            let number = vm.number.next(at.millis);
            return Ok(Some((Vm { number, ..vm }, Some(Order::Terminate))));
        }
        Action::Silent(times) => Some(life::silent(&vm, *times)),
        Action::Answers => {
            writer.forget_notice(vm.id, SILENT)?;
            Some(life::silent(&vm, 0))
        }
    };
    let Some(change) = change else { return Ok(None) };
    let next = change.next;
    Ok(writer.apply(&vm, change)?.map(|vm| (vm, next)))
}
