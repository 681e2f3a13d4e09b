//! Xen: the control domain, its toolstack, and the autostart directory.

use super::packages::Family;
use crate::check::{Finding, Problem, Verdict, WithRemedy as _};
use crate::config::{self, VmType};
use crate::node::hypervisor::{self, Hypervisor};
use crate::node::trust;

/// Checks that this host is Xen's control domain.
pub fn under_xen() -> Verdict<()> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    if read("/sys/hypervisor/type").trim() != "xen" {
        return Err(Problem::new(
            "this host does not run under Xen",
            "apt-get install xen-system-amd64, and choose the entry with Xen at boot (INSTALL.md, \"A Xen host by hand\")",
        ));
    }
    if read("/proc/xen/capabilities").contains("control_d") {
        return Ok(Finding::passed((), "this is the control domain"));
    }
    Err(Problem::new(
        "this is not Xen's control domain, or /proc/xen is not mounted",
        "mount -t xenfs xenfs /proc/xen; if that does not help, this is a guest",
    ))
}

/// Checks that the toolstack works.
pub fn toolstack(node: &config::Node) -> Verdict<Box<dyn Hypervisor>> {
    let start = "apt-get install xen-utils && systemctl restart xen; if that fails: journalctl -u xen";
    let toolstack = hypervisor::of(VmType::Xen, &node.general);
    let memory = toolstack.memory().with_remedy(start)?;
    let family = Family::here();
    let service = family.xen_libvirt_service();
    let packages = family.install(
        "libvirt-daemon-system libvirt-daemon-driver-xen libvirt-clients",
        "libvirt-daemon-driver-libxl libvirt-client",
    );
    toolstack.started_with_host().with_remedy(format!(
        "{packages} && systemctl restart {service}; if that fails: journalctl -u {service}"
    ))?;
    let note =
        format!("{} answers, {} of {} MiB are free", toolstack.name(), memory.free.mib(), memory.total.mib());
    Ok(Finding::passed(toolstack, note))
}

/// Checks that only root can write to the directory from which machines are started at boot.
pub fn autostart(node: &config::Node) -> Verdict<()> {
    let folder = &node.general.xen_auto_directory;
    let make = format!("install -d -o root -g root -m 755 {}", folder.display());
    trust::directory(folder).map_err(|error| Problem::new(error, make))?;
    Ok(Finding::passed((), folder.display()))
}
