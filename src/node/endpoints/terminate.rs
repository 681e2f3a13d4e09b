//! `node/terminate`: has a worker remove all of a machine, whatever state it is in.

use std::time::{Duration, Instant};

use crate::cgi::reply::{Refusal, Reply};
use crate::cgi::serve::NodeCall;
use crate::model::fault::Fault;
use crate::model::stage::Order;
use crate::model::wire::MachineOrder;
use crate::node::host;
use crate::node::jobs::{Jobs, Record, Taken};
use crate::node::privileged::Helper;
use crate::system::clock;
use crate::system::log::{self, Level};

use super::{Node, accepted, being_worked_on, machine_name, order, refuse};

/// How long to wait for a worker to die, or for a lock that is about to be released.
const PATIENCE: Duration = Duration::from_secs(4);

/// How old the host's state in the answer may be. Nothing is decided by it.
const MAX_AGE: Duration = Duration::from_secs(60);

/// Answers an order with 202, whether the machine is there, being made, being removed, or unknown.
/// A report will say how it ended.
pub fn handle(call: &NodeCall<'_>) -> Result<Reply, Refusal> {
    let node = Node::open(call)?;
    let order: MachineOrder = order(call)?;
    let machine = machine_name(&order)?;

    let helper = Helper::new(&call.request.id);
    let lock = node.lock(PATIENCE)?;
    let state = host::state(&node.jobs, &lock, host::ago(MAX_AGE), || helper.info()).map_err(refuse)?;
    drop(lock);

    if let Some(taken) = take(&node.jobs, &order)? {
        // A record that can't be read is replaced: the order has all that is needed.
        let known = taken.read().unwrap_or_else(|error| {
            log::event(
                Level::Error,
                "job.unreadable",
                &[("vm", &order.id), ("machine", &machine), ("why", &error)],
            );
            None
        });
        let (request, now) = (call.request.id.clone(), clock::now());
        let mut record = match known {
            Some(known) if order.number < known.number => return Err(refuse(Fault::OrderOutdated)),
            Some(known) => known.ordered(Order::Terminate, order.number, request, now),
            None => Record::unknown(&order, machine, request, now),
        };
        taken.write(&mut record).map_err(Refusal::internal)?;
        log::event(
            Level::Info,
            "order.accepted",
            &[
                ("vm", &record.id),
                ("machine", &record.machine),
                ("order", &record.work),
                ("from", &call.request.from()),
            ],
        );
        // If this fails the record stays, and the next request's sweep starts the worker.
        taken.start("begin").map_err(Refusal::internal)?;
    } else {
        log::event(
            Level::Info,
            "order.repeated",
            &[
                ("vm", &order.id),
                ("machine", &machine),
                ("order", &Order::Terminate),
                ("from", &call.request.from()),
            ],
        );
    }
    let records = node.jobs.list().map_err(Refusal::internal)?;
    accepted(order.id, state.facts(&records, &node.common.digest))
}

/// Takes the machine's lock, if need be from the worker that holds it. `None` if that is removing
/// the machine already.
fn take(jobs: &Jobs, order: &MachineOrder) -> Result<Option<Taken>, Refusal> {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(taken) = jobs.take(order.id, Duration::from_millis(100)).map_err(Refusal::internal)? {
            return Ok(Some(taken));
        }
        match jobs.read(order.id) {
            Ok(Some(record)) if record.work == Order::Terminate => return Ok(None),
            Ok(Some(record)) if order.number < record.number => return Err(refuse(Fault::OrderOutdated)),
            // If its helper still runs, the helper of the next worker stops it.
            Ok(Some(record)) => Jobs::stop_worker(&record),
            Ok(None) => {}
            Err(error) => log::event(Level::Error, "job.unreadable", &[("vm", &order.id), ("why", &error)]),
        }
        if Instant::now() >= end {
            return Err(being_worked_on());
        }
    }
}
