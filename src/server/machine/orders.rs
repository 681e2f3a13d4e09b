//! What all orders about a machine have in common: each is recorded before it is sent to the node,
//! and the node's answer is recorded too.

use super::failures;
use super::life::{self, Interest};
use crate::model::fault::Fault;
use crate::model::stage::Order;
use crate::model::wire::{Accepted, DeployOrder, MachineOrder, ResizeOrder, SaveOrder};
use crate::server::audit;
use crate::server::mail::Post;
use crate::server::nodes::{CallFailure, Nodes};
use crate::server::registry::vm::{Saving, Vm};
use crate::server::registry::{Registry, RegistryError, Writer};
use crate::system::log::Level;

/// Records an order about an existing machine, within a transaction; `saving` accompanies an order
/// to save the disk. Returns `None` and changes nothing if the machine's state does not allow it.
pub fn give(
    writer: &Writer<'_>,
    vm: &Vm,
    order: Order,
    interest: Interest,
    saving: Option<Saving>,
) -> Result<Option<Vm>, RegistryError> {
    let Some(change) = life::ordered(vm, order, interest, saving, writer.at()) else { return Ok(None) };
    writer.apply(vm, change)
}

/// Builds the message that identifies a machine and its order to its node.
pub fn message(vm: &Vm) -> MachineOrder {
    MachineOrder {
        id: vm.id,
        number: vm.number,
        user: vm.owner.user_name().clone(),
        virtual_host: vm.virtual_host.clone(),
    }
}

/// Builds the message that orders a machine's node to create it.
fn deploy_message(vm: &Vm) -> DeployOrder {
    DeployOrder {
        id: vm.id,
        number: vm.number,
        user: vm.owner.user_name().clone(),
        physical_host: vm.physical_host.clone(),
        virtual_host: vm.virtual_host.clone(),
        spec: vm.spec.clone(),
    }
}

/// Sends an order to the node of a machine.
///
/// # Errors
/// [`CallFailure`] if the node did not acknowledge the order.
pub fn tell(nodes: &Nodes<'_>, vm: &Vm, order: Order) -> Result<Accepted, CallFailure> {
    match (order, &vm.saving, vm.resizing) {
        (Order::Deploy, ..) => nodes.deploy(&deploy_message(vm)),
        (Order::Save, Some(Saving { name, .. }), _) => {
            nodes.save(&vm.physical_host, &SaveOrder { machine: message(vm), name: name.clone() })
        }
        (Order::Resize, _, Some(sizes)) => {
            nodes.resize(&vm.physical_host, &ResizeOrder { machine: message(vm), sizes })
        }
        _ => nodes.order(order, &vm.physical_host, &message(vm)),
    }
}

/// Sends a machine's node an order that has been recorded, and records the answer. `detail` is for the
/// log. Returns the machine as it is now, and the fault to show to its owner.
pub fn carry_out(
    registry: &mut Registry,
    nodes: &Nodes<'_>,
    post: &Post<'_>,
    vm: Vm,
    order: Order,
    detail: &str,
) -> Result<(Vm, Option<Fault>), RegistryError> {
    audit::order(Level::Info, "order.given", order, &vm, registry.actor(), detail);
    let answer = tell(nodes, &vm, order);
    settle(registry, post, vm, order, answer)
}

/// Records a node's answer to an order, and logs it unless the order was accepted. If a deploy
/// failed, administrators are told of faults that concern them. Returns the machine as it is now,
/// which may have moved on in the meantime, and the fault to show to its owner.
pub fn settle(
    registry: &mut Registry,
    post: &Post<'_>,
    vm: Vm,
    order: Order,
    answer: Result<Accepted, CallFailure>,
) -> Result<(Vm, Option<Fault>), RegistryError> {
    let trouble = match answer {
        Ok(accepted) => {
            let vm = registry.write(|writer| {
                writer.keep_facts(&vm.physical_host, &accepted.host)?;
                // The node's worker may have reported before the node answered.
                Ok::<_, RegistryError>(writer.vm(vm.id)?.unwrap_or(vm))
            })?;
            return Ok((vm, None));
        }
        Err(trouble) => trouble,
    };
    let vm = registry.write(|writer| {
        let vm = give_up(writer, vm, order, &trouble)?;
        if order == Order::Deploy && !has_reported_on(&vm, order) {
            failures::deploy_failed(writer, post, &vm, &trouble.fault)?;
        }
        Ok::<_, RegistryError>(vm)
    })?;
    let has_it = has_reported_on(&vm, order);
    audit::order(
        Level::Warning,
        if has_it { "order.unanswered" } else { "order.not-accepted" },
        order,
        &vm,
        registry.actor(),
        &trouble.fault.to_string(),
    );
    Ok((vm, Some(trouble.fault).filter(|_| !has_it)))
}

/// Returns whether the node has reported on this order. If so it has the order, whatever became of
/// its answer.
fn has_reported_on(vm: &Vm, order: Order) -> bool {
    vm.order == order && vm.sequence > 0
}

/// Records that a node did not accept an order, unless it has reported on it.
fn give_up(writer: &Writer<'_>, vm: Vm, order: Order, trouble: &CallFailure) -> Result<Vm, RegistryError> {
    let present = writer.vm(vm.id)?.unwrap_or(vm);
    if has_reported_on(&present, order) {
        return Ok(present);
    }
    let change = life::refused(&present, order, &trouble.fault, trouble.taken, writer.at());
    Ok(writer.apply(&present, change)?.unwrap_or(present))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::state::Event;
    use crate::model::state::State;
    use crate::server::machine::fixture::{OneMachine, without_mail};
    use crate::server::registry::vm::OnNode;

    fn silent() -> CallFailure {
        let fault = Fault::HostSilent { host: "node1".parse().unwrap(), seconds: 7 };
        CallFailure { fault, taken: OnNode::Maybe }
    }

    impl OneMachine {
        fn settle(&mut self, order: Order, answer: Result<Accepted, CallFailure>) -> Option<Fault> {
            let vm = self.vm.clone();
            let config = without_mail();
            let (vm, fault) = settle(&mut self.registry, &Post::new(&config), vm, order, answer).unwrap();
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
            let mut one = OneMachine::running();
            if before == State::Stopped {
                one.happens(Event::Stopped, |_| {});
            }
            // Repeatedly.
            for _ in 0..2 {
                assert!(one.is_ordered(order), "{order}");
                assert!(one.vm.state.is_transitional() && one.vm.fault.is_none());
                assert_eq!(one.settle(order, Err(silent())), Some(silent().fault));
                assert_eq!((one.vm.state, one.vm.fault.as_ref()), (before, Some(&silent().fault)));
                assert_eq!(one.vm.on_node, OnNode::Maybe);
            }
        }
    }

    #[test]
    fn an_order_can_be_given_again_until_it_is_done() {
        let mut one = OneMachine::running();
        for order in [Order::Stop, Order::Terminate] {
            assert!(one.is_ordered(order) && one.is_ordered(order), "{order}");
            assert_eq!((one.vm.order, one.vm.sequence), (order, 0));
        }
        let told: Vec<_> = one.registry.read(|reader| reader.history(one.vm.id)).unwrap();
        let told: Vec<_> = told.iter().map(|event| (event.what.as_str(), event.detail.as_str())).collect();
        let expected = [
            ("stop ordered", ""),
            ("stop ordered", "again"),
            ("terminate ordered", ""),
            ("terminate ordered", "again"),
        ];
        assert_eq!(told, expected);
        assert!(
            !one.is_ordered(Order::Start) && !one.is_ordered(Order::Stop) && !one.is_ordered(Order::Deploy)
        );
        assert_eq!(one.vm.order, Order::Terminate);
    }

    #[test]
    fn a_later_order_is_not_given_up_for_an_earlier_one() {
        let mut one = OneMachine::running();
        assert!(one.is_ordered(Order::Stop));
        assert!(one.is_ordered(Order::Terminate));
        assert_eq!(one.settle(Order::Stop, Err(silent())), Some(silent().fault), "it was not stopped");
        assert_eq!((one.vm.state, one.vm.fault.as_ref()), (State::Terminating, None));
    }

    #[test]
    fn a_host_that_reports_on_an_order_has_it() {
        let mut one = OneMachine::running();
        assert!(one.is_ordered(Order::Stop));
        one.happens(Event::Progress, |vm| vm.sequence = 1);
        assert_eq!(one.settle(Order::Stop, Err(silent())), None);
        assert_eq!((one.vm.state, one.vm.fault.as_ref()), (State::Stopping, None));
    }
}
