//! `node/terminate`: has a worker remove a machine completely, whatever its state.

use std::time::{Duration, Instant};

use crate::cgi::reply::{Refusal, Reply};
use crate::cgi::serve::NodeCall;
use crate::model::fault::Fault;
use crate::model::stage::Order;
use crate::model::wire::MachineOrder;
use crate::node::host;
use crate::node::jobs::{Jobs, Record, RecordLock};
use crate::node::privileged::Helper;
use crate::system::clock;
use crate::system::log::{self, Level};

use super::{Node, accepted, being_worked_on, machine_name, order, refuse};

/// How long to wait for a worker to die, or for a lock that is about to be released.
const PATIENCE: Duration = Duration::from_secs(4);

/// The maximum age of the host's state in the response. Nothing depends on it.
const MAX_AGE: Duration = Duration::from_secs(60);

/// Responds to an order with 202, whether the machine exists, is being created or removed, or is
/// unknown. A report announces the outcome.
pub fn handle(call: &NodeCall<'_>) -> Result<Reply, Refusal> {
    let node = Node::open(call)?;
    let order: MachineOrder = order(call)?;
    let machine = machine_name(&order)?;

    let helper = Helper::new(&call.request.id);
    let lock = node.lock(PATIENCE)?;
    let state = host::state(&node.jobs, &lock, host::ago(MAX_AGE), || helper.info()).map_err(refuse)?;
    drop(lock);

    if let Some(taken) = take(&node.jobs, &order)? {
        // An unreadable record is replaced: the order contains everything needed.
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
        // If this fails, the record stays, and the sweep of the next request starts the worker.
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
    accepted(order.id, state.facts(&records, &call.config, &node.common))
}

/// Takes the machine's lock, from the worker that holds it if necessary. Returns `None` if that
/// worker is already removing the machine.
fn take(jobs: &Jobs, order: &MachineOrder) -> Result<Option<RecordLock>, Refusal> {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(taken) = jobs.take(order.id, Duration::from_millis(100)).map_err(Refusal::internal)? {
            return Ok(Some(taken));
        }
        match jobs.read(order.id) {
            Ok(Some(record)) if record.work == Order::Terminate => return Ok(None),
            Ok(Some(record)) if order.number < record.number => return Err(refuse(Fault::OrderOutdated)),
            // If its helper is still running, the next worker's helper stops it.
            Ok(Some(record)) => Jobs::stop_worker(&record),
            Ok(None) => {}
            Err(error) => log::event(Level::Error, "job.unreadable", &[("vm", &order.id), ("why", &error)]),
        }
        if Instant::now() >= end {
            return Err(being_worked_on());
        }
    }
}
