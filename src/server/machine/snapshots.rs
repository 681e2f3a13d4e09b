//! Snapshots of machines' disks: taking, deleting, going back.

use super::life;
use super::orders::message;
use super::power::past_use;
use crate::config::Quota;
use crate::model::names::SnapshotName;
use crate::model::state::State;
use crate::model::wire::{Snapshot, SnapshotAct, SnapshotOrder};
use crate::server::audit;
use crate::server::nodes::{CallFailure, Nodes};
use crate::server::registry::vm::{OnNode, Vm};
use crate::server::registry::{Reader, Registry, RegistryError, Writer};
use crate::system::log::Level;

/// Returns why a machine's state does not allow this, and what to do about it; `None` if it does.
pub fn state_obstacle(vm: &Vm, act: SnapshotAct) -> Option<String> {
    use SnapshotAct::{Delete, RollBack, Take};
    match (vm.state, act) {
        (State::Stopped, _) | (State::Deployed, Take | Delete) | (State::Expired, Delete) => None,
        (State::Deployed, RollBack) => Some(
            "This machine runs, and only a stopped one can go back to a snapshot. Stop it first.".to_owned(),
        ),
        (State::Expired, Take | RollBack) => {
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
    let (limit, owner) = (quota.snapshots, vm.owner.as_str());
    let count = reader.snapshot_count(&vm.owner)?;
    let have = if count == 1 { "1 snapshot".to_owned() } else { format!("{count} snapshots") };
    Ok((limit != 0 && count >= limit).then(|| {
        format!(
            "The machines of {owner} have {have}, and the limit is {limit}. Delete one, or ask an administrator for more."
        )
    }))
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
    act: SnapshotAct,
    name: &SnapshotName,
) -> Result<Result<Vec<Snapshot>, CallFailure>, RegistryError> {
    let order = SnapshotOrder { machine: message(vm), name: name.clone(), act };
    let detail = format!("{act} {name}");
    audit::record(Level::Info, "snapshot.ordered", vm, registry.actor(), &detail);
    let trouble = match nodes.snapshot(&vm.physical_host, &order) {
        Ok(done) => {
            let snapshots = registry.write(|writer| {
                writer.keep_facts(&vm.physical_host, &done.host)?;
                writer.keep_snapshots(vm.id, &done.snapshots)?;
                writer.record(vm.id, past(act), name.as_str())?;
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
        let detail = format!("{name}; {}", trouble.fault);
        registry.write(|writer| writer.record(vm.id, unconfirmed(act), &detail))?;
    }
    Ok(Err(trouble))
}

/// Says what was done, for the history.
fn past(act: SnapshotAct) -> &'static str {
    match act {
        SnapshotAct::Take => "snapshot taken",
        SnapshotAct::RollBack => "went back to snapshot",
        SnapshotAct::Delete => "snapshot deleted",
    }
}

/// Says what may have been done, for the history.
fn unconfirmed(act: SnapshotAct) -> &'static str {
    match act {
        SnapshotAct::Take => "snapshot taken, perhaps",
        SnapshotAct::RollBack => "went back to snapshot, perhaps",
        SnapshotAct::Delete => "snapshot deleted, perhaps",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::registry::vm::tests::entered;

    #[test]
    fn each_act_is_for_its_states() {
        use SnapshotAct::{Delete, RollBack, Take};
        let dir = tempfile::tempdir().unwrap();
        let mut registry = Registry::create(&dir.path().join("registry.sqlite")).unwrap();
        let vm = entered(&mut registry, "alice", "node1", "vm1");
        for state in State::ALL {
            for act in [Take, RollBack, Delete] {
                let is_possible = match act {
                    Take => matches!(state, State::Deployed | State::Stopped),
                    RollBack => state == State::Stopped,
                    Delete => matches!(state, State::Deployed | State::Stopped | State::Expired),
                };
                match state_obstacle(&Vm { state, ..vm.clone() }, act) {
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
