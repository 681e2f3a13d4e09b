//! `forget-console`: removes the console log of a machine that no longer exists.

use crate::model::names::MachineName;
use crate::node::helper::consoles;
use crate::node::helper::failure::Failure;
use crate::node::helper::host::Host;

impl Host {
    /// Removes the console log of a machine. It is an error if the machine is running.
    pub fn forget_console(&self, machine: &MachineName) -> Result<(), Failure> {
        for hypervisor in self.hypervisors() {
            // Without a toolstack, nothing is running that could have a console.
            let domains = hypervisor.domains().unwrap_or_default();
            if domains.iter().any(|domain| domain.name == machine.as_str()) {
                return Err(Failure::internal(format!("{machine} runs, so its console log stays")));
            }
            if let Some(log) = hypervisor.console_log(machine)? {
                consoles::remove_log(&log)?;
            }
        }
        Ok(())
    }
}
