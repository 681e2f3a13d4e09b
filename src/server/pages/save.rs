//! `user/save`: asks for confirmation, then has a machine shut down and its disk saved as an image.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::cgi::reply::{Refusal, Reply};
use crate::cgi::serve::{Data, UserCall, View, WithBanner};
use crate::config::{self, Common};
use crate::model::state::State;
use crate::server::machine::save;
use crate::server::mail::Post;
use crate::server::nodes::Nodes;
use crate::server::pages::access;
use crate::server::pages::naming;
use crate::server::pages::target::Target;
use crate::server::pages::view::{MachineView, ask_again, ordered};
use crate::server::registry::vm::Saving;

/// The confirmation page.
#[derive(Debug, Serialize)]
struct SaveView {
    machine: MachineView,
    /// Why it can't be saved now.
    idle: Option<String>,
    /// Whether an order is already under way.
    again: bool,
    /// Whether a snapshot would do, too: it is there at once, and can be copied.
    snapshots: bool,
    /// The value of the field for the name.
    name: String,
    /// Faults of that field.
    faults: BTreeMap<&'static str, String>,
}

impl View for SaveView {
    const TEMPLATE: &'static str = "save.html";
}

impl Data for SaveView {
    /// The machine's line, as in the list.
    fn text(&self) -> String {
        self.machine.line()
    }
}

/// Serves `user/save`.
///
/// Fields: `id`, or as a convenience for scripts `vmHostname` (the live machine with that name);
/// `name`, the name of the image; `token`, `format`. The image belongs to the machine's owner, even
/// if an administrator gives the order. While a disk is being saved, the order can be given again
/// with the same name.
///
/// # Errors
/// 400, also for an invalid name; 403 for other people's machines, 404, 409 if the owner has an
/// image of that name or in states in which a disk can't be saved; 503. If the host did not accept
/// the order, the machine stays as it was and its page says why; programs get 409 if the host gave
/// a reason, 502 if it can't be used.
pub fn handle(call: &UserCall<'_>) -> Result<Reply, Refusal> {
    call.request.fields.only(&["id", "vmHostname", "name", "token", "format"])?;
    let target = Target::read(call)?;
    let common = Common::load(&config::directory())?;
    if !call.acts {
        return call.reply(200, &page(call, &common, &target, BTreeMap::new())?);
    }
    match act(call, &common, &target) {
        Ok(reply) => Ok(reply),
        Err(refusal) => ask_again(call, refusal, |faults| page(call, &common, &target, faults)),
    }
}

fn act(call: &UserCall<'_>, common: &Common, target: &Target) -> Result<Reply, Refusal> {
    // Before anything is recorded: if this fails, no node can be called.
    let nodes = Nodes::new(&call.config, &call.request.id)?;
    let mut registry = access::registry(call)?;
    let vm = registry.write(|writer| {
        let vm = target.find(call, writer.reader())?;
        let name = naming::read(&call.request.fields, "name")?;
        if let Some(obstacle) = save::obstacle(&vm, &name) {
            return Err(Refusal::conflict(obstacle));
        }
        let quota = call.config.quota(vm.owner.user_name());
        save::check_quota(quota, writer.reader(), &vm).map_err(|why| naming::refusal(why, "name"))?;
        save::begin(writer, &vm, Saving { name, then_terminate: false })
            .map_err(|why| naming::refusal(why, "name"))
    })?;
    let (vm, fault) = save::carry_out(&mut registry, &nodes, &Post::new(&call.config), vm)?;
    ordered(call, common, &vm, fault.as_ref())
}

fn page(
    call: &UserCall<'_>,
    common: &Common,
    target: &Target,
    faults: BTreeMap<&'static str, String>,
) -> Result<WithBanner<SaveView>, Refusal> {
    access::read(call, |reader| {
        let vm = target.find(call, reader)?;
        let under_way = vm.saving.as_ref().filter(|_| vm.state == State::Saving);
        let name = match (call.request.fields.get("name"), under_way) {
            (_, Some(saving)) => saving.name.to_string(),
            (Some(given), None) => given.to_owned(),
            (None, None) => save::proposal(reader, &vm)?,
        };
        let again = under_way.is_some();
        let idle = if again { None } else { save::state_obstacle(&vm) };
        let snapshots = !again && idle.is_none() && reader.takes_snapshots(&vm.physical_host)?;
        let machine = MachineView::new(&vm, common, call.administrator);
        Ok(SaveView { machine, idle, again, snapshots, name, faults })
    })
}
