//! What all orders about a machine have in common: which machine is meant, that it is recorded before its
//! node is told, and what becomes of the node's answer.

use crate::model::fault::Fault;
use crate::model::stage::Order;
use crate::model::state::Event;
use crate::model::wire::{Accepted, DeployOrder, MachineOrder, SaveOrder};
use crate::system::clock;
use crate::system::log::Level;

use crate::server::audit;
use crate::server::nodes::{Nodes, Trouble};
use crate::server::registry::event::Actor;
use crate::server::registry::vm::{OnNode, Saving, Vm, Wanted};
use crate::server::registry::{Registry, RegistryError, Writer};

/// What happens to a machine that is there when its owner gives an order; `None` for a deploy, which makes
/// it.
pub fn event(order: Order) -> Option<Event> {
    match order {
        Order::Deploy => None,
        Order::Terminate => Some(Event::Terminate),
        Order::Stop => Some(Event::Stop),
        Order::Start => Some(Event::Start),
        Order::Reboot => Some(Event::Reboot),
        Order::Save => Some(Event::Save),
    }
}

/// What an order says about what the owner of a machine wants it to be from now on; `None` if that it says nothing.
fn wanted(order: Order) -> Option<Wanted> {
    match order {
        Order::Start | Order::Reboot => Some(Wanted::Running),
        Order::Stop => Some(Wanted::Stopped),
        Order::Deploy | Order::Terminate | Order::Save => None,
    }
}

/// What becomes of that when the order comes to nothing: nothing is tried again behind the owner's back.
pub fn wanted_after_failure(order: Order) -> Option<Wanted> {
    match order {
        Order::Start | Order::Reboot => Some(Wanted::Stopped),
        Order::Stop => Some(Wanted::Running),
        Order::Deploy | Order::Terminate | Order::Save => None,
    }
}

/// Records that somebody gave an order about a machine that is there, within a transaction. `None`, and nothing
/// is changed, if the machine's state does not allow it.
///
/// # Errors
/// [`RegistryError`] when SQLite refuses.
pub fn give(writer: &Writer<'_>, vm: &Vm, order: Order, actor: &Actor) -> Result<Option<Vm>, RegistryError> {
    give_with(writer, vm, order, actor, |vm| vm.wanted = wanted(order).unwrap_or(vm.wanted))
}

/// As [`give`], for an order that is not its owner's: `edit` says what changes with it.
///
/// # Errors
/// [`RegistryError`] when SQLite refuses.
pub fn give_with(
    writer: &Writer<'_>,
    vm: &Vm,
    order: Order,
    actor: &Actor,
    edit: impl FnOnce(&mut Vm),
) -> Result<Option<Vm>, RegistryError> {
    let now = clock::now();
    let Some(event) = event(order) else { return Ok(None) };
    let again = vm.order == order && vm.state.is_transitional();
    let given = writer.advance(vm, event, now, |vm| {
        vm.order = order;
        // The same order given again is the same order to its node, which carries it out once.
        if !again {
            vm.number = vm.number.next(clock::millis());
        }
        vm.sequence = 0;
        vm.stage = None;
        vm.percent = None;
        vm.fault = None;
        // The same order given again is about the same image.
        vm.saving = vm.saving.take().filter(|_| order == Order::Save);
        edit(vm);
    })?;
    if given.is_some() {
        writer.record(vm.id, now, actor, &format!("{order} ordered"), if again { "again" } else { "" })?;
    }
    Ok(given)
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

/// What happens to a machine whose node did not take an order. A disk can be saved of machines that run and of
/// machines that don't; which it was is known from what is wanted, and from the end of its lease.
fn undone(vm: &Vm, order: Order) -> Event {
    let ran = vm.wanted == Wanted::Running && vm.deletion.is_none();
    if order == Order::Save && ran { Event::Deployed } else { Event::Failed }
}

/// Records that a node did not take an order. The machine becomes what the table of states says, unless it
/// got another order meanwhile, which counts then, or its node reported on this one.
fn give_up(
    writer: &Writer<'_>,
    vm: Vm,
    order: Order,
    trouble: &Trouble,
    actor: &Actor,
) -> Result<Vm, RegistryError> {
    let now = clock::now();
    let present = writer.vm(vm.id)?.unwrap_or(vm);
    if has_reported_on(&present, order) {
        return Ok(present);
    }
    let failed = if present.order == order {
        writer.advance(&present, undone(&present, order), now, |vm| {
            vm.fault = Some(trouble.fault.clone());
            vm.wanted = wanted_after_failure(order).unwrap_or(vm.wanted);
            // Of any other machine something is there, whether its node took the order or not.
            if order == Order::Deploy {
                vm.on_node = trouble.taken;
            }
            // What its node never had it won't carry out; else the name is kept for what it may still report.
            vm.saving = vm.saving.take().filter(|_| trouble.taken == OnNode::Maybe);
        })?
    } else {
        None
    };
    // A disk that is kept for a while after the lease is still kept for that while.
    let failed = match failed {
        Some(vm) if order == Order::Save && vm.deletion.is_some() => {
            Some(writer.advance(&vm, Event::Expire, now, |_| {})?.unwrap_or(vm))
        }
        other => other,
    };
    writer.record(present.id, now, actor, &format!("{order} failed"), &trouble.fault.to_string())?;
    Ok(failed.unwrap_or(present))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::state::State;
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
            let given = self.registry.write(|writer| give(writer, &self.vm, order, &actor())).unwrap();
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
