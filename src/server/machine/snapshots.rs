//! Snapshots of machines' disks: taking, deleting, going back to one, or to the image.

use std::fmt;
use std::str::FromStr;

use super::life;
use super::orders::message;
use super::power::past_use;
use super::quota;
use crate::config::Quota;
use crate::model::names::{NameFault, SnapshotName};
use crate::model::spec::Spec;
use crate::model::state::State;
use crate::model::wire::{Snapshot, SnapshotAct, SnapshotOrder, SnapshotVerb};
use crate::server::audit;
use crate::server::nodes::{CallFailure, Nodes};
use crate::server::registry::user::Owner;
use crate::server::registry::vm::{OnNode, Vm, Which};
use crate::server::registry::{Reader, Registry, RegistryError, Writer};
use crate::system::log::Level;

/// A snapshot as the field `fromSnapshot` names it: `MACHINE/NAME`, where the machine is an id or the
/// name of a live machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedSnapshot {
    machine: Which,
    /// What its owner calls it.
    pub name: SnapshotName,
}

impl NamedSnapshot {
    /// Returns the machine, if it is its owner's and has the snapshot. A machine of somebody else's
    /// looks the same as one that is not there.
    pub fn find(&self, reader: Reader<'_>, owner: &Owner) -> Result<Option<Vm>, RegistryError> {
        let vm = reader.vm_of(&self.machine)?;
        let Some(vm) = vm.filter(|vm| vm.owner == *owner && vm.state.is_live()) else { return Ok(None) };
        let is_there = reader.snapshots(vm.id)?.iter().any(|snapshot| snapshot.name == self.name);
        Ok(is_there.then_some(vm))
    }
}

impl FromStr for NamedSnapshot {
    type Err = NameFault;

    fn from_str(text: &str) -> Result<Self, NameFault> {
        let (machine, name) = text.split_once('/').ok_or(NameFault::NotASnapshot)?;
        Ok(Self { machine: machine.parse()?, name: name.parse()? })
    }
}

impl fmt::Display for NamedSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.machine, self.name)
    }
}

/// Returns why this can't be done to a machine, and what to do about it; `None` if it can, as far as its
/// state and its origin say.
pub fn obstacle(vm: &Vm, verb: SnapshotVerb) -> Option<String> {
    let origin = if verb == SnapshotVerb::AsNew { origin_obstacle(&vm.spec) } else { None };
    origin.or_else(|| state_obstacle(vm, verb))
}

/// Returns why a machine with this origin can't go back to its image, and what to do about it.
fn origin_obstacle(spec: &Spec) -> Option<String> {
    let from = match (&spec.saved, &spec.snapshot) {
        (Some(image), _) => format!("the saved image {}/{}", image.owner, image.name),
        (None, Some(_)) => "a snapshot of another machine".to_owned(),
        (None, None) => return None,
    };
    Some(format!("This machine was made from {from}. Deploy another one from that instead."))
}

fn state_obstacle(vm: &Vm, verb: SnapshotVerb) -> Option<String> {
    use SnapshotVerb::{AsNew, Delete, RollBack, Take};
    match (vm.state, verb) {
        (State::Stopped, _) | (State::Deployed, Take | Delete) | (State::Expired, Delete) => None,
        (State::Deployed, RollBack | AsNew) => {
            let to = if verb == AsNew { "its image" } else { "a snapshot" };
            Some(format!("This machine runs, and only a stopped one can go back to {to}. Stop it first."))
        }
        (State::Expired, Take | RollBack | AsNew) => {
            Some("The lease of this machine has ended. Extend its lease first.".to_owned())
        }
        (state, _) => Some(past_use(state).map_or_else(
            || "This machine is being worked on. Wait until that is over, and try again.".to_owned(),
            str::to_owned,
        )),
    }
}

/// Returns why one more snapshot can't be taken, and what to do about it; `None` if it can.
pub fn quota_obstacle(reader: Reader<'_>, quota: Quota, vm: &Vm) -> Result<Option<String>, RegistryError> {
    Ok(quota::snapshot_exceeded(quota, reader.snapshot_count(&vm.owner)?, &vm.owner))
}

/// Records that a machine's host gets an order about a snapshot, within a transaction. Returns `None`
/// if the machine has changed meanwhile.
pub fn begin(writer: &Writer<'_>, vm: &Vm) -> Result<Option<Vm>, RegistryError> {
    writer.apply(vm, life::snapshot_ordered(vm, writer.at()))
}

/// Has a machine's host carry out the order that [`begin`] recorded, and records what came of it.
/// Returns the machine's snapshots.
pub fn carry_out(
    registry: &mut Registry,
    nodes: &Nodes<'_>,
    vm: &Vm,
    act: &SnapshotAct,
) -> Result<Result<Vec<Snapshot>, CallFailure>, RegistryError> {
    let order = SnapshotOrder { machine: message(vm), act: act.clone() };
    let to = act.name().map_or_else(|| vm.spec.image.as_str(), SnapshotName::as_str);
    let detail = format!("{} {to}", act.verb());
    audit::record(Level::Info, "snapshot.ordered", vm, registry.actor(), &detail);
    let trouble = match nodes.snapshot(&vm.physical_host, &order) {
        Ok(done) => {
            let snapshots = registry.write(|writer| {
                writer.keep_facts(&vm.physical_host, &done.host)?;
                writer.keep_snapshots(vm.id, &done.snapshots)?;
                writer.record(vm.id, past(act.verb()), to)?;
                writer.reader().snapshots(vm.id)
            })?;
            return Ok(Ok(snapshots));
        }
        Err(trouble) => trouble,
    };
    audit::record(
        Level::Warning,
        "snapshot.not-confirmed",
        vm,
        registry.actor(),
        &format!("{detail}: {}", trouble.fault),
    );
    if trouble.taken == OnNode::Maybe {
        // It may have been done all the same. Upkeep finds out which snapshots there are.
        let detail = format!("{to}; {}", trouble.fault);
        let what = format!("{}, perhaps", past(act.verb()));
        registry.write(|writer| writer.record(vm.id, &what, &detail))?;
    }
    Ok(Err(trouble))
}

/// Says what was done, for the history.
fn past(verb: SnapshotVerb) -> &'static str {
    match verb {
        SnapshotVerb::Take => "snapshot taken",
        SnapshotVerb::RollBack => "went back to snapshot",
        SnapshotVerb::Delete => "snapshot deleted",
        SnapshotVerb::AsNew => "went back to its image",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::names::{SavedImage, VmId};
    use crate::model::spec::SnapshotOf;
    use crate::server::registry::vm::tests::entered;

    #[test]
    fn a_snapshot_is_named_with_its_machine() {
        let id = VmId::generate();
        for text in [format!("{id}/before"), "vm1/before".to_owned(), "vm1.example.org/a.b".to_owned()] {
            assert_eq!(text.parse::<NamedSnapshot>().unwrap().to_string(), text);
        }
        for bad in ["", "before", "/before", "vm1/", "vm1/a/b", "vm1/a_b", "vm_1/a", "vm 1/a"] {
            assert!(bad.parse::<NamedSnapshot>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_machine_goes_back_only_to_what_it_was_made_from() {
        let dir = tempfile::tempdir().unwrap();
        let mut registry = Registry::create(&dir.path().join("registry.sqlite")).unwrap();
        let vm = entered(&mut registry, "alice", "node1", "vm1");
        let vm = Vm { state: State::Stopped, ..vm };
        let saved = SavedImage { owner: "bob".parse().unwrap(), name: "web".parse().unwrap() };
        let of = SnapshotOf { machine: VmId::generate(), name: "one".parse().unwrap() };
        let with = |saved, snapshot| Vm { spec: Spec { saved, snapshot, ..vm.spec.clone() }, ..vm.clone() };
        for (vm, words) in [
            (with(Some(saved), None), "the saved image bob/web"),
            (with(None, Some(of)), "a snapshot of another machine"),
        ] {
            assert!(obstacle(&vm, SnapshotVerb::AsNew).unwrap().contains(words), "{words}");
            assert_eq!(obstacle(&vm, SnapshotVerb::RollBack), None, "{words}");
        }
        assert_eq!(obstacle(&vm, SnapshotVerb::AsNew), None);
    }

    #[test]
    fn each_act_is_for_its_states() {
        use SnapshotVerb::{AsNew, Delete, RollBack, Take};
        let dir = tempfile::tempdir().unwrap();
        let mut registry = Registry::create(&dir.path().join("registry.sqlite")).unwrap();
        let vm = entered(&mut registry, "alice", "node1", "vm1");
        for state in State::ALL {
            for act in [Take, RollBack, Delete, AsNew] {
                let is_possible = match act {
                    Take => matches!(state, State::Deployed | State::Stopped),
                    RollBack | AsNew => state == State::Stopped,
                    Delete => matches!(state, State::Deployed | State::Stopped | State::Expired),
                };
                match obstacle(&Vm { state, ..vm.clone() }, act) {
                    None => assert!(is_possible, "{act} while {state}"),
                    Some(sentence) => {
                        assert!(!is_possible, "{act} while {state}");
                        assert!(sentence.ends_with('.') && sentence.contains(' '), "{sentence}");
                    }
                }
            }
        }
    }
}
