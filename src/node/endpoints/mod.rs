//! The node's endpoints: one file a URL of `bin/node`, but for [`power`], which has three. They run
//! under Apache as the web server's user, and only the server may call them.
//!
//! An endpoint reads its order, judges it by what the host has, and answers: with what was asked
//! for, with 202 once a worker has been started, or with the [`Fault`] that says why not. No
//! endpoint knows another; what they share is here, and in `handover`, which gives an order about a
//! machine that is there to a worker.

pub mod console;
pub mod deploy;
pub mod discard;
mod handover;
pub mod image;
pub mod info;
pub mod power;
pub mod save;
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
use crate::node::jobs::{Jobs, NodeLock};
use crate::node::saved::Store;

endpoints! {
    DEPLOY: OrderEndpoint = "node/deploy", Server, Message => deploy::handle;
    STOP: OrderEndpoint = "node/stop", Server, Message => power::stop;
    START: OrderEndpoint = "node/start", Server, Message => power::start;
    REBOOT: OrderEndpoint = "node/reboot", Server, Message => power::reboot;
    SAVE: OrderEndpoint = "node/save", Server, Message => save::handle;
    TERMINATE: OrderEndpoint = "node/terminate", Server, Message => terminate::handle;
    IMAGE: OrderEndpoint = "node/image", Server, Message => image::handle;
    DISCARD: OrderEndpoint = "node/discard", Server, Message => discard::handle;
    INFO: OrderEndpoint = "node/info", Server, Query => info::handle;
    CONSOLE: OrderEndpoint = "node/console", Server, Query => console::handle;
}

/// What every endpoint needs: `common.cfg`, and the records, swept.
struct Node {
    common: Common,
    jobs: Jobs,
}

impl Node {
    /// Opens the records, and starts a worker for whatever an earlier one left unfinished.
    fn open(call: &NodeCall<'_>) -> Result<Self, Refusal> {
        let common = Common::load(&config::directory())?;
        let jobs = Jobs::open(&call.config.general.state_directory).map_err(|error| {
            Refusal::internal(format!("{}: {error}", call.config.general.state_directory.display()))
        })?;
        jobs.sweep();
        Store::new(&call.config).sweep();
        Ok(Self { common, jobs })
    }

    /// Takes the node's lock, under which orders are judged, or refuses after `patience`.
    fn lock(&self, patience: Duration) -> Result<NodeLock, Refusal> {
        self.jobs
            .lock_node(patience)
            .map_err(Refusal::internal)?
            .ok_or_else(|| Refusal::busy("This host is busy with other orders. Try again in a moment."))
    }
}

/// The order in a request's body.
fn order<T: DeserializeOwned>(call: &NodeCall<'_>) -> Result<T, Refusal> {
    serde_json::from_slice(&call.request.body)
        .map_err(|error| Refusal::bad_request(format!("This is not an order that this node knows: {error}.")))
}

/// The name of the machine that an order is about.
fn machine_name(order: &MachineOrder) -> Result<MachineName, Refusal> {
    MachineName::new(&order.user, &order.virtual_host)
        .map_err(|fault| Refusal::bad_request(format!("The machine's name {fault}.")))
}

/// The refusal of an order, with the status that goes with the fault.
fn refuse(fault: Fault) -> Refusal {
    Refusal::fault(fault.node_status(), fault)
}

/// The refusal of an order whose machine another worker has.
fn being_worked_on() -> Refusal {
    Refusal::busy("This machine is being worked on. Try again in a moment.")
}

/// The answer to an order that is taken: 202.
fn accepted(id: VmId, host: HostFacts) -> Result<Reply, Refusal> {
    Reply::json(202, &Accepted { id, host })
}
