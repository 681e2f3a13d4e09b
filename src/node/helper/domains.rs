//! The domains of a machine: destroying them, and whether they come back with the host.

use std::time::{Duration, Instant};

use uuid::Uuid;

use super::failure::Failure;
use super::guard::MachineLock;
use super::host::Host;
use crate::model::fault::Fault;
use crate::node::Machine;
use crate::node::host::HostState;
use crate::node::hypervisor::{Boot, Hypervisor, HypervisorError, Listed};
use crate::system::log::{self, Level};

/// The time within which a destroyed domain must disappear.
pub(super) const GONE: Duration = Duration::from_secs(60);

impl Host {
    /// Sees to it that machines that run are started with the host, and that the hypervisors know
    /// which are. A stop that failed halfway leaves a machine that runs and is marked as stopped.
    /// Errors are only logged, so that `info` still responds.
    pub(super) fn mend_boot(&self, state: &HostState) {
        let Ok(machines) = &state.machines else { return };
        // Not those of another toolstack: asking libvirt may start it, and it ends xendomains.
        for hypervisor in self.hypervisors() {
            if let Err(why) = mend_boot(hypervisor.as_ref(), &machines.domains) {
                log::event(Level::Warning, "boot.not-mended", &[("why", &why.detail)]);
            }
        }
    }

    /// Destroys the domains of a machine and waits until they are gone.
    pub(super) fn remove_domain(&self, machine: &Machine) -> Result<(), Failure> {
        let definition = self.definition(machine)?;
        if let Some(definition) = &definition {
            remove(definition.hypervisor.as_ref(), machine, true)?;
        }
        for vm_type in self.config.vm_types() {
            if definition.as_ref().is_none_or(|known| known.vm_type != vm_type || known.is_other) {
                remove(self.hypervisor(vm_type).as_ref(), machine, false)?;
            }
        }
        Ok(())
    }
}

/// Returns whether a machine is to start with the host, if that is not what its definition says or
/// what its hypervisor knows.
fn mended(boot: Boot, runs: bool, is_started: Option<bool>) -> Option<Boot> {
    let right = if runs { Boot::WithHost } else { boot };
    (right != boot || is_started.is_some_and(|is| is != (right == Boot::WithHost))).then_some(right)
}

fn mend_boot(hypervisor: &dyn Hypervisor, domains: &[Listed]) -> Result<(), Failure> {
    let all = hypervisor.all_installed()?;
    let judge = |machine: &Machine, domains: &[Listed], started: Option<&[Uuid]>| {
        let Some(boot) = hypervisor.installed(machine)? else { return Ok(None) };
        let runs = domains.iter().any(|domain| domain.is(machine, true) && domain.state.is_running());
        let is_started =
            started.map(|started| started.iter().any(|uuid| uuid.to_string() == machine.id.to_string()));
        Ok::<_, Failure>(mended(boot, runs, is_started))
    };
    let started = if all.is_empty() { None } else { hypervisor.started_with_host()? };
    for made in all {
        let id = made.uuid.and_then(|uuid| uuid.to_string().parse().ok());
        let Some((id, name)) = id.zip(made.machine()) else { continue };
        let machine = Machine { id, name };
        if judge(&machine, domains, started.as_deref())?.is_none() {
            continue;
        }
        // It may be being started or stopped right now. If not, all is asked again.
        let Some(_lock) = MachineLock::try_take(&machine)? else { continue };
        let started = hypervisor.started_with_host()?;
        if let Some(boot) = judge(&machine, &hypervisor.domains()?, started.as_deref())? {
            log::event(Level::Warning, "boot.mended", &[("vm", &machine.id), ("machine", &machine.name)]);
            hypervisor.set_boot(&machine, boot)?;
        }
    }
    Ok(())
}

/// Destroys the domains of a machine. If the machine's definition is installed here (`ours`), first
/// ends whatever would restart the machine.
fn remove(hypervisor: &dyn Hypervisor, machine: &Machine, ours: bool) -> Result<(), Failure> {
    let end = Instant::now() + GONE;
    let mut pause = Duration::ZERO;
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
        // Most are gone at once.
        std::thread::sleep(pause);
        pause = Duration::from_millis(300);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_runs_starts_with_the_host() {
        use Boot::{Off, WithHost};
        for (boot, runs, is_started, expected) in [
            (WithHost, true, Some(true), None),
            (WithHost, true, None, None),
            (WithHost, true, Some(false), Some(WithHost)),
            (WithHost, false, Some(false), Some(WithHost)),
            (Off, true, Some(false), Some(WithHost)),
            (Off, true, None, Some(WithHost)),
            (Off, false, Some(true), Some(Off)),
            (Off, false, Some(false), None),
            (Off, false, None, None),
        ] {
            assert_eq!(mended(boot, runs, is_started), expected, "{boot:?} {runs} {is_started:?}");
        }
    }
}
