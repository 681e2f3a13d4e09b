//! `configure --if-moved` and `--stopped`: what comes before the definition of a machine that does not
//! run is made anew. The former has a machine follow its host to another toolstack.
//!
//! The administrator has named another toolstack in `node.cfg`. A machine that does not run gets a
//! definition there, in which it starts with the host if it did before, and then loses the old one.
//! Until then it is controlled by the toolstack that has its definition. Whatever happens in between,
//! at most one of the two starts it with the host.

use crate::model::fault::Fault;
use crate::node::Machine;
use crate::node::helper::failure::Failure;
use crate::node::helper::guard::MachineLock;
use crate::node::helper::host::{Definition, Host, Stand};
use crate::node::hypervisor::{Boot, HypervisorError};
use crate::system::log::{self, Level};

impl Host {
    /// Prepares the move of a machine to the toolstack in `node.cfg`. Returns whether it must be
    /// started with the host there; `None` if it is there already, has no definition, or runs.
    pub fn must_move(&self, lock: &MachineLock) -> Result<Option<Boot>, Failure> {
        let machine = &lock.machine;
        let Some(definition) = self.definition(machine)? else { return Ok(None) };
        if self.runs(machine, &definition)? {
            return Ok(None);
        }
        if !definition.is_other {
            // Of a move that was interrupted.
            self.leave_others(lock)?;
            return Ok(None);
        }
        let boot = definition.hypervisor.installed(machine)?;
        if boot == Some(Boot::WithHost) {
            definition.hypervisor.set_boot(machine, Boot::Off)?;
        }
        Ok(boot)
    }

    /// Checks that a machine that has a definition does not run. No other toolstack will start it
    /// with the host.
    pub fn must_rest(&self, lock: &MachineLock) -> Result<(), Failure> {
        let machine = &lock.machine;
        let Some(definition) = self.definition(machine)? else {
            return Err(Failure::internal(format!("{} has no definition here", machine.name)));
        };
        if self.runs(machine, &definition)? {
            return Err(Fault::MachineRuns { machine: machine.name.clone() }.into());
        }
        if definition.is_other {
            definition.hypervisor.set_boot(machine, Boot::Off)?;
        }
        Ok(())
    }

    /// Returns whether a machine runs, by the list of the toolstack in `node.cfg`, which has every
    /// toolstack's domains.
    pub fn runs(&self, machine: &Machine, definition: &Definition) -> Result<bool, Failure> {
        let domains = self.hypervisor(definition.vm_type).domains()?;
        Ok(domains.iter().any(|domain| domain.is(machine, true)))
    }

    /// Returns where the definition of a machine that has been stopped is. It counts as elsewhere if
    /// that can't be told: the attempt to have it follow says why.
    pub fn stand(&self, machine: &Machine) -> Stand {
        let others = self.other_hypervisors();
        if others.iter().all(|other| matches!(other.installed(machine), Ok(None))) {
            Stand::Here
        } else {
            Stand::Elsewhere
        }
    }

    /// Removes the machine's definitions of the toolstacks that are not in `node.cfg`. What can't be
    /// removed because the toolstack is gone starts no machine, and is left.
    pub fn leave_others(&self, lock: &MachineLock) -> Result<(), Failure> {
        let machine = &lock.machine;
        for hypervisor in self.other_hypervisors() {
            if hypervisor.installed(machine)?.is_none() {
                continue;
            }
            let (level, event, why) = match hypervisor.uninstall(machine) {
                Ok(()) => (Level::Info, "definition.moved", String::new()),
                Err(HypervisorError::Missing(why)) => (Level::Warning, "definition.left", why),
                Err(error) => return Err(error.into()),
            };
            let from = hypervisor.name();
            log::event(
                level,
                event,
                &[("vm", &machine.id), ("machine", &machine.name), ("from", &from), ("why", &why)],
            );
        }
        Ok(())
    }
}
