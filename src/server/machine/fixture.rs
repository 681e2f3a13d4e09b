//! A fixture for unit tests of machines: a registry with one machine in it.

use crate::config;
use crate::model::stage::Order;
use crate::model::state::Event;
use crate::server::machine::life::Interest;
use crate::server::machine::orders;
use crate::server::registry::vm::Vm;
use crate::server::registry::vm::tests::entered;
use crate::server::registry::{Registry, RegistryError};

/// Returns a configuration with the defaults, which sends no mail.
pub fn without_mail() -> config::Server {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("server.cfg"), "[General]\nEnvUsernameVariable = \"REMOTE_USER\"\n")
        .unwrap();
    config::Server::load(dir.path()).unwrap()
}

/// A registry with one machine: alice's `vm1` on `node1`.
pub struct OneMachine {
    _dir: tempfile::TempDir,
    pub registry: Registry,
    /// The machine as last read.
    pub vm: Vm,
}

impl OneMachine {
    /// Creates the fixture with the machine being deployed.
    pub fn deploying() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut registry = Registry::create(&dir.path().join("registry.sqlite")).unwrap();
        let vm = entered(&mut registry, "alice", "node1", "vm1");
        Self { _dir: dir, registry, vm }
    }

    /// Creates the fixture with the machine running.
    pub fn running() -> Self {
        let mut one = Self::deploying();
        one.happens(Event::Deployed, |_| {});
        one
    }

    /// Reads the machine again.
    pub fn reload(&mut self) {
        self.vm = self.registry.read(|reader| reader.vm(self.vm.id)).unwrap().unwrap();
    }

    /// Applies an event, which must be valid in the machine's state.
    #[track_caller]
    pub fn happens(&mut self, event: Event, edit: impl FnOnce(&mut Vm)) {
        let done: Result<_, RegistryError> =
            self.registry.write(|writer| writer.advance(&self.vm, event, edit));
        self.vm = done.unwrap().unwrap();
    }

    /// Gives an order in the owner's name. Returns whether the machine's state allows it.
    pub fn is_ordered(&mut self, order: Order) -> bool {
        let given =
            self.registry.write(|writer| orders::give(writer, &self.vm, order, Interest::Owner, None));
        let given = given.unwrap();
        let allowed = given.is_some();
        self.vm = given.unwrap_or_else(|| self.vm.clone());
        allowed
    }

    /// Returns the events in the machine's history, in order.
    pub fn history(&self) -> Vec<String> {
        let events = self.registry.read(|reader| reader.history(self.vm.id)).unwrap();
        events.into_iter().map(|event| event.what).collect()
    }
}
