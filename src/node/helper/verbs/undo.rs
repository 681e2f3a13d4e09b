//! `undo`: removes a machine completely.

use crate::node::helper::failure::Failure;
use crate::node::helper::guard::{self, MachineLock};
use crate::node::helper::host::Host;

impl Host {
    /// Removes everything that belongs to the machine, in this order: processes, domain,
    /// definition, volumes. Idempotent; never touches what is not the machine's.
    pub fn undo(&self, lock: &MachineLock) -> Result<(), Failure> {
        let machine = &lock.machine;
        self.remove_domain(machine)?;
        for hypervisor in self.hypervisors() {
            hypervisor.uninstall(machine)?;
        }
        for hypervisor in self.other_hypervisors() {
            if hypervisor.installed(machine)?.is_some() {
                hypervisor.uninstall(machine)?;
            }
        }
        if let Some(definition) = self.definition(machine)? {
            definition.hypervisor.uninstall(machine)?;
        }
        self.remove_volumes(machine)?;
        guard::remove_directory(&lock.source_point())?;
        guard::remove_directory(&lock.mount_point())
    }
}
