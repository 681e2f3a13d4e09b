//! Whether a Xen host uses one toolstack, and machines of no other are left on it.

use super::libvirt::{is_enabled, is_in_the_way};
use super::packages::Family;
use crate::check::{Finding, Problem, Verdict};
use crate::config::{self, Toolstack, VmType};
use crate::node::hypervisor;
use crate::node::hypervisor::Installed;
use crate::node::hypervisor::libvirt::xen;

/// Checks that libvirt does not do on this host what `xl` does, or the other way round, and that all
/// machines are where the toolstack in `node.cfg` has them.
pub fn only_one(node: &config::Node) -> Verdict<()> {
    let by_libvirt = node.general.toolstack == Toolstack::Libvirt;
    let (mut problems, own) = (Vec::new(), hypervisor::of(VmType::Xen, &node.general).name());
    for other in hypervisor::others(VmType::Xen, &node.general) {
        match other.all_installed() {
            Ok(made) if made.is_empty() => {}
            Ok(made) => {
                problems.push(left(other.name(), own, &made));
            }
            Err(error) => {
                let why =
                    format!("nothing is known of machines that {} may have here: {error}", other.name());
                problems.push(Problem::new(why, "mend what it names"));
            }
        }
    }
    let service = Family::here().xen_libvirt_service();
    if by_libvirt && is_enabled("xendomains")? == Some(true) {
        problems.push(Problem::new(
            format!("systemd is to start xendomains and {service} with the host, and only one can run"),
            "systemctl disable xendomains",
        ));
    }
    // Not as long as libvirt is needed for the machines that it still has.
    if !by_libvirt && problems.is_empty() && is_in_the_way(service)? {
        let units = format!("{service}.service {service}.socket {service}-ro.socket {service}-admin.socket");
        problems.push(Problem::new(
            format!(
                "when {service} starts, systemd stops xendomains, which shuts down all machines and does not start them with \
                 the host"
            ),
            format!(
                "systemctl disable --now {units} && systemctl enable xendomains; or, for libvirt: toolstack = \"libvirt\" in \
                 node.cfg (INSTALL.md, \"Xen through libvirt\")"
            ),
        ));
    }
    let is_right = problems.is_empty();
    Ok(Finding::partial(is_right.then_some(()), own, problems))
}

/// The problem that another toolstack has machines.
fn left(other: &str, own: &str, made: &[Installed]) -> Problem {
    let mut names: Vec<_> = made.iter().map(named).collect();
    names.sort();
    let count = names.len();
    Problem::new(
        format!(
            "node.cfg says that {own} controls the machines, and {other} has {count}: {}",
            names.join(", ")
        ),
        format!(
            "have each stopped and started, by its owner or in the portal: then {own} gets it (ADMIN.md, \"Another toolstack\")"
        ),
    )
}

/// A definition that nobody can read has no name.
fn named(made: &Installed) -> String {
    if made.name.is_empty() { made.file.display().to_string() } else { made.name.clone() }
}

/// Checks that machines can be given their boot loader.
pub fn boot_loader() -> Verdict<()> {
    let packages = Family::here().install("grub-xen-bin grub-common", "grub2-tools");
    xen::try_boot_loader().map_err(|error| {
        Problem::new(error, format!("{packages}; Debian's /usr/lib/grub/x86_64-xen is needed"))
    })?;
    Ok(Finding::passed((), xen::MAKE_BOOT_LOADER))
}
