//! Running virsh, and reading what it prints.
//!
//! Facts, observed with libvirt 9.0 and, where it says so, read in its source:
//!
//! - virsh connects anew each time, which takes 0.02 s. If libvirtd is there but does not answer,
//!   virsh waits for the connection without end, so each run has a time limit. Once it is connected,
//!   it notices within 35 s (its options -k and -K).
//! - `list --uuid --id --name` prints one domain a line, in this order in whatever order the options
//!   are. The table that `list` prints otherwise escapes all but ASCII in names.
//! - `domstats` knows domains by name only. With `--nowait` it does not wait for a QEMU that does
//!   not answer (source: qemu_driver.c).
//! - If /dev/kvm is there but libvirt's user may not open it, libvirt asks QEMU anew what it can do
//!   whenever it reads a definition, which takes ten seconds instead of 0.03.
//! - A domain is named by UUID here, so none is taken for another of the same name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use strum::{EnumIs, EnumString, FromRepr};
use uuid::Uuid;

use super::cause::{Cause, cause};
use crate::model::fault::detail;
use crate::node::hypervisor::HypervisorError;
use crate::system::exec::{self, ExecError, ProgramOutput, Run};

/// The time limit of all that only libvirtd itself works on.
const ASK: Duration = Duration::from_secs(30);
/// The time limit for starting and ending a machine. Under emulation, a start took 4 s.
const ACT: Duration = Duration::from_secs(240);

/// What a domain is doing, by libvirt's names and numbers (`virDomainState`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumString, FromRepr, EnumIs)]
#[repr(u32)]
#[strum(serialize_all = "lowercase")]
pub enum State {
    /// Unknown to libvirt.
    #[strum(serialize = "no state")]
    Unknown = 0,
    /// It runs.
    Running = 1,
    /// It waits for something; QEMU's domains never do.
    #[strum(serialize = "idle")]
    Blocked = 2,
    /// It gets no processor time: someone paused it, or its disk can't be written.
    Paused = 3,
    /// It has shut down, and QEMU is about to end.
    #[strum(serialize = "in shutdown")]
    Ending = 4,
    /// It does not run.
    #[strum(serialize = "shut off")]
    Off = 5,
    /// It crashed.
    Crashed = 6,
    /// The guest sleeps.
    #[strum(serialize = "pmsuspended")]
    Asleep = 7,
}

/// A domain, running or only defined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// The UUID.
    pub uuid: Uuid,
    /// The number, if it runs. Each start gives it another.
    pub number: Option<u32>,
    /// The name.
    pub name: String,
}

/// What a running domain does and uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// What it is doing.
    pub state: State,
    /// The processor time used, in tenths of a second.
    pub used: u64,
    /// The memory that the guest has, in KiB.
    pub memory: u64,
    /// The memory that QEMU holds of the host's, in KiB; 0 if libvirt does not know.
    pub resident: u64,
}

/// The host's memory, in KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostMemory {
    /// The total.
    pub total: u64,
    /// What is free, or holds only copies of what is on disk.
    pub available: u64,
}

/// virsh, connected to one libvirt.
#[derive(Debug, Clone)]
pub struct Virsh {
    program: PathBuf,
    uri: &'static str,
}

impl Virsh {
    /// Finds virsh. `uri` tells which libvirt to connect to, for example `qemu:///system`.
    pub fn find(uri: &'static str) -> Result<Self, HypervisorError> {
        exec::find(&["virsh"])
            .map(|program| Self::new(program, uri))
            .ok_or_else(|| HypervisorError::Missing("there is no virsh on this host".to_owned()))
    }

    /// Uses this program.
    pub fn new(program: PathBuf, uri: &'static str) -> Self {
        Self { program, uri }
    }

    /// Lists the running domains, each with what it does and uses. A domain that starts or ends
    /// meanwhile may be left out.
    pub fn running(&self) -> Result<Vec<(Known, Usage)>, HypervisorError> {
        let (list, usages) = thread::scope(|scope| {
            let usages = scope.spawn(|| self.usages());
            let list = self.ask("virsh list", ["list", "--uuid", "--id", "--name"]);
            (list, usages.join().unwrap_or_else(|_| Err(HypervisorError::broke_off())))
        });
        let (known, mut usages) = (parse_list(&list?.text())?, usages?);
        Ok(known
            .into_iter()
            .filter_map(|known| usages.remove(&known.name).map(|usage| (known, usage)))
            .collect())
    }

    /// Returns what each running domain does and uses, by name.
    fn usages(&self) -> Result<BTreeMap<String, Usage>, HypervisorError> {
        let options = ["--raw", "--list-active", "--nowait", "--state", "--cpu-total", "--balloon"];
        parse_stats(&self.ask("virsh domstats", ["domstats"].into_iter().chain(options))?.text())
    }

    /// Lists the domains that libvirt starts with the host.
    pub fn started_with_host(&self) -> Result<Vec<Known>, HypervisorError> {
        let options = ["--all", "--autostart", "--uuid", "--id", "--name"];
        parse_list(&self.ask("virsh list", ["list"].into_iter().chain(options))?.text())
    }

    /// Returns the host's memory.
    pub fn memory(&self) -> Result<HostMemory, HypervisorError> {
        parse_memory(&self.ask("virsh nodememstats", ["nodememstats"])?.text())
    }

    /// Returns what a domain is doing, and why, in libvirt's words.
    pub fn state(&self, domain: Uuid) -> Result<(State, String), HypervisorError> {
        let output = self.ask("virsh domstate", ["domstate", "--reason", &domain.to_string()])?;
        parse_state(&output.text())
    }

    /// Has libvirt translate a definition into what its driver works with, without keeping or
    /// starting anything. `format` is the driver's: `qemu-argv` or `xen-xl`.
    pub fn translate(&self, definition: &Path, format: &str) -> Result<(), HypervisorError> {
        let file = definition.to_string_lossy();
        self.ask("virsh domxml-to-native", ["domxml-to-native", format, "--xml", &file]).map(drop)
    }

    /// Defines a domain, or replaces its definition. It need not be running.
    pub fn define(&self, definition: &Path) -> Result<(), HypervisorError> {
        self.ask("virsh define", ["define", &definition.to_string_lossy()]).map(drop)
    }

    /// Starts a domain that libvirt forgets when it ends.
    pub fn create(&self, definition: &Path) -> Result<(), HypervisorError> {
        let words = ["create", &definition.to_string_lossy()];
        Ok(self.act("virsh create", words).map(drop)?)
    }

    /// Removes a domain's definition, and with these options what libvirt keeps with it. It is no
    /// error if there is none.
    pub fn undefine(&self, domain: Uuid, options: &[&str]) -> Result<(), HypervisorError> {
        let uuid = domain.to_string();
        let words = ["undefine", &uuid].into_iter().chain(options.iter().copied());
        match self.run("virsh undefine", ASK, words) {
            Err(Failed::Because(Cause::Unknown)) | Ok(_) => Ok(()),
            Err(failed) => Err(failed.into()),
        }
    }

    /// Determines whether libvirt starts a domain with the host. It is no error if there is no such
    /// domain, and it is not to be started.
    pub fn start_with_host(&self, domain: Uuid, start: bool) -> Result<(), HypervisorError> {
        let uuid = domain.to_string();
        let words = ["autostart", &uuid].into_iter().chain((!start).then_some("--disable"));
        match self.run("virsh autostart", ASK, words) {
            Err(Failed::Because(Cause::Unknown)) if !start => Ok(()),
            other => Ok(other.map(drop)?),
        }
    }

    /// Starts a domain that has just been defined, so libvirtd answers. It is no error if it is
    /// running already.
    pub fn start(&self, domain: Uuid) -> Result<(), HypervisorError> {
        match self.run("virsh start", ACT, ["start", &domain.to_string()]) {
            Err(Failed::Because(Cause::Running)) | Ok(_) => Ok(()),
            Err(failed) => Err(failed.into()),
        }
    }

    /// Asks a domain to shut down: by Xen, or through its guest agent, if it has one, or else by the
    /// power button. An agent that can't do it says so only now and then (a Debian without D-Bus
    /// does), and then the button is tried, if there is one.
    pub fn shut_down(&self, domain: Uuid, has_button: bool) -> Result<(), HypervisorError> {
        let uuid = domain.to_string();
        match self.run("virsh shutdown", ASK, ["shutdown", &uuid]) {
            Err(Failed::Because(Cause::Other(_) | Cause::Busy(_))) if has_button => {
                self.ask("virsh shutdown", ["shutdown", &uuid, "--mode", "acpi"]).map(drop)
            }
            other => Ok(other.map(drop)?),
        }
    }

    /// Presses Alt, `SysRq` and a letter on a domain's keyboard.
    pub fn press_sysrq(&self, domain: Uuid, letter: char) -> Result<(), HypervisorError> {
        let letter = format!("KEY_{}", letter.to_ascii_uppercase());
        let words = [
            "send-key",
            &domain.to_string(),
            "--codeset",
            "linux",
            "KEY_LEFTALT",
            "KEY_SYSRQ",
            letter.as_str(),
        ];
        self.ask("virsh send-key", words).map(drop)
    }

    /// Ends a domain immediately.
    pub fn destroy(&self, domain: Uuid) -> Result<(), HypervisorError> {
        Ok(self.act("virsh destroy", ["destroy", &domain.to_string()]).map(drop)?)
    }

    fn ask<'a>(
        &self,
        what: &'static str,
        words: impl IntoIterator<Item = &'a str>,
    ) -> Result<ProgramOutput, HypervisorError> {
        Ok(self.run(what, ASK, words)?)
    }

    /// Runs what may take long, if libvirtd answers at all.
    fn act<'a>(
        &self,
        what: &'static str,
        words: impl IntoIterator<Item = &'a str>,
    ) -> Result<ProgramOutput, Failed> {
        self.run("virsh uri", ASK, ["uri"])?;
        self.run(what, ACT, words)
    }

    fn run<'a>(
        &self,
        what: &'static str,
        limit: Duration,
        words: impl IntoIterator<Item = &'a str>,
    ) -> Result<ProgramOutput, Failed> {
        let run = Run::new(&self.program).args(["-q", "-c", self.uri]).args(words).limit(limit);
        run.run().map_err(|error| match error {
            ExecError::Failed { .. } => Failed::Because(cause(&error.said())),
            // Only libvirtd itself can be what a question waits for.
            ExecError::TimedOut { limit: ASK, .. } => {
                let why = format!("libvirtd has not answered for {} s", ASK.as_secs());
                Failed::Otherwise(HypervisorError::Missing(why))
            }
            ExecError::TimedOut { limit, .. } => {
                Failed::Otherwise(HypervisorError::TimedOut { what, seconds: limit.as_secs() })
            }
            ExecError::NotStarted { source, .. } => {
                let why = format!("{}: {source}", self.program.display());
                Failed::Otherwise(HypervisorError::Missing(why))
            }
            other @ ExecError::Pipe { .. } => Failed::Otherwise(HypervisorError::Other(other.to_string())),
        })
    }
}

/// Why a run of virsh failed.
#[derive(Debug)]
enum Failed {
    /// virsh said why.
    Because(Cause),
    /// It could not.
    Otherwise(HypervisorError),
}

impl From<Failed> for HypervisorError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Because(cause) => cause.into(),
            Failed::Otherwise(error) => error,
        }
    }
}

/// Parses the output of `list --uuid --id --name`. The id is `-` for a domain that does not run. A
/// name may contain blanks.
pub fn parse_list(text: &str) -> Result<Vec<Known>, HypervisorError> {
    let row = |line: &str| {
        let mut words = line.splitn(3, ' ');
        let uuid = Uuid::try_parse(words.next()?).ok()?;
        let number = match words.next()? {
            "-" => None,
            number => Some(number.parse().ok()?),
        };
        Some(Known { uuid, number, name: words.next().filter(|name| !name.is_empty())?.to_owned() })
    };
    text.lines()
        .filter(|line| !line.is_empty())
        .map(|line| row(line).ok_or_else(|| unread("list", line)))
        .collect()
}

/// Parses the output of `domstats --raw --state --cpu-total --balloon`: for each domain, by name,
/// `Domain: 'NAME'` and indented lines `KEY=VALUE`.
pub fn parse_stats(text: &str) -> Result<BTreeMap<String, Usage>, HypervisorError> {
    let mut all = BTreeMap::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line.is_empty() {
            continue;
        }
        let name = line.strip_prefix("Domain: '").and_then(|rest| rest.strip_suffix('\''));
        let name = name.ok_or_else(|| unread("domstats", line))?;
        let mut values = BTreeMap::new();
        while let Some(value) = lines.next_if(|line| line.starts_with(' ')) {
            let (key, value) = value.trim().split_once('=').ok_or_else(|| unread("domstats", value))?;
            values.insert(key, value.parse::<u64>().ok());
        }
        let value = |key: &str| values.get(key).copied().flatten();
        let state = value("state.state").and_then(|state| State::from_repr(u32::try_from(state).ok()?));
        let usage = Usage {
            state: state.ok_or_else(|| unread("domstats", line))?,
            // It is in nanoseconds, and missing in the first moments of a domain.
            used: value("cpu.time").unwrap_or_default() / 100_000_000,
            memory: value("balloon.current")
                .or_else(|| value("balloon.maximum"))
                .ok_or_else(|| unread("domstats", line))?,
            resident: value("balloon.rss").unwrap_or_default(),
        };
        all.insert(name.to_owned(), usage);
    }
    Ok(all)
}

/// Parses the output of `nodememstats`: lines `KEY: NUMBER KiB`.
pub fn parse_memory(text: &str) -> Result<HostMemory, HypervisorError> {
    let value = |key: &str| {
        text.lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.trim() == key)
            .and_then(|(_, value)| value.trim().strip_suffix(" KiB")?.parse::<u64>().ok())
            .ok_or_else(|| unread("nodememstats", text))
    };
    let available = value("free")?.saturating_add(value("buffers")?).saturating_add(value("cached")?);
    Ok(HostMemory { total: value("total")?, available })
}

/// Parses the output of `domstate --reason`: `STATE (REASON)`.
pub fn parse_state(text: &str) -> Result<(State, String), HypervisorError> {
    let (state, reason) = text
        .trim()
        .strip_suffix(')')
        .and_then(|text| text.rsplit_once(" ("))
        .ok_or_else(|| unread("domstate", text))?;
    Ok((state.parse().map_err(|_| unread("domstate", text))?, reason.to_owned()))
}

/// The error for output that is not as expected.
fn unread(command: &str, text: &str) -> HypervisorError {
    HypervisorError::Other(format!("virsh {command} printed what vGrid can't read: {}", detail(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uuid(text: &str) -> Uuid {
        Uuid::try_parse(text).unwrap()
    }

    #[test]
    fn domains_are_listed_whatever_their_names() {
        let text = include_str!("../../../../tests/data/virsh/list-uuid-id-name.txt");
        let list = parse_list(text).unwrap();
        let rows: Vec<_> = list.iter().map(|known| (known.number, known.name.as_str())).collect();
        assert_eq!(rows, [(Some(2), " a - b 12 running "), (None, "alice_vm1"), (None, "Größe's")]);
        assert_eq!(list[1].uuid, uuid("019abcde-1111-7222-8333-555555555501"));
        assert_eq!(parse_list("\n").unwrap(), []);
        for wrong in ["x 1 a", "11111111-2222-3333-4444-555555555501 a", "error: none"] {
            assert!(parse_list(wrong).is_err(), "{wrong}");
        }
        assert!(parse_list("11111111-2222-3333-4444-555555555501 1 \n").is_err());
        assert!(parse_list("11111111-2222-3333-4444-555555555501 a b\n").is_err());
    }

    #[test]
    fn usage_is_read_by_name() {
        let all = parse_stats(include_str!("../../../../tests/data/virsh/domstats-raw.txt")).unwrap();
        assert_eq!(all.keys().collect::<Vec<_>>(), ["alice_vm1", "t_vm1"]);
        assert_eq!(
            all["alice_vm1"],
            Usage { state: State::Running, used: 5, memory: 131_072, resident: 84_016 }
        );
        assert_eq!(all["t_vm1"].used, 245);
        let odd = "Domain: 'a 'b' =c'\n  state.state=3\n  state.reason=5\n  balloon.maximum=7\n";
        let odd = parse_stats(odd).unwrap();
        let usage = Usage { state: State::Paused, used: 0, memory: 7, resident: 0 };
        assert_eq!(odd.into_iter().collect::<Vec<_>>(), [("a 'b' =c".to_owned(), usage)]);
        assert!(parse_stats("").unwrap().is_empty());
        for wrong in [
            "garbage",
            "  state.state=1\n",
            "Domain: 'a'\n  balloon.current=1\n",
            "Domain: 'a'\n  state.state=99\n  balloon.current=1\n",
            "Domain: 'a'\n  state.state=1\n",
            "Domain: 'a'\n  state\n",
        ] {
            assert!(parse_stats(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_host_s_memory_is_read() {
        let text = include_str!("../../../../tests/data/virsh/nodememstats.txt");
        let available = 17_871_284 + 21_512 + 3_633_520;
        assert_eq!(parse_memory(text).unwrap(), HostMemory { total: 24_684_084, available });
        assert!(parse_memory("total  : 5 KiB\n").is_err());
        assert!(parse_memory(&text.replace(" KiB", " MiB")).is_err());
    }

    #[test]
    fn a_state_is_read_with_its_reason() {
        macro_rules! state {
            ($name:literal) => {
                parse_state(include_str!(concat!("../../../../tests/data/virsh/domstate-", $name, ".txt")))
                    .unwrap()
            };
        }
        assert_eq!(state!("running"), (State::Running, "booted".to_owned()));
        assert_eq!(state!("after-shutdown"), (State::Running, "unpaused".to_owned()));
        assert_eq!(state!("paused"), (State::Paused, "user".to_owned()));
        assert_eq!(state!("off"), (State::Off, "unknown".to_owned()));
        assert_eq!(state!("destroyed"), (State::Off, "destroyed".to_owned()));
        assert_eq!(state!("crashed"), (State::Off, "crashed".to_owned()));
        assert_eq!(parse_state("in shutdown (user)\n").unwrap().0, State::Ending);
        assert_eq!(parse_state("pmsuspended (x)").unwrap().0, State::Asleep);
        assert!(parse_state("running").is_err() && parse_state("dancing (x)").is_err());
    }

    #[test]
    fn a_libvirtd_that_does_not_answer_is_not_waited_for() {
        // tail has the options -q and -c as well, and with -f it does not end either.
        let silent = Virsh::new("/usr/bin/tail".into(), "1");
        let limit = Duration::from_secs(1);
        let error = silent.run("virsh list", limit, ["-f", "/dev/null"]).unwrap_err();
        let expected = HypervisorError::TimedOut { what: "virsh list", seconds: 1 };
        assert_eq!(HypervisorError::from(error), expected);
        let missing = Virsh::new("/nonexistent/virsh".into(), "");
        assert!(matches!(missing.memory(), Err(HypervisorError::Missing(_))));
    }
}
