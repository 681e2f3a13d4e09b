//! Images that deploys prepare for each other: one deploy prepares an image, and the others that need
//! it wait for that.

use std::fmt::Display;
use std::io;
use std::thread;
use std::time::Instant;

use crate::model::spec::Original;
use crate::model::stage::Stage;
use crate::model::wire::DeployOrder;
use crate::node::helper::Filling;
use crate::system::log::{self, Level};

use super::deploy::{KEEP_ALIVE, LOOK, origin};
use super::{Stop, Worker};

impl Worker<'_> {
    /// Makes the file systems, or clones the prepared image. The turn to prepare the image is taken
    /// before the helper looks for one, so whoever has the turn knows that nobody else prepares it.
    pub(super) fn make_filesystems(&mut self, order: &DeployOrder) -> Result<(), Stop> {
        self.take_turn(order)?;
        self.clone_or_make(order)
    }

    /// Waits until no other deploy prepares the image. Then there may be a disk to clone.
    pub(super) fn wait_for_turn(&mut self, order: &DeployOrder) -> Result<(), Stop> {
        if self.turn.is_some() {
            return Ok(());
        }
        let mut reported: Option<Instant> = None;
        let image: &dyn Display = match &order.spec.saved {
            Some(saved) => saved,
            None => &order.spec.image,
        };
        while self.turn.is_none() {
            if reported.is_none_or(|at| at.elapsed() >= KEEP_ALIVE) {
                reported = Some(Instant::now());
                log::event(
                    Level::Info,
                    "deploy.awaits-image",
                    &[("vm", &self.record.id), ("machine", &self.record.machine), ("image", image)],
                );
                self.report_stage(Stage::Unpack, Some(1))?;
            }
            thread::sleep(LOOK);
            self.take_turn(order)?;
        }
        self.clone_or_make(order)
    }

    fn take_turn(&mut self, order: &DeployOrder) -> Result<(), Stop> {
        let unusable = |error: io::Error| self.internal(&format!("the lock of the image: {error}"));
        let taken = match order.spec.original() {
            Original::Nothing => Ok(None),
            Original::Image => self.jobs.take_turn(&order.spec.image),
            Original::Saved(saved) => self.jobs.take_turn_for_saved(saved),
        };
        self.turn = taken.map_err(unusable)?;
        Ok(())
    }

    fn clone_or_make(&mut self, order: &DeployOrder) -> Result<(), Stop> {
        let (machine, origin) = (&self.record.machine, origin(self, order)?);
        self.filling = self.helper.make_filesystems(order.id, machine, &order.spec.image, origin)?;
        if self.filling != Filling::Image {
            self.turn = None;
        }
        Ok(())
    }
}
