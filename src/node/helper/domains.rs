//! Destroying the domains of a machine.

use std::time::{Duration, Instant};

use super::failure::Failure;
use super::host::Host;
use crate::model::fault::Fault;
use crate::node::Machine;
use crate::node::hypervisor::{Hypervisor, HypervisorError};

/// The time within which a destroyed domain must disappear.
pub(super) const GONE: Duration = Duration::from_secs(60);

impl Host {
    /// Destroys the domains of a machine and waits until they are gone.
    pub(super) fn remove_domain(&self, machine: &Machine) -> Result<(), Failure> {
        let definition = self.definition(machine)?;
        if let Some(definition) = &definition {
            remove(definition.hypervisor.as_ref(), machine, true)?;
        }
        for vm_type in self.config.vm_types() {
            if definition.as_ref().is_none_or(|definition| definition.vm_type != vm_type) {
                remove(self.hypervisor(vm_type).as_ref(), machine, false)?;
            }
        }
        Ok(())
    }
}

/// Destroys the domains of a machine. If the machine's definition is installed here (`ours`), first
/// ends whatever would restart the machine.
fn remove(hypervisor: &dyn Hypervisor, machine: &Machine, ours: bool) -> Result<(), Failure> {
    let end = Instant::now() + GONE;
    loop {
        if ours {
            hypervisor.release(machine);
        }
        let domains = match hypervisor.domains() {
            Ok(domains) => domains,
            // The definition is installed before the domain is created and removed after it, so
            // there is no domain.
            Err(_) if !ours => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let theirs: Vec<_> = domains.iter().filter(|domain| domain.is(machine, ours)).collect();
        if theirs.is_empty() {
            return Ok(());
        }
        let mut last = "it does not end".to_owned();
        for domain in theirs {
            if domain.is_control() {
                return Err(Failure::internal("the list takes the control domain for the machine"));
            }
            match hypervisor.destroy(domain) {
                Ok(()) | Err(HypervisorError::NoSuchDomain) => {}
                Err(error) => last = error.to_string(),
            }
        }
        if Instant::now() >= end {
            let detail = format!("the domain {}: {last}", machine.name);
            return Err(Fault::RemovalFailed { detail }.into());
        }
        std::thread::sleep(Duration::from_millis(300));
    }
}
