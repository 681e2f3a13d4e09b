//! What all orders about a machine have in common: which machine is meant, that it is recorded before its
//! node is told, and what becomes of the node's answer.

use super::life::{self, Interest};
use super::now;
use crate::model::fault::Fault;
use crate::model::stage::Order;
use crate::model::wire::{Accepted, DeployOrder, MachineOrder, SaveOrder};
use crate::server::audit;
use crate::server::nodes::{Nodes, Trouble};
use crate::server::registry::event::Actor;
use crate::server::registry::vm::{Saving, Vm};
use crate::server::registry::{Registry, RegistryError, Writer};
use crate::system::clock;
use crate::system::log::Level;

/// Records that an order about a machine that is there is given, within a transaction; `saving` goes with the order to save
/// its disk. `None`, and nothing is changed, if the machine's state does not allow it.
///
/// # Errors
/// [`RegistryError`] when SQLite refuses.
pub fn give(
    writer: &Writer<'_>,
    vm: &Vm,
    order: Order,
    interest: Interest,
    saving: Option<Saving>,
    actor: &Actor,
) -> Result<Option<Vm>, RegistryError> {
    let at = now();
    let Some(change) = life::ordered(vm, order, interest, saving, at) else { return Ok(None) };
    writer.apply(vm, change, at.moment, actor)
}

/// The message to the node of a machine.
pub fn message(vm: &Vm) -> MachineOrder {
    MachineOrder {
        id: vm.id,
        number: vm.number,
        user: vm.owner.user_name().clone(),
        virtual_host: vm.virtual_host.clone(),
    }
}

/// The message to the node of a machine that it is to make it.
fn deploy_message(vm: &Vm) -> DeployOrder {
    DeployOrder {
        id: vm.id,
        number: vm.number,
        user: vm.owner.user_name().clone(),
        physical_host: vm.physical_host.clone(),
        virtual_host: vm.virtual_host.clone(),
        image: vm.image.clone(),
        memory: vm.memory,
        disk: vm.disk,
        saved: vm.from.clone(),
    }
}

/// Tells the node of a machine what was ordered.
///
/// # Errors
/// [`Trouble`], when the node did not say that it has accepted.
pub fn tell(nodes: &Nodes<'_>, vm: &Vm, order: Order) -> Result<Accepted, Trouble> {
    match (order, &vm.saving) {
        (Order::Deploy, _) => nodes.deploy(&deploy_message(vm)),
        (Order::Save, Some(Saving { name, .. })) => {
            nodes.save(&vm.physical_host, &SaveOrder { machine: message(vm), name: name.clone() })
        }
        _ => nodes.order(order, &vm.physical_host, &message(vm)),
    }
}

/// Records what a node answered to an order that was given before, and logs it if it was no consent. Gives
/// back the machine as it is now, which may have moved on meanwhile, and the fault that its owner must know of.
///
/// # Errors
/// [`RegistryError`] when SQLite refuses.
pub fn settle(
    registry: &mut Registry,
    vm: Vm,
    order: Order,
    answer: Result<Accepted, Trouble>,
    actor: &Actor,
) -> Result<(Vm, Option<Fault>), RegistryError> {
    settle_with(registry, vm, order, answer, actor, |_, _, _| Ok(()))
}

/// As [`settle`]. When the order came to nothing `also` happens with the machine as it is now and the reason, in the
/// transaction that records it.
///
/// # Errors
/// [`RegistryError`] when SQLite refuses.
pub fn settle_with(
    registry: &mut Registry,
    vm: Vm,
    order: Order,
    answer: Result<Accepted, Trouble>,
    actor: &Actor,
    also: impl FnOnce(&Writer<'_>, &Vm, &Fault) -> Result<(), RegistryError>,
) -> Result<(Vm, Option<Fault>), RegistryError> {
    let trouble = match answer {
        Ok(accepted) => {
            let vm = registry.write(|writer| {
                writer.keep_facts(&vm.physical_host, &accepted.host, clock::now())?;
                // Its worker may have reported before it answered.
                Ok::<_, RegistryError>(writer.vm(vm.id)?.unwrap_or(vm))
            })?;
            return Ok((vm, None));
        }
        Err(trouble) => trouble,
    };
    let vm = registry.write(|writer| {
        let vm = give_up(writer, vm, order, &trouble, actor)?;
        if !has_reported_on(&vm, order) {
            also(writer, &vm, &trouble.fault)?;
        }
        Ok::<_, RegistryError>(vm)
    })?;
    let has_it = has_reported_on(&vm, order);
    let what = format!("{order}-{}", if has_it { "unanswered" } else { "failed" });
    audit::record(Level::Warning, &what, &vm, actor, &trouble.fault.to_string());
    Ok((vm, Some(trouble.fault).filter(|_| !has_it)))
}

/// Whether the node of a machine has reported on this order: then it has it, whatever became of its answer.
fn has_reported_on(vm: &Vm, order: Order) -> bool {
    vm.order == order && vm.sequence > 0
}

/// Records that a node did not take an order, unless it has reported on it.
fn give_up(
    writer: &Writer<'_>,
    vm: Vm,
    order: Order,
    trouble: &Trouble,
    actor: &Actor,
) -> Result<Vm, RegistryError> {
    let at = now();
    let present = writer.vm(vm.id)?.unwrap_or(vm);
    if has_reported_on(&present, order) {
        return Ok(present);
    }
    let change = life::refused(&present, order, &trouble.fault, trouble.taken, at);
    Ok(writer.apply(&present, change, at.moment, actor)?.unwrap_or(present))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::state::Event;
    use crate::model::state::State;
    use crate::server::registry::vm::OnNode;
    use crate::server::registry::vm::tests::entered;

    struct Ground {
        _dir: tempfile::TempDir,
        registry: Registry,
        vm: Vm,
    }

    fn actor() -> Actor {
        Actor { who: "alice".to_owned(), from: "192.0.2.1".to_owned() }
    }

    fn silent() -> Trouble {
        let fault = Fault::HostSilent { host: "node1".parse().unwrap(), seconds: 7 };
        Trouble { fault, taken: OnNode::Maybe }
    }

    impl Ground {
        /// A machine that runs.
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let mut registry = Registry::create(&dir.path().join("registry.sqlite")).unwrap();
            let vm = entered(&mut registry, "alice", "node1", "vm1");
            let mut ground = Self { _dir: dir, registry, vm };
            ground.happens(Event::Deployed);
            ground
        }

        fn happens(&mut self, event: Event) {
            let done: Result<_, RegistryError> =
                self.registry.write(|writer| writer.advance(&self.vm, event, clock::now(), |_| {}));
            self.vm = done.unwrap().unwrap();
        }

        fn give(&mut self, order: Order) -> bool {
            let given = self
                .registry
                .write(|writer| give(writer, &self.vm, order, Interest::Owner, None, &actor()))
                .unwrap();
            let allowed = given.is_some();
            self.vm = given.unwrap_or_else(|| self.vm.clone());
            allowed
        }

        fn settle(&mut self, order: Order, answer: Result<Accepted, Trouble>) -> Option<Fault> {
            let vm = self.vm.clone();
            let (vm, fault) = settle(&mut self.registry, vm, order, answer, &actor()).unwrap();
            assert_eq!(self.registry.read(|reader| reader.vm(vm.id)).unwrap().unwrap(), vm);
            self.vm = vm;
            fault
        }
    }

    #[test]
    fn a_host_that_does_not_take_an_order_leaves_the_machine_as_it_was() {
        for (order, before) in
            [(Order::Stop, State::Deployed), (Order::Reboot, State::Deployed), (Order::Start, State::Stopped)]
        {
            let mut ground = Ground::new();
            if before == State::Stopped {
                ground.happens(Event::Stopped);
            }
            // Again and again.
            for _ in 0..2 {
                assert!(ground.give(order), "{order}");
                assert!(ground.vm.state.is_transitional() && ground.vm.fault.is_none());
                assert_eq!(ground.settle(order, Err(silent())), Some(silent().fault));
                assert_eq!((ground.vm.state, ground.vm.fault.as_ref()), (before, Some(&silent().fault)));
                assert_eq!(ground.vm.on_node, OnNode::Maybe);
            }
        }
    }

    #[test]
    fn an_order_can_be_given_again_until_it_is_done() {
        let mut ground = Ground::new();
        for order in [Order::Stop, Order::Terminate] {
            assert!(ground.give(order) && ground.give(order), "{order}");
            assert_eq!((ground.vm.order, ground.vm.sequence), (order, 0));
        }
        let told: Vec<_> = ground.registry.read(|reader| reader.history(ground.vm.id)).unwrap();
        let told: Vec<_> = told.iter().map(|event| (event.what.as_str(), event.detail.as_str())).collect();
        let expected = [
            ("stop ordered", ""),
            ("stop ordered", "again"),
            ("terminate ordered", ""),
            ("terminate ordered", "again"),
        ];
        assert_eq!(told, expected);
        assert!(!ground.give(Order::Start) && !ground.give(Order::Stop) && !ground.give(Order::Deploy));
        assert_eq!(ground.vm.order, Order::Terminate);
    }

    #[test]
    fn a_later_order_is_not_given_up_for_an_earlier_one() {
        let mut ground = Ground::new();
        ground.give(Order::Stop);
        ground.give(Order::Terminate);
        assert_eq!(ground.settle(Order::Stop, Err(silent())), Some(silent().fault), "it was not stopped");
        assert_eq!((ground.vm.state, ground.vm.fault.as_ref()), (State::Terminating, None));
    }

    #[test]
    fn a_host_that_reports_on_an_order_has_it() {
        let mut ground = Ground::new();
        ground.give(Order::Stop);
        let reported: Result<_, RegistryError> = ground
            .registry
            .write(|writer| writer.advance(&ground.vm, Event::Progress, clock::now(), |vm| vm.sequence = 1));
        ground.vm = reported.unwrap().unwrap();
        assert_eq!(ground.settle(Order::Stop, Err(silent())), None);
        assert_eq!((ground.vm.state, ground.vm.fault.as_ref()), (State::Stopping, None));
    }
}
