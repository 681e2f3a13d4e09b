//! `info`: reports the host's state.

use crate::model::fault::{self, Fault};
use crate::node::helper::failure::Failure;
use crate::node::helper::host::Host;
use crate::node::host::{HostState, Machines, Storage};
use crate::node::hypervisor::HypervisorError;
use crate::node::lvm::LvmError;
use crate::system::clock;

impl Host {
    /// Returns the host's state, querying the toolstack and LVM in parallel.
    pub fn state(&self) -> HostState {
        let taken = clock::millis();
        let (machines, storage) = std::thread::scope(|scope| {
            let domains = scope.spawn(|| self.hypervisor()?.domains());
            let storage = scope.spawn(|| self.lvm().all());
            let memory = self.hypervisor().and_then(|h| h.memory().map(|memory| (h.name(), memory)));
            let ended = || HypervisorError::Other("the listing broke off".to_owned());
            let machines = memory.and_then(|(toolstack, memory)| {
                let domains = domains.join().unwrap_or_else(|_| Err(ended()))?;
                Ok(Machines { toolstack: toolstack.to_owned(), memory, domains })
            });
            let ended = || LvmError::Other("the listing broke off".to_owned());
            let storage = storage.join().unwrap_or_else(|_| Err(ended()));
            let storage = storage.map(|(group, volumes)| Storage { group, volumes });
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
