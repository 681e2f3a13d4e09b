//! libvirt: whether it answers, who may use it, how it starts and ends with the host, and whether a
//! machine gets to run.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::packages::Family;
use crate::check::rights::{self, WEB_USER};
use crate::check::{Finding, Problem, Verdict, WithRemedy as _};
use crate::config::{self, VmType};
use crate::node::files::FileError;
use crate::node::hypervisor::libvirt::{BOOT_LOADER, CONSOLES, probe};
use crate::node::hypervisor::{self, Hypervisor, HypervisorError};
use crate::node::trust;
use crate::system::exec::{self, ExecError, Run};

/// The folder of libvirt's sockets.
const SOCKETS: &str = "/run/libvirt";

/// The socket of virtlogd, or of systemd, which starts it.
const VIRTLOGD: &str = "/run/libvirt/virtlogd-sock";

/// Where libvirt-guests is configured: on Debian, and on RHEL.
const GUESTS: [&str; 2] = ["/etc/default/libvirt-guests", "/etc/sysconfig/libvirt-guests"];

/// Checks that libvirt works.
pub fn answers(node: &config::Node) -> Verdict<Box<dyn Hypervisor>> {
    let family = Family::here();
    let service = family.libvirt_service();
    let packages =
        family.install("libvirt-daemon-system libvirt-clients qemu-system-x86", "libvirt qemu-kvm");
    let start = format!("{packages} && systemctl restart {service}; if that fails: journalctl -u {service}");
    let libvirt = hypervisor::of(VmType::Kvm, &node.general);
    let memory = libvirt.memory().with_remedy(start)?;
    let note = format!("libvirt answers, {} of {} MiB are free", memory.free.mib(), memory.total.mib());
    Ok(Finding::passed(libvirt, note))
}

/// Checks that only root may talk to libvirt. Whoever may define a domain has root on this host,
/// and even the read-only socket shows all of them.
pub fn sockets_are_roots() -> Verdict<()> {
    let entries = std::fs::read_dir(SOCKETS).with_remedy("see that libvirt runs")?;
    let (mut sockets, mut open) = (Vec::new(), Vec::new());
    for entry in entries {
        let path = entry.with_remedy("run it again")?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // Of libvirtd, or of virtqemud, virtproxyd and their like. Those of virtlogd and virtlockd
        // are libvirt's own.
        let is_api = name.ends_with("-sock") || name.ends_with("-sock-ro");
        if !is_api || name.starts_with("virtlog") || name.starts_with("virtlock") {
            continue;
        }
        let Ok(facts) = path.symlink_metadata() else { continue };
        if !facts.file_type().is_socket() {
            continue;
        }
        let is_open = facts.uid() != 0 || facts.mode() & 0o077 != 0;
        if is_open { &mut open } else { &mut sockets }.push(name);
    }
    for names in [&mut open, &mut sockets] {
        names.sort_unstable();
    }
    if !open.is_empty() {
        let units: Vec<String> = open.iter().map(|socket| unit(socket)).collect();
        let units = units.join(" ");
        return Err(Problem::new(
            format!("others than root can open {} in {SOCKETS}", open.join(", ")),
            format!(
                "INSTALL.md, \"A KVM host by hand\": SocketMode=0600 and SocketGroup=root for {units}; without systemd: \
                 unix_sock_ro_perms = \"0700\" and unix_sock_rw_perms = \"0700\" in /etc/libvirt/libvirtd.conf"
            ),
        ));
    }
    if sockets.is_empty() {
        return Err(Problem::new(
            format!("there is no socket of libvirt's in {SOCKETS}"),
            "see that libvirt runs",
        ));
    }
    Ok(Finding::passed((), format!("{WEB_USER} can't open {}", sockets.join(", "))))
}

/// Returns the name of the systemd unit of a socket: `libvirt-sock-ro` is libvirtd-ro.socket's.
fn unit(socket: &str) -> String {
    let (daemon, kind) = match socket.strip_suffix("-sock-ro") {
        Some(daemon) => (daemon, "-ro"),
        None => (socket.strip_suffix("-sock").unwrap_or(socket), ""),
    };
    let daemon = if daemon == "libvirt" { "libvirtd" } else { daemon };
    format!("{daemon}{kind}.socket")
}

/// Checks that libvirt is started with the host, and with it the machines. A socket of systemd's is
/// not enough: libvirtd would run, and start machines, once somebody asks for it.
pub fn starts_with_host(service: &str) -> Verdict<()> {
    match is_enabled(service)? {
        Some(true) => Ok(Finding::passed((), format!("systemd starts {service} with the host"))),
        Some(false) => Err(Problem::new(
            format!("systemd does not start {service} with the host, so no machine is started then"),
            format!("systemctl enable {service}"),
        )),
        None => Ok(Finding::passed(
            (),
            "there is no systemd here: see yourself that libvirt starts with the host",
        )),
    }
}

/// Checks that libvirt-guests, if it is used, shuts machines down with the host, before libvirt
/// itself ends, and does not write their memory to its disk.
pub fn guests_are_shut_down(uri: &str, service: &str) -> Verdict<()> {
    let Some(file) = GUESTS.iter().find(|file| Path::new(file).exists()) else {
        return Ok(Finding::passed((), "libvirt-guests is not configured here"));
    };
    if is_enabled("libvirt-guests")? == Some(false) {
        return Err(Problem::new(
            "nothing shuts the machines down before the host: the service libvirt-guests is off",
            "systemctl enable --now libvirt-guests",
        ));
    }
    let text = std::fs::read_to_string(file)
        .map_err(|error| format!("{file}: {}", rights::describe(&error)))
        .with_remedy(format!("ls -l {file}"))?;
    // Debian changes what libvirt-guests does by default.
    let unset = if Family::here() == Family::Debian { "shutdown" } else { "suspend" };
    let action = setting(&text, "ON_SHUTDOWN").unwrap_or(unset);
    if action != "shutdown" {
        return Err(Problem::new(
            format!("when the host shuts down, libvirt-guests does not shut machines down, but: {action}"),
            format!("ON_SHUTDOWN=shutdown in {file}"),
        ));
    }
    // Debian 12 orders it after the socket alone. Then both ended at once, and it could not connect.
    let unit = format!("{service}.service");
    if property("libvirt-guests.service", "After")?.is_some_and(|after| !after.contains(&unit)) {
        return Err(Problem::new(
            format!(
                "when the host shuts down, {service} may end before libvirt-guests has shut down the machines"
            ),
            format!(
                "After={unit} for libvirt-guests.service (INSTALL.md, \"Xen through libvirt\": systemd's drop-in)"
            ),
        ));
    }
    // The default is that of virsh: Xen's on a host of Xen's.
    if let Some(uris) = setting(&text, "URIS").filter(|uris| !uris.contains(uri) && !uris.contains("default"))
    {
        return Err(Problem::new(
            format!("libvirt-guests shuts down the machines of {uris} with the host, and not those of {uri}"),
            format!("URIS={uri} in {file}"),
        ));
    }
    Ok(Finding::passed((), format!("{file}: machines shut down with the host")))
}

/// Returns whether a service that is there, and is started with the host or by its socket, ends
/// xendomains when it starts: in libvirt's own units, they conflict.
pub fn is_in_the_way(service: &str) -> Result<bool, Problem> {
    let unit = format!("{service}.service");
    if !property(&unit, "Conflicts")?.is_some_and(|conflicts| conflicts.contains("xendomains.service")) {
        return Ok(false);
    }
    let socket = format!("{service}.socket");
    Ok([unit, socket].iter().map(|unit| is_enabled(unit)).any(|is| !matches!(is, Ok(None | Some(false)))))
}

/// Asks systemd for a property of a unit; `None` without systemd.
fn property(unit: &str, name: &str) -> Result<Option<String>, Problem> {
    if !Path::new("/run/systemd/system").is_dir() {
        return Ok(None);
    }
    let Some(program) = exec::find(&["systemctl"]) else { return Ok(None) };
    let run = Run::new(program).args(["show", &format!("--property={name}"), unit]);
    let shown = run.limit(Duration::from_secs(10)).run();
    Ok(Some(shown.with_remedy(format!("systemctl show --property={name} {unit}"))?.text()))
}

/// Asks systemd whether it starts a service with the host; `None` without systemd.
pub fn is_enabled(service: &str) -> Result<Option<bool>, Problem> {
    // sd_booted(3).
    if !Path::new("/run/systemd/system").is_dir() {
        return Ok(None);
    }
    let Some(program) = exec::find(&["systemctl"]) else { return Ok(None) };
    let run = Run::new(program).args(["is-enabled", service]).limit(Duration::from_secs(10));
    let answer = match run.run() {
        Ok(output) => output.text(),
        // It fails if the answer is no.
        Err(ExecError::Failed { stdout, .. }) => String::from_utf8_lossy(&stdout).into_owned(),
        Err(error) => return Err(Problem::new(error, format!("systemctl is-enabled {service}"))),
    };
    Ok(Some(matches!(answer.trim(), "enabled" | "enabled-runtime")))
}

/// Returns the last value of a variable in a piece of shell that only sets variables.
fn setting<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let value = |line: &'a str| line.trim().strip_prefix(name)?.strip_prefix('=');
    text.lines().filter_map(value).next_back().map(|value| value.trim_matches(['"', '\'']))
}

/// Checks that consoles are logged where vGrid looks for them.
pub fn consoles_are_logged() -> Verdict<()> {
    let folder = Path::new(CONSOLES);
    roots_alone(folder, &format!("install -d -o root -g root -m 755 {}", folder.display()))?;
    UnixStream::connect(VIRTLOGD)
        .map_err(|error| format!("virtlogd, which logs consoles, does not answer at {VIRTLOGD}: {error}"))
        .with_remedy("systemctl enable --now virtlogd.socket; without systemd: virtlogd -d")?;
    Ok(Finding::passed((), format!("virtlogd logs them in {}", folder.display())))
}

/// Checks that a directory is root's alone, and returns its real path. `make` makes it.
fn roots_alone(directory: &Path, make: &str) -> Result<PathBuf, Problem> {
    trust::directory(directory).map_err(|error| {
        let remedy = match &error {
            FileError::Shared { part, .. } => format!("chown root {0} && chmod go-w {0}", part.display()),
            _ => make.to_owned(),
        };
        Problem::new(error, remedy)
    })
}

/// Checks that the directory of the machines is root's alone, and that QEMU gets through it.
pub fn machine_directory(node: &config::Node) -> Verdict<()> {
    let directory = &node.general.machine_directory;
    let make = format!("install -d -o root -g root -m 711 {}", directory.display());
    let real = roots_alone(directory, &make)?;
    for part in real.ancestors() {
        if part.metadata().with_remedy(make.as_str())?.mode() & 0o001 == 0 {
            return Err(Problem::new(
                format!("QEMU can't get through {} to the machines' disks", part.display()),
                format!("chmod o+x {}", part.display()),
            ));
        }
    }
    Ok(Finding::passed((), directory.display()))
}

/// Checks that the machines have a boot loader, which is made now if it is missing.
pub fn boot_loader(node: &config::Node) -> Verdict<PathBuf> {
    let packages = Family::here().install("grub-pc-bin grub-common", "grub2-pc-modules grub2-tools");
    let there = node.general.machine_directory.join(BOOT_LOADER);
    let file = probe::boot_loader(&node.general).map_err(|error| {
        let first = match error {
            HypervisorError::File(_) => format!("rm {}", there.display()),
            _ => packages,
        };
        Problem::new(error, format!("{first}, then: /usr/lib/vgrid/vgrid-pcgrub"))
    })?;
    let note = file.display().to_string();
    Ok(Finding::passed(file, note))
}

/// Checks that a machine really runs: one that is only a boot loader must say a word.
pub fn machines_run(node: &config::Node, boot_loader: &Path) -> Verdict<()> {
    let is_emulated = node.general.allow_emulation;
    let remedy = if is_emulated {
        format!(
            "see /var/log/libvirt/qemu and journalctl -u {}; is the boot loader whole? /usr/lib/vgrid/vgrid-pcgrub makes it anew",
            Family::here().libvirt_service()
        )
    } else {
        "switch virtualization on in the BIOS (or for nested guests on the host below): modprobe kvm_intel or \
         kvm_amd must succeed, and so must virt-host-validate; or allow slow machines: allowEmulation = true in node.cfg"
            .to_owned()
    };
    let taken = probe::run(&node.general, boot_loader).map_err(|error| match error {
        // The definition is the probe's, so its lines say nothing.
        HypervisorError::Definition { detail, .. } => Problem::new(detail, &remedy),
        other => Problem::new(other, &remedy),
    })?;
    let taken = taken.as_secs_f64();
    let note = if is_emulated {
        format!("emulated, so they are slow (allowEmulation): one spoke after {taken:.1} s")
    } else {
        format!("KVM: one spoke after {taken:.1} s")
    };
    Ok(Finding::passed((), note))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_belong_to_units() {
        for (socket, expected) in [
            ("libvirt-sock", "libvirtd.socket"),
            ("libvirt-sock-ro", "libvirtd-ro.socket"),
            ("virtqemud-sock", "virtqemud.socket"),
            ("virtqemud-sock-ro", "virtqemud-ro.socket"),
        ] {
            assert_eq!(unit(socket), expected);
        }
    }

    #[test]
    fn the_last_setting_counts() {
        let text = "# ON_SHUTDOWN=suspend\n#ON_SHUTDOWN=suspend\nON_SHUTDOWN_NOT=x\n ON_SHUTDOWN=\"suspend\"\n\
                    ON_SHUTDOWN='shutdown'\n";
        assert_eq!(setting(text, "ON_SHUTDOWN"), Some("shutdown"));
        assert_eq!(setting("#ON_SHUTDOWN=shutdown\n", "ON_SHUTDOWN"), None);
    }
}
