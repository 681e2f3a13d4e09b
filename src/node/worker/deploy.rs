//! Deploys: waits for a slot, then creates the machine step by step.
//!
//! Whatever stage fails, one verb of the helper, `undo`, removes everything that was created:
//! domain, configuration, file systems in use, volumes.

use std::fs::File;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use crate::model::fault::{self, Fault};
use crate::model::spec::{Original, SnapshotOf};
use crate::model::stage::{Order, Percent, Stage};
use crate::model::wire::{DeployOrder, News};
use crate::node::helper::Filling;
use crate::node::image::store;
use crate::node::image::{self, CopyError};
use crate::node::jobs::JobError;
use crate::node::privileged::Origin;
use crate::system::log::{self, Level};

use super::answers::answers;
use super::{Stop, Worker, disk};

/// How often a waiting deploy checks whether it is its turn.
pub(super) const LOOK: Duration = Duration::from_secs(1);

/// The number of checks between two sweeps, so that it does not wait for a deploy whose worker was
/// killed.
const SWEEP: u64 = 10;

/// How often it reports that it is still waiting: the server gives up a deploy that sends no
/// reports.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(300);

/// The work of one stage of a deploy.
type Step = fn(&mut Worker<'_>, &DeployOrder) -> Result<(), Stop>;

/// The stages of a deploy after it has got a slot.
const STEPS: [(Stage, Step); 6] = [
    (Stage::Volumes, |worker, order| {
        let (machine, spec, origin) = (&worker.record.machine, &order.spec, origin(worker, order)?);
        Ok(worker.helper.make_volumes(order.id, machine, &spec.image, spec.disk, origin)?)
    }),
    (Stage::Filesystems, |worker, order| worker.make_filesystems(order)),
    (Stage::Unpack, fill),
    (Stage::Configure, configure),
    (Stage::Start, |worker, order| Ok(worker.start_machine(order.spec.memory)?)),
    (Stage::Verify, |worker, order| Ok(worker.helper.verify(order.id, &worker.record.machine)?)),
];

impl Worker<'_> {
    pub(super) fn deploy(&mut self) -> Result<(), JobError> {
        match self.make_machine() {
            Ok(()) => {
                self.slot = None;
                self.finish(None)
            }
            Err(Stop::Failed(fault)) => self.give_up(fault),
            Err(Stop::Abandoned) => self.abandon(),
            Err(Stop::Unrecorded(error)) => Err(error),
        }
    }

    fn make_machine(&mut self) -> Result<(), Stop> {
        let Some(order) = self.record.order.clone() else {
            return Err(self.internal("a deploy without its order").into());
        };
        let ip = self.address()?;
        let has_waited = self.wait_for_a_slot()?;
        thread::scope(|scope| {
            let mut asked = Some(scope.spawn(move || answers(ip)));
            // If it had to wait, the report of the first stage shows that the wait is over.
            if !has_waited {
                self.report_stage(Stage::Accepted, None)?;
            }
            for (stage, work) in STEPS {
                // A clone has its content. Nobody need hear of that.
                if stage == Stage::Unpack && self.filling == Filling::Done {
                    continue;
                }
                // Everything but the start can be undone, so it is done while the address is asked for.
                if let Some(answer) = asked.take_if(|asked| stage == Stage::Start || asked.is_finished())
                    && answer.join().unwrap_or(false)
                {
                    let host = self.record.virtual_host.clone();
                    return Err(Fault::AddressInUse { host, address: ip }.into());
                }
                self.in_stage(stage, |worker| work(worker, &order))?;
            }
            Ok(())
        })
    }

    /// Waits until this deploy is the first in the queue and a slot is free. Returns whether it had to
    /// wait, and reported that.
    fn wait_for_a_slot(&mut self) -> Result<bool, Stop> {
        let unreadable = |worker: &Self, error: io::Error| worker.internal(&format!("the queue: {error}"));
        let id = self.record.id;
        self.record.stage = Some(Stage::Accepted);
        self.write_record()?;
        let mut reported: Option<(u32, Instant)> = None;
        for look in 1.. {
            let place = self.jobs.place(id).map_err(|error| unreadable(self, error))?;
            if place == 1 {
                let most = self.config.general.parallel_deploys;
                self.slot = self.jobs.take_slot(most).map_err(|error| unreadable(self, error))?;
            }
            if self.slot.is_some() {
                break;
            }
            if reported.is_none_or(|(was, at)| was != place || at.elapsed() >= KEEP_ALIVE) {
                reported = Some((place, Instant::now()));
                log::event(
                    Level::Info,
                    "deploy.queued",
                    &[("vm", &id), ("machine", &self.record.machine), ("place", &place)],
                );
                self.report_stage(Stage::Accepted, Some(place))?;
            }
            if look % SWEEP == 0 {
                self.jobs.sweep();
            }
            thread::sleep(LOOK);
        }
        Ok(reported.is_some())
    }

    /// Undoes a deploy that the server has given up, without reporting the outcome.
    fn abandon(&mut self) -> Result<(), JobError> {
        log::event(
            Level::Warning,
            "deploy.abandoned",
            &[("vm", &self.record.id), ("machine", &self.record.machine)],
        );
        self.record.told = true;
        self.give_up(Fault::Interrupted { stage: self.record.stage })
    }

    /// Undoes a deploy, and reports the reason, unless the server knows the outcome.
    pub(super) fn give_up(&mut self, fault: Fault) -> Result<(), JobError> {
        let fault = match fault {
            // The helper has no notion of stages.
            Fault::Interrupted { stage: None } => Fault::Interrupted { stage: self.record.stage },
            other => other,
        };
        log::event(
            Level::Warning,
            "order.failed",
            &[
                ("vm", &self.record.id),
                ("machine", &self.record.machine),
                ("order", &Order::Deploy),
                ("why", &fault),
            ],
        );
        // From now on this counts as a failed deploy, whatever was ordered last.
        self.record.work = Order::Deploy;
        self.record.done = false;
        self.record.failed = Some(fault.clone());
        self.write_record()?;
        // The owner may read the console of a failed machine until the machine is terminated.
        let forget_console = self.record.told || !fault.leaves_console();
        let undone = self.helper.undo(self.record.id, &self.record.machine, forget_console);
        if let Err(left) = &undone {
            log::event(
                Level::Error,
                "undo.failed",
                &[
                    ("vm", &self.record.id),
                    ("machine", &self.record.machine),
                    ("order", &self.record.work),
                    ("why", left),
                ],
            );
        }
        let is_undone = undone.is_ok();
        if !self.record.told {
            let host = undone.map_or_else(|_| self.host(), |state| self.facts(state));
            let report = self.report(News::Failed { fault }, host)?;
            self.record.told = self.reporter.deliver(&report).is_some();
        }
        if is_undone && self.record.told { self.remove_record() } else { self.leave_to_sweep() }
    }
}

/// Opens the file that the order is to be carried out with.
fn open_image(worker: &Worker<'_>, order: &DeployOrder) -> Result<(File, u64), Stop> {
    let Ok(settings) = worker.config.image(&order.spec.image) else {
        return Err(Fault::ImageUnknown { tag: order.spec.image.clone() }.into());
    };
    let opened = store::source(worker.config, order, &settings);
    Ok(opened.map_err(|missing| worker.image_missing(missing))?)
}

/// Returns what the machine's root disk may be a clone of.
pub(super) fn origin<'a>(worker: &Worker<'_>, order: &'a DeployOrder) -> Result<Origin<'a>, Stop> {
    Ok(match order.spec.original() {
        Original::Nothing => Origin::Nothing,
        Original::Image => Origin::Image,
        Original::Saved(saved) => Origin::Saved(saved, open_image(worker, order)?.0),
    })
}

/// Gives the root disk its content, unless it has that already.
fn fill(worker: &mut Worker<'_>, order: &DeployOrder) -> Result<(), Stop> {
    if worker.filling == Filling::Image {
        worker.wait_for_turn(order)?;
    }
    let filled = match worker.filling {
        Filling::Done => Ok(()),
        Filling::Image => unpack_image(worker, order),
        Filling::Stream => match &order.spec.snapshot {
            Some(snapshot) => unpack_snapshot(worker, order, snapshot),
            None => unpack(worker, order),
        },
    };
    worker.turn = None;
    filled
}

/// Has the helper unpack the file of the image, or of the saved image.
fn unpack_image(worker: &mut Worker<'_>, order: &DeployOrder) -> Result<(), Stop> {
    let (file, _) = open_image(worker, order)?;
    let (helper, machine) = (worker.helper.clone(), worker.record.machine.clone());
    let (image, saved) = (&order.spec.image, order.spec.saved.as_ref());
    let unpacked = worker.while_reporting(Stage::Unpack, |progress| {
        helper.unpack_image(order.id, &machine, image, saved, file, |percent| progress.note(percent))
    })?;
    Ok(unpacked?)
}

/// Has the helper copy the snapshot of another machine.
fn unpack_snapshot(worker: &mut Worker<'_>, order: &DeployOrder, from: &SnapshotOf) -> Result<(), Stop> {
    if worker.config.image(&order.spec.image).is_ok_and(|settings| settings.disk.is_some()) {
        disk::seed(worker, order)?;
    }
    let (helper, machine) = (worker.helper.clone(), worker.record.machine.clone());
    let unpacked = worker.while_reporting(Stage::Unpack, |progress| {
        helper.unpack_snapshot(order.id, &machine, &order.spec.image, from, |percent| progress.note(percent))
    })?;
    Ok(unpacked?)
}

/// Streams the image through the helper's tar, or writes a whole disk.
fn unpack(worker: &mut Worker<'_>, order: &DeployOrder) -> Result<(), Stop> {
    if let Ok(settings) = worker.config.image(&order.spec.image)
        && settings.disk.is_some()
    {
        return disk::unpack(worker, order, &settings);
    }
    let (file, bytes) = open_image(worker, order)?;
    let tag = store::named(order);
    let (helper, machine) = (worker.helper.clone(), worker.record.machine.clone());
    let (fed, result) = worker.while_reporting(Stage::Unpack, |progress| {
        helper.unpack(order.id, &machine, &tag, |pipe| {
            image::enlarge(pipe);
            Ok(image::copy(file, pipe, |read| progress.note(Percent::of(read, bytes))))
        })
    })?;
    // A damaged image makes tar fail as well, and tar's message would hide the cause.
    match (fed, result) {
        (Some(Ok(Err(CopyError::Corrupt(detail)))), _) => {
            Err(Fault::ImageCorrupt { tag, detail: fault::detail(&detail) }.into())
        }
        (_, Err(fault)) => Err(fault.into()),
        (Some(Ok(Err(CopyError::Nested(folder)))), Ok(())) => {
            Err(Fault::ImageNested { tag, folder: fault::detail(&folder) }.into())
        }
        (Some(Ok(Ok(_))), Ok(())) => Ok(()),
        (Some(Ok(Err(error))), Ok(())) => Err(worker.internal(&error.to_string()).into()),
        (Some(Err(error)), Ok(())) => Err(worker.internal(&error.to_string()).into()),
        (None, Ok(())) => Err(worker.internal("the image was not copied").into()),
    }
}

fn configure(worker: &mut Worker<'_>, order: &DeployOrder) -> Result<(), Stop> {
    let ip = worker.address()?;
    Ok(worker.helper.configure(order, &worker.record.machine, ip)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deploy_goes_through_all_its_stages() {
        let steps = STEPS.into_iter().map(|(stage, _)| stage);
        let stages: Vec<Stage> = std::iter::once(Stage::Accepted).chain(steps).collect();
        assert_eq!(stages, Order::Deploy.stages());
    }
}
