//! The node's endpoints: one file per URL of `bin/node`, except for [`power`], which has three.
//! They run under Apache as the web server's user, and only the server may call them.
//!
//! An endpoint parses its order, checks it against the host's state, and responds: with the
//! requested data, with 202 once a worker has been started, or with the [`Fault`] that explains the
//! refusal. No endpoint uses another. What they share is in this file and in `handover`, which
//! hands an order about an existing machine to a worker.

pub mod console;
pub mod deploy;
pub mod discard;
mod handover;
pub mod image;
pub mod info;
pub mod power;
pub mod resize;
pub mod save;
pub mod snapshot;
pub mod terminate;

use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::cgi::policy::endpoints;
use crate::cgi::reply::{Refusal, Reply};
use crate::cgi::serve::{NodeCall, OrderEndpoint};
use crate::config::{self, Common};
use crate::model::fault::Fault;
use crate::model::names::{MachineName, VmId};
use crate::model::wire::{Accepted, HostFacts, MachineOrder};
use crate::node::image::store::Store;
use crate::node::jobs::{Jobs, NodeLock};

endpoints! {
    /// Makes a machine, if the host can.
    DEPLOY: OrderEndpoint = "node/deploy", Server, Message => deploy::handle;
    /// Shuts a machine down.
    STOP: OrderEndpoint = "node/stop", Server, Message => power::stop;
    /// Starts a stopped machine.
    START: OrderEndpoint = "node/start", Server, Message => power::start;
    /// Shuts a machine down and starts it again.
    REBOOT: OrderEndpoint = "node/reboot", Server, Message => power::reboot;
    /// Shuts a machine down and saves its disk as an image.
    SAVE: OrderEndpoint = "node/save", Server, Message => save::handle;
    /// Gives a stopped machine other sizes.
    RESIZE: OrderEndpoint = "node/resize", Server, Message => resize::handle;
    /// Takes, deletes, or goes back to a snapshot of a machine's disk, or has it go back to its image.
    SNAPSHOT: OrderEndpoint = "node/snapshot", Server, Message => snapshot::handle;
    /// Removes a machine completely, whatever its state.
    TERMINATE: OrderEndpoint = "node/terminate", Server, Message => terminate::handle;
    /// Renames or deletes a saved image.
    IMAGE: OrderEndpoint = "node/image", Server, Message => image::handle;
    /// Removes something that vGrid did not create.
    DISCARD: OrderEndpoint = "node/discard", Server, Message => discard::handle;
    /// Everything about the host: what it has, and how much of it is free.
    INFO: OrderEndpoint = "node/info", Server, Query => info::handle;
    /// The end of a machine's console output.
    CONSOLE: OrderEndpoint = "node/console", Server, Query => console::handle;
}

/// What every endpoint needs: `common.cfg` and the swept records.
struct Node {
    common: Common,
    jobs: Jobs,
}

impl Node {
    /// Opens the records, and starts a worker for everything left unfinished.
    fn open(call: &NodeCall<'_>) -> Result<Self, Refusal> {
        let common = Common::load(&config::directory())?;
        let jobs = Jobs::open(&call.config.general.state_directory).map_err(|error| {
            Refusal::internal(format!("{}: {error}", call.config.general.state_directory.display()))
        })?;
        jobs.sweep();
        Store::new(&call.config).sweep();
        Ok(Self { common, jobs })
    }

    /// Takes the node's lock, which is held while orders are checked. Refuses the request after
    /// `patience`.
    fn lock(&self, patience: Duration) -> Result<NodeLock, Refusal> {
        self.jobs
            .lock_node(patience)
            .map_err(Refusal::internal)?
            .ok_or_else(|| Refusal::busy("This host is busy with other orders. Try again in a moment."))
    }
}

/// Parses the order in a request's body.
fn order<T: DeserializeOwned>(call: &NodeCall<'_>) -> Result<T, Refusal> {
    serde_json::from_slice(&call.request.body)
        .map_err(|error| Refusal::bad_request(format!("This is not an order that this node knows: {error}.")))
}

/// Returns the name of the machine that an order is about.
fn machine_name(order: &MachineOrder) -> Result<MachineName, Refusal> {
    MachineName::new(&order.user, &order.virtual_host)
        .map_err(|fault| Refusal::bad_request(format!("The machine's name {fault}.")))
}

/// Builds the refusal of an order, with the status that belongs to the fault.
fn refuse(fault: Fault) -> Refusal {
    Refusal::fault(fault.node_status(), fault)
}

/// Builds the refusal of an order whose machine is locked by another worker.
fn being_worked_on() -> Refusal {
    Refusal::busy("This machine is being worked on. Try again in a moment.")
}

/// Builds the response to an accepted order: 202.
fn accepted(id: VmId, host: HostFacts) -> Result<Reply, Refusal> {
    Reply::json(202, &Accepted { id, host })
}
