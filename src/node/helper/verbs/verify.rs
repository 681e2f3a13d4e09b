//! `verify`: watches a machine until it is found to be running.

use std::time::{Duration, Instant};

use crate::model::fault::{self, Fault};
use crate::model::names::{DomainNumber, MachineName};
use crate::node::helper::failure::Failure;
use crate::node::helper::host::{Definition, Host};
use crate::node::helper::limits;
use crate::node::hypervisor::{DomainState, Listed};
use crate::node::{Machine, files, filesystem};

/// The minimum time for which a machine must be seen running.
const MIN_WATCH: Duration = Duration::from_secs(6);

/// The time for which a machine that is never idle must be seen running.
const BUSY_WATCH: Duration = Duration::from_secs(25);

/// The polling interval. To ask a toolstack slows a guest down that is just booting.
const LOOK: Duration = Duration::from_secs(2);

/// The interval for its console, which costs nothing.
const GLANCE: Duration = Duration::from_millis(250);

/// How long a machine may be absent between two boots.
const ABSENCE: Duration = Duration::from_secs(8);

/// How much of a console log is searched for the kernel's command line, which is among the first
/// lines, in bytes.
const CONSOLE_HEAD: u64 = 64 << 10;

/// The share of the time for which a machine at rest may use a processor, in percent. An idle Linux
/// uses a few, even emulated.
const AT_REST: u64 = 20;

/// A domain while it is watched.
struct Watched {
    number: DomainNumber,
    /// Since when it has had this number.
    since: Instant,
    /// The processor time used at the last look, in tenths of a second, and when that was.
    used: u64,
    looked: Instant,
    /// For how many looks in a row it has been at rest.
    at_rest: u32,
}

impl Watched {
    fn new(domain: &Listed, since: Instant) -> Self {
        Self { number: domain.number, since, used: domain.used, looked: Instant::now(), at_rest: 0 }
    }

    /// Takes another look at the same domain.
    fn look(&mut self, domain: &Listed) {
        let grown = domain.used.saturating_sub(self.used).saturating_mul(100_000);
        let passed = u64::try_from(self.looked.elapsed().as_millis()).unwrap_or(u64::MAX);
        let rests = grown <= passed.saturating_mul(10 * AT_REST);
        self.at_rest = if rests { self.at_rest + 1 } else { 0 };
        (self.used, self.looked) = (domain.used, Instant::now());
    }
}

impl Host {
    /// Watches the machine until it has been running for a while: under one domain number, not
    /// crashed, and having used processor time. A machine whose console asks for a login has booted.
    /// One that comes to rest has either booted or given up, so it is watched for less time than one
    /// that stays busy.
    pub fn verify(&self, machine: &Machine) -> Result<(), Failure> {
        let Some(Definition { hypervisor, .. }) = self.definition(machine)? else {
            return Err(Failure::internal(format!("{} has no definition here", machine.name)));
        };
        let began = Instant::now();
        // What is there is of an earlier boot. What a fast machine has said by now is missed; then it
        // is only watched for longer.
        let said_before = self.console_length(&machine.name)?;
        let mut seen: Option<Watched> = None;
        let mut restarts = 0;
        let mut absent: Option<Instant> = None;
        while began.elapsed() < limits::WATCH {
            let has_booted = self.asks_for_login_within(LOOK, &machine.name, said_before)?;
            let domains = hypervisor.domains()?;
            let domain = domains.iter().find(|domain| domain.is(machine, true));
            match domain.map(|domain| (domain, domain.state)) {
                Some((domain, DomainState::Running)) => {
                    absent = None;
                    match &mut seen {
                        Some(watched) if watched.number == domain.number => watched.look(domain),
                        Some(watched) => {
                            restarts += 1;
                            *watched = Watched::new(domain, Instant::now());
                        }
                        None => seen = Some(Watched::new(domain, began)),
                    }
                    let (watched, at_rest) = seen
                        .as_ref()
                        .map_or((Duration::ZERO, 0), |seen| (seen.since.elapsed(), seen.at_rest));
                    let rests = watched >= MIN_WATCH && at_rest >= 2;
                    if domain.used > 0 && (has_booted || rests || watched >= BUSY_WATCH) {
                        if hypervisor.speaks_at_once() && self.is_silent(&machine.name)? {
                            let why = "it has not said a word: the processor that it was given does not work";
                            return Err(self.did_not_run(machine, why));
                        }
                        if self.waits_for_commands(&machine.name)? {
                            return Err(self.did_not_run(machine, "its boot loader waits for commands"));
                        }
                        return self.knows_its_owner(machine, &hypervisor.definition(machine)?);
                    }
                }
                Some((_, DomainState::Paused)) => return Err(self.did_not_run(machine, "it is paused")),
                Some((_, DomainState::Crashed)) => return Err(self.did_not_run(machine, "it crashed")),
                // It may come back under another number.
                Some((_, DomainState::ShutDown | DomainState::Dying)) | None => {
                    if absent.get_or_insert_with(Instant::now).elapsed() > ABSENCE {
                        let seconds = seen.map_or(0, |seen| seen.since.elapsed().as_secs());
                        return Err(self.did_not_run(machine, &format!("it ended within {seconds} s")));
                    }
                }
            }
        }
        let why = if restarts > 0 { "it keeps restarting" } else { "it does nothing" };
        Err(self.did_not_run(machine, why))
    }

    /// Waits that long, or until the machine asks for a login after what its console said before.
    /// Returns whether it does.
    fn asks_for_login_within(
        &self,
        limit: Duration,
        machine: &MachineName,
        said_before: u64,
    ) -> Result<bool, Failure> {
        let end = Instant::now() + limit;
        while Instant::now() < end {
            std::thread::sleep(GLANCE);
            if asks_for_login(&self.console_after(machine, said_before, 4096)?.text) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns how long the machine's console log is, in bytes.
    fn console_length(&self, machine: &MachineName) -> Result<u64, Failure> {
        let log = self.console_log(machine)?;
        Ok(log.and_then(|log| log.symlink_metadata().ok()).map_or(0, |facts| facts.len()))
    }

    /// Returns whether nothing has been written to the machine's console.
    fn is_silent(&self, machine: &MachineName) -> Result<bool, Failure> {
        Ok(self.console(machine, 4096)?.text.trim().is_empty())
    }

    /// Returns whether the machine got no further than its own boot loader, GRUB, which found
    /// nothing to start.
    fn waits_for_commands(&self, machine: &MachineName) -> Result<bool, Failure> {
        Ok(is_at_grub(&self.console(machine, 4096)?.text))
    }

    /// Checks that the kernel received the name of the machine's owner, if the configuration passes
    /// it. The kernel prints its command line first, if it prints to this console.
    fn knows_its_owner(&self, machine: &Machine, definition: &str) -> Result<(), Failure> {
        let Some(parameter) = owner_parameter(definition) else { return Ok(()) };
        let Some(log) = self.console_log(&machine.name)? else { return Ok(()) };
        let log = files::read_text(&log, CONSOLE_HEAD)?;
        match command_lines(&log).as_slice() {
            [.., last] if !last.split_whitespace().any(|word| word == parameter) => {
                Err(Fault::ParametersLost { detail: fault::detail(last) }.into())
            }
            _ => Ok(()),
        }
    }

    /// Builds the failure, with the most significant line of the console.
    fn did_not_run(&self, machine: &Machine, why: &str) -> Failure {
        let console = self.console(&machine.name, 4096).map(|tail| tail.text).unwrap_or_default();
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

/// Returns whether a console shows the prompt of login(1), as agetty(8) and busybox print it: the host's
/// name before it. The kernel may have said something after it.
fn asks_for_login(console: &str) -> bool {
    console.lines().any(|line| line.trim().strip_suffix(" login:").is_some_and(|name| !name.contains(' ')))
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
    fn a_machine_that_asks_for_a_login_has_booted() {
        let login = "Debian GNU/Linux 12 vm1 hvc0\n\nvm1 login: ";
        assert!(asks_for_login(login));
        assert!(asks_for_login(&format!(
            "{login}[    9.81] random: crng init done\nvm1 login:\n[   10.2] x"
        )));
        for not in [
            "",
            "login:",
            "Starting getty, then login:",
            "vm1 login: alice",
            "[  OK  ] Reached login: prompts",
        ] {
            assert!(!asks_for_login(not), "{not}");
        }
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
