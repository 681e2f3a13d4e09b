//! `node/stop`, `node/start`, `node/reboot`: has a worker stop or start a machine that is there.

use std::time::Duration;

use crate::cgi::reply::{Refusal, Reply};
use crate::cgi::serve::NodeCall;
use crate::model::fault::Fault;
use crate::model::stage::Order;
use crate::model::wire::MachineOrder;
use crate::system::clock;
use crate::system::log::{self, Level};

use super::host::{self, HostState, OVERHEAD};
use super::jobs::{Record, Saving};
use super::privileged::Helper;
use super::{Node, accepted, machine_name, order, refuse};

/// How long an order waits for others to be taken or refused.
const PATIENCE: Duration = Duration::from_secs(4);

/// How long it waits for a worker that is about to end.
const SHORT: Duration = Duration::from_millis(500);

/// How old what is known of the host may be: many orders at once are judged by one look.
const MAX_AGE: Duration = Duration::from_secs(3);

/// Answers an order with 202 if it is taken, or had been taken before; 409 or 503 with the [`Fault`]. What is
/// stopped (or runs) already is no error: the worker finds nothing to do and reports that.
pub fn handle(call: &NodeCall<'_>, work: Order) -> Result<Reply, Refusal> {
    let order: MachineOrder = order(call)?;
    take(call, &order, work, None, |state, records, known| match work {
        Order::Stop => Ok(()),
        _ => check(state, records, known),
    })
}

/// Has a worker carry out an order about a machine that is there, unless `judge` has something against it.
/// `saving` is what the order is about beside the machine.
pub(super) fn take(
    call: &NodeCall<'_>,
    order: &MachineOrder,
    work: Order,
    saving: Option<Saving>,
    judge: impl FnOnce(&HostState, &[Record], &Record) -> Result<(), Fault>,
) -> Result<Reply, Refusal> {
    let since = host::ago(MAX_AGE);
    let machine = machine_name(order)?;
    let node = Node::open(call)?;
    let helper = Helper::new(&call.request.id);
    let lock = node.lock(PATIENCE)?;
    let state = host::state(&node.jobs, &lock, since, || helper.info()).map_err(refuse)?;
    let records = node.jobs.list().map_err(Refusal::internal)?;
    let Some(known) = records.iter().find(|record| record.id == order.id && record.machine == machine) else {
        return Err(refuse(Fault::MachineMissing { machine }));
    };
    let image = |saving: &Option<Saving>| saving.as_ref().map(|saving| saving.image.clone());
    let is_same = |known: &Record| {
        known.number == order.number && known.work == work && image(&known.saving) == image(&saving)
    };
    let repeated = || {
        log::event(Level::Info, "order.repeated", &[("vm", &order.id), ("order", &work)]);
        accepted(order.id, state.facts(&records, &node.common.digest))
    };
    let busy = || Refusal::busy("This machine is being worked on. Try again in a moment.");
    let Some(taken) = node.jobs.take(order.id, SHORT).map_err(Refusal::internal)? else {
        return if is_same(known) && !known.done { repeated() } else { Err(busy()) };
    };
    // Again, under its lock.
    let Some(known) = taken.read().map_err(Refusal::internal)? else {
        return Err(refuse(Fault::MachineMissing { machine }));
    };
    if order.number < known.number {
        return Err(refuse(Fault::OrderOutdated));
    }
    if is_same(&known) {
        // It has been carried out, or its worker was killed. The server has not heard how it ended.
        let mut record = Record { told: false, ..known };
        taken.write(&mut record).map_err(Refusal::internal)?;
        taken.start("recover").map_err(Refusal::internal)?;
        return repeated();
    }
    if order.number == known.number {
        return Err(refuse(Fault::OrderOutdated));
    }
    if !known.done {
        return Err(busy());
    }
    judge(&state, &records, &known).map_err(refuse)?;
    let (request, now) = (call.request.id.clone(), clock::now());
    let mut record = Record { saving, ..known.ordered(work, order.number, request, now) };
    taken.write(&mut record).map_err(Refusal::internal)?;
    log::event(
        Level::Info,
        "order.accepted",
        &[("vm", &record.id), ("machine", &machine), ("order", &work), ("from", &call.request.from())],
    );
    // Should this fail, the record stays, and the next request's sweep brings it to an end.
    taken.start("begin").map_err(Refusal::internal)?;
    let records = node.jobs.list().map_err(Refusal::internal)?;
    accepted(order.id, state.facts(&records, &node.common.digest))
}

/// Checks that there is memory for a machine that does not run.
fn check(state: &HostState, records: &[Record], known: &Record) -> Result<(), Fault> {
    let machines = state.machines.as_ref().map_err(Clone::clone)?;
    let is_up = machines.domains.iter().any(|domain| domain.is(known.id, &known.machine, !known.stopped));
    let Some(order) = known.order.as_ref().filter(|_| !is_up) else { return Ok(()) };
    let needed = order.memory.amount().plus(OVERHEAD);
    let free = machines.memory.free.minus(state.reserved(records).memory);
    if needed > free { Err(Fault::NotEnoughMemory { needed, free }) } else { Ok(()) }
}
