//! `user/stop`, `user/start` and `user/reboot`: shut a machine down and start it again. It keeps
//! its disk, its name and its place on its host.

use serde::Serialize;

use crate::cgi::reply::{Refusal, Reply};
use crate::cgi::serve::{Data, UserCall, View};
use crate::config::{self, Common};
use crate::model::stage::Order;
use crate::server::machine::life::Interest;
use crate::server::machine::orders;
use crate::server::machine::power::{Meaning, meaning};
use crate::server::mail::Post;
use crate::server::nodes::Nodes;
use crate::server::pages::access;
use crate::server::pages::target::Target;
use crate::server::pages::view::{MachineView, ordered};
use crate::server::registry::Writer;
use crate::server::registry::vm::Vm;

/// The confirmation page.
#[derive(Debug, Serialize)]
struct PowerView {
    machine: MachineView,
    /// `stop`, `start` or `reboot`.
    order: &'static str,
    /// Why the order is impossible or unnecessary now.
    idle: Option<String>,
    /// Whether an order is already under way.
    again: bool,
}

impl View for PowerView {
    const TEMPLATE: &'static str = "power.html";
}

impl Data for PowerView {
    /// The machine's line, as in the list.
    fn text(&self) -> String {
        self.machine.line()
    }
}

/// Serves `user/stop`.
///
/// Fields: `id`, or as a convenience for scripts `vmHostname` (the live machine with that name);
/// `token`, `format`. Idempotent: stopping a stopped machine changes nothing (202), and one that is
/// being stopped gets the order again.
///
/// # Errors
/// 400, 403 for other people's machines, 404, 409 in states in which a machine can't be stopped,
/// 503. If the host did not accept the order, the machine stays as it was and its page says why;
/// programs get 409 if the host gave a reason, 502 if it can't be used, 503 if it is busy.
pub fn stop(call: &UserCall<'_>) -> Result<Reply, Refusal> {
    handle(call, Order::Stop)
}

/// Serves `user/start`. Takes the fields of [`stop`]; starting a running machine changes nothing
/// (202).
///
/// # Errors
/// As for [`stop`].
pub fn start(call: &UserCall<'_>) -> Result<Reply, Refusal> {
    handle(call, Order::Start)
}

/// Serves `user/reboot`. Takes the fields of [`stop`].
///
/// # Errors
/// As for [`stop`], and 409 for a stopped machine.
pub fn reboot(call: &UserCall<'_>) -> Result<Reply, Refusal> {
    handle(call, Order::Reboot)
}

fn handle(call: &UserCall<'_>, order: Order) -> Result<Reply, Refusal> {
    call.request.fields.only(&["id", "vmHostname", "token", "format"])?;
    let target = Target::read(call)?;
    let common = Common::load(&config::directory())?;
    if !call.acts {
        let vm = access::read(call, |reader| target.find(call, reader))?;
        return call.reply(200, &vm.map(|vm| view(call, &common, &vm, order)));
    }
    // Before anything is recorded: if this fails, no node can be called.
    let nodes = Nodes::new(&call.config, &call.request.id)?;
    let mut registry = access::registry(call)?;
    let (vm, told) = registry.write(|writer| {
        let vm = target.find(call, writer.reader())?;
        begin(writer, vm, order)
    })?;
    if !told {
        return ordered(call, &common, &vm, None);
    }
    let (vm, fault) = orders::carry_out(&mut registry, &nodes, &Post::new(&call.config), vm, order, "")?;
    ordered(call, &common, &vm, fault.as_ref())
}

fn view(call: &UserCall<'_>, common: &Common, vm: &Vm, order: Order) -> PowerView {
    let idle = match meaning(order, vm.state) {
        Meaning::Tell => None,
        Meaning::Already(sentence) => Some(sentence.to_owned()),
        Meaning::Not(sentence) => Some(sentence),
    };
    PowerView {
        machine: MachineView::new(vm, common, call.administrator),
        order: order.as_str(),
        idle,
        again: vm.state.is_transitional(),
    }
}

/// Records the order, in a transaction. Returns whether it must be sent to the machine's host.
fn begin(writer: &Writer<'_>, vm: Vm, order: Order) -> Result<(Vm, bool), Refusal> {
    match meaning(order, vm.state) {
        Meaning::Already(_) => Ok((vm, false)),
        Meaning::Not(sentence) => Err(Refusal::conflict(sentence)),
        Meaning::Tell => {
            let given = orders::give(writer, &vm, order, Interest::Owner, None)?;
            Ok(given.map_or((vm, false), |vm| (vm, true)))
        }
    }
}
