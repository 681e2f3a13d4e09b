//! What is recorded and reported at the end of an order, and what follows.

use crate::model::fault::Fault;
use crate::model::stage::Order;
use crate::model::wire::{News, NextOrder, StatusReply};
use crate::node::image::store::Packed;
use crate::node::jobs::JobError;
use crate::system::clock;
use crate::system::log::{self, Level};

use super::Worker;

impl Worker<'_> {
    /// Records that the order has been carried out, or has finally failed, and reports it to the
    /// server.
    pub(super) fn finish(&mut self, failed: Option<Fault>) -> Result<(), JobError> {
        self.record.done = true;
        self.record.stage = None;
        self.record.failed = failed;
        self.write_record()?;
        let (id, machine, order) = (&self.record.id, &self.record.machine, &self.record.work);
        match &self.record.failed {
            None => {
                log::event(Level::Info, "order.done", &[("vm", id), ("machine", machine), ("order", order)]);
            }
            Some(fault) => log::event(
                Level::Warning,
                "order.failed",
                &[("vm", id), ("machine", machine), ("order", order), ("why", fault)],
            ),
        }
        self.report_outcome()
    }

    /// Reports the outcome to the server.
    pub(super) fn report_outcome(&mut self) -> Result<(), JobError> {
        let host = self.host();
        let saved = self.record.saving.as_ref().and_then(|saving| saving.file);
        let news = match (self.record.failed.clone(), saved) {
            (Some(fault), _) => News::Failed { fault },
            (None, Some(Packed { bytes, .. })) => News::Saved { bytes },
            (None, None) => News::Done,
        };
        let report = self.report(news, host)?;
        match self.reporter.deliver(&report) {
            Some(StatusReply { verdict, next }) => {
                // Completed work is never undone; this call only logs a verdict that would require
                // it.
                self.must_abandon(verdict);
                self.record.told = true;
                self.record.tried = None;
                self.record.worker = None;
                self.write_record()?;
                next.map_or(Ok(()), |next| self.go_on(next))
            }
            None => self.leave_to_sweep(),
        }
    }

    /// Carries out the server's next order for this machine. If this worker is killed before the
    /// order is recorded, the outcome is reported again, and the server repeats the order.
    fn go_on(&mut self, next: NextOrder) -> Result<(), JobError> {
        let NextOrder { order, number } = next;
        if matches!(order, Order::Deploy | Order::Save | Order::Resize) || number <= self.record.number {
            log::event(
                Level::Warning,
                "order.refused",
                &[
                    ("vm", &self.record.id),
                    ("machine", &self.record.machine),
                    ("order", &order),
                    ("number", &number),
                ],
            );
            return Ok(());
        }
        log::event(
            Level::Info,
            "order.received",
            &[
                ("vm", &self.record.id),
                ("machine", &self.record.machine),
                ("order", &order),
                ("number", &number),
            ],
        );
        self.record = self.record.clone().ordered(order, number, self.record.request.clone(), clock::now());
        self.record.worker = i32::try_from(std::process::id()).ok();
        self.write_record()?;
        self.begin()
    }

    /// Leaves the rest to a later sweep.
    pub(super) fn leave_to_sweep(&mut self) -> Result<(), JobError> {
        self.record.tried = Some(clock::now());
        self.record.worker = None;
        self.write_record()
    }

    /// Removes the record: nothing of the machine is left, and the server has been informed.
    pub(super) fn remove_record(&mut self) -> Result<(), JobError> {
        self.lock.remove()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::names::RegistryId;
    use crate::model::stage::OrderNumber;
    use crate::node::worker::tests::{TestNode, TestServer};

    #[test]
    fn a_completed_machine_is_kept_whatever_the_verdict() {
        for body in [r#"{"verdict":"abandon"}"#, r#"{"verdict":"unknown"}"#] {
            let server = TestServer::saying(body);
            for &work in Order::ALL.iter().filter(|order| **order != Order::Terminate) {
                let node = TestNode::new(&server.start(1), server.registry);
                let mut worker = node.worker(|record| record.work = work);
                worker.finish(None).unwrap();
                let kept = node.jobs().read(node.order.id).unwrap().expect("its record");
                assert!(kept.done && kept.told && kept.failed.is_none(), "{work}: {kept:?}");
            }
        }
    }

    #[test]
    fn a_following_order_is_carried_out_once() {
        let node = TestNode::new("http://127.0.0.1:1", RegistryId::generate());
        let mut worker = node.worker(|record| (record.work, record.done) = (Order::Save, true));
        for number in [node.order.number, OrderNumber::default()] {
            worker.go_on(NextOrder { order: Order::Terminate, number }).unwrap();
            assert_eq!((worker.record.work, worker.record.done), (Order::Save, true));
        }
    }
}
