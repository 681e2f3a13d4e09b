//! `start`: starts a machine.

use crate::model::fault::{self, Fault};
use crate::model::size::MiB;
use crate::node::helper::configurations::{is_installed, parked};
use crate::node::helper::failure::Failure;
use crate::node::helper::guard::{MachineLock, StartLock};
use crate::node::helper::host::Host;
use crate::node::helper::{consoles, files};
use crate::node::hypervisor::HypervisorError;
use crate::system::log::{self, Level};

impl Host {
    /// Starts the machine, unless it is already running.
    pub fn start(&self, lock: &MachineLock, memory: MiB) -> Result<(), Failure> {
        let file = self.config_file(&lock.machine)?;
        let parked = parked(&file);
        if is_installed(&parked, lock.id) && file.symlink_metadata().is_err() {
            files::rename(&parked, &file)?;
        }
        if !is_installed(&file, lock.id) {
            return Err(Failure::internal(format!("{} is not there, or not this machine's", file.display())));
        }
        let hypervisor = self.hypervisor()?;
        let _start = StartLock::take()?;
        let domains = hypervisor.domains()?;
        if domains.iter().any(|domain| domain.is(lock.id, &lock.machine, false) && domain.is_alive()) {
            return Ok(());
        }
        if domains.iter().any(|domain| domain.name == lock.machine.as_str()) {
            return Err(Fault::DomainExists { domain: lock.machine.clone() }.into());
        }
        self.mark_volumes_used(lock)?;
        // The console of an earlier machine with the same name must not be visible.
        if let Some(log) = self.console_log(&lock.machine)? {
            consoles::remove_log(&log)?;
        }
        let mut result = hypervisor.create(&file, &lock.machine);
        if let Err(HypervisorError::Busy(why)) = &result {
            // The toolstack has cleaned up, so a second attempt costs only time.
            log::event(
                Level::Warning,
                "start.repeated",
                &[("vm", &lock.id), ("machine", &lock.machine), ("why", why)],
            );
            self.remove_domain(lock, &file)?;
            result = hypervisor.create(&file, &lock.machine);
        }
        result.map_err(|error| {
            let detail = error.to_string();
            let fault = match error {
                HypervisorError::NameTaken => Fault::DomainExists { domain: lock.machine.clone() },
                HypervisorError::NoMemory => Fault::NotEnoughMemory {
                    needed: memory.amount(),
                    free: hypervisor.memory().map(|memory| memory.free).unwrap_or_default(),
                },
                HypervisorError::Configuration { line, detail } => Fault::StartFailed {
                    detail: format!("line {}: {detail}", line.unwrap_or_default().saturating_sub(1)),
                },
                HypervisorError::Missing(detail) => Fault::ToolstackMissing { detail },
                HypervisorError::TimedOut { what, seconds } => {
                    Fault::TimedOut { what: what.to_owned(), seconds }
                }
                HypervisorError::NoSuchDomain | HypervisorError::Busy(_) | HypervisorError::Other(_) => {
                    let features = self.unreadable_features(&lock.machine, &detail);
                    let detail = features.map_or(detail.clone(), |features| format!("{features}; {detail}"));
                    Fault::StartFailed { detail: fault::detail(&detail) }
                }
            };
            Failure { fault: Some(fault), detail }
        })
    }
}
