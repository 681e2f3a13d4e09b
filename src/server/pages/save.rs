//! `user/save`: asks, and then has the disk of a machine that is shut down saved as an image. What this has in common
//! with `user/terminate`, which can have a disk saved first, is here, too.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::cgi::reply::{Refusal, Reply};
use crate::cgi::request::Fields;
use crate::cgi::serve::{UserCall, View};
use crate::config::{self, Common};
use crate::model::fault::Fault;
use crate::model::names::{ImageName, SavedImage};
use crate::model::stage::Order;
use crate::model::state::State;
use crate::system::log::Level;

use crate::server::audit;
use crate::server::machine::orders::{self, Target};
use crate::server::machine::quota;
use crate::server::nodes::Nodes;
use crate::server::pages::access;
use crate::server::pages::power::{self, Meaning};
use crate::server::pages::view::{MachineView, ask_again, field_fault, ordered, sentence};
use crate::server::registry::event::Actor;
use crate::server::registry::vm::{Saving, Vm, Wanted};
use crate::server::registry::{Reader, Registry, RegistryError, Writer};

/// The page that asks.
#[derive(Debug, Serialize)]
struct SaveView {
    machine: MachineView,
    /// Why it can't be done now.
    idle: Option<String>,
    /// Whether it was ordered before and is under way.
    again: bool,
    /// What the field for the name is filled in with.
    name: String,
    /// What is wrong with it.
    faults: BTreeMap<&'static str, String>,
}

impl View for SaveView {
    const TEMPLATE: &'static str = "save.html";

    /// The machine's line, as in the list.
    fn text(&self) -> String {
        self.machine.line()
    }
}

/// Answers `user/save`.
///
/// Fields: `id`, or as a convenience for scripts `vmHostname` (the live machine of that name); `name`, what the image
/// is called; `token`, `format`. The image is the machine's owner's, whoever gives the order. While a disk is being
/// saved the order can be given again, with the same name.
///
/// # Errors
/// 400, also for what is no name; 403 for others' machines, 404, 409 if the owner has an image of that name, or in
/// states in which a disk can't be saved; 503. If the machine's host did not take the order the machine stays as it was,
/// and its page says why: 409 for programs if the host had a reason, 502 if it can't be used.
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
    // Read before anything is recorded: without it no node can be called.
    let nodes = Nodes::new(&call.config, &call.request.id)?;
    let actor = access::actor(call);
    let mut registry = access::registry(call)?;
    let vm = registry.write(|writer| {
        let vm = target.find(call, **writer)?;
        let name = read_name(&call.request.fields, "name")?;
        if let Some(obstacle) = obstacle(&vm, &name) {
            return Err(Refusal::conflict(obstacle));
        }
        check_quota(call, **writer, &vm, "name")?;
        begin(writer, &vm, Saving { name, then_terminate: false }, "name", &actor)
    })?;
    let (vm, fault) = carry_out(&mut registry, &nodes, vm, &actor)?;
    ordered(call, common, &vm, fault.as_ref())
}

fn page(
    call: &UserCall<'_>,
    common: &Common,
    target: &Target,
    faults: BTreeMap<&'static str, String>,
) -> Result<SaveView, Refusal> {
    access::registry_to_read(call)?.read(|reader| {
        let vm = target.find(call, reader)?;
        let under_way = vm.saving.as_ref().filter(|_| vm.state == State::Saving);
        let name = match (call.request.fields.get("name"), under_way) {
            (_, Some(saving)) => saving.name.to_string(),
            (Some(given), None) => given.to_owned(),
            (None, None) => proposal(reader, &vm)?,
        };
        let again = under_way.is_some();
        let idle = if again { None } else { state_obstacle(&vm) };
        Ok(SaveView { machine: MachineView::new(&vm, common, call.administrator), idle, again, name, faults })
    })
}

/// Reads the name for an image from a field.
///
/// # Errors
/// 400 with what is wrong with the field.
pub fn read_name(fields: &Fields, field: &'static str) -> Result<ImageName, Refusal> {
    let text = fields.get(field).map(str::trim).unwrap_or_default();
    if text.is_empty() {
        return Err(field_fault(400, field, "Say what the image is to be called."));
    }
    text.parse().map_err(|fault| {
        let rule = "A name has up to 40 of small letters, digits, points and hyphens.";
        field_fault(400, field, format!("{} {rule}", sentence(&fault)))
    })
}

/// Why the disk of a machine can't be saved as it is now, and what can be done; `None` if it can.
fn obstacle(vm: &Vm, name: &ImageName) -> Option<String> {
    match (vm.state, &vm.saving) {
        (State::Saving, Some(saving)) if saving.name == *name => None,
        _ => state_obstacle(vm),
    }
}

fn state_obstacle(vm: &Vm) -> Option<String> {
    match vm.state {
        State::Stopped | State::Expired => None,
        State::Deployed => Some(
            "This machine runs, and a disk that is being written to can't be saved. Stop it first; or terminate it \
             with its disk saved as an image (saveAs)."
                .to_owned(),
        ),
        _ => obstacle_before_the_end(vm),
    }
}

/// Why the disk of a machine that is to be terminated then can't be saved as it is now; `None` if it can.
pub fn obstacle_before_termination(vm: &Vm, name: &ImageName) -> Option<String> {
    match (vm.state, &vm.saving) {
        (State::Deployed | State::Stopped | State::Expired, _) => None,
        (State::Saving, Some(saving)) if saving.name == *name => None,
        _ => obstacle_before_the_end(vm),
    }
}

fn obstacle_before_the_end(vm: &Vm) -> Option<String> {
    match (vm.state, &vm.saving, power::meaning(Order::Save, vm.state)) {
        (State::Saving, Some(saving), _) => Some(format!(
            "The disk of this machine is being saved as the image {}. Wait until that is over, and try again.",
            saving.name
        )),
        (_, _, Meaning::Not(sentence)) => Some(sentence),
        (_, _, Meaning::Already(sentence)) => Some(sentence.to_owned()),
        (_, _, Meaning::Tell) => None,
    }
}

/// Records that the disk of a machine is to be saved, within a transaction. That its state allows it has been
/// checked; that the name is free is checked here, and a fault is told of `field`.
///
/// # Errors
/// 409, and what `RegistryError` becomes.
pub fn begin(
    writer: &Writer<'_>,
    vm: &Vm,
    saving: Saving,
    field: &'static str,
    actor: &Actor,
) -> Result<Vm, Refusal> {
    let image = SavedImage { owner: vm.owner.user_name().clone(), name: saving.name.clone() };
    check_free(**writer, &image, Some(vm), field)?;
    let stopped = vm.state == State::Stopped;
    let given = orders::give_with(writer, vm, Order::Save, actor, |vm| {
        if stopped {
            // It is not to be started afterwards.
            vm.wanted = Wanted::Stopped;
        }
        vm.saving = Some(saving);
    })?;
    given.ok_or_else(|| Refusal::conflict("The disk of this machine can't be saved now. Try again later."))
}

/// Lets the disk of a machine be saved if its owner may have one more image.
///
/// # Errors
/// 409 with what is wrong with `field`, and what `RegistryError` becomes.
pub fn check_quota(
    call: &UserCall<'_>,
    reader: Reader<'_>,
    vm: &Vm,
    field: &'static str,
) -> Result<(), Refusal> {
    let usage = reader.image_usage(&vm.owner, Some(vm.id))?;
    let quota = call.config.quota(vm.owner.user_name());
    match quota::image_exceeded(quota, usage, &vm.owner, vm.disk) {
        Some(sentence) => Err(field_fault(409, field, sentence)),
        None => Ok(()),
    }
}

/// Lets the name of an image through if its owner has none of that name, and no machine of theirs other than `vm` is
/// being saved under it.
///
/// # Errors
/// 409 with what is wrong with `field`, and what `RegistryError` becomes.
pub fn check_free(
    reader: Reader<'_>,
    image: &SavedImage,
    vm: Option<&Vm>,
    field: &'static str,
) -> Result<(), Refusal> {
    if reader.image(image)?.is_some() {
        return Err(field_fault(409, field, Fault::ImageExists { name: image.name.clone() }.to_string()));
    }
    match reader.being_saved_as(image, vm.map(|vm| vm.id))? {
        Some(other) => Err(field_fault(
            409,
            field,
            format!("The disk of {other} is to be saved as {}. Choose another name.", image.name),
        )),
        None => Ok(()),
    }
}

/// Tells the host of a machine what [`begin`] recorded, and records what it answers. Gives back the machine as it is
/// now, and the fault that its owner must know of.
///
/// # Errors
/// [`RegistryError`] when SQLite refuses.
pub fn carry_out(
    registry: &mut Registry,
    nodes: &Nodes<'_>,
    vm: Vm,
    actor: &Actor,
) -> Result<(Vm, Option<Fault>), RegistryError> {
    let then_terminate = vm.saving.as_ref().is_some_and(|saving| saving.then_terminate);
    let detail = if then_terminate { "ordered, and to be terminated then" } else { "ordered" };
    audit::record(Level::Info, "save", &vm, actor, detail);
    let answer = orders::tell(nodes, &vm, Order::Save);
    orders::settle(registry, vm, Order::Save, answer, actor)
}

/// A name for an image of a machine's disk that its owner may like: the machine's label or else its name, as far as
/// they can be one, with a number if that is taken.
///
/// # Errors
/// [`RegistryError`] when SQLite refuses.
pub fn proposal(reader: Reader<'_>, vm: &Vm) -> Result<String, RegistryError> {
    let label = stem(vm.label.as_str());
    let first = if label.is_empty() { stem(vm.virtual_host.as_str()) } else { label };
    for n in 1..100 {
        let text = if n == 1 { first.clone() } else { format!("{first}-{n}") };
        let Ok(name) = text.parse::<ImageName>() else { break };
        let image = SavedImage { owner: vm.owner.user_name().clone(), name };
        if reader.image(&image)?.is_none() && reader.being_saved_as(&image, Some(vm.id))?.is_none() {
            return Ok(text);
        }
    }
    Ok(String::new())
}

/// As much of a text as an image's name can be made of: letters and digits, and hyphens for all between them.
fn stem(text: &str) -> String {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let joined = words.collect::<Vec<_>>().join("-").to_ascii_lowercase();
    // Room for a number.
    let short: String = joined.chars().take(36).collect();
    short.trim_end_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::registry::vm::tests::entered;

    #[test]
    fn what_is_proposed_is_a_name() {
        for (text, expected) in [
            ("vm1.example.org", "vm1-example-org"),
            ("My <b>First</b> web server!", "my-b-first-b-web-server"),
            ("Ünïcode", "n-code"),
            ("--", ""),
            ("日本", ""),
        ] {
            assert_eq!(stem(text), expected);
        }
        let long = stem(&"abc-".repeat(30));
        assert!(format!("{long}-99").parse::<ImageName>().is_ok(), "{long}");
    }

    #[test]
    fn each_state_has_its_answer() {
        let dir = tempfile::tempdir().unwrap();
        let mut registry = Registry::create(&dir.path().join("registry.sqlite")).unwrap();
        let vm = entered(&mut registry, "alice", "node1", "vm1");
        let (name, other): (ImageName, ImageName) = ("new".parse().unwrap(), "other".parse().unwrap());
        for state in State::ALL {
            let saving = Some(Saving { name: name.clone(), then_terminate: false });
            let vm = Vm { state, saving: saving.filter(|_| state == State::Saving), ..vm.clone() };
            let idle = matches!(state, State::Stopped | State::Expired);
            let saves = state == State::Saving;
            for (obstacle, expected) in [
                (obstacle(&vm, &name), idle || saves),
                (obstacle(&vm, &other), idle),
                (obstacle_before_termination(&vm, &name), idle || saves || state == State::Deployed),
                (obstacle_before_termination(&vm, &other), idle || state == State::Deployed),
            ] {
                assert_eq!(obstacle.is_none(), expected, "{state}: {obstacle:?}");
                assert!(obstacle.is_none_or(|text| text.ends_with('.') && text.contains(' ')), "{state}");
            }
        }
    }
}
