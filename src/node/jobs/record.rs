//! The record that a node keeps of a machine.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::model::fault::Fault;
use crate::model::lease::Moment;
use crate::model::names::{MachineName, RequestId, SavedImage, UserName, VirtualHost, VmId};
use crate::model::size::Amount;
use crate::model::spec::Sizes;
use crate::model::stage::{Order, OrderNumber, Stage};
use crate::model::wire::{DeployOrder, Job, MachineOrder};
use crate::node::Machine;
use crate::node::image::store::Packed;

/// The node's record of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The machine's id.
    pub id: VmId,
    /// The machine's name.
    pub machine: MachineName,
    /// The machine's DNS name.
    pub virtual_host: VirtualHost,
    /// The order that created it; absent if this node has only ever received a terminate for it.
    pub order: Option<DeployOrder>,
    /// The machine's address.
    pub ip: Option<Ipv4Addr>,
    /// The size of its swap volume.
    pub swap: Amount,
    /// The kind of the last order.
    pub work: Order,
    /// The number of the last order; orders with lower numbers are no longer carried out.
    #[serde(default)]
    pub number: OrderNumber,
    /// Whether that order has been carried out or given up, so that at most the report is left to
    /// do.
    pub done: bool,
    /// The current stage.
    pub stage: Option<Stage>,
    /// Why it failed. A deploy that failed is being undone.
    pub failed: Option<Fault>,
    /// Whether the server knows the outcome, so that no report is due.
    pub told: bool,
    /// Whether the machine is stopped: its configuration has been moved away, and it has no domain.
    pub stopped: bool,
    /// The request that ordered the work, for the log.
    pub request: RequestId,
    /// The sequence number of the last report.
    pub sequence: u32,
    /// When the work was ordered.
    pub since: Moment,
    /// When this record was last written, in milliseconds since 1970.
    pub changed: u64,
    /// The worker's process id.
    pub worker: Option<i32>,
    /// When the last unsuccessful attempt to finish it was made.
    pub tried: Option<Moment>,
    /// The image that its disk is saved as, if that was the last order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saving: Option<Saving>,
    /// The sizes that it is being given, if that is the last order and has not ended. Until then,
    /// those in `order` are the present ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resizing: Option<Sizes>,
}

impl Record {
    /// Returns its machine.
    pub fn target(&self) -> Machine {
        Machine { id: self.id, name: self.machine.clone() }
    }

    /// Creates the record of a deploy that is about to begin.
    pub fn new(
        order: DeployOrder,
        machine: MachineName,
        ip: Option<Ipv4Addr>,
        swap: Amount,
        request: RequestId,
        now: Moment,
    ) -> Self {
        let blank = Self::blank(order.id, machine, order.virtual_host.clone(), Order::Deploy, request, now);
        Self { number: order.number, order: Some(order), ip, swap, ..blank }
    }

    /// Creates the record of a terminate for a machine unknown to this node.
    pub fn unknown(order: &MachineOrder, machine: MachineName, request: RequestId, now: Moment) -> Self {
        let blank =
            Self::blank(order.id, machine, order.virtual_host.clone(), Order::Terminate, request, now);
        Self { number: order.number, ..blank }
    }

    fn blank(
        id: VmId,
        machine: MachineName,
        virtual_host: VirtualHost,
        work: Order,
        request: RequestId,
        now: Moment,
    ) -> Self {
        Self {
            id,
            machine,
            virtual_host,
            order: None,
            ip: None,
            swap: Amount::default(),
            work,
            number: OrderNumber::default(),
            done: false,
            stage: None,
            failed: None,
            told: false,
            stopped: false,
            request,
            sequence: 0,
            since: now,
            changed: 0,
            worker: None,
            tried: None,
            saving: None,
            resizing: None,
        }
    }

    /// Turns the record into that of a new order about the same machine.
    pub fn ordered(self, work: Order, number: OrderNumber, request: RequestId, now: Moment) -> Self {
        Self {
            work,
            number,
            done: false,
            stage: None,
            failed: None,
            told: false,
            request,
            since: now,
            worker: None,
            tried: None,
            saving: None,
            resizing: None,
            ..self
        }
    }

    /// Returns whether a worker still has something to do.
    pub fn is_unfinished(&self) -> bool {
        !self.done || !self.told
    }

    /// Returns whether its disk is being saved as that image.
    pub fn saves_as(&self, image: &SavedImage) -> bool {
        !self.done && self.saving.as_ref().is_some_and(|saving| saving.image.stem() == image.stem())
    }

    /// Returns whether this is a deploy that has been accepted and has not begun.
    pub(super) fn waits(&self) -> bool {
        self.work == Order::Deploy
            && !self.done
            && self.failed.is_none()
            && matches!(self.stage, None | Some(Stage::Accepted))
    }

    /// Returns whether this is a deploy that has begun and goes on.
    pub(super) fn is_deploying(&self) -> bool {
        self.work == Order::Deploy && !self.done && self.failed.is_none() && !self.waits()
    }

    /// Returns whose machine it is; `None` if this node has only ever received a terminate for it.
    pub(super) fn owner(&self) -> Option<&UserName> {
        self.order.as_ref().map(|order| &order.user)
    }

    /// Returns the record's content for `node/info`.
    pub fn job(&self) -> Job {
        Job {
            id: self.id,
            machine: self.machine.clone(),
            work: (!self.done).then_some(self.work),
            stage: self.stage.filter(|_| !self.done),
            stopped: self.stopped,
            since: self.since,
            number: self.number,
            order: self.order.clone(),
        }
    }
}

/// The image that a machine's disk is being saved as, or was at the last such order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saving {
    /// The image.
    pub image: SavedImage,
    /// Its file, recorded just before the file gets its final name.
    #[serde(default)]
    pub file: Option<Packed>,
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Returns the record of a terminate for an unknown machine.
    pub fn terminating() -> Record {
        let order = MachineOrder {
            id: VmId::generate(),
            number: OrderNumber::default(),
            user: "alice".parse().unwrap(),
            virtual_host: "vm1".parse().unwrap(),
        };
        let machine = "alice_vm1".parse().unwrap();
        Record::unknown(&order, machine, "r".parse().unwrap(), Moment::from_unix(1))
    }
}
