//! The node's part of `vgrid-check`.

mod consoles;
mod filesystems;
mod images;
mod libvirt;
mod packages;
mod programs;
mod server;
mod storage;
mod templates;
mod toolstacks;
mod xen;

use std::time::Duration;

use super::{HELPER, WORKER};
use crate::check::apache::{self, Own};
use crate::check::common::Basis;
use crate::check::{Checks, Fact, Finding, Problem, Verdict, WithRemedy as _, rights};
use crate::config::{self, Common, Toolstack, VmType};
use crate::node::endpoints::ENDPOINTS;
use crate::system::exec::ExecError;

use packages::Family;
use templates::Rendered;

/// The time limit for the server or the helper to respond.
const LIMIT: Duration = Duration::from_secs(60);

/// Runs the node's checks.
pub fn run(checks: &mut Checks, ground: &Basis) {
    let node = ground.node.as_ref();
    let both = || ground.common.as_ref().and(ground.node.as_ref());
    checks.check("own name", ground.common.as_ref(), own_name);
    apache::site(checks, "node's site", &ground.includes, "vgrid-node", "/cgi-bin/node/");
    let request = checks.request.clone();
    checks.check("node answers", node, |node| {
        let own = Own::new(&ground.own_url, &request, &node.general.ca_file);
        for endpoint in ENDPOINTS {
            own.must_refuse(endpoint.name, endpoint.takes_body())?;
        }
        Ok(Finding::passed((), "strangers are refused"))
    });
    server::checks(checks, ground, &request);

    checks.check_as_root("records", node.and(ground.web.as_ref()), |(node, web)| {
        let folder = &node.general.state_directory;
        rights::private_folder(folder, web)?;
        Ok(Finding::passed((), folder.display()))
    });
    let is_root = checks.is_root();
    let images = checks.check("images", both().and(ground.web.as_ref()), |((common, node), _)| {
        Ok(images::installed(common, node, is_root))
    });
    checks.check_as_root("saved images", node.and(ground.web.as_ref()), |(node, _)| {
        images::can_be_saved(&node.general.image_directory)
    });
    checks.check_as_root("prepared images", node, images::prepared);
    checks.check_as_root("packing", Fact::Known(()), |()| images::packing());
    let programs = checks.check("file system programs", images.as_ref(), filesystems::makers);
    checks.check_as_root("file systems", images.as_ref().and(programs), |(images, ())| {
        Ok(filesystems::made(images))
    });
    let templates = checks.check(
        "templates",
        both().and(ground.names.as_ref()).and(images),
        |(((common, node), names), images)| templates::rendered(common, node, names, &images),
    );

    let types = match ground.node.as_ref().known() {
        _ if checks.is_list() => VmType::ALL.to_vec(),
        Some(node) => node.vm_types(),
        None => vec![VmType::Xen],
    };
    if types.contains(&VmType::Xen) {
        xen_checks(checks, node, templates.as_ref());
    }
    let by_libvirt = node.known().is_some_and(|node| node.general.toolstack == Toolstack::Libvirt);
    if types.contains(&VmType::Xen) && by_libvirt && !types.contains(&VmType::Kvm) {
        shared_checks(checks, node, node, VmType::Xen);
    }
    if types.contains(&VmType::Kvm) {
        libvirt_checks(checks, node, templates.as_ref());
    }
    checks.check("bridge", templates.as_ref().and(node), |(templates, node)| {
        templates::bridges(templates, node)
    });

    let is_lvm = ground.node.as_ref().known().is_none_or(|node| node.volume_group().is_some());
    if checks.is_list() {
        checks.check_as_root("volume group", node, storage::usable);
    }
    let space = if is_lvm && !checks.is_list() {
        checks.check_as_root("volume group", node, storage::usable)
    } else {
        checks.check_as_root("loop devices", node, |_| storage::loop_devices());
        checks.check_as_root("disks", node, storage::usable)
    };
    checks.check("free space", node.and(space), |(node, space)| storage::free_space(node, &space));

    let sudo = checks.check_as_root("sudo's configuration", Fact::Known(()), |()| programs::sudoers());
    let rule = checks.check_as_root("sudo", sudo.and(ground.web.as_ref()), |_| programs::sudo_rule());
    let helper = checks.check("helper", Fact::Known(()), |()| programs::installed(HELPER));
    checks.check("worker", Fact::Known(()), |()| programs::installed(WORKER));
    checks.check_as_root("helper answers", rule.and(helper).and(node), |_| programs::helper_answers());
}

/// Checks what machines of type `xen` need.
fn xen_checks(checks: &mut Checks, node: Fact<&config::Node>, templates: Fact<&Rendered>) {
    let xen = checks.check("Xen", Fact::Known(()), |()| xen::under_xen());
    let toolstack = checks.check_as_root("toolstack", node.and(xen), |(node, ())| xen::toolstack(node));
    checks.check_as_root(
        "templates for the toolstack",
        templates.and(toolstack),
        |(templates, toolstack)| templates::accepted(templates, VmType::Xen, toolstack.as_ref()),
    );
    checks.check_as_root("one toolstack", node, toolstacks::only_one);
    let by_libvirt = node.known().is_some_and(|node| node.general.toolstack == Toolstack::Libvirt);
    if by_libvirt || checks.is_list() {
        checks.check_as_root("boot loader of Xen's machines", node, |_| toolstacks::boot_loader());
    }
    if !by_libvirt || checks.is_list() {
        checks.check("autostart", node, xen::autostart);
    }
    let logged = checks.check("consoles", node, consoles::logged);
    checks.check_as_root("console logs", node.and(logged), |(node, ())| consoles::kept_short(node));
}

/// Checks what machines of type `kvm` need.
fn libvirt_checks(checks: &mut Checks, node: Fact<&config::Node>, templates: Fact<&Rendered>) {
    let libvirt = checks.check_as_root("libvirt", node, libvirt::answers);
    let consoles =
        checks.check_as_root("libvirt's consoles", libvirt.as_ref(), |_| libvirt::consoles_are_logged());
    let directory = shared_checks(checks, node, libvirt.as_ref(), VmType::Kvm);
    let boot_loader =
        checks.check_as_root("boot loader", node.and(directory), |(node, ())| libvirt::boot_loader(node));
    let needed = node.and(libvirt.as_ref()).and(consoles).and(boot_loader);
    let run = checks.check_as_root("machines run", needed, |(((node, _), ()), boot_loader)| {
        libvirt::machines_run(node, &boot_loader)
    });
    // Of a host without KVM, libvirt would refuse the type in them.
    let needed = templates.and(libvirt.as_ref()).and(run);
    checks.check_as_root("templates for libvirt", needed, |((templates, libvirt), ())| {
        templates::accepted(templates, VmType::Kvm, libvirt.as_ref())
    });
}

/// Checks what all machines of libvirt's need. `libvirt` is there if libvirt answers.
fn shared_checks<T>(
    checks: &mut Checks,
    node: Fact<&config::Node>,
    libvirt: Fact<T>,
    vm_type: VmType,
) -> Fact<()> {
    let (service, uri) = match vm_type {
        VmType::Xen => (Family::here().xen_libvirt_service(), "xen:///system"),
        VmType::Kvm => (Family::here().libvirt_service(), "qemu:///system"),
    };
    checks.check_as_root("libvirt's sockets", libvirt, |_| libvirt::sockets_are_roots());
    checks.check("libvirt at boot", node, |_| libvirt::starts_with_host(service));
    checks.check("machines at shutdown", node, |_| libvirt::guests_are_shut_down(uri, service));
    checks.check_as_root("machine directory", node, libvirt::machine_directory)
}

/// Checks that `common.cfg` lists this host under its own name.
fn own_name(common: &Common) -> Verdict<()> {
    let own = nix::unistd::gethostname().with_remedy("hostnamectl set-hostname NAME")?;
    let own = own.to_string_lossy();
    let host = common.physical_hosts.iter().find(|(host, _)| host.is_called(&own));
    match host {
        Some((host, maximum)) => Ok(Finding::passed((), format!("{host}, at most {maximum} machines"))),
        None => Err(Problem::new(
            format!("this host is called {own}, and [PhysicalHostsPool] of common.cfg has no such name"),
            format!(
                "enter it in common.cfg (on all machines): \"{own}\" = 5; or: hostnamectl set-hostname NAME"
            ),
        )),
    }
}

/// Returns the output of a failed program.
fn error_output(error: &ExecError) -> String {
    match error {
        ExecError::Failed { stdout, stderr, .. } if stderr.is_empty() && !stdout.is_empty() => {
            String::from_utf8_lossy(stdout).into_owned()
        }
        ExecError::Failed { .. } => error.said().into_owned(),
        other => other.to_string(),
    }
}
