//! `stop`: shuts a machine down, and keeps it from being started at boot.

use std::time::{Duration, Instant};

use crate::node::helper::configurations::{self, is_installed, parked};
use crate::node::helper::failure::Failure;
use crate::node::helper::files;
use crate::node::helper::guard::{self, MachineLock};
use crate::node::helper::host::Host;
use crate::node::hypervisor::{Hypervisor, HypervisorError, Listed, SysRq};
use crate::system::log::{self, Level};

/// The polling interval.
const LOOK: Duration = Duration::from_millis(500);

/// How long a kernel gets to sync, and to remount, if its machine can't be shut down.
const WRITE_OUT: Duration = Duration::from_secs(3);

impl Host {
    /// Shuts the machine down: asks it to, and forces it if that takes too long. First moves its
    /// configuration away, so that it is not started at boot even if this is interrupted. It is no
    /// error if the machine is already stopped, or does not exist.
    pub fn stop(&self, lock: &MachineLock) -> Result<(), Failure> {
        let file = self.config_file(&lock.machine)?;
        let parked = parked(&file);
        if is_installed(&file, lock.id) {
            files::rename(&file, &parked)?;
        }
        if is_installed(&parked, lock.id) {
            match self.hypervisor() {
                Ok(hypervisor) => {
                    self.shut_down(hypervisor.as_ref(), lock, &configurations::read(&parked)?)?;
                }
                Err(error) => log::event(
                    Level::Warning,
                    "stop.not-asked",
                    &[("vm", &lock.id), ("machine", &lock.machine), ("why", &error)],
                ),
            }
        }
        self.remove_domain(lock, &file)?;
        // Left behind by a helper that was killed while packing.
        guard::remove_directory(&lock.mount_point())
    }

    /// Asks the machine to shut down, and waits until it has, or the timeout expires. If its
    /// configuration would restart it, tells its kernel to sync and remount its disks read-only
    /// instead.
    fn shut_down(
        &self,
        hypervisor: &dyn Hypervisor,
        lock: &MachineLock,
        config: &str,
    ) -> Result<(), Failure> {
        let find = || -> Result<Option<Listed>, Failure> {
            let domains = hypervisor.domains()?;
            Ok(domains.into_iter().find(|domain| domain.is(lock.id, &lock.machine, true) && domain.id != 0))
        };
        let Some(domain) = find()?.filter(Listed::is_alive) else { return Ok(()) };
        let not_asked = |error: HypervisorError| {
            log::event(
                Level::Warning,
                "stop.not-asked",
                &[("vm", &lock.id), ("machine", &lock.machine), ("why", &error)],
            );
        };
        if comes_back(config) {
            for key in [SysRq::Sync, SysRq::RemountReadOnly] {
                if let Err(error) = hypervisor.press(domain.id, key) {
                    not_asked(error);
                }
                std::thread::sleep(WRITE_OUT);
            }
            return Ok(());
        }
        if let Err(error) = hypervisor.shut_down(domain.id) {
            // A guest without Xen drivers can't be asked.
            not_asked(error);
            return Ok(());
        }
        let end = Instant::now() + self.config.shutdown_timeout();
        while Instant::now() < end {
            match find()? {
                Some(now) if now.id == domain.id && now.is_alive() => std::thread::sleep(LOOK),
                Some(now) if now.id != domain.id => {
                    log::event(
                        Level::Warning,
                        "stop.rebooted",
                        &[("vm", &lock.id), ("machine", &lock.machine)],
                    );
                    return Ok(());
                }
                _ => return Ok(()),
            }
        }
        log::event(Level::Warning, "stop.forced", &[("vm", &lock.id), ("machine", &lock.machine)]);
        Ok(())
    }
}

/// Returns whether the toolstack restarts a machine with this configuration after a shutdown
/// (xl.cfg(5), `on_poweroff`).
fn comes_back(config: &str) -> bool {
    let value = |line: &str| {
        let (key, value) = line.split_once('=')?;
        (key.trim() == "on_poweroff").then(|| value.contains("restart"))
    };
    // The last one counts, for xl and for Python.
    config.lines().filter_map(value).next_back().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_on_poweroff_decides() {
        assert!(!comes_back("name = 'x'\n"));
        assert!(comes_back("on_poweroff = 'restart'\n"));
        assert!(comes_back("on_poweroff=\"destroy\"\non_poweroff = \"coredump-restart\"\n"));
        assert!(!comes_back("on_poweroff = 'restart'\non_poweroff = 'destroy'\non_reboot = 'restart'\n"));
        assert!(!comes_back("# on_poweroff = 'restart'\n"));
    }
}
