//! Removes a machine.
//!
//! | stage | what it does | if it fails |
//! | --- | --- | --- |
//! | shutdown | `stop` shuts the machine down | that is logged, and the removal ends the machine |
//! | remove | `undo` removes domain, configuration, volumes and console | a later sweep tries again |
//!
//! A removal is never undone. The server's verdict on a stage has no effect here.

use crate::model::fault::Fault;
use crate::model::stage::{Order, Stage};
use crate::model::wire::News;
use crate::node::host::HostState;
use crate::node::image::store::Store;
use crate::node::jobs::JobError;
use crate::system::log::{self, Level};

use super::{Stop, Worker};

impl Worker<'_> {
    pub(super) fn terminate(&mut self) -> Result<(), JobError> {
        let (id, machine) = (self.record.id, self.record.machine.clone());
        let stop = |worker: &mut Self| Ok(worker.helper.stop(id, &machine)?);
        match self.in_stage(Stage::Shutdown, stop) {
            Ok(_) | Err(Stop::Abandoned) => {}
            // Stopping ends by force, so something is broken even if the removal succeeds.
            Err(Stop::Failed(why)) => {
                log::event(Level::Error, "stop.failed", &[("vm", &id), ("machine", &machine), ("why", &why)]);
            }
            Err(Stop::Unrecorded(error)) => return Err(error),
        }
        let undo = |worker: &mut Self| Ok(worker.helper.undo(id, &machine, true)?);
        let removed = match self.in_stage(Stage::Remove, undo) {
            Ok(state) => Ok(state),
            Err(Stop::Failed(fault)) => Err(fault),
            // Only deploys are ever abandoned.
            Err(Stop::Abandoned) => Err(Fault::Interrupted { stage: self.record.stage }),
            Err(Stop::Unrecorded(error)) => return Err(error),
        };
        match &removed {
            Ok(_) => {
                log::event(
                    Level::Info,
                    "order.done",
                    &[("vm", &id), ("machine", &machine), ("order", &Order::Terminate)],
                );
            }
            Err(fault) => log::event(
                Level::Error,
                "undo.failed",
                &[("vm", &id), ("machine", &machine), ("order", &Order::Terminate), ("why", fault)],
            ),
        }
        // The worker that was killed for this may have been writing an image.
        Store::new(self.config).sweep();
        self.removed(removed)
    }

    /// Reports the outcome of a removal, and deletes the record if the machine is gone, whatever
    /// the verdict: a server that does not know the machine needs no more reports about it.
    fn removed(&mut self, removed: Result<HostState, Fault>) -> Result<(), JobError> {
        let gone = removed.is_ok();
        let (news, host) = match removed {
            Ok(state) => (News::Done, self.facts(state)),
            Err(fault) => (News::Failed { fault }, self.host()),
        };
        let report = self.report(news, host)?;
        let told = self.reporter.deliver(&report).is_some();
        if gone && told { self.remove_record() } else { self.leave_to_sweep() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::worker::tests::{TestNode, TestServer};

    #[test]
    fn the_record_of_an_unknown_machine_is_deleted_once_it_is_gone() {
        let server = TestServer::saying(r#"{"verdict":"unknown"}"#);
        let node = TestNode::new(&server.start(2), server.registry);
        let mut worker = node.worker(|_| {});
        worker.removed(Err(Fault::RemovalFailed { detail: "in use".to_owned() })).unwrap();
        let left = node.jobs().read(node.order.id).unwrap().expect("it is still there");
        assert!(left.tried.is_some() && left.is_unfinished(), "a later sweep continues: {left:?}");
        let unknown = || Fault::StorageUnusable { detail: "not asked".to_owned() };
        let state = HostState { taken: 0, machines: Err(unknown()), storage: Err(unknown()) };
        worker.removed(Ok(state)).unwrap();
        assert_eq!(node.jobs().read(node.order.id).unwrap(), None);
    }
}
