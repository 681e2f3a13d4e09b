//! `stop`: shuts a machine down, and keeps it from being started at boot.

use std::time::{Duration, Instant};

use crate::node::Machine;
use crate::node::helper::failure::Failure;
use crate::node::helper::guard::{self, MachineLock};
use crate::node::helper::host::{Definition, Host, Stand};
use crate::node::hypervisor::{Boot, Hypervisor, HypervisorError, Listed};
use crate::system::log::{self, Level};

/// The polling interval.
const LOOK: Duration = Duration::from_millis(250);

impl Host {
    /// Shuts the machine down: asks it to, and forces it if that takes too long. First sees to it
    /// that it is not started at boot, even if this is interrupted. It is no error if the machine
    /// is already stopped, or does not exist.
    pub fn stop(&self, lock: &MachineLock) -> Result<Stand, Failure> {
        let machine = &lock.machine;
        if let Some(Definition { hypervisor, .. }) = self.definition(machine)? {
            hypervisor.set_boot(machine, Boot::Off)?;
            match hypervisor.domains() {
                Ok(domains) => self.shut_down(hypervisor.as_ref(), machine, &domains)?,
                Err(HypervisorError::Missing(why)) => not_asked(machine, &HypervisorError::Missing(why)),
                Err(error) => return Err(error.into()),
            }
        }
        self.remove_domain(machine)?;
        // Left behind by a helper that was killed while packing.
        guard::remove_directory(&lock.mount_point())?;
        Ok(self.stand(machine))
    }

    /// Asks the machine to shut down, and waits until it has, or the timeout expires. If its
    /// definition would restart it, has its kernel write everything to disk instead.
    fn shut_down(
        &self,
        hypervisor: &dyn Hypervisor,
        machine: &Machine,
        domains: &[Listed],
    ) -> Result<(), Failure> {
        let find = |domains: &[Listed]| {
            domains.iter().find(|domain| domain.is(machine, true) && !domain.is_control()).cloned()
        };
        let Some(domain) = find(domains).filter(|domain| domain.state.is_running()) else { return Ok(()) };
        if hypervisor.restarts_after_shutdown(machine)? {
            if let Err(error) = hypervisor.write_out(&domain) {
                not_asked(machine, &error);
            }
            return Ok(());
        }
        if let Err(error) = hypervisor.shut_down(&domain) {
            // A Xen guest without Xen's drivers can't be asked.
            not_asked(machine, &error);
            return Ok(());
        }
        let end = Instant::now() + self.config.shutdown_timeout();
        while Instant::now() < end {
            match find(&hypervisor.domains()?) {
                Some(now) if now.number == domain.number && now.state.is_running() => {
                    std::thread::sleep(LOOK);
                }
                Some(now) if now.number != domain.number => {
                    log::event(
                        Level::Warning,
                        "stop.rebooted",
                        &[("vm", &machine.id), ("machine", &machine.name)],
                    );
                    return Ok(());
                }
                _ => return Ok(()),
            }
        }
        log::event(Level::Warning, "stop.forced", &[("vm", &machine.id), ("machine", &machine.name)]);
        Ok(())
    }
}

fn not_asked(machine: &Machine, error: &HypervisorError) {
    log::event(
        Level::Warning,
        "stop.not-asked",
        &[("vm", &machine.id), ("machine", &machine.name), ("why", error)],
    );
}
