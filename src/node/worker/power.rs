//! Stops, starts and reboots an existing machine.

use crate::model::fault::Fault;
use crate::model::size::MiB;
use crate::model::stage::Stage;
use crate::node::helper::Stand;
use crate::node::jobs::JobError;
use crate::system::log::{self, Level};

use super::{Plan, Stop, Worker, disk};

/// Stops the machine, or lets it continue to run.
pub(super) const STOP: Plan = Plan { steps: &[(Stage::Shutdown, shut_down)], undo: not_stopped };

/// Starts the machine, or leaves it stopped.
pub(super) const START: Plan =
    Plan { steps: &[(Stage::Start, start), (Stage::Verify, verify)], undo: not_started };

/// Stops and starts the machine, or leaves it stopped.
pub(super) const REBOOT: Plan = Plan {
    steps: &[(Stage::Shutdown, shut_down), (Stage::Start, start), (Stage::Verify, verify)],
    undo: not_started,
};

pub(super) fn shut_down(worker: &mut Worker<'_>) -> Result<(), Stop> {
    let stand = worker.helper.stop(worker.record.id, &worker.record.machine)?;
    // It may still be removed, and saved. The next start says what is wrong.
    if stand == Stand::Elsewhere
        && let Err(why) = follow_toolstack(worker)
    {
        log::event(
            Level::Warning,
            "definition.not-moved",
            &[("vm", &worker.record.id), ("machine", &worker.record.machine), ("why", &why)],
        );
    }
    worker.record.stopped = true;
    Ok(worker.write_record()?)
}

/// Has the machine's definition move to the toolstack that its host has got.
fn follow_toolstack(worker: &Worker<'_>) -> Result<(), Fault> {
    match (&worker.record.order, worker.record.ip) {
        (Some(order), Some(ip)) => worker.helper.follow_toolstack(order, &worker.record.machine, ip),
        // The machine was made by another record, or its deploy failed early.
        _ => Ok(()),
    }
}

fn start(worker: &mut Worker<'_>) -> Result<(), Stop> {
    let Some(memory) = worker.record.order.as_ref().map(|order| order.spec.memory) else {
        return Err(worker.internal("a machine without its order").into());
    };
    worker.record.stopped = false;
    worker.write_record()?;
    disk::renew_seed(worker);
    Ok(worker.start_machine(memory)?)
}

fn verify(worker: &mut Worker<'_>) -> Result<(), Stop> {
    Ok(worker.helper.verify(worker.record.id, &worker.record.machine)?)
}

/// Lets the machine start at boot again, and reports why it was not stopped.
fn not_stopped(worker: &mut Worker<'_>, fault: Fault) -> Result<(), JobError> {
    let fault = match fault {
        Fault::Interrupted { .. } => Fault::StopFailed { detail: "the work was interrupted".to_owned() },
        other => other,
    };
    if let Some(memory) = worker.record.order.as_ref().map(|order| order.spec.memory)
        && let Err(why) = worker.start_machine(memory)
    {
        log::event(
            Level::Error,
            "start.failed",
            &[("vm", &worker.record.id), ("machine", &worker.record.machine), ("why", &why)],
        );
    }
    worker.finish(Some(fault))
}

/// Stops whatever may have been started, and reports the reason.
pub(super) fn not_started(worker: &mut Worker<'_>, fault: Fault) -> Result<(), JobError> {
    let fault = match fault {
        Fault::Interrupted { .. } => Fault::StartInterrupted { stage: worker.record.stage },
        other => other,
    };
    worker.leave_stopped();
    worker.finish(Some(fault))
}

impl Worker<'_> {
    /// Starts the machine, which follows its host to another toolstack first, if need be.
    pub(super) fn start_machine(&self, memory: MiB) -> Result<(), Fault> {
        let start = || self.helper.start(self.record.id, &self.record.machine, memory);
        if start()? == Stand::Elsewhere {
            follow_toolstack(self)?;
            if start()? == Stand::Elsewhere {
                return Err(self.internal("its definition stays with another toolstack"));
            }
        }
        Ok(())
    }

    /// Stops the machine, whatever its state. A failure is logged.
    pub(super) fn leave_stopped(&mut self) {
        match self.helper.stop(self.record.id, &self.record.machine) {
            Ok(_) => self.record.stopped = true,
            Err(left) => log::event(
                Level::Error,
                "stop.failed",
                &[("vm", &self.record.id), ("machine", &self.record.machine), ("why", &left)],
            ),
        }
    }
}
