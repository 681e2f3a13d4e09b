//! `user/terminate`: asks for confirmation, then has a machine removed, after saving its disk as an
//! image if wanted.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::cgi::reply::{Refusal, Reply};
use crate::cgi::serve::{Data, UserCall, View, WithBanner};
use crate::config::{self, Common};
use crate::model::names::ImageName;
use crate::model::stage::Order;
use crate::model::state::State;
use crate::server::audit;
use crate::server::machine::life::{self, Interest};
use crate::server::machine::orders;
use crate::server::machine::save;
use crate::server::machine::terminate::may_force;
use crate::server::mail::Post;
use crate::server::nodes::Nodes;
use crate::server::pages::access;
use crate::server::pages::naming;
use crate::server::pages::target::Target;
use crate::server::pages::view::{MachineView, ask_again, ordered};
use crate::server::registry::Writer;
use crate::server::registry::vm::{OnNode, Saving, Vm};
use crate::system::log::Level;

/// The confirmation page.
#[derive(Debug, Serialize)]
struct TerminateView {
    machine: MachineView,
    /// Whether its disk can be saved as an image first.
    can_save: bool,
    /// The value of the field for the image's name.
    save_as: String,
    /// Faults of that field.
    faults: BTreeMap<&'static str, String>,
}

impl View for TerminateView {
    const TEMPLATE: &'static str = "terminate.html";
}

impl Data for TerminateView {
    /// The machine's line, as in the list.
    fn text(&self) -> String {
        self.machine.line()
    }
}

/// The outcome of recording the order.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// The machine is gone, or was already.
    Gone(Vm),
    /// The order must be sent to the machine's host.
    Tell(Vm),
    /// The host must be told to save the disk. The answer to its report will tell it what comes
    /// next.
    Save(Vm),
}

/// How to terminate a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Way {
    /// By its host, immediately.
    Plainly,
    /// By its host, once its disk has been saved as this image.
    SavedAs(ImageName),
    /// Removed from the registry only, without its host's consent.
    ByForce,
}

/// Serves `user/terminate`.
///
/// Fields: `id`, or as a convenience for scripts `vmHostname` (the live machine with that name);
/// `force=1` to remove it from the registry without its host's consent; `saveAs`, the name of an
/// image to save its disk as first; `token`, `format`. Idempotent: a machine that is gone is shown
/// as such (202), and one that is being removed gets the order again.
///
/// # Errors
/// 400, 403 for other people's machines and for `force` without permission, 404, 503; 409 for a
/// protected machine, unless an administrator forces it, and with `saveAs` if the owner has an
/// image of that name or the machine's state does not allow saving. If the host did not accept the
/// order, the machine is `failed` with the reason and can be terminated again; programs get 502.
/// With `saveAs` it stays as it was: 409 if the host gave a reason, 502 if it can't be used.
pub fn handle(call: &UserCall<'_>) -> Result<Reply, Refusal> {
    call.request.fields.only(&["id", "vmHostname", "force", "saveAs", "token", "format"])?;
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

fn page(
    call: &UserCall<'_>,
    common: &Common,
    target: &Target,
    faults: BTreeMap<&'static str, String>,
) -> Result<WithBanner<TerminateView>, Refusal> {
    access::read(call, |reader| {
        let vm = target.find(call, reader)?;
        let can_save = matches!(vm.state, State::Deployed | State::Stopped | State::Expired);
        let save_as = match call.request.fields.get("saveAs") {
            Some(given) => given.to_owned(),
            None => save::proposal(reader, &vm)?,
        };
        let machine = MachineView::new(&vm, common, call.administrator);
        Ok(TerminateView { machine, can_save, save_as, faults })
    })
}

fn read_way(call: &UserCall<'_>) -> Result<Way, Refusal> {
    let fields = &call.request.fields;
    let force = match fields.get("force") {
        None | Some("" | "0") => false,
        Some("1") => true,
        Some(_) => return Err(Refusal::bad_request("force is 1 or 0.")),
    };
    match (force, fields.get("saveAs")) {
        (true, Some(_)) => Err(Refusal::bad_request(
            "Give force or saveAs, not both: without its host the disk of a machine can't be saved.",
        )),
        (true, None) => Ok(Way::ByForce),
        (false, None) => Ok(Way::Plainly),
        // An empty name is a fault: giving the field at all asks for the disk to be saved.
        (false, Some(_)) => naming::read(fields, "saveAs").map(Way::SavedAs),
    }
}

fn act(call: &UserCall<'_>, common: &Common, target: &Target) -> Result<Reply, Refusal> {
    let way = read_way(call)?;
    let nodes = Nodes::new(&call.config, &call.request.id)?;
    let mut registry = access::registry(call)?;
    let step = registry.write(|writer| {
        let vm = target.find(call, writer.reader())?;
        if let Way::SavedAs(_) = way {
            let quota = call.config.quota(vm.owner.user_name());
            save::check_quota(quota, writer.reader(), &vm).map_err(|why| naming::refusal(why, "saveAs"))?;
        }
        begin(writer, vm, &way, call.administrator)
    })?;
    let post = Post::new(&call.config);
    let (vm, fault) = match step {
        Step::Gone(vm) => {
            let detail = if way == Way::ByForce { "forgotten by force" } else { "nothing left" };
            audit::order(Level::Info, "order.given", Order::Terminate, &vm, registry.actor(), detail);
            (vm, None)
        }
        Step::Tell(vm) => orders::carry_out(&mut registry, &nodes, &post, vm, Order::Terminate, "")?,
        Step::Save(vm) => save::carry_out(&mut registry, &nodes, &post, vm)?,
    };
    ordered(call, common, &vm, fault.as_ref())
}

/// Records the order, in a transaction.
fn begin(writer: &Writer<'_>, vm: Vm, way: &Way, administrator: bool) -> Result<Step, Refusal> {
    if !vm.state.is_live() {
        return Ok(Step::Gone(vm));
    }
    let force = *way == Way::ByForce;
    if force && !may_force(&vm, administrator) {
        return Err(Refusal::forbidden(
            "Only an administrator can have a machine forgotten that has run: something of it may be left \
             on its host. Terminate it without force.",
        ));
    }
    // Once a machine is being removed, there is nothing left to protect.
    if vm.protected && vm.state != State::Terminating && !(force && administrator) {
        return Err(Refusal::conflict(format!(
            "This machine is protected against being terminated. Lift the protection first (user/extend?id={}), and \
             terminate it then.",
            vm.id
        )));
    }
    if let Way::SavedAs(name) = way {
        if let Some(obstacle) = save::obstacle_before_termination(&vm, name) {
            return Err(Refusal::conflict(obstacle));
        }
        let saving = Saving { name: name.clone(), then_terminate: true };
        let begun = save::begin(writer, &vm, saving);
        return begun.map(Step::Save).map_err(|why| naming::refusal(why, "saveAs"));
    }
    if force || vm.on_node == OnNode::No {
        let why = if force { "by force; its host was not asked" } else { "nothing of it is on its host" };
        let gone = match life::forgotten(&vm, why, writer.at()) {
            Some(change) => writer.apply(&vm, change)?,
            None => None,
        };
        return Ok(Step::Gone(gone.unwrap_or(vm)));
    }
    let told = orders::give(writer, &vm, Order::Terminate, Interest::Owner, None)?;
    Ok(Step::Tell(told.unwrap_or(vm)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::fault::Fault;
    use crate::model::names::VmId;
    use crate::model::state::Event;
    use crate::model::state::State;
    use crate::server::machine::fixture::without_mail;
    use crate::server::nodes::CallFailure;
    use crate::server::registry::vm::tests::entered;
    use crate::server::registry::{Registry, RegistryError};

    fn ground() -> (tempfile::TempDir, Registry, Vm) {
        let dir = tempfile::tempdir().unwrap();
        let mut registry = Registry::create(&dir.path().join("registry.sqlite")).unwrap();
        let vm = entered(&mut registry, "alice", "node1", "vm1");
        (dir, registry, vm)
    }

    fn order(registry: &mut Registry, id: VmId, force: bool, administrator: bool) -> Result<Step, Refusal> {
        registry.write(|writer| {
            let vm = writer.vm(id)?.unwrap();
            let way = if force { Way::ByForce } else { Way::Plainly };
            begin(writer, vm, &way, administrator)
        })
    }

    fn advance(registry: &mut Registry, vm: &Vm, event: Event, edit: impl FnOnce(&mut Vm)) -> Vm {
        let done: Result<_, RegistryError> = registry.write(|writer| writer.advance(vm, event, edit));
        done.unwrap().unwrap()
    }

    #[test]
    fn an_order_can_be_repeated_and_fails_only_from_terminating() {
        let (_dir, mut registry, vm) = ground();
        let vm = advance(&mut registry, &vm, Event::Deployed, |_| {});
        for _ in 0..2 {
            let Step::Tell(told) = order(&mut registry, vm.id, false, false).unwrap() else { panic!() };
            assert_eq!((told.state, told.order, told.sequence), (State::Terminating, Order::Terminate, 0));
        }
        let fault = Fault::HostSilent { host: vm.physical_host.clone(), seconds: 7 };
        let trouble = CallFailure { fault: fault.clone(), taken: OnNode::Maybe };
        let config = without_mail();
        let (failed, told) =
            orders::settle(&mut registry, &Post::new(&config), vm.clone(), Order::Terminate, Err(trouble))
                .unwrap();
        assert_eq!((failed.state, failed.fault.as_ref()), (State::Failed, Some(&fault)));
        assert_eq!(told, Some(fault));
        assert!(matches!(order(&mut registry, vm.id, false, false), Ok(Step::Tell(_))));
    }

    #[test]
    fn what_never_reached_its_host_is_gone_at_once() {
        let (_dir, mut registry, vm) = ground();
        advance(&mut registry, &vm, Event::Failed, |vm| vm.on_node = OnNode::No);
        for _ in 0..2 {
            let Step::Gone(gone) = order(&mut registry, vm.id, false, false).unwrap() else { panic!() };
            assert_eq!(gone.state, State::NotDeployed);
        }
    }

    #[test]
    fn force_is_for_administrators_and_for_what_never_ran() {
        let (_dir, mut registry, vm) = ground();
        assert_eq!(order(&mut registry, vm.id, true, false).unwrap_err().status, 403, "it is on its way");
        let failed = advance(&mut registry, &vm, Event::Failed, |_| {});
        assert!(matches!(order(&mut registry, failed.id, true, false), Ok(Step::Gone(_))));

        let ran = entered(&mut registry, "alice", "node1", "vm2");
        let ran = advance(&mut registry, &ran, Event::Deployed, |_| {});
        let ran = advance(&mut registry, &ran, Event::Terminate, |_| {});
        let ran = advance(&mut registry, &ran, Event::Failed, |_| {});
        assert_eq!(order(&mut registry, ran.id, true, false).unwrap_err().status, 403);
        assert!(matches!(order(&mut registry, ran.id, true, true), Ok(Step::Gone(_))));
    }
    #[test]
    fn what_is_protected_is_for_administrators_with_force_alone() {
        let (_dir, mut registry, vm) = ground();
        let vm = advance(&mut registry, &vm, Event::Deployed, |_| {});
        let change = life::protected(&vm, true).unwrap();
        let guarded: Result<_, RegistryError> = registry.write(|writer| writer.apply(&vm, change));
        let vm = guarded.unwrap().unwrap();
        for administrator in [false, true] {
            let refused = order(&mut registry, vm.id, false, administrator).unwrap_err();
            assert!(refused.status == 409 && refused.sentence.contains("user/extend"), "{refused:?}");
            let saved: Result<Step, Refusal> = registry.write(|writer| {
                let vm = writer.vm(vm.id)?.unwrap();
                begin(writer, vm, &Way::SavedAs("new".parse().unwrap()), administrator)
            });
            assert_eq!(saved.unwrap_err().status, 409);
        }
        assert!(matches!(order(&mut registry, vm.id, true, true), Ok(Step::Gone(_))));
    }
}
