//! `node/stop`, `node/start`, `node/reboot`: has a worker stop or start an existing machine.

use crate::cgi::reply::{Refusal, Reply};
use crate::cgi::serve::NodeCall;
use crate::model::fault::Fault;
use crate::model::stage::Order;
use crate::model::wire::MachineOrder;
use crate::node::host::HostState;
use crate::node::jobs::Record;

use super::handover::{self, Detail};
use super::order;

/// Answers `node/stop`.
pub fn stop(call: &NodeCall<'_>) -> Result<Reply, Refusal> {
    handle(call, Order::Stop)
}

/// Answers `node/start`.
pub fn start(call: &NodeCall<'_>) -> Result<Reply, Refusal> {
    handle(call, Order::Start)
}

/// Answers `node/reboot`.
pub fn reboot(call: &NodeCall<'_>) -> Result<Reply, Refusal> {
    handle(call, Order::Reboot)
}

/// Responds to an order with 202 if it is accepted or had been before; otherwise with 409 or 503
/// and the [`Fault`]. These orders are idempotent: if the machine is already stopped (or running),
/// the worker has nothing to do, and reports that.
fn handle(call: &NodeCall<'_>, work: Order) -> Result<Reply, Refusal> {
    let order: MachineOrder = order(call)?;
    handover::to_worker(call, &order, work, Detail::default(), |state, records, known| match work {
        Order::Stop => Ok(()),
        _ => check_memory(state, records, known),
    })
}

/// Checks that there is memory for the machine, unless it is running.
fn check_memory(state: &HostState, records: &[Record], known: &Record) -> Result<(), Fault> {
    let machines = state.machines.as_ref().map_err(Clone::clone)?;
    let machine = known.target();
    let is_up = machines.domains.iter().any(|domain| domain.is(&machine, !known.stopped));
    let Some(order) = known.order.as_ref().filter(|_| !is_up) else { return Ok(()) };
    let needed = order.spec.memory.amount().plus(machines.overhead);
    let free = machines.memory.free.minus(state.reserved(records).memory);
    if needed > free { Err(Fault::NotEnoughMemory { needed, free }) } else { Ok(()) }
}
