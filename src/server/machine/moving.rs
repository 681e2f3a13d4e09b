//! Having a machine made: by the host that was chosen, and if that can't and vGrid chose it, by another one, once.

use super::life;
use crate::config::{self, Common};
use crate::model::fault::Fault;
use crate::model::stage::{Order, Stage};
use crate::model::wire::Accepted;
use crate::server::audit;
use crate::server::machine::failures;
use crate::server::machine::orders;
use crate::server::machine::placement::{Load, Need, choose};
use crate::server::machine::pool::{known, loads};
use crate::server::mail::Post;
use crate::server::nodes::{Nodes, Trouble};
use crate::server::registry::vm::{OnNode, Placed, Vm};
use crate::server::registry::{Registry, RegistryError, Writer};
use crate::system::log::Level;

/// Who finds another host.
#[derive(Debug, Clone, Copy)]
pub struct Mover<'a> {
    common: &'a Common,
    config: &'a config::Server,
}

impl<'a> Mover<'a> {
    /// One who chooses among the hosts of `common` and writes to administrators as `config` says.
    pub fn new(config: &'a config::Server, common: &'a Common) -> Self {
        Self { common, config }
    }

    fn post(&self) -> Post<'a> {
        Post::new(self.config)
    }

    /// Tells the host of a machine that was just entered to make it, or the host after that, and enters what the last one
    /// answered. Gives back the machine as it is now, and the fault that its owner must know of.
    ///
    /// # Errors
    /// [`RegistryError`] when SQLite refuses.
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
            return self.settle(registry, vm, answer);
        }
    }

    /// Enters what the host of a machine answered when it was told to make it; administrators hear of what concerns them.
    /// Gives back the machine as it is now, and the fault that its owner must know of.
    ///
    /// # Errors
    /// [`RegistryError`] when SQLite refuses.
    pub fn settle(
        &self,
        registry: &mut Registry,
        vm: Vm,
        answer: Result<Accepted, Trouble>,
    ) -> Result<(Vm, Option<Fault>), RegistryError> {
        orders::settle_with(registry, vm, Order::Deploy, answer, |writer, vm, fault| {
            failures::deploy_failed(writer, &self.post(), vm, fault)
        })
    }

    /// Gives a machine that its host could not make, and of which surely nothing is there, to another host, within a
    /// transaction. `None`, and nothing is changed, if its host was not vGrid's choice, or was its second, if that fault
    /// would be met elsewhere too, if no other host takes it, or if it is not being deployed any more.
    ///
    /// # Errors
    /// [`RegistryError`] when SQLite refuses.
    pub fn elsewhere(
        &self,
        writer: &Writer<'_>,
        vm: &Vm,
        fault: &Fault,
    ) -> Result<Option<Vm>, RegistryError> {
        // It may have changed since it was read.
        let Some(vm) = writer.vm(vm.id)?.filter(|now| now.number == vm.number && now.sequence == vm.sequence)
        else {
            return Ok(None);
        };
        // Once it may have run, a second one with its address must not.
        let has_run = matches!(vm.stage, Some(Stage::Start | Stage::Verify));
        if vm.placed != Placed::ByPortal || !fault.sends_elsewhere() || has_run {
            return Ok(None);
        }
        let at = writer.at();
        let mut loads = loads(writer.reader(), self.common)?;
        loads.retain(|load| load.host != vm.physical_host);
        let known = known(writer.reader(), at.moment)?;
        let need = Need { memory: vm.memory.amount(), disk: vm.disk.amount(), image: &vm.image };
        let against = |load: &Load| known.get(&load.host).and_then(|known| known.against(need, at.moment));
        let Ok(load) = choose(&loads, against) else { return Ok(None) };
        let Some(change) = life::moved(&vm, &load.host, fault, at) else { return Ok(None) };
        let Some(moved) = writer.apply(&vm, change)? else { return Ok(None) };
        failures::deploy_failed(writer, &self.post(), &vm, fault)?;
        Ok(Some(moved))
    }
}
