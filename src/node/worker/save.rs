//! Shuts a machine down and saves its disk as an image.

use std::io;
use std::time::Duration;

use crate::model::fault::Fault;
use crate::model::size::Amount;
use crate::model::stage::{Percent, Stage};
use crate::node::image::store::{Content, Draft, Store};
use crate::node::image::{self, CopyError};
use crate::node::jobs::{JobError, Jobs, Saving};
use crate::system::log::{self, Level};

use super::power::shut_down;
use super::{Plan, Stop, Worker, disk, not_written};

/// Saves the disk, or leaves no image. The machine is left stopped either way.
pub(super) const SAVE: Plan =
    Plan { steps: &[(Stage::Shutdown, shut_down), (Stage::Pack, pack)], undo: not_saved };

/// How long to wait for the node's lock before reserving space without it.
const RESERVE: Duration = Duration::from_secs(30);

/// Has the helper's tar read the disk, and compresses the stream into an image, which gets its
/// final name once it is complete.
fn pack(worker: &mut Worker<'_>) -> Result<(), Stop> {
    let Some(image) = worker.record.saving.as_ref().map(|saving| saving.image.clone()) else {
        return Err(worker.internal("a disk to be saved, and no name for the image").into());
    };
    let exists = || Stop::from(Fault::ImageExists { name: image.name.clone() });
    let store = Store::new(worker.config);
    // `publish` checks again; this avoids reading a disk in vain.
    if store.is_taken(&image).map_err(|error| not_written(&error))? {
        return Err(exists());
    }
    // The machine was made of the image, whose settings say what is on its disk.
    let settings = worker.record.order.as_ref().map(|order| worker.config.image(&order.spec.image));
    let Some(Ok(settings)) = settings else {
        return Err(worker.internal("a disk to be saved, and no settings of its image").into());
    };
    let content = Content::of(&settings);
    let Some(mut draft) = store.draft(&image, content).map_err(|error| not_written(&error))? else {
        return Err(exists());
    };
    match content {
        Content::Tree => fill(worker, &mut draft)?,
        Content::Disk => disk::pack(worker, &mut draft)?,
    }
    let packed = draft.seal().map_err(|error| not_written(&error))?;
    if let Some(saving) = &mut worker.record.saving {
        saving.file = Some(packed);
    }
    worker.write_record()?;
    draft.publish().map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => exists(),
        _ => not_written(&error).into(),
    })
}

/// Compresses the stream from the helper's tar. Space is reserved before anything is written.
fn fill(worker: &mut Worker<'_>, draft: &mut Draft) -> Result<(), Stop> {
    let (id, machine) = (worker.record.id, worker.record.machine.clone());
    let compression = worker.config.general.saved_images;
    let (helper, jobs) = (worker.helper.clone(), worker.jobs.clone());
    let mut most = None;
    let (packed, result) = worker.while_reporting(Stage::Pack, |progress| {
        helper.pack(id, &machine, |header, pipe| {
            image::enlarge(pipe);
            reserve(&jobs, draft, header.expected).map_err(CopyError::Write)?;
            image::pack(pipe, draft, compression, |read| {
                let goes_on = progress.note(Percent::of(read, header.expected));
                // The helper enforces this as well.
                most = (read > header.most).then_some(header.most);
                most.is_none() && goes_on
            })
        })
    })?;
    if let Some(most) = most {
        return Err(Fault::DiskInconsistent { most: Amount::from_mib(most >> 20) }.into());
    }
    worker.packed(packed, result)
}

/// Reserves space for an image, while holding the node's lock.
fn reserve(jobs: &Jobs, draft: &mut Draft, bytes: u64) -> io::Result<()> {
    let lock = jobs.lock_node(RESERVE)?;
    if lock.is_none() {
        log::event(Level::Warning, "image.crowded", &[("waited", &RESERVE.as_secs())]);
    }
    draft.reserve(bytes)
}

/// Leaves the machine stopped, and reports why there is no image.
fn not_saved(worker: &mut Worker<'_>, fault: Fault) -> Result<(), JobError> {
    let fault = match fault {
        Fault::Interrupted { .. } => Fault::SaveInterrupted,
        other => other,
    };
    if let Some(saving) = &mut worker.record.saving {
        saving.file = None;
    }
    // This also ends whatever a killed helper has left running on the disk.
    worker.leave_stopped();
    worker.finish(Some(fault))
}

/// Finishes a save whose image has got its final name, and undoes any other.
pub(super) fn recover(worker: &mut Worker<'_>) -> Result<(), JobError> {
    let store = Store::new(worker.config);
    if let Some(Saving { image, file: Some(packed) }) = &worker.record.saving {
        match store.has(image, *packed) {
            Ok(true) => return worker.finish(None),
            Ok(false) => {}
            Err(error) => {
                log::event(Level::Error, "image.unreadable", &[("image", image), ("why", &error)]);
            }
        }
    }
    store.sweep();
    not_saved(worker, Fault::SaveInterrupted)
}
