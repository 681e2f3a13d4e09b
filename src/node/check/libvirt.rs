//! libvirt: whether it answers, who may use it, and whether a machine gets to run.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use crate::check::rights::WEB_USER;
use crate::check::{OrElse as _, Problem, Seen, Verdict};
use crate::config::{self, VmType};
use crate::node::hypervisor::libvirt::probe;
use crate::node::hypervisor::{self, Hypervisor};
use crate::node::trust;

/// The folder of libvirt's sockets.
const SOCKETS: &str = "/run/libvirt";

/// Checks that libvirt works.
pub fn answers(node: &config::Node) -> Verdict<Box<dyn Hypervisor>> {
    let start = "apt-get install libvirt-daemon-system libvirt-clients && systemctl restart libvirtd; \
                 if that fails: journalctl -u libvirtd";
    let libvirt = hypervisor::of(VmType::Kvm, &node.general);
    let memory = libvirt.memory().or_else_do(start)?;
    let note = format!("libvirt answers, {} of {} MiB are free", memory.free.mib(), memory.total.mib());
    Ok(Seen::well(libvirt, note))
}

/// Checks that only root may talk to libvirt. Whoever may define a domain has root on this host,
/// and even the read-only socket shows all of them.
pub fn sockets_are_roots() -> Verdict<()> {
    let entries = std::fs::read_dir(SOCKETS).or_else_do("see that libvirt runs")?;
    let mut sockets = Vec::new();
    for entry in entries {
        let path = entry.or_else_do("run it again")?.path();
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
        if facts.uid() != 0 || facts.mode() & 0o077 != 0 {
            return Err(Problem::new(
                format!("others than root can open {}", path.display()),
                format!(
                    "systemctl edit {}: [Socket] SocketMode=0600 SocketGroup=root, then systemctl restart it; without \
                     systemd: unix_sock_ro_perms = \"0700\" and unix_sock_rw_perms = \"0700\" in libvirtd.conf",
                    unit(&name)
                ),
            ));
        }
        sockets.push(name);
    }
    if sockets.is_empty() {
        return Err(Problem::new(
            format!("there is no socket of libvirt's in {SOCKETS}"),
            "see that libvirt runs",
        ));
    }
    sockets.sort_unstable();
    Ok(Seen::well((), format!("{WEB_USER} can't open {}", sockets.join(", "))))
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

/// Checks that the directory of the machines is root's alone, and that QEMU gets through it.
pub fn machine_directory(node: &config::Node) -> Verdict<()> {
    let directory = &node.general.machine_directory;
    let make = format!("install -d -o root -g root -m 711 {}", directory.display());
    let real = trust::directory(directory).map_err(|error| Problem::new(error, make.clone()))?;
    for part in real.ancestors() {
        if part.metadata().or_else_do(make.as_str())?.mode() & 0o001 == 0 {
            return Err(Problem::new(
                format!("QEMU can't get through {} to the machines' disks", part.display()),
                format!("chmod o+x {}", part.display()),
            ));
        }
    }
    Ok(Seen::well((), directory.display()))
}

/// Checks that a machine really runs: one that is only a boot loader must say a word.
pub fn machines_run(node: &config::Node) -> Verdict<()> {
    let boot_loader = probe::boot_loader(&node.general)
        .or_else_do("apt-get install grub-pc-bin grub-common, then: /usr/lib/vgrid/vgrid-pcgrub")?;
    let kind = if node.general.allow_emulation { "emulated processor" } else { "KVM" };
    let remedy = if node.general.allow_emulation {
        "see /var/log/libvirt/qemu and journalctl -u libvirtd"
    } else {
        "switch virtualization on in the BIOS (or for nested guests on the host below): modprobe kvm_intel or \
         kvm_amd must succeed, and so must virt-host-validate; or allow slow machines: allowEmulation = true in node.cfg"
    };
    let taken = probe::run(&node.general, Path::new(&boot_loader)).or_else_do(remedy)?;
    Ok(Seen::well((), format!("{kind}: a machine spoke after {:.1} s", taken.as_secs_f64())))
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
}
