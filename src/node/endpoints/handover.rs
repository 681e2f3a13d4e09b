//! Hands an order about an existing machine to a worker.

use std::time::Duration;

use crate::cgi::reply::{Refusal, Reply};
use crate::cgi::serve::NodeCall;
use crate::model::fault::Fault;
use crate::model::spec::Sizes;
use crate::model::stage::Order;
use crate::model::wire::MachineOrder;
use crate::node::host::{self, HostState};
use crate::node::jobs::{Record, Saving};
use crate::node::privileged::Helper;
use crate::system::clock;
use crate::system::log::{self, Level};

use super::{Node, accepted, being_worked_on, machine_name, refuse};

/// How long an order waits while others are being checked.
const PATIENCE: Duration = Duration::from_secs(4);

/// How long an order waits for a worker that is about to exit.
const SHORT: Duration = Duration::from_millis(500);

/// The maximum age of the host's state, so that one query serves several orders.
const MAX_AGE: Duration = Duration::from_secs(3);

/// What an order says besides its kind.
#[derive(Debug, Default)]
pub(super) struct Detail {
    /// The image to save the machine's disk as.
    pub(super) saving: Option<Saving>,
    /// The sizes to give it.
    pub(super) resizing: Option<Sizes>,
}

impl Detail {
    fn is_that_of(&self, record: &Record) -> bool {
        let image = |saving: &Option<Saving>| saving.as_ref().map(|saving| saving.image.clone());
        // Once they have been given, the record has no others.
        let sizes = self.resizing.filter(|_| !record.done);
        image(&self.saving) == image(&record.saving) && sizes == record.resizing
    }
}

/// Hands an order about an existing machine to a worker, unless `judge` objects.
pub(super) fn to_worker(
    call: &NodeCall<'_>,
    order: &MachineOrder,
    work: Order,
    detail: Detail,
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
    let is_same =
        |known: &Record| known.number == order.number && known.work == work && detail.is_that_of(known);
    let repeated = || {
        log::event(
            Level::Info,
            "order.repeated",
            &[("vm", &order.id), ("machine", &machine), ("order", &work), ("from", &call.request.from())],
        );
        accepted(order.id, state.facts(&records, &call.config, &node.common))
    };
    let Some(taken) = node.jobs.take(order.id, SHORT).map_err(Refusal::internal)? else {
        return if is_same(known) && !known.done { repeated() } else { Err(being_worked_on()) };
    };
    // Read again, now under its lock.
    let Some(known) = taken.read().map_err(Refusal::internal)? else {
        return Err(refuse(Fault::MachineMissing { machine }));
    };
    if order.number < known.number {
        return Err(refuse(Fault::OrderOutdated));
    }
    if is_same(&known) {
        // It has been carried out, or its worker was killed, and the server does not know the
        // outcome.
        let mut record = Record { told: false, ..known };
        taken.write(&mut record).map_err(Refusal::internal)?;
        taken.start("recover").map_err(Refusal::internal)?;
        return repeated();
    }
    if order.number == known.number {
        return Err(refuse(Fault::OrderOutdated));
    }
    if !known.done {
        return Err(being_worked_on());
    }
    judge(&state, &records, &known).map_err(refuse)?;
    let (request, now) = (call.request.id.clone(), clock::now());
    let Detail { saving, resizing } = detail;
    let mut record = Record { saving, resizing, ..known.ordered(work, order.number, request, now) };
    taken.write(&mut record).map_err(Refusal::internal)?;
    log::event(
        Level::Info,
        "order.accepted",
        &[("vm", &record.id), ("machine", &machine), ("order", &work), ("from", &call.request.from())],
    );
    // If this fails, the record stays, and the sweep of the next request resumes the work.
    taken.start("begin").map_err(Refusal::internal)?;
    let records = node.jobs.list().map_err(Refusal::internal)?;
    accepted(order.id, state.facts(&records, &call.config, &node.common))
}
