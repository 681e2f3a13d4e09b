//! `info`: reports the host's state.

use std::time::SystemTime;

use crate::model::fault::{self, Fault};
use crate::model::size::Amount;
use crate::node::helper::failure::Failure;
use crate::node::helper::host::Host;
use crate::node::host::{HostState, Machines, Storage};
use crate::node::hypervisor::{Hypervisor, HypervisorError, Memory};
use crate::node::storage::{StorageError, Survey};
use crate::system::clock;

impl Host {
    /// Returns what the storage has.
    pub fn survey(&self) -> Result<Storage, StorageError> {
        Ok(self.described(self.storage().survey()?))
    }

    fn described(&self, survey: Survey) -> Storage {
        let Survey { space, volumes, prepared } = survey;
        let unprepared = prepared.map(|there| self.unprepared(&there, SystemTime::now())).unwrap_or_default();
        Storage { space, volumes, snapshots: self.storage().snapshots().is_ok(), unprepared }
    }

    /// Returns what the storage has, without the prepared disks that were of no use any more: nothing else
    /// may come by for long that would remove them.
    fn swept_survey(&self) -> Result<Storage, StorageError> {
        let storage = self.storage();
        let there = storage.survey()?;
        if there.prepared.as_ref().is_some_and(|prepared| self.sweep_listed(prepared)) {
            return self.survey();
        }
        Ok(self.described(there))
    }

    /// Returns the host's state, querying the hypervisors and the storage in parallel.
    pub fn state(&self) -> HostState {
        self.state_while(|| self.swept_survey())
    }

    /// Returns the host's state, querying the hypervisors while something is done after which the storage
    /// is as `work` says.
    pub fn state_while(&self, work: impl FnOnce() -> Result<Storage, StorageError>) -> HostState {
        let taken = clock::millis();
        let hypervisors = self.hypervisors();
        let (machines, storage) = std::thread::scope(|scope| {
            let asked: Vec<_> =
                hypervisors.iter().map(|hypervisor| scope.spawn(|| ask(hypervisor.as_ref()))).collect();
            let storage = work();
            let answers = asked
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|_| Err(HypervisorError::broke_off())));
            (answers.collect::<Result<Vec<_>, HypervisorError>>().map(combine), storage)
        });
        HostState {
            taken,
            machines: machines.map_err(|error| {
                let Failure { fault, detail } = error.into();
                fault.unwrap_or(Fault::ToolstackMissing { detail: fault::detail(&detail) })
            }),
            storage: storage.map_err(unusable),
        }
    }
}

/// Says why nothing is known of the storage.
pub(super) fn unusable(error: StorageError) -> Fault {
    let Failure { fault, detail } = error.into();
    fault.unwrap_or(Fault::StorageUnusable { detail: fault::detail(&detail) })
}

fn ask(hypervisor: &dyn Hypervisor) -> Result<Machines, HypervisorError> {
    let (memory, domains) = hypervisor.survey()?;
    let toolstack = hypervisor.name().to_owned();
    Ok(Machines { toolstack, memory, overhead: hypervisor.overhead(), domains })
}

/// Combines what the hypervisors of this host say, of which there is at least one. What is free is
/// what all of them take for free.
fn combine(answers: Vec<Machines>) -> Machines {
    let combined = answers.into_iter().reduce(|mut one, other| {
        one.toolstack = format!("{}+{}", one.toolstack, other.toolstack);
        one.memory = if other.memory.free < one.memory.free { other.memory } else { one.memory };
        one.overhead = one.overhead.max(other.overhead);
        for domain in other.domains {
            // Two toolstacks may list the same domain.
            let is_known = domain.uuid.is_some() && one.domains.iter().any(|known| known.uuid == domain.uuid);
            if !is_known {
                one.domains.push(domain);
            }
        }
        one
    });
    let nothing = Memory { total: Amount::default(), free: Amount::default() };
    combined.unwrap_or(Machines {
        toolstack: "none".to_owned(),
        memory: nothing,
        overhead: Amount::default(),
        domains: Vec::new(),
    })
}
