//! Xen, controlled by `xl` or `xm`.
//!
//! Relevant facts about `xl`, observed with Xen 4.17:
//!
//! - `xl create` returns 0 when the machine was started, not when it has booted, and leaves a
//!   process behind (`xl create FILE`) that restarts the machine when it reboots;
//! - if killed half-way, it leaves a paused domain, perhaps without a name, but with its UUID;
//! - a reboot gives the domain a new number;
//! - every refusal has exit status 3 (or 1, for a file that can't be parsed), so the text must be
//!   examined;
//! - `xl list -v` adds the UUID, a reason code and a security label to the columns of `xl list`.
//!
//! Differences of `xm` (Xen up to 4.4), according to its documentation: it evaluates the
//! configuration as Python, so a syntax error is a traceback; its `list` has the same columns, but
//! no `-v`; `create -n` prints an S-expression instead of JSON; machines are monitored by xend, not
//! by processes of their own; `info` has the same `key : value` lines. `shutdown`, `sysrq` and
//! `destroy` have the same syntax.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use strum::IntoStaticStr;
use uuid::Uuid;

use super::{Described, Hypervisor, HypervisorError, Listed, Memory, SysRq};
use crate::config::Toolstack;
use crate::model::fault::detail;
use crate::model::names::MachineName;
use crate::model::size::Amount;
use crate::system::exec::{self, ExecError, ProgramOutput, Run};

/// The time limit of queries.
const ASK: Duration = Duration::from_secs(30);
/// The time limit for starting and ending a machine: up to 14 s were observed with pygrub and an xz
/// kernel on an emulated host.
const ACT: Duration = Duration::from_secs(240);

/// This directory exists if and only if systemd is the init system (sd_booted(3)).
const SYSTEMD: &str = "/run/systemd/system";

/// The kind of toolstack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
enum Tool {
    Xl,
    Xm,
}

/// The Xen toolstack of this host.
#[derive(Debug)]
pub struct Xen {
    tool: Tool,
    program: PathBuf,
}

impl Xen {
    /// Finds the configured toolstack; with `auto`, prefers `xl`.
    pub fn find(toolstack: Toolstack) -> Result<Self, HypervisorError> {
        let candidates: &[Tool] = match toolstack {
            Toolstack::Auto => &[Tool::Xl, Tool::Xm],
            Toolstack::Xl => &[Tool::Xl],
            Toolstack::Xm => &[Tool::Xm],
        };
        candidates
            .iter()
            .find_map(|&tool| exec::find(&[tool.into()]).map(|program| Self { tool, program }))
            .ok_or_else(|| {
                let names: Vec<&str> = candidates.iter().map(|&tool| tool.into()).collect();
                HypervisorError::Missing(format!("there is no {} on this host", names.join(" and no ")))
            })
    }

    fn command(&self, limit: Duration) -> Run {
        Run::new(&self.program).limit(limit)
    }

    fn explain(&self, what: &'static str, error: ExecError) -> HypervisorError {
        match error {
            ExecError::Failed { ref stderr, .. } => explain(stderr),
            ExecError::TimedOut { limit, .. } => HypervisorError::TimedOut { what, seconds: limit.as_secs() },
            ExecError::NotStarted { source, .. } => {
                HypervisorError::Missing(format!("{}: {source}", self.program.display()))
            }
            other @ ExecError::Pipe { .. } => HypervisorError::Other(other.to_string()),
        }
    }
}

impl Hypervisor for Xen {
    fn name(&self) -> &'static str {
        self.tool.into()
    }

    fn memory(&self) -> Result<Memory, HypervisorError> {
        let output = self.command(ASK).arg("info").run().map_err(|error| self.explain("xl info", error))?;
        parse_info(&output.text())
    }

    fn domains(&self) -> Result<Vec<Listed>, HypervisorError> {
        let run = self.command(ASK).arg("list");
        let run = if self.tool == Tool::Xl { run.arg("-v") } else { run };
        parse_list(&run.run().map_err(|error| self.explain("xl list", error))?.text())
    }

    fn check(&self, config: &Path) -> Result<Option<Described>, HypervisorError> {
        let output = self
            .command(ASK)
            .args(["create", "-n"])
            .arg(config)
            .run()
            .map_err(|error| self.explain("xl create -n", error))?;
        match self.tool {
            Tool::Xl => parse_described(&output).map(Some),
            Tool::Xm => Ok(None),
        }
    }

    /// Under systemd, the process that monitors the machine runs in a scope of its own. In
    /// Apache's, it would be killed when Apache is stopped, and the machine would not come back
    /// after a reboot. The scope is stopped after `xendomains`, which needs these processes to shut
    /// the machines down.
    fn create(&self, config: &Path, machine: &MachineName) -> Result<(), HypervisorError> {
        let scope = (self.tool == Tool::Xl && Path::new(SYSTEMD).is_dir())
            .then(|| exec::find(&["systemd-run"]))
            .flatten();
        let run = match scope {
            Some(systemd_run) => Run::new(systemd_run)
                .args(["--quiet", "--scope", "--collect", "--property=Before=xendomains.service"])
                .arg(format!("--description=Xen domain {machine}"))
                .arg("--")
                .arg(&self.program)
                .limit(ACT),
            None => self.command(ACT),
        };
        run.arg("create")
            .arg(config)
            .run()
            .map(|_| ())
            .map_err(|error| with_boot_loader(self.explain("xl create", error)))
    }

    fn shut_down(&self, domain: u32) -> Result<(), HypervisorError> {
        self.command(ASK)
            .arg("shutdown")
            .arg(domain.to_string())
            .run()
            .map(|_| ())
            .map_err(|error| self.explain("xl shutdown", error))
    }

    fn press(&self, domain: u32, key: SysRq) -> Result<(), HypervisorError> {
        let key = match key {
            SysRq::Sync => "s",
            SysRq::RemountReadOnly => "u",
        };
        self.command(ASK)
            .arg("sysrq")
            .arg(domain.to_string())
            .arg(key)
            .run()
            .map(|_| ())
            .map_err(|error| self.explain("xl sysrq", error))
    }

    fn destroy(&self, domain: u32) -> Result<(), HypervisorError> {
        self.command(ACT)
            .arg("destroy")
            .arg(domain.to_string())
            .run()
            .map(|_| ())
            .map_err(|error| self.explain("xl destroy", error))
    }

    fn minds(&self, arguments: &[String], config: &Path) -> bool {
        // `/usr/lib/xen-4.17/bin/xl create [options] FILE`, as started here or by xendomains.
        let config = config.to_string_lossy();
        let is_xl = |name: &String| Path::new(name).file_name().is_some_and(|name| name == "xl");
        self.tool == Tool::Xl
            && arguments.first().is_some_and(is_xl)
            && arguments.iter().any(|argument| argument == "create")
            && arguments.iter().any(|argument| *argument == config)
    }
}

/// Parses the output of `xl info`: `key : value` lines, memory in MiB.
pub fn parse_info(text: &str) -> Result<Memory, HypervisorError> {
    let value = |key: &str| {
        text.lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.trim() == key)
            .and_then(|(_, value)| value.trim().parse().ok())
            .map(Amount::from_mib)
            .ok_or_else(|| HypervisorError::Other(format!("xl info does not tell {key}")))
    };
    Ok(Memory { total: value("total_memory")?, free: value("free_memory")? })
}

/// Parses the output of `xl list -v`, or that of `xl list` and `xm list`, which ends with the time
/// column. Names may contain blanks, so the columns are recognized by their content.
pub fn parse_list(text: &str) -> Result<Vec<Listed>, HypervisorError> {
    let mut lines = text.lines();
    if !lines.next().is_some_and(|heading| heading.starts_with("Name")) {
        return Err(HypervisorError::Other(format!("this is no list of domains: {}", detail(text))));
    }
    lines
        .filter(|line| !line.trim().is_empty())
        .map(|line| {
            parse_row(line)
                .ok_or_else(|| HypervisorError::Other(format!("this is no domain: {}", detail(line))))
        })
        .collect()
}

fn parse_row(line: &str) -> Option<Listed> {
    let words: Vec<&str> = line.split_whitespace().collect();
    // ID Mem VCPUs State Time(s), wherever they start; search from the right, because a name could
    // look like them.
    (1..=words.len().checked_sub(5)?).rev().find_map(|at| {
        let [id, memory, processors, state, time] = words.get(at..at + 5)?.try_into().ok()?;
        let is_state =
            |state: &str| (4..=6).contains(&state.len()) && state.chars().all(|c| "rbpscd-".contains(c));
        if !is_state(state) || processors.parse::<u32>().is_err() {
            return None;
        }
        let (seconds, tenths) = time.split_once('.')?;
        let used = seconds.parse::<u64>().ok()?.checked_mul(10)?.checked_add(tenths.parse().ok()?)?;
        Some(Listed {
            name: words[..at].join(" "),
            id: id.parse().ok()?,
            memory: Amount::from_mib(memory.parse().ok()?),
            state: state.to_owned(),
            used,
            uuid: words.get(at + 5).and_then(|word| Uuid::try_parse(word).ok()),
        })
    })
}

/// Parses the JSON of `xl create -n`.
fn parse_described(output: &ProgramOutput) -> Result<Described, HypervisorError> {
    #[derive(Deserialize)]
    struct Configuration {
        c_info: Info,
    }
    #[derive(Deserialize)]
    struct Info {
        name: String,
        uuid: String,
    }
    serde_json::from_slice::<Configuration>(&output.stdout)
        .map(|read| Described { name: read.c_info.name, uuid: read.c_info.uuid })
        .map_err(|error| HypervisorError::Other(format!("the dry run's answer can't be read: {error}")))
}

/// Determines the cause of a failure from the tool's standard error. The first cause counts,
/// because xl prints the consequences after it.
pub fn explain(stderr: &str) -> HypervisorError {
    let says = |text: &str| stderr.contains(text);
    if says("cannot init xl context") || says("Can't find hypervisor information") || says("Is xend running")
    {
        return HypervisorError::Missing(words(stderr));
    }
    if says("already exists") {
        return HypervisorError::NameTaken;
    }
    if says("is an invalid domain identifier") || says("Non-existant domain") && says("destroy failed") {
        return HypervisorError::NoSuchDomain;
    }
    if let Some(error) = stderr.lines().find_map(syntax_error) {
        return error;
    }
    if says("Domain name must be specified") || says("Neither kernel nor bootloader specified") {
        return HypervisorError::Configuration { line: None, detail: words(stderr) };
    }
    // libxl gives a hotplug script 40 s.
    if let Some((_, rest)) = stderr.split_once("killing execution of ") {
        return HypervisorError::Busy(detail(rest.lines().next().unwrap_or_default()));
    }
    if says("segment kernel too large") {
        return HypervisorError::Other("its memory is too small for its kernel".to_owned());
    }
    if says("Out of memory") || says("Cannot allocate memory") {
        return HypervisorError::NoMemory;
    }
    if let Some((_, rest)) = stderr.split_once("Could not find bridge device ") {
        let bridge = rest.lines().next().unwrap_or_default();
        return HypervisorError::Other(format!("the network bridge {bridge} is missing on this host"));
    }
    HypervisorError::Other(words(stderr))
}

/// Recognizes `FILE:LINE: config parsing error near …` from xl, and `File "FILE", line LINE` from
/// xm's Python.
fn syntax_error(line: &str) -> Option<HypervisorError> {
    if let Some((place, detail)) = line.split_once(": config parsing error ") {
        let number = place.rsplit(':').next().and_then(|number| number.trim().parse().ok());
        return Some(HypervisorError::Configuration { line: number, detail: detail.to_owned() });
    }
    let (_, rest) = line.trim().strip_prefix("File ")?.split_once(", line ")?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Some(HypervisorError::Configuration { line: digits.parse().ok(), detail: "Python syntax".to_owned() })
}

/// Returns the significant part of xl's output, without source locations, routine messages and
/// messages about cleaning up.
fn words(stderr: &str) -> String {
    const NOISE: [&str; 9] = [
        "Parsing config from",
        "Using config file",
        "warning:",
        "Non-existant domain",
        "Unable to destroy guest",
        "Destruction of domain failed",
        "cannot (re-)build domain",
        "exited with error status",
        "Failed to parse config",
    ];
    let telling: Vec<&str> = stderr
        .lines()
        .filter(|line| !NOISE.iter().any(|noise| line.contains(noise)))
        .map(|line| {
            // "libxl: error: libxl_device.c:455:libxl__x: Domain 2:TEXT", "xc: error: panic:
            // file.c:119: TEXT"
            let text = line.split_once(".c:").map_or(line, |(_, after)| {
                let mut rest = after;
                while let Some((part, tail)) = rest.split_once(':') {
                    let part = part.trim();
                    let is_place = part.chars().all(|c| c.is_ascii_digit())
                        || part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') && part.contains('_')
                        || part.strip_prefix("Domain ").is_some_and(|id| id.parse::<u32>().is_ok());
                    if !is_place {
                        break;
                    }
                    rest = tail;
                }
                rest
            });
            text.trim().trim_start_matches("script: ").trim_start_matches("Error: ")
        })
        .filter(|line| !line.is_empty())
        .take(3)
        .collect();
    detail(&telling.join("\n"))
}

/// Adds the last message of the boot loader (pygrub); xl only names its log file.
fn with_boot_loader(error: HypervisorError) -> HypervisorError {
    let HypervisorError::Other(text) = &error else { return error };
    let Some((_, file)) = text.split_once("bootloader failed - consult logfile ") else { return error };
    let file = file.split([';', ' ']).next().unwrap_or_default();
    let log = if file.starts_with("/var/log/xen/bootloader.") && !file.contains("..") {
        std::fs::read(file).unwrap_or_default()
    } else {
        Vec::new()
    };
    let log = String::from_utf8_lossy(&log);
    let last = log.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    HypervisorError::Other(detail(&format!(
        "the boot loader found nothing to start in the image{}{last}",
        if last.is_empty() { "" } else { ": " }
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_parsed() {
        let memory = parse_info(include_str!("../../../tests/data/xl-info.txt")).unwrap();
        assert_eq!((memory.total.mib(), memory.free.mib()), (2047, 1000));
        assert!(parse_info("").is_err());
    }

    #[test]
    fn domains_are_parsed_with_and_without_uuid() {
        let list = parse_list(include_str!("../../../tests/data/xl-list.txt")).unwrap();
        assert_eq!(list.len(), 2);
        assert_eq!((list[0].name.as_str(), list[0].id, list[0].used), ("Domain-0", 0, 1041));
        assert_eq!((list[1].name.as_str(), list[1].state.as_str()), ("alice_vm1", "r-----"));
        assert_eq!(list[1].uuid, None);

        let list = parse_list(include_str!("../../../tests/data/xl-list-v.txt")).unwrap();
        let alice = &list[1];
        assert_eq!((alice.name.as_str(), alice.memory.mib(), alice.used), ("alice_vm1", 128, 49));
        assert_eq!(alice.uuid, Uuid::try_parse("052c249a-3fc5-4dad-a028-4d14b4591a82").ok());
        assert!(alice.is_idle() && alice.is_alive());
        assert!(parse_list("xl: nothing").is_err());
    }

    #[test]
    fn unusual_names_do_not_confuse_the_columns() {
        let heading = "Name   ID   Mem VCPUs\tState\tTime(s)\n";
        let row = |line: &str| parse_list(&format!("{heading}{line}\n")).unwrap().remove(0);
        let odd = row("a 1 2 3 b 5 12 1 --p--- 0.0");
        assert_eq!((odd.name.as_str(), odd.id, odd.is_alive()), ("a 1 2 3 b", 5, false));
        assert_eq!(row("(null) 7 0 1 --p--- 0.0").name, "(null)");
        assert!(parse_list(&format!("{heading}garbage\n")).is_err());
    }

    #[test]
    fn causes_of_failure_are_distinguished() {
        use HypervisorError as E;
        let texts = include_str!("../../../tests/data/xl-create-errors.txt");
        let case = |name: &str| {
            let start = texts.find(&format!("=== {name}\n")).unwrap_or_else(|| panic!("no {name}"));
            let text = &texts[start + name.len() + 5..];
            explain(text.split("===").next().unwrap())
        };
        assert_eq!(case("exists"), E::NameTaken);
        assert_eq!(case("memory"), E::NoMemory);
        assert_eq!(
            case("syntax"),
            E::Configuration { line: Some(6), detail: "near `\"unfinished': lexical error".to_owned() }
        );
        assert!(matches!(case("noname"), E::Configuration { line: None, .. }));
        assert!(matches!(case("noboot"), E::Configuration { line: None, .. }));
        assert_eq!(
            case("bridge"),
            E::Other("the network bridge nosuchbr is missing on this host".to_owned())
        );
        assert_eq!(
            case("nodisk"),
            E::Other("Disk vdev=xvda1 failed to stat: /dev/vg1/nosuchlv: No such file or directory; Unable to set disk defaults for disk 0".to_owned())
        );
        assert!(matches!(case("mounted"), E::Other(text) if text.starts_with("Device /dev/dm-0 is mounted")));
        assert_eq!(
            case("bootloader"),
            E::Other("bootloader failed - consult logfile /var/log/xen/bootloader.17.log".to_owned())
        );
        assert_eq!(case("smallmemory"), E::Other("its memory is too small for its kernel".to_owned()));
        assert!(matches!(case("unprivileged"), E::Missing(_)));
        assert_eq!(case("nosuch"), E::NoSuchDomain);
        assert_eq!(case("nosuchid"), E::NoSuchDomain);
        assert_eq!(case("slow"), E::Busy("/etc/xen/scripts/block add because of timeout".to_owned()));
    }

    #[test]
    fn a_monitoring_process_is_recognized_by_its_configuration() {
        let xen = Xen { tool: Tool::Xl, program: "/usr/sbin/xl".into() };
        let minds = |words: &[&str]| {
            let words: Vec<_> = words.iter().map(|&word| word.to_owned()).collect();
            xen.minds(&words, Path::new("/etc/xen/auto/a_vm1.cfg"))
        };
        assert!(minds(&["/usr/lib/xen-4.17/bin/xl", "create", "/etc/xen/auto/a_vm1.cfg"]));
        assert!(minds(&["xl", "create", "--quiet", "--defconfig", "/etc/xen/auto/a_vm1.cfg"]));
        assert!(!minds(&["xl", "create", "/etc/xen/auto/a_vm11.cfg"]));
        assert!(!minds(&["vi", "create", "/etc/xen/auto/a_vm1.cfg"]));
    }
}
