//! Gives a stopped machine other sizes.
//!
//! | stage | what it does | if it fails |
//! | --- | --- | --- |
//! | configure | the definition gets the new memory and processors | it gets the old ones again |
//! | grow | the root disk becomes larger | as above, unless the disk has become larger after all |
//!
//! A disk never becomes smaller, so once it is larger, the order is carried out to its end. Until the
//! record says that it is done, the machine has neither the old sizes nor the new ones, and the node
//! accepts no order to start it. If neither is possible now, a later sweep tries again.

use crate::model::fault::Fault;
use crate::model::size::Amount;
use crate::model::spec::Sizes;
use crate::model::stage::Stage;
use crate::node::jobs::JobError;
use crate::node::storage::Disk;
use crate::system::log::{self, Level};

use super::{Plan, Stop, Worker};

/// Changes the sizes, or leaves them as they are. The machine is left stopped either way.
pub(super) const RESIZE: Plan =
    Plan { steps: &[(Stage::Configure, configure), (Stage::Grow, grow)], undo: not_resized };

fn configure(worker: &mut Worker<'_>) -> Result<(), Stop> {
    let (_, new) = sizes(worker)?;
    Ok(define(worker, new)?)
}

fn grow(worker: &mut Worker<'_>) -> Result<(), Stop> {
    let (old, new) = sizes(worker)?;
    if new.disk > old.disk {
        enlarge(worker, new)?;
    }
    settle(worker, new);
    Ok(())
}

/// Returns the present sizes and those that the machine is to have.
fn sizes(worker: &Worker<'_>) -> Result<(Sizes, Sizes), Fault> {
    let present = worker.record.order.as_ref().map(|order| order.spec.sizes());
    present.zip(worker.record.resizing).ok_or_else(|| worker.internal("a change of sizes without sizes"))
}

/// Makes the machine's definition anew, with these sizes. It does not start with the host.
fn define(worker: &Worker<'_>, sizes: Sizes) -> Result<(), Fault> {
    let (Some(mut order), Some(ip)) = (worker.record.order.clone(), worker.record.ip) else {
        return Err(worker.internal("a machine without its order or its address"));
    };
    order.spec = order.spec.with(sizes);
    worker.helper.configure_stopped(&order, &worker.record.machine, ip)
}

fn enlarge(worker: &mut Worker<'_>, sizes: Sizes) -> Result<(), Stop> {
    let (helper, id, machine) = (worker.helper.clone(), worker.record.id, worker.record.machine.clone());
    let grown = worker.while_reporting(Stage::Grow, |progress| {
        helper.grow_volume(id, &machine, sizes.disk, |percent| progress.note(percent))
    })?;
    Ok(grown?)
}

/// Has the record say which sizes the machine has, once it is written.
fn settle(worker: &mut Worker<'_>, sizes: Sizes) {
    if let Some(order) = &mut worker.record.order {
        order.spec = order.spec.clone().with(sizes);
    }
    worker.record.resizing = None;
    // The machine may have shut down by itself before.
    worker.record.stopped = true;
}

/// Ends a change of sizes that failed in this worker.
fn not_resized(worker: &mut Worker<'_>, fault: Fault) -> Result<(), JobError> {
    // What could not be made of the template has not been installed either.
    let is_untouched = worker.record.stage == Some(Stage::Configure)
        && matches!(fault, Fault::TemplateError { .. } | Fault::MachineRuns { .. });
    end(worker, fault, is_untouched)
}

/// Carries out again what a killed worker began.
pub(super) fn recover(worker: &mut Worker<'_>) -> Result<(), JobError> {
    match worker.walk(RESIZE.steps) {
        Ok(()) => worker.finish(None),
        Err(Stop::Failed(fault)) => end(worker, fault, false),
        // Only deploys are ever abandoned.
        Err(Stop::Abandoned) => end(worker, Fault::Interrupted { stage: worker.record.stage }, false),
        Err(Stop::Unrecorded(error)) => Err(error),
    }
}

/// Takes back what has been done, or carries it out to its end if it can't be taken back, and reports
/// what it is. If neither is possible, leaves it to a sweep.
fn end(worker: &mut Worker<'_>, fault: Fault, is_untouched: bool) -> Result<(), JobError> {
    let fault = match fault {
        Fault::Interrupted { .. } => Fault::ResizeFailed { detail: "the work was interrupted".to_owned() },
        other => other,
    };
    let Ok((old, new)) = sizes(worker) else { return worker.finish(Some(fault)) };
    let left = match take_back(worker, old, new) {
        Ok(End::New) => {
            settle(worker, new);
            return worker.finish(None);
        }
        Ok(End::Old) => {
            worker.record.stopped = true;
            None
        }
        Err(Stop::Failed(left)) => Some(left).filter(|_| !is_untouched),
        Err(Stop::Abandoned) => Some(Fault::Interrupted { stage: worker.record.stage }),
        Err(Stop::Unrecorded(error)) => return Err(error),
    };
    let Some(left) = left else {
        worker.record.resizing = None;
        return worker.finish(Some(fault));
    };
    log::event(
        Level::Error,
        "undo.failed",
        &[
            ("vm", &worker.record.id),
            ("machine", &worker.record.machine),
            ("order", &worker.record.work),
            ("why", &left),
        ],
    );
    worker.leave_to_sweep()
}

/// The sizes that a machine has in the end.
enum End {
    Old,
    New,
}

/// Gives a machine its old sizes again; or the new ones, if its disk has become larger.
fn take_back(worker: &mut Worker<'_>, old: Sizes, new: Sizes) -> Result<End, Stop> {
    let grows = new.disk > old.disk;
    if grows && root_size(worker)? >= new.disk.amount() {
        define(worker, new)?;
        // It may not be complete.
        enlarge(worker, new)?;
        return Ok(End::New);
    }
    define(worker, old)?;
    if grows {
        // It has this size; but a helper may have been killed just before it changed it.
        enlarge(worker, old)?;
    }
    Ok(End::Old)
}

/// Returns the size of the root disk.
fn root_size(worker: &Worker<'_>) -> Result<Amount, Fault> {
    let storage = worker.helper.info()?.storage?;
    let missing = || worker.internal("there is no root disk");
    storage.disk(worker.record.id, Disk::Root).map(|root| root.size).ok_or_else(missing)
}
