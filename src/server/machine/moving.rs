//! Deploying a machine: on the chosen host or, if that fails and vGrid chose it, once on another.

use super::life;
use crate::config::{self, Common};
use crate::model::fault::Fault;
use crate::model::stage::{Order, Stage};
use crate::server::audit;
use crate::server::machine::failures;
use crate::server::machine::orders;
use crate::server::machine::placement::{Load, Need, choose};
use crate::server::machine::pool::{known, loads};
use crate::server::mail::Post;
use crate::server::nodes::Nodes;
use crate::server::registry::vm::{OnNode, Placed, Vm};
use crate::server::registry::{Registry, RegistryError, Writer};
use crate::system::log::Level;

/// Deploys machines and moves failed deploys to another host.
#[derive(Debug, Clone, Copy)]
pub struct Mover<'a> {
    common: &'a Common,
    config: &'a config::Server,
}

impl<'a> Mover<'a> {
    /// Creates a mover that chooses among the hosts in `common` and mails administrators according
    /// to `config`.
    pub fn new(config: &'a config::Server, common: &'a Common) -> Self {
        Self { common, config }
    }

    fn post(&self) -> Post<'a> {
        Post::new(self.config)
    }

    /// Sends the deploy order for a newly recorded machine to its host, or to a second one if the
    /// first fails, and records the answer. Returns the machine as it is now, and the fault to show
    /// to its owner.
    pub fn deploy(
        &self,
        registry: &mut Registry,
        nodes: &Nodes<'_>,
        mut vm: Vm,
    ) -> Result<(Vm, Option<Fault>), RegistryError> {
        loop {
            let answer = orders::tell(nodes, &vm, Order::Deploy);
            if let Err(trouble) = &answer
                && trouble.taken == OnNode::No
                && let Some(moved) = registry.write(|writer| self.elsewhere(writer, &vm, &trouble.fault))?
            {
                audit::record(
                    Level::Warning,
                    "deploy.moved",
                    &moved,
                    registry.actor(),
                    &trouble.fault.to_string(),
                );
                vm = moved;
                continue;
            }
            return orders::settle(registry, &self.post(), vm, Order::Deploy, answer);
        }
    }

    /// Moves a machine that its host could not create, and of which certainly nothing is there, to
    /// another host, within a transaction.
    ///
    /// Returns `None` and changes nothing if vGrid did not choose the first host or has moved the
    /// machine before, if the fault would occur elsewhere too, if no other host accepts the
    /// machine, or if it is no longer being deployed.
    pub fn elsewhere(
        &self,
        writer: &Writer<'_>,
        vm: &Vm,
        fault: &Fault,
    ) -> Result<Option<Vm>, RegistryError> {
        // The machine may have changed since it was read.
        let Some(vm) = writer.vm(vm.id)?.filter(|now| now.number == vm.number && now.sequence == vm.sequence)
        else {
            return Ok(None);
        };
        // Once it may have run, there must not be a second machine with its address.
        let has_run = matches!(vm.stage, Some(Stage::Start | Stage::Verify));
        if vm.placed != Placed::ByPortal || !fault.sends_elsewhere() || has_run {
            return Ok(None);
        }
        let at = writer.at();
        let mut loads = loads(writer.reader(), self.common)?;
        loads.retain(|load| load.host != vm.physical_host);
        let known = known(writer.reader(), at.moment)?;
        let need = Need {
            memory: vm.spec.memory.amount(),
            cpus: vm.spec.cpus,
            disk: vm.spec.disk.amount(),
            image: &vm.spec.image,
        };
        let against = |load: &Load| known.get(&load.host).and_then(|known| known.against(need, at.moment));
        let Ok(load) = choose(&loads, against) else { return Ok(None) };
        let Some(change) = life::moved(&vm, &load.host, fault, at) else { return Ok(None) };
        let Some(moved) = writer.apply(&vm, change)? else { return Ok(None) };
        failures::deploy_failed(writer, &self.post(), &vm, fault)?;
        Ok(Some(moved))
    }
}
