//! `info`: reports the host's state.

use crate::model::fault::{self, Fault};
use crate::model::size::Amount;
use crate::node::helper::failure::Failure;
use crate::node::helper::host::Host;
use crate::node::host::{HostState, Machines, Storage};
use crate::node::hypervisor::{Hypervisor, HypervisorError, Listed, Memory};
use crate::node::storage::StorageError;
use crate::system::clock;

impl Host {
    /// Returns the host's state, querying the hypervisors and the storage in parallel.
    pub fn state(&self) -> HostState {
        let taken = clock::millis();
        let hypervisors = self.hypervisors();
        let (machines, storage) = std::thread::scope(|scope| {
            let storage = scope.spawn(|| self.storage().survey());
            let asked: Vec<_> = hypervisors
                .iter()
                .map(|hypervisor| (hypervisor.name(), scope.spawn(|| ask(hypervisor.as_ref()))))
                .collect();
            let ended = || HypervisorError::Other("the listing broke off".to_owned());
            let answers = asked
                .into_iter()
                .map(|(name, thread)| Ok((name, thread.join().unwrap_or_else(|_| Err(ended()))?)));
            let machines =
                answers.collect::<Result<Vec<_>, HypervisorError>>().map(|answers| combine(&answers));
            let ended = || StorageError::Other("the listing broke off".to_owned());
            let storage = storage.join().unwrap_or_else(|_| Err(ended()));
            let storage = storage.map(|(space, volumes)| Storage { space, volumes });
            (machines, storage)
        });
        let fault = |failure: Failure| {
            failure.fault.unwrap_or(Fault::ToolstackMissing { detail: fault::detail(&failure.detail) })
        };
        HostState {
            taken,
            machines: machines.map_err(|error| fault(error.into())),
            storage: storage.map_err(|error| fault(error.into())),
        }
    }
}

/// Asks a hypervisor for the host's memory and its domains, in parallel.
fn ask(hypervisor: &dyn Hypervisor) -> Result<(Memory, Vec<Listed>), HypervisorError> {
    std::thread::scope(|scope| {
        let domains = scope.spawn(|| hypervisor.domains());
        let memory = hypervisor.memory();
        let ended = || HypervisorError::Other("the listing broke off".to_owned());
        Ok((memory?, domains.join().unwrap_or_else(|_| Err(ended()))?))
    })
}

/// Combines what the hypervisors of this host say. What is free is what all of them take for free.
fn combine(answers: &[(&'static str, (Memory, Vec<Listed>))]) -> Machines {
    let names: Vec<_> = answers.iter().map(|(name, _)| *name).collect();
    let memories = || answers.iter().map(|(_, (memory, _))| *memory);
    let memory = memories().min_by_key(|memory| memory.free);
    let mut domains: Vec<Listed> = Vec::new();
    for domain in answers.iter().flat_map(|(_, (_, domains))| domains) {
        // Two toolstacks may list the same domain.
        let is_known = domain.uuid.is_some() && domains.iter().any(|known| known.uuid == domain.uuid);
        if !is_known {
            domains.push(domain.clone());
        }
    }
    let none = Memory { total: Amount::default(), free: Amount::default() };
    Machines { toolstack: names.join("+"), memory: memory.unwrap_or(none), domains }
}
