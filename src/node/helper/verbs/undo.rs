//! `undo`: removes a machine completely.

use crate::node::Machine;
use crate::node::helper::consoles;
use crate::node::helper::failure::Failure;
use crate::node::helper::guard::{self, MachineLock};
use crate::node::helper::host::Host;
use crate::node::host::HostState;
use crate::system::log::{self, Level};

impl Host {
    /// Removes everything that belongs to the machine, in this order: processes, domain,
    /// definition, volumes. Idempotent; never touches what is not the machine's. Returns the host's state
    /// then.
    pub fn undo(&self, lock: &MachineLock) -> Result<HostState, Failure> {
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
        // What is listed to see that nothing is left is what there is.
        self.listing.keep();
        let mut removed = Ok(());
        let state = self.state_while(|| {
            removed = self.remove_volumes(machine);
            self.survey()
        });
        removed?;
        guard::remove_directory(&lock.source_point())?;
        guard::remove_directory(&lock.mount_point())?;
        Ok(state)
    }

    /// Removes the console log of a machine that has been removed. A failure is only logged, because no
    /// other machine depends on it.
    pub fn forget_console(&self, machine: &Machine) {
        if let Err(why) = self.remove_console(machine) {
            log::event(
                Level::Warning,
                "console.not-removed",
                &[("vm", &machine.id), ("machine", &machine.name), ("why", &why.detail)],
            );
        }
    }

    fn remove_console(&self, machine: &Machine) -> Result<(), Failure> {
        for hypervisor in self.hypervisors() {
            // Without a toolstack, nothing is running that could have a console.
            let domains = hypervisor.domains().unwrap_or_default();
            if domains.iter().any(|domain| domain.name == machine.name.as_str()) {
                return Err(Failure::internal("another machine of that name runs, so its console log stays"));
            }
            if let Some(log) = hypervisor.console_log(&machine.name)? {
                consoles::remove_log(&log)?;
            }
        }
        Ok(())
    }
}
