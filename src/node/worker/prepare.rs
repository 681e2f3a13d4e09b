//! Images that deploys prepare for each other: one deploy prepares an image, and the others that need
//! it wait for that.

use std::io;
use std::thread;
use std::time::Instant;

use crate::model::stage::Stage;
use crate::model::wire::DeployOrder;
use crate::node::helper::Filling;
use crate::system::log::{self, Level};

use super::deploy::{KEEP_ALIVE, LOOK};
use super::{Stop, Worker};

impl Worker<'_> {
    /// Makes the file systems, or clones the prepared image. The turn to prepare the image is taken
    /// before the helper looks for one, so whoever has the turn knows that nobody else prepares it.
    pub(super) fn make_filesystems(&mut self, order: &DeployOrder) -> Result<(), Stop> {
        if order.spec.is_of_own_image() {
            self.take_turn(order)?;
        }
        self.clone_or_make(order)
    }

    /// Waits until no other deploy prepares the image. Then there may be a disk to clone.
    pub(super) fn wait_for_turn(&mut self, order: &DeployOrder) -> Result<(), Stop> {
        if self.turn.is_some() {
            return Ok(());
        }
        let mut reported: Option<Instant> = None;
        while self.turn.is_none() {
            if reported.is_none_or(|at| at.elapsed() >= KEEP_ALIVE) {
                reported = Some(Instant::now());
                log::event(
                    Level::Info,
                    "deploy.awaits-image",
                    &[
                        ("vm", &self.record.id),
                        ("machine", &self.record.machine),
                        ("image", &order.spec.image),
                    ],
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
        self.turn = self.jobs.take_turn(&order.spec.image).map_err(unusable)?;
        Ok(())
    }

    fn clone_or_make(&mut self, order: &DeployOrder) -> Result<(), Stop> {
        let (machine, own_image) = (&self.record.machine, order.spec.is_of_own_image());
        self.filling = self.helper.make_filesystems(order.id, machine, &order.spec.image, own_image)?;
        if self.filling != Filling::Image {
            self.turn = None;
        }
        Ok(())
    }
}
