//! `start`: starts a machine.

use crate::model::fault::{self, Fault};
use crate::model::size::MiB;
use crate::node::helper::consoles;
use crate::node::helper::failure::Failure;
use crate::node::helper::guard::{MachineLock, StartLock};
use crate::node::helper::host::{Host, Stand};
use crate::node::hypervisor::{Boot, HypervisorError};
use crate::system::log::{self, Level};

impl Host {
    /// Starts the machine, unless it is already running, or must follow its host to another toolstack
    /// first.
    pub fn start(&self, lock: &MachineLock, memory: MiB) -> Result<Stand, Failure> {
        let machine = &lock.machine;
        let not_installed = || Failure::internal(format!("{} has no definition here", machine.name));
        let Some(definition) = self.definition(machine)? else { return Err(not_installed()) };
        if definition.is_other && !self.runs(machine, &definition)? {
            return Ok(Stand::Elsewhere);
        }
        let is_other = definition.is_other;
        let hypervisor = definition.hypervisor;
        if hypervisor.installed(machine)? != Some(Boot::WithHost) {
            hypervisor.set_boot(machine, Boot::WithHost)?;
            if hypervisor.installed(machine)? != Some(Boot::WithHost) {
                return Err(not_installed());
            }
        }
        let _start = StartLock::take()?;
        let domains = hypervisor.domains()?;
        if domains.iter().any(|domain| domain.is(machine, false) && domain.state.is_running()) {
            return Ok(Stand::Here);
        }
        if !is_other {
            // Of a move that was interrupted.
            self.leave_others(lock)?;
        }
        if domains.iter().any(|domain| domain.name == machine.name.as_str()) {
            return Err(Fault::DomainExists { domain: machine.name.clone() }.into());
        }
        self.mark_volumes_used(machine)?;
        // The console of an earlier machine with the same name must not be visible.
        if let Some(log) = hypervisor.console_log(&machine.name)? {
            consoles::remove_log(&log)?;
        }
        let mut result = hypervisor.start(machine);
        if let Err(HypervisorError::Busy(why)) = &result {
            // The toolstack has cleaned up, so a second attempt costs only time.
            log::event(
                Level::Warning,
                "start.repeated",
                &[("vm", &machine.id), ("machine", &machine.name), ("why", why)],
            );
            self.remove_domain(machine)?;
            result = hypervisor.start(machine);
        }
        result.map(|()| Stand::Here).map_err(|error| {
            let detail = error.to_string();
            let fault = match error {
                HypervisorError::NameTaken | HypervisorError::DefinitionTaken(_) => {
                    Fault::DomainExists { domain: machine.name.clone() }
                }
                HypervisorError::NoMemory => Fault::NotEnoughMemory {
                    needed: memory.amount(),
                    free: hypervisor.memory().map(|memory| memory.free).unwrap_or_default(),
                },
                HypervisorError::Definition { line, detail } => {
                    Fault::StartFailed { detail: format!("line {}: {detail}", line.unwrap_or_default()) }
                }
                HypervisorError::NoSpace(detail) => Fault::StorageUnusable { detail: fault::detail(&detail) },
                HypervisorError::Missing(detail) => Fault::ToolstackMissing { detail },
                HypervisorError::TimedOut { what, seconds } => {
                    Fault::TimedOut { what: what.to_owned(), seconds }
                }
                HypervisorError::NoSuchDomain
                | HypervisorError::Busy(_)
                | HypervisorError::File(_)
                | HypervisorError::Other(_) => {
                    let features = self.unreadable_features(machine, &detail);
                    let detail = features.map_or(detail.clone(), |features| format!("{features}; {detail}"));
                    Fault::StartFailed { detail: fault::detail(&detail) }
                }
            };
            Failure { fault: Some(fault), detail }
        })
    }
}
