//! `verify`: watches a machine until it is found to be running.

use std::time::{Duration, Instant};

use crate::model::fault::{self, Fault};
use crate::model::names::{MachineName, VmId};
use crate::node::filesystem;
use crate::node::helper::configurations::{self, is_installed};
use crate::node::helper::failure::Failure;
use crate::node::helper::host::Host;
use crate::node::helper::{files, limits};

/// The minimum time for which a machine must be seen running.
const MIN_WATCH: Duration = Duration::from_secs(6);

/// The time for which a machine that is never idle must be seen running.
const BUSY_WATCH: Duration = Duration::from_secs(25);

/// The polling interval.
const LOOK: Duration = Duration::from_secs(1);

/// How much of a console log is searched for the kernel's command line, which is among the first
/// lines, in bytes.
const CONSOLE_HEAD: u64 = 64 << 10;

impl Host {
    /// Watches the machine until it has been running for a while: under one domain number, not
    /// crashed, and having used CPU time. A machine that becomes idle has either booted or given
    /// up, so it is watched for less time than one that stays busy.
    pub fn verify(&self, id: VmId, machine: &MachineName) -> Result<(), Failure> {
        let hypervisor = self.hypervisor()?;
        let ours = is_installed(&self.config_file(machine)?, id);
        let began = Instant::now();
        // Its domain number, the time since it has had that, and how often in a row it was idle.
        let mut seen: Option<(u32, Instant, u32)> = None;
        let mut restarts = 0;
        let mut absent = 0;
        while began.elapsed() < limits::WATCH {
            let domains = hypervisor.domains()?;
            match domains.iter().find(|domain| domain.is(id, machine, ours)) {
                Some(domain) if domain.is_alive() => {
                    absent = 0;
                    let (since, idle) = match seen {
                        Some((number, since, idle)) if number == domain.id => {
                            (since, if domain.is_idle() { idle + 1 } else { 0 })
                        }
                        Some(_) => {
                            restarts += 1;
                            (Instant::now(), 0)
                        }
                        None => (Instant::now(), 0),
                    };
                    seen = Some((domain.id, since, idle));
                    let watched = since.elapsed();
                    let rests = watched >= MIN_WATCH && idle >= 2;
                    if domain.used > 0 && (rests || watched >= BUSY_WATCH) {
                        if self.waits_for_commands(machine)? {
                            return Err(self.did_not_run(machine, "its boot loader waits for commands"));
                        }
                        return self.knows_its_owner(machine);
                    }
                }
                Some(domain) if domain.state.contains('p') => {
                    return Err(self.did_not_run(machine, "it is paused"));
                }
                Some(domain) if domain.state.contains('c') => {
                    return Err(self.did_not_run(machine, "it crashed"));
                }
                // Shut down, dying or gone: it may come back under another number.
                _ => {
                    absent += 1;
                    if absent > 8 {
                        let seconds = seen.map_or(0, |(_, since, _)| since.elapsed().as_secs());
                        return Err(self.did_not_run(machine, &format!("it ended within {seconds} s")));
                    }
                }
            }
            std::thread::sleep(LOOK);
        }
        let why = if restarts > 0 { "it keeps restarting" } else { "it does nothing" };
        Err(self.did_not_run(machine, why))
    }

    /// Returns whether the machine got no further than its own boot loader, GRUB, which found
    /// nothing to start.
    fn waits_for_commands(&self, machine: &MachineName) -> Result<bool, Failure> {
        Ok(is_at_grub(&self.console(machine, 4096)?.text))
    }

    /// Checks that the kernel received the name of the machine's owner, if the configuration passes
    /// it. The kernel prints its command line first, if it prints to this console.
    fn knows_its_owner(&self, machine: &MachineName) -> Result<(), Failure> {
        let config = configurations::read(&self.config_file(machine)?)?;
        let Some(parameter) = owner_parameter(&config) else { return Ok(()) };
        let Some(log) = self.console_log(machine)? else { return Ok(()) };
        let log = files::read_text(&log, CONSOLE_HEAD)?;
        match command_lines(&log).as_slice() {
            [.., last] if !last.split_whitespace().any(|word| word == parameter) => {
                Err(Fault::ParametersLost { detail: fault::detail(last) }.into())
            }
            _ => Ok(()),
        }
    }

    /// Builds the failure, with the most significant line of the console.
    fn did_not_run(&self, machine: &MachineName, why: &str) -> Failure {
        let console = self.console(machine, 4096).map(|tail| tail.text).unwrap_or_default();
        let lines = || console.lines().map(str::trim).filter(|line| !line.is_empty());
        let last = lines()
            .find(|line| filesystem::complaint(line).is_some())
            .or_else(|| lines().find(|line| line.contains("Kernel panic")))
            .or_else(|| lines().next_back());
        let why = match self.unreadable_features(machine, &console) {
            Some(features) => format!("{why}; {features}"),
            None => why.to_owned(),
        };
        let detail = match last {
            Some(last) => format!("{why}; on its console: {last}"),
            None => why,
        };
        Fault::DidNotRun { detail: fault::detail(&detail) }.into()
    }
}

/// Returns whether a console ends with GRUB's prompt.
fn is_at_grub(console: &str) -> bool {
    let last = console.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default();
    ["grub>", "grub rescue>"].iter().any(|prompt| last.starts_with(prompt))
}

/// Returns the kernel parameter with the owner's name from the configuration.
fn owner_parameter(config: &str) -> Option<&str> {
    let lines = config.lines().filter(|line| !line.trim_start().starts_with('#'));
    let start = lines.filter_map(|line| line.find("vgrid_username=").map(|at| &line[at..])).next_back()?;
    start.split(|c: char| c.is_whitespace() || c == '"' || c == '\'').next()
}

/// Returns the command lines printed by Linux kernels. Each boot prints `Kernel command line:`, and
/// on x86 `Command line:` before it.
fn command_lines(console: &str) -> Vec<&str> {
    console.lines().filter_map(|line| line.split_once("ommand line: ").map(|(_, text)| text.trim())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_at_its_boot_loader_s_prompt_is_not_running() {
        let grub = "error: unknown filesystem.\nEntering rescue mode...\ngrub rescue> ";
        assert!(is_at_grub(grub) && is_at_grub("\n\ngrub> \n"));
        assert!(!is_at_grub("error: unknown filesystem.\n\n[    0.0] Linux version 6.1\nlogin: "));
        assert!(!is_at_grub(""));
    }

    #[test]
    fn the_owner_is_checked_on_the_kernel_s_command_line() {
        let config =
            "# vgrid_username=x\nextra = \"vgrid_username=J%C3%BC ip=10.0.2.21 quiet\"\nuuid = 'x'\n";
        assert_eq!(owner_parameter(config), Some("vgrid_username=J%C3%BC"));
        assert_eq!(owner_parameter("extra = 'vgrid_username=a'"), Some("vgrid_username=a"));
        assert_eq!(owner_parameter("extra = 'quiet'"), None);
        let console = "[    0.000000] Command line: root=/dev/xvda1 ro None\r\n\
                       [    0.010000] Kernel command line: root=/dev/xvda1 ro None\r\nInit\n";
        assert_eq!(command_lines(console), ["root=/dev/xvda1 ro None"; 2]);
        assert!(command_lines("nothing").is_empty());
    }
}
