//! `user/stop`, `user/start` and `user/reboot`: a machine shut down and started again, with its disk, its name
//! and its place on its host kept.

use serde::Serialize;

use crate::cgi::reply::{Refusal, Reply};
use crate::cgi::serve::{UserCall, View};
use crate::config::{self, Common};
use crate::model::stage::Order;
use crate::model::state::{self, State};
use crate::system::log::Level;

use crate::server::audit;
use crate::server::machine::orders::{self, Target};
use crate::server::nodes::Nodes;
use crate::server::pages::access;
use crate::server::pages::view::{MachineView, ordered};
use crate::server::registry::Writer;
use crate::server::registry::event::Actor;
use crate::server::registry::vm::Vm;

/// The page that asks.
#[derive(Debug, Serialize)]
struct PowerView {
    machine: MachineView,
    /// `stop`, `start` or `reboot`.
    order: &'static str,
    /// Why it can't be done now, or need not.
    idle: Option<String>,
    /// Whether it was ordered before and is under way.
    again: bool,
}

impl View for PowerView {
    const TEMPLATE: &'static str = "power.html";

    /// The machine's line, as in the list.
    fn text(&self) -> String {
        self.machine.line()
    }
}

/// What an order means for a machine as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Its host must be told.
    Tell,
    /// It is so already; the sentence says that.
    Already(&'static str),
    /// It can't be done now; the sentence says why, and what can be done.
    Not(String),
}

/// Answers `user/stop`.
///
/// Fields: `id`, or as a convenience for scripts `vmHostname` (the live machine of that name); `token`,
/// `format`. To stop what is stopped changes nothing (202); one that is being stopped gets the order again.
///
/// # Errors
/// 400, 403 for others' machines, 404, 409 in states in which a machine can't be stopped, 503. If its host did
/// not take the order the machine stays as it was, and its page says why: 409 for programs if the host had a
/// reason, 502 if it can't be used, 503 if it is busy.
pub fn stop(call: &UserCall<'_>) -> Result<Reply, Refusal> {
    handle(call, Order::Stop)
}

/// Answers `user/start`. Fields and errors as for [`stop`]; to start what runs changes nothing (202).
///
/// # Errors
/// As for [`stop`].
pub fn start(call: &UserCall<'_>) -> Result<Reply, Refusal> {
    handle(call, Order::Start)
}

/// Answers `user/reboot`. Fields and errors as for [`stop`]; what is stopped can't be rebooted (409).
///
/// # Errors
/// As for [`stop`].
pub fn reboot(call: &UserCall<'_>) -> Result<Reply, Refusal> {
    handle(call, Order::Reboot)
}

fn handle(call: &UserCall<'_>, order: Order) -> Result<Reply, Refusal> {
    call.request.fields.only(&["id", "vmHostname", "token", "format"])?;
    let target = Target::read(call)?;
    let common = Common::load(&config::directory())?;
    if !call.acts {
        let vm = access::registry_to_read(call)?.read(|reader| target.find(call, reader))?;
        let idle = match meaning(order, vm.state) {
            Meaning::Tell => None,
            Meaning::Already(sentence) => Some(sentence.to_owned()),
            Meaning::Not(sentence) => Some(sentence),
        };
        let again = vm.state.is_transitional();
        let machine = MachineView::new(&vm, &common, call.administrator);
        return call.reply(200, &PowerView { machine, order: order.as_str(), idle, again });
    }
    // Read before anything is recorded: without it no node can be called.
    let nodes = Nodes::new(&call.config, &call.request.id)?;
    let actor = access::actor(call);
    let mut registry = access::registry(call)?;
    let (vm, told) = registry.write(|writer| {
        let vm = target.find(call, **writer)?;
        begin(writer, vm, order, &actor)
    })?;
    if !told {
        return ordered(call, &common, &vm, None);
    }
    audit::record(Level::Info, order.as_str(), &vm, &actor, "ordered");
    let answer = orders::tell(&nodes, &vm, order);
    let (vm, fault) = orders::settle(&mut registry, vm, order, answer, &actor)?;
    ordered(call, &common, &vm, fault.as_ref())
}

/// Records the order, within a transaction. Says whether the machine's host must be told.
fn begin(writer: &Writer<'_>, vm: Vm, order: Order, actor: &Actor) -> Result<(Vm, bool), Refusal> {
    match meaning(order, vm.state) {
        Meaning::Already(_) => Ok((vm, false)),
        Meaning::Not(sentence) => Err(Refusal::conflict(sentence)),
        Meaning::Tell => {
            let given = orders::give(writer, &vm, order, actor)?;
            Ok(given.map_or((vm, false), |vm| (vm, true)))
        }
    }
}

/// Why nothing can be done any more with a machine in this state but to remove it.
pub(super) fn past_use(state: State) -> Option<&'static str> {
    match state {
        State::Terminating => Some("This machine is being removed."),
        State::Failed => {
            Some("This machine has failed; its page says why. Terminate it, and deploy another one.")
        }
        State::NotDeployed => Some("This machine is gone."),
        _ => None,
    }
}

/// What `order` means for a machine in a state. The table of states decides; here is only how it is told.
pub(super) fn meaning(order: Order, state: State) -> Meaning {
    // What has expired is started by extending its lease.
    if state != State::Expired
        && orders::event(order).is_some_and(|event| state::next(state, event).is_some())
    {
        return Meaning::Tell;
    }
    let wait = |doing: &str| {
        Meaning::Not(format!("This machine is being {doing}. Wait until that is over, and try again."))
    };
    match (state, order) {
        (State::Stopped, Order::Stop) => Meaning::Already("This machine is stopped already."),
        (State::Deployed, Order::Start) => Meaning::Already("This machine runs already."),
        (State::Stopped, _) => Meaning::Not("This machine is stopped. Start it instead.".to_owned()),
        (State::Deploying, _) => wait("deployed"),
        (State::Stopping, _) => wait("stopped"),
        (State::Starting, _) => wait("started"),
        (State::Rebooting, _) => wait("rebooted"),
        (State::Deployed, _) => Meaning::Not("This machine runs.".to_owned()),
        (State::Expired, _) => Meaning::Not(
            "The lease of this machine has ended. It is stopped, and only its disk is still kept. Extend its lease."
                .to_owned(),
        ),
        (State::Saving, _) => wait("saved as an image"),
        (State::Terminating | State::Failed | State::NotDeployed, _) => {
            Meaning::Not(past_use(state).unwrap_or_default().to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDERS: [Order; 3] = [Order::Stop, Order::Start, Order::Reboot];

    #[test]
    fn each_order_is_for_its_states() {
        for order in ORDERS {
            for state in State::ALL {
                let tell = matches!(
                    (order, state),
                    (Order::Stop, State::Deployed | State::Stopping)
                        | (Order::Start, State::Stopped | State::Starting)
                        | (Order::Reboot, State::Deployed | State::Rebooting)
                );
                let already =
                    matches!((order, state), (Order::Stop, State::Stopped) | (Order::Start, State::Deployed));
                match meaning(order, state) {
                    Meaning::Tell => assert!(tell, "{order} while {state}"),
                    Meaning::Already(_) => assert!(already, "{order} while {state}"),
                    Meaning::Not(sentence) => {
                        assert!(!tell && !already, "{order} while {state}");
                        assert!(sentence.ends_with('.') && sentence.contains(' '), "{sentence}");
                    }
                }
            }
        }
    }
}
