//! Destroying the domains of a machine.

use std::path::Path;
use std::time::{Duration, Instant};

use super::configurations::{is_installed, parked};
use super::failure::Failure;
use super::guard::{self, MachineLock};
use super::host::Host;
use crate::model::fault::Fault;
use crate::node::hypervisor::HypervisorError;

/// The time within which a destroyed domain must disappear.
pub(super) const GONE: Duration = Duration::from_secs(60);

impl Host {
    /// Destroys the domains of a machine and waits until they are gone. First kills any process
    /// that would restart the machine. `file` is the machine's configuration.
    pub(super) fn remove_domain(&self, lock: &MachineLock, file: &Path) -> Result<(), Failure> {
        let ours = is_installed(file, lock.id) || is_installed(&parked(file), lock.id);
        let hypervisor = match self.hypervisor() {
            Ok(hypervisor) => hypervisor,
            // The configuration is installed before the domain is created and removed after it, so
            // there is no domain.
            Err(_) if !ours => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let end = Instant::now() + GONE;
        loop {
            if ours {
                guard::kill_minders(|arguments| hypervisor.minds(arguments, file));
            }
            let domains = match hypervisor.domains() {
                Ok(domains) => domains,
                Err(_) if !ours => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            let machine: Vec<_> = domains.iter().filter(|d| d.is(lock.id, &lock.machine, ours)).collect();
            if machine.is_empty() {
                return Ok(());
            }
            let mut last = "it does not end".to_owned();
            for domain in machine {
                // Never destroy the control domain, whatever the list says.
                if domain.id == 0 {
                    return Err(Failure::internal("the list takes the control domain for the machine"));
                }
                match hypervisor.destroy(domain.id) {
                    Ok(()) | Err(HypervisorError::NoSuchDomain) => {}
                    Err(error) => last = error.to_string(),
                }
            }
            if Instant::now() >= end {
                let detail = format!("the domain {}: {last}", lock.machine);
                return Err(Fault::RemovalFailed { detail }.into());
            }
            std::thread::sleep(Duration::from_millis(300));
        }
    }
}
