//! What happens to an order whose worker was killed.
//!
//! | order | what is done |
//! | --- | --- |
//! | any that had ended | its outcome is reported |
//! | deploy | it is undone |
//! | start | the machine is left stopped |
//! | save | the image is kept if it has got its final name; the machine is left stopped |
//! | terminate, stop, reboot, resize | it is carried out again, from its first stage |

use crate::model::fault::Fault;
use crate::model::stage::{Order, Stage};
use crate::node::jobs::JobError;
use crate::system::log::{self, Level};

use super::{Worker, power, resize, save};

impl Worker<'_> {
    /// Finishes an order that another worker began.
    pub(super) fn recover(&mut self) -> Result<(), JobError> {
        log::event(
            Level::Warning,
            "recovery.begun",
            &[
                ("vm", &self.record.id),
                ("machine", &self.record.machine),
                ("order", &self.record.work),
                ("stage", &self.record.stage.map_or("none", Stage::as_str)),
            ],
        );
        if self.record.done {
            return self.report_outcome();
        }
        let stage = self.record.stage;
        match self.record.work {
            Order::Deploy => {
                let fault = self.record.failed.clone().unwrap_or(Fault::Interrupted { stage });
                self.give_up(fault)
            }
            Order::Start => power::not_started(self, Fault::StartInterrupted { stage }),
            Order::Save => save::recover(self),
            Order::Resize => resize::recover(self),
            Order::Terminate | Order::Stop | Order::Reboot => self.begin(),
        }
    }
}
