//! What unit tests of machines share: a registry with one machine in it.

use crate::model::stage::Order;
use crate::model::state::Event;
use crate::server::machine::life::Interest;
use crate::server::machine::orders;
use crate::server::registry::vm::Vm;
use crate::server::registry::vm::tests::entered;
use crate::server::registry::{Registry, RegistryError};

/// A registry with one machine, which is alice's `vm1` on `node1`.
pub struct OneMachine {
    _dir: tempfile::TempDir,
    pub registry: Registry,
    /// The machine as it was when it was last read.
    pub vm: Vm,
}

impl OneMachine {
    /// It is being deployed.
    pub fn deploying() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut registry = Registry::create(&dir.path().join("registry.sqlite")).unwrap();
        let vm = entered(&mut registry, "alice", "node1", "vm1");
        Self { _dir: dir, registry, vm }
    }

    /// It runs.
    pub fn running() -> Self {
        let mut one = Self::deploying();
        one.happens(Event::Deployed, |_| {});
        one
    }

    /// Reads it anew.
    pub fn reload(&mut self) {
        self.vm = self.registry.read(|reader| reader.vm(self.vm.id)).unwrap().unwrap();
    }

    /// Something happens to it that must mean something in its state.
    #[track_caller]
    pub fn happens(&mut self, event: Event, edit: impl FnOnce(&mut Vm)) {
        let done: Result<_, RegistryError> =
            self.registry.write(|writer| writer.advance(&self.vm, event, edit));
        self.vm = done.unwrap().unwrap();
    }

    /// Its owner gives an order. Says whether its state allows that.
    pub fn is_ordered(&mut self, order: Order) -> bool {
        let given =
            self.registry.write(|writer| orders::give(writer, &self.vm, order, Interest::Owner, None));
        let given = given.unwrap();
        let allowed = given.is_some();
        self.vm = given.unwrap_or_else(|| self.vm.clone());
        allowed
    }

    /// What its history says happened, in order.
    pub fn history(&self) -> Vec<String> {
        let events = self.registry.read(|reader| reader.history(self.vm.id)).unwrap();
        events.into_iter().map(|event| event.what).collect()
    }
}
