//! Saving a machine's disk as an image, whether on request or before the machine is terminated.

use thiserror::Error;

use super::life::Interest;
use super::power::{self, Meaning};
use super::{orders, quota};
use crate::config::Quota;
use crate::model::fault::Fault;
use crate::model::names::{ImageName, SavedImage, VirtualHost};
use crate::model::stage::Order;
use crate::model::state::State;
use crate::server::mail::Post;
use crate::server::nodes::Nodes;
use crate::server::registry::vm::{Saving, Vm};
use crate::server::registry::{Reader, Registry, RegistryError, Writer};

/// Why a disk can't be saved under a name, or an image renamed to it.
#[derive(Debug, Error)]
pub enum NotSaved {
    /// The owner already has an image with this name.
    #[error("{}", Fault::ImageExists { name: name.clone() })]
    Exists {
        /// The name.
        name: ImageName,
    },
    /// Another machine of the owner is being saved under this name.
    #[error("The disk of {other} is to be saved as {name}. Choose another name.")]
    Reserved {
        /// The name.
        name: ImageName,
        /// The other machine.
        other: VirtualHost,
    },
    /// The owner's quota of images is used up.
    #[error("{0}")]
    Quota(String),
    /// The machine's state does not allow it.
    #[error("{0}")]
    State(String),
    /// The registry failed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

/// Returns why a machine's disk can't be saved now, and what to do about it; `None` if it can.
pub fn obstacle(vm: &Vm, name: &ImageName) -> Option<String> {
    match (vm.state, &vm.saving) {
        (State::Saving, Some(saving)) if saving.name == *name => None,
        _ => state_obstacle(vm),
    }
}

/// Like [`obstacle`], for a machine whose disk is not being saved yet.
pub fn state_obstacle(vm: &Vm) -> Option<String> {
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

/// Returns why the disk of a machine can't be saved now before the machine is terminated; `None` if
/// it can.
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

/// Records that a machine's disk is to be saved, within a transaction. The caller has checked that
/// the machine's state allows it; this function checks that the name is free. On an error nothing
/// is changed.
pub fn begin(writer: &Writer<'_>, vm: &Vm, saving: Saving) -> Result<Vm, NotSaved> {
    let image = SavedImage { owner: vm.owner.user_name().clone(), name: saving.name.clone() };
    check_free(writer.reader(), &image, Some(vm))?;
    let given = orders::give(writer, vm, Order::Save, Interest::Owner, Some(saving))?;
    let sentence = "The disk of this machine can't be saved now. Try again later.";
    given.ok_or_else(|| NotSaved::State(sentence.to_owned()))
}

/// Checks that the machine's owner, whose quota the image counts against, may have one more image.
///
/// # Errors
/// [`NotSaved::Quota`] if they may not.
pub fn check_quota(quota: Quota, reader: Reader<'_>, vm: &Vm) -> Result<(), NotSaved> {
    let usage = reader.image_usage(&vm.owner, Some(vm.id))?;
    quota::image_exceeded(quota, usage, &vm.owner, vm.spec.disk)
        .map_or(Ok(()), |why| Err(NotSaved::Quota(why)))
}

/// Checks that the owner has no image with this name, and that no machine of theirs other than `vm`
/// is being saved under it.
///
/// # Errors
/// [`NotSaved::Exists`] or [`NotSaved::Reserved`] if the name is not free.
pub fn check_free(reader: Reader<'_>, image: &SavedImage, vm: Option<&Vm>) -> Result<(), NotSaved> {
    let name = || image.name.clone();
    if reader.image(image)?.is_some() {
        return Err(NotSaved::Exists { name: name() });
    }
    match reader.being_saved_as(image, vm.map(|vm| vm.id))? {
        Some(other) => Err(NotSaved::Reserved { name: name(), other }),
        None => Ok(()),
    }
}

/// Sends the host the order that [`begin`] recorded, and records the answer. Returns the machine as
/// it is now, and the fault to show to its owner.
pub fn carry_out(
    registry: &mut Registry,
    nodes: &Nodes<'_>,
    post: &Post<'_>,
    vm: Vm,
) -> Result<(Vm, Option<Fault>), RegistryError> {
    let then_terminate = vm.saving.as_ref().is_some_and(|saving| saving.then_terminate);
    let detail = if then_terminate { "to be terminated then" } else { "" };
    orders::carry_out(registry, nodes, post, vm, Order::Save, detail)
}

/// Suggests a name for an image of a machine's disk: as much of the machine's label, or else of its
/// name, as an image name allows, with a number if that is taken.
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

/// Reduces a text to what an image name allows: letters and digits, with a hyphen for anything
/// between them.
fn stem(text: &str) -> String {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let joined = words.collect::<Vec<_>>().join("-").to_ascii_lowercase();
    // Leaves room for a number.
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
