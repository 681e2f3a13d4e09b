//! The output of `xl` and `xm`. Pure; tested on captured output.

use serde::Deserialize;
use uuid::Uuid;

use crate::model::fault::detail;
use crate::model::names::DomainNumber;
use crate::model::size::Amount;
use crate::node::hypervisor::{DomainState, HypervisorError, Listed, Memory};
use crate::system::exec::ProgramOutput;

/// The content of a configuration file, as parsed by the toolstack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// The domain's name.
    pub name: String,
    /// The UUID.
    pub uuid: String,
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
            number: DomainNumber::new(id.parse().ok()?),
            memory: Amount::from_mib(memory.parse().ok()?),
            state: parse_state(state),
            used,
            uuid: words.get(at + 5).and_then(|word| Uuid::try_parse(word).ok()),
        })
    })
}

/// Interprets the state column of `xl list` (xl(1)): `r` running, `b` blocked (idle), `p` paused,
/// `s` shut down, `c` crashed, `d` dying. No letter at all means that the domain waits for a
/// processor.
fn parse_state(column: &str) -> DomainState {
    let letters = [
        ('d', DomainState::Dying),
        ('c', DomainState::Crashed),
        ('s', DomainState::ShutDown),
        ('p', DomainState::Paused),
    ];
    letters
        .into_iter()
        .find_map(|(letter, state)| column.contains(letter).then_some(state))
        .unwrap_or(DomainState::Running)
}

/// Parses the JSON of `xl create -n`.
pub fn parse_described(output: &ProgramOutput) -> Result<Described, HypervisorError> {
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
        return HypervisorError::Definition { line: None, detail: words(stderr) };
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
        return Some(HypervisorError::Definition { line: number, detail: detail.to_owned() });
    }
    let (_, rest) = line.trim().strip_prefix("File ")?.split_once(", line ")?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Some(HypervisorError::Definition { line: digits.parse().ok(), detail: "Python syntax".to_owned() })
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
pub fn with_boot_loader(error: HypervisorError) -> HypervisorError {
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
        let memory = parse_info(include_str!("../../../../tests/data/xl-info.txt")).unwrap();
        assert_eq!((memory.total.mib(), memory.free.mib()), (2047, 1000));
        assert!(parse_info("").is_err());
    }

    #[test]
    fn domains_are_parsed_with_and_without_uuid() {
        let list = parse_list(include_str!("../../../../tests/data/xl-list.txt")).unwrap();
        assert_eq!(list.len(), 2);
        assert_eq!(
            (list[0].name.as_str(), list[0].number, list[0].used),
            ("Domain-0", DomainNumber::CONTROL, 1041)
        );
        assert_eq!((list[1].name.as_str(), list[1].state), ("alice_vm1", DomainState::Running));
        assert_eq!(list[1].uuid, None);

        let list = parse_list(include_str!("../../../../tests/data/xl-list-v.txt")).unwrap();
        let alice = &list[1];
        assert_eq!((alice.name.as_str(), alice.memory.mib(), alice.used), ("alice_vm1", 128, 49));
        assert_eq!(alice.uuid, Uuid::try_parse("052c249a-3fc5-4dad-a028-4d14b4591a82").ok());
        assert_eq!(alice.state, DomainState::Running, "blocked");
        assert!(parse_list("xl: nothing").is_err());
    }

    #[test]
    fn the_state_column_is_interpreted() {
        for (column, state) in [
            ("r-----", DomainState::Running),
            ("-b----", DomainState::Running),
            ("------", DomainState::Running),
            ("--p---", DomainState::Paused),
            ("---s--", DomainState::ShutDown),
            ("---sc-", DomainState::Crashed),
            ("--psd", DomainState::Dying),
        ] {
            assert_eq!(parse_state(column), state, "{column}");
        }
    }

    #[test]
    fn unusual_names_do_not_confuse_the_columns() {
        let heading = "Name   ID   Mem VCPUs\tState\tTime(s)\n";
        let row = |line: &str| parse_list(&format!("{heading}{line}\n")).unwrap().remove(0);
        let odd = row("a 1 2 3 b 5 12 1 --p--- 0.0");
        assert_eq!(
            (odd.name.as_str(), odd.number, odd.state),
            ("a 1 2 3 b", DomainNumber::new(5), DomainState::Paused)
        );
        assert_eq!(row("(null) 7 0 1 --p--- 0.0").name, "(null)");
        assert!(parse_list(&format!("{heading}garbage\n")).is_err());
    }

    #[test]
    fn causes_of_failure_are_distinguished() {
        use HypervisorError as E;
        let texts = include_str!("../../../../tests/data/xl-create-errors.txt");
        let case = |name: &str| {
            let start = texts.find(&format!("=== {name}\n")).unwrap_or_else(|| panic!("no {name}"));
            let text = &texts[start + name.len() + 5..];
            explain(text.split("===").next().unwrap())
        };
        assert_eq!(case("exists"), E::NameTaken);
        assert_eq!(case("memory"), E::NoMemory);
        assert_eq!(
            case("syntax"),
            E::Definition { line: Some(6), detail: "near `\"unfinished': lexical error".to_owned() }
        );
        assert!(matches!(case("noname"), E::Definition { line: None, .. }));
        assert!(matches!(case("noboot"), E::Definition { line: None, .. }));
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
}
