//! Why virsh failed, read from what it says.
//!
//! Its exit status is 1 whatever went wrong. Standard error has `error: Failed to …` first, then
//! `error: ` and the reason, which may be that of libvirt, QEMU or the kernel. The texts of 52
//! failures of libvirt 9.0 are in `tests/data/virsh`; those that are not say so below.

use thiserror::Error;

use crate::model::fault::detail;
use crate::node::hypervisor::HypervisorError;

/// Why virsh failed. `Display` is for people.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Cause {
    /// libvirtd does not run, or ended.
    #[error("libvirtd is not running on this host ({0})")]
    NoDaemon(String),
    /// libvirtd does not let this process in.
    #[error("libvirtd lets only root in ({0})")]
    NoPermission(String),
    /// There is no definition and no domain of that name or UUID.
    #[error("there is no such machine")]
    Unknown,
    /// It runs already.
    #[error("it is running already")]
    Running,
    /// It does not run.
    #[error("it is not running")]
    NotRunning,
    /// Another domain has the name.
    #[error("the name {0} is taken")]
    NameTaken(String),
    /// Another domain has the UUID.
    #[error("{0} has the same UUID")]
    UuidTaken(String),
    /// The host has too little free memory.
    #[error("not enough memory")]
    NoMemory,
    /// A disk can't be opened.
    #[error("its disk {path} {}", unusable(.why))]
    Disk {
        /// The disk's path.
        path: String,
        /// What the kernel said.
        why: String,
    },
    /// Another machine has the disk open.
    #[error("its disk {0} is in use by another machine")]
    DiskInUse(String),
    /// Another file can't be opened: the boot loader, or the console's log.
    #[error("the file {path}, which it needs, {}", unusable(.why))]
    File {
        /// The file's path.
        path: String,
        /// What the kernel said.
        why: String,
    },
    /// A network bridge is missing.
    #[error("the network bridge {0} is missing on this host")]
    Bridge(String),
    /// A network of libvirt's is missing, or has not been started.
    #[error("libvirt's network {0} is missing on this host, or not started")]
    Network(String),
    /// The definition is wrong.
    #[error("{what}")]
    Definition {
        /// The line of the definition, if known.
        line: Option<u32>,
        /// What is wrong.
        what: String,
    },
    /// Something else is at work on the domain.
    #[error("{0}")]
    Busy(String),
    /// Anything else, in libvirt's words.
    #[error("{0}")]
    Other(String),
}

impl From<Cause> for HypervisorError {
    fn from(cause: Cause) -> Self {
        let text = cause.to_string();
        match cause {
            Cause::NoDaemon(_) | Cause::NoPermission(_) => Self::Missing(text),
            Cause::Unknown | Cause::NotRunning => Self::NoSuchDomain,
            Cause::NameTaken(_) => Self::NameTaken,
            Cause::NoMemory => Self::NoMemory,
            Cause::Definition { line, what } => Self::Definition { line, detail: what },
            Cause::Busy(_) => Self::Busy(text),
            Cause::Running
            | Cause::UuidTaken(_)
            | Cause::Disk { .. }
            | Cause::DiskInUse(_)
            | Cause::File { .. }
            | Cause::Bridge(_)
            | Cause::Network(_)
            | Cause::Other(_) => Self::Other(text),
        }
    }
}

/// Determines the cause of a failure from virsh's standard error.
pub fn cause(stderr: &str) -> Cause {
    let says = |text: &str| stderr.contains(text);
    let reason = reason(stderr);
    if says("failed to connect to the hypervisor") {
        // The last two are polkit's, and not among the captures.
        let denied = ["Permission denied", "authentication unavailable", "access denied"];
        let is_denied = denied.iter().any(|word| says(word));
        return if is_denied { Cause::NoPermission(reason) } else { Cause::NoDaemon(reason) };
    }
    // These four, of a libvirtd that ends meanwhile, and the lock are not among the captures. A virsh
    // that writes to it is ended by the kernel, and says nothing.
    if says("(SIGPIPE)") {
        return Cause::NoDaemon("the connection broke".to_owned());
    }
    if says("End of file while reading data") || says("Cannot recv data") || says("Disconnected from") {
        return Cause::NoDaemon(reason);
    }
    if says("cannot acquire state change lock") {
        return Cause::Busy(reason);
    }
    if says("failed to get domain") || says("Domain not found") {
        return Cause::Unknown;
    }
    if says("Domain is already active") || says("domain is already running") {
        return Cause::Running;
    }
    if says("domain is not running") {
        return Cause::NotRunning;
    }
    if let Some(name) = between(stderr, "domain '", "' already exists with uuid") {
        return Cause::NameTaken(name);
    }
    if let Some(name) = between(stderr, "domain '", "' is already defined with uuid") {
        return Cause::UuidTaken(name);
    }
    resource(stderr, &reason).or_else(|| definition(stderr, &reason)).unwrap_or(Cause::Other(reason))
}

/// Recognizes something that the host lacks.
fn resource(stderr: &str, reason: &str) -> Option<Cause> {
    let says = |text: &str| stderr.contains(text);
    let why = || reason.rsplit(": ").next().unwrap_or_default().to_owned();
    if says("Cannot allocate memory") {
        return Some(Cause::NoMemory);
    }
    if says("Failed to get \"write\" lock") {
        let disk = between(stderr, "using the image [", "]").unwrap_or_default();
        return Some(Cause::DiskInUse(disk));
    }
    if let Some(path) = between(stderr, "Cannot access storage file '", "'") {
        return Some(Cause::Disk { path, why: why() });
    }
    for sign in ["unable to stat: ", "Unable to open file: "] {
        if let Some((path, why)) = reason.strip_prefix(sign).and_then(|rest| rest.rsplit_once(": ")) {
            return Some(Cause::File { path: path.to_owned(), why: why.to_owned() });
        }
    }
    if let Some(bridge) = between(stderr, "Cannot get interface MTU on '", "'") {
        return Some(Cause::Bridge(bridge));
    }
    // The first is not among the captures.
    between(stderr, "network '", "' is not active")
        .or_else(|| between(stderr, "no network with matching name '", "'"))
        .map(Cause::Network)
}

/// Recognizes a definition that libvirt can't read or carry out.
fn definition(stderr: &str, reason: &str) -> Option<Cause> {
    // "(domain_definition):44: Opening and ending tag mismatch: …", followed by the place as text.
    if let Some((_, rest)) = stderr.split_once("(domain_definition):") {
        let (line, what) = rest.lines().next()?.split_once(": ")?;
        return Some(Cause::Definition { line: line.parse().ok(), what: detail(what) });
    }
    let what = || Some(Cause::Definition { line: None, what: reason.to_owned() });
    if let Some(emulator) = between(stderr, "Cannot check QEMU binary ", ": ") {
        let what = format!("the emulator {emulator} is missing on this host");
        return Some(Cause::Definition { line: None, what });
    }
    let signs =
        ["XML error: ", "unsupported configuration: ", "invalid argument: ", "missing name information"];
    signs.iter().any(|sign| stderr.contains(sign)).then(what).flatten()
}

/// Returns the significant part of virsh's standard error: not what was tried, but what went wrong,
/// without the layers that passed it on.
fn reason(stderr: &str) -> String {
    const LAYERS: [&str; 10] = [
        "internal error: ",
        "operation failed: ",
        "Requested operation is not valid: ",
        "XML error: ",
        "unsupported configuration: ",
        "invalid argument: ",
        "process exited while connecting to monitor: ",
        "qemu unexpectedly closed the monitor: ",
        "Process exited prior to exec: ",
        "libvirt:  error : ",
    ];
    let mut lines: Vec<&str> = stderr.lines().map(|line| line.trim_start_matches("error: ")).collect();
    if lines.len() > 1 && lines[0].to_ascii_lowercase().starts_with("failed to ") {
        lines.remove(0);
    }
    let text = lines.join("\n");
    let mut rest = text.trim();
    while let Some(inner) = LAYERS.iter().find_map(|layer| rest.strip_prefix(layer)) {
        rest = inner;
    }
    // QEMU's own lines: "2026-11-26T17:25:24.643940Z qemu-system-x86_64: …".
    if let Some((_, inner)) = rest.split_once("qemu-system-").and_then(|(before, after)| {
        (before.ends_with("Z ") && !before.contains('\n')).then(|| after.split_once(": ")).flatten()
    }) {
        rest = inner;
    }
    detail(rest)
}

/// Returns the text between two others.
fn between(text: &str, before: &str, after: &str) -> Option<String> {
    // The first text may occur earlier, where the second does not follow.
    text.match_indices(before).find_map(|(at, _)| {
        let line = text[at + before.len()..].lines().next()?;
        let (found, _) = line.split_once(after)?;
        // What is quoted here has no quotation marks.
        (!found.contains('\'')).then(|| found.to_owned())
    })
}

/// Words what the kernel says about a file.
fn unusable(why: &str) -> String {
    if why == "No such file or directory" {
        "is missing on this host".to_owned()
    } else {
        format!("can't be opened: {why}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Captures by name, and their cause.
    type Table = Vec<(&'static [&'static str], Cause)>;

    fn of_domains_and_hosts() -> Table {
        use Cause as C;
        let name = || "alice_vm1".to_owned();
        let missing = || "No such file or directory".to_owned();
        let socket = |suffix: &str, why: &str| {
            format!("Failed to connect socket to '/var/run/libvirt/libvirt-sock{suffix}': {why}")
        };
        vec![
            (
                &[
                    "unknown-domain-domstate",
                    "unknown-domain-start",
                    "unknown-uuid",
                    "undefine-unknown",
                    "destroy-again",
                    "domstate-transient-gone",
                    "bad-emulator-start",
                    "bad-emulator-state",
                    "bad-mac-start",
                    "bad-mac-state",
                    "bad-machine-start",
                    "bad-machine-state",
                    "bad-not-closed-start",
                    "bad-not-closed-state",
                    "bad-vcpu-word-start",
                    "bad-vcpu-word-state",
                ],
                C::Unknown,
            ),
            (&["start-running"], C::Running),
            (&["destroy-when-off", "shutdown-when-off"], C::NotRunning),
            (&["define-name-exists", "create-name-exists"], C::NameTaken(name())),
            (&["define-uuid-exists"], C::UuidTaken(name())),
            (
                &["bad-disk-missing-start"],
                C::Disk { path: "/var/lib/libvirt/images/nothing.raw".to_owned(), why: missing() },
            ),
            (&["start-same-disk"], C::DiskInUse("/var/lib/libvirt/images/alice_vm1.raw".to_owned())),
            (
                &["bad-kernel-missing-start"],
                C::File { path: "/var/lib/libvirt/boot/none".to_owned(), why: missing() },
            ),
            (
                &["bad-log-dir-start"],
                C::File { path: "/var/log/nowhere/guest-alice_vm1.log".to_owned(), why: missing() },
            ),
            (&["bad-bridge-missing-start"], C::Bridge("nobr0".to_owned())),
            (&["bad-memory-start", "bad-memory-64g-start", "bad-memory-prealloc-start"], C::NoMemory),
            (&["daemon-not-running"], C::NoDaemon(socket("", "No such file or directory"))),
            (&["www-data-rw"], C::NoPermission(socket("", "Permission denied"))),
            (&["www-data-ro"], C::NoPermission(socket("-ro", "Permission denied"))),
            (
                &["www-data-session"],
                C::NoPermission(
                    "Cannot create user runtime directory '/nonexistent/.cache/libvirt': Permission denied"
                        .to_owned(),
                ),
            ),
        ]
    }

    fn of_definitions_and_others() -> Table {
        use Cause as C;
        let config = |what: &str| C::Definition { line: None, what: what.to_owned() };
        let at = |line: u32, what: &str| C::Definition { line: Some(line), what: what.to_owned() };
        vec![
            (
                &["bad-not-closed-define"],
                at(44, "Opening and ending tag mismatch: devices line 22 and domain"),
            ),
            (&["bad-not-xml"], at(1, "Start tag expected, '<' not found")),
            (&["bad-no-name"], config("missing name information")),
            (&["bad-name-slash"], config("name a/b cannot contain '/'")),
            (&["bad-vcpu-word-define"], config("maximum vcpus count must be an integer")),
            (&["bad-mac-define"], config("unable to parse mac address '01:02:03:04:05'")),
            (&["bad-machine-define"], config("No PCI buses available")),
            (&["bad-emulator-define"], config("the emulator /usr/bin/nosuch is missing on this host")),
            (&["translate-cpu-mode"], config("Invalid mode attribute 'nosuch'")),
            (&["translate-unit"], config("unknown suffix 'parsec'")),
            (&["translate-cut-off"], at(85, "Premature end of data in tag domain line 10")),
            (&["start-network-missing"], C::Network("lan".to_owned())),
            (
                &["bad-memory-locked-start"],
                C::Other(
                    "cannot limit locked memory of process 3593 to 9007199254740991: Operation not permitted"
                        .to_owned(),
                ),
            ),
            (&["autostart-transient"], C::Other("cannot set autostart for transient domain".to_owned())),
            (&["efi-undefine"], C::Other("cannot undefine domain with nvram".to_owned())),
            (
                &["define-no-file"],
                C::Other("Failed to open file '/nowhere.xml': No such file or directory".to_owned()),
            ),
            (&["usage-no-argument"], C::Other("command 'start' requires <domain> option".to_owned())),
            (&["usage-unknown-command"], C::Other("unknown command: 'frobnicate'".to_owned())),
        ]
    }

    #[test]
    fn the_cause_of_every_captured_failure_is_known() {
        let table = [of_domains_and_hosts(), of_definitions_and_others()].concat();
        let texts = include_str!("../../../../tests/data/virsh/errors.txt");
        let mut untested: Vec<&str> = Vec::new();
        let mut seen = 0;
        for section in texts.split("=== ").skip(1) {
            let (case, stderr) = section.split_once('\n').unwrap();
            match table.iter().find(|(cases, _)| cases.contains(&case)) {
                Some((_, expected)) => assert_eq!(cause(stderr.trim_end()), *expected, "{case}"),
                None => untested.push(case),
            }
            seen += 1;
        }
        assert_eq!(untested, Vec::<&str>::new());
        assert_eq!(seen, table.iter().map(|(cases, _)| cases.len()).sum::<usize>());
    }

    #[test]
    fn failures_that_were_not_captured_are_known_too() {
        for (stderr, expected) in [
            ("error: Domain not found: no domain with matching uuid 'x'", "there is no such machine"),
            (
                "error: Failed to start domain 'a_vm1'\nerror: Requested operation is not valid: network 'lan' is not active",
                "libvirt's network lan is missing on this host, or not started",
            ),
            (
                "error: Failed to start domain 'a_vm1'\nerror: Cannot access storage file '/dev/vg1/x' (as uid:64055, gid:108): Permission denied",
                "its disk /dev/vg1/x can't be opened: Permission denied",
            ),
            (
                "error: failed to connect to the hypervisor\nerror: authentication unavailable: no polkit agent available to authenticate action 'org.libvirt.unix.manage'",
                "libvirtd lets only root in (authentication unavailable: no polkit agent available to authenticate action 'org.libvirt.unix.manage')",
            ),
            (
                "error: Disconnected from qemu:///system due to end of file\nerror: End of file while reading data: Input/output error",
                "libvirtd is not running on this host (Disconnected from qemu:///system due to end of file; End of file while reading data: Input/output error)",
            ),
            (
                "error: Failed to destroy domain 'a_vm1'\nerror: Timed out during operation: cannot acquire state change lock (held by monitor=remoteDispatchDomainShutdown)",
                "Timed out during operation: cannot acquire state change lock (held by monitor=remoteDispatchDomainShutdown)",
            ),
            ("signal: 13 (SIGPIPE)", "libvirtd is not running on this host (the connection broke)"),
            ("", ""),
        ] {
            assert_eq!(cause(stderr).to_string(), expected);
        }
    }

    #[test]
    fn callers_can_tell_failures_apart() {
        use HypervisorError as E;
        let error = |cause: Cause| E::from(cause);
        assert_eq!(error(Cause::Unknown), E::NoSuchDomain);
        assert_eq!(error(Cause::NotRunning), E::NoSuchDomain);
        assert_eq!(error(Cause::NameTaken("x".to_owned())), E::NameTaken);
        assert_eq!(error(Cause::NoMemory), E::NoMemory);
        assert!(matches!(error(Cause::NoDaemon("x".to_owned())), E::Missing(_)));
        assert!(matches!(error(Cause::NoPermission("x".to_owned())), E::Missing(_)));
        assert!(matches!(error(Cause::Busy("x".to_owned())), E::Busy(_)));
        assert_eq!(
            error(Cause::Bridge("br0".to_owned())),
            E::Other("the network bridge br0 is missing on this host".to_owned())
        );
        assert_eq!(
            error(Cause::Definition { line: Some(3), what: "x".to_owned() }),
            E::Definition { line: Some(3), detail: "x".to_owned() }
        );
        let path = "/x".to_owned();
        let why = "No such file or directory".to_owned();
        assert_eq!(
            error(Cause::Disk { path, why }),
            E::Other("its disk /x is missing on this host".to_owned())
        );
    }
}
