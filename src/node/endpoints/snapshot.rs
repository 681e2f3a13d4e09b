//! `node/snapshot`: takes, deletes, or goes back to a snapshot of a machine's disk, or has the machine go
//! back to its image. That takes no more than a few seconds, so the answer says that it is done.

use std::fmt::Display;
use std::time::Duration;

use crate::cgi::reply::{Refusal, Reply};
use crate::cgi::serve::NodeCall;
use crate::model::fault::Fault;
use crate::model::names::ImageTag;
use crate::model::spec::Original;
use crate::model::wire::{SnapshotAct, SnapshotDone, SnapshotOrder};
use crate::node::host::{self, HostState};
use crate::node::jobs::Record;
use crate::node::privileged::Helper;
use crate::system::log::{self, Level};

use super::{Node, being_worked_on, machine_name, order, refuse};

/// How long an order waits while others are being checked.
const PATIENCE: Duration = Duration::from_secs(4);

/// How long an order waits for a worker that is about to exit.
const SHORT: Duration = Duration::from_millis(500);

/// The maximum age of the host's state, so that one query serves several orders.
const MAX_AGE: Duration = Duration::from_secs(3);

/// Responds with a [`SnapshotDone`] once the order is carried out; otherwise with the [`Fault`], or
/// with 503. Each order is carried out once: if it came again later, it could undo what its machine's
/// owner has done since.
pub fn handle(call: &NodeCall<'_>) -> Result<Reply, Refusal> {
    let since = host::ago(MAX_AGE);
    let SnapshotOrder { machine, act }: SnapshotOrder = order(call)?;
    let known_as = machine_name(&machine)?;
    let node = Node::open(call)?;
    let helper = Helper::new(&call.request.id);
    let lock = node.lock(PATIENCE)?;
    let mut state = host::state(&node.jobs, &lock, since, || helper.info()).map_err(refuse)?;
    let records = node.jobs.list().map_err(Refusal::internal)?;
    let missing = || refuse(Fault::MachineMissing { machine: known_as.clone() });
    if !records.iter().any(|record| record.id == machine.id && record.machine == known_as) {
        return Err(missing());
    }
    let Some(taken) = node.jobs.take(machine.id, SHORT).map_err(Refusal::internal)? else {
        return Err(being_worked_on());
    };
    let mut known = taken.read().map_err(Refusal::internal)?.ok_or_else(missing)?;
    if machine.number <= known.number {
        return Err(refuse(Fault::OrderOutdated));
    }
    if !known.done {
        return Err(being_worked_on());
    }
    check(&state, &known, &act).map_err(refuse)?;
    known.number = machine.number;
    taken.write(&mut known).map_err(Refusal::internal)?;
    // Others need not wait: the record's lock is held.
    drop(lock);
    let reserved = state.reserved(&records).disk;
    let done = match &act {
        SnapshotAct::Take(name) => helper.take_snapshot(machine.id, &known_as, name, reserved),
        SnapshotAct::RollBack(name) => helper.roll_back(machine.id, &known_as, name),
        SnapshotAct::Delete(name) => helper.delete_snapshot(machine.id, &known_as, name),
        SnapshotAct::AsNew => {
            own_image(&known).and_then(|image| helper.as_new(machine.id, &known_as, image, reserved))
        }
    };
    let there = done.map_err(refuse)?;
    let (verb, from) = (act.verb(), call.request.from());
    let mut about: Vec<(&str, &dyn Display)> =
        vec![("vm", &machine.id), ("machine", &known_as), ("what", &verb), ("from", &from)];
    about.extend(act.name().map(|name| ("snapshot", name as &dyn Display)));
    log::event(Level::Info, "snapshot.done", &about);
    let ours = there.volumes.iter().filter(|volume| volume.machine == Some(machine.id));
    let snapshots = ours.filter_map(|volume| volume.snapshot.clone()).collect();
    state.storage = Ok(there);
    let host = state.facts(&records, &call.config, &node.common);
    Reply::json(200, &SnapshotDone { snapshots, host })
}

/// Returns the image whose own file a machine's disk was filled from.
fn own_image(known: &Record) -> Result<&ImageTag, Fault> {
    let order = known.order.as_ref().filter(|order| order.spec.original() == Original::Image);
    order
        .map(|order| &order.spec.image)
        .ok_or_else(|| Fault::NoWayBack { detail: "it was made from a saved image or a snapshot".to_owned() })
}

/// Checks that an order can be carried out, by what the host says.
fn check(state: &HostState, known: &Record, act: &SnapshotAct) -> Result<(), Fault> {
    match act {
        SnapshotAct::Take(_) | SnapshotAct::Delete(_) => return Ok(()),
        SnapshotAct::RollBack(_) => {}
        SnapshotAct::AsNew => own_image(known).map(drop)?,
    }
    let machines = state.machines.as_ref().map_err(Clone::clone)?;
    let machine = known.target();
    if machines.domains.iter().any(|domain| domain.is(&machine, !known.stopped)) {
        return Err(Fault::MachineRuns { machine: known.machine.clone() });
    }
    Ok(())
}
