//! Layer 2: the part that runs on each host of the pool.
//!
//! It consists of three programs, from top to bottom:
//!
//! | module | runs as | what it does |
//! | --- | --- | --- |
//! | [`endpoints`] | the web server's user, under Apache | answers the server's orders and queries |
//! | [`worker`] | the web server's user, detached | carries out one order, and reports its stages |
//! | [`helper`] | root, through sudo | the only program that runs as root; a fixed list of verbs |
//!
//! [`check`] is the node's part of `vgrid-check`. Below the endpoints and the worker are
//! [`privileged`], which calls the helper, and [`report`], which talks to the server; below the
//! helper are [`host`] (the host's state and free resources), [`jobs`] (the records), [`image`]
//! (compression, saved images), [`filesystem`] (superblocks), [`storage`] and [`hypervisor`] (the
//! programs that the helper runs), [`files`] and [`trust`] (root's files).

pub mod check;
pub mod endpoints;
pub mod files;
pub mod filesystem;
pub mod helper;
pub mod host;
pub mod hypervisor;
pub mod image;
pub mod jobs;
pub mod privileged;
pub mod report;
pub mod storage;
pub mod trust;
pub mod worker;

use crate::model::names::{MachineName, UserName, VirtualHost, VmId, VolumeGroup};
use crate::model::size::{Cpus, MiB};
use crate::template::machine::{LibvirtValues, Values};

/// A machine as the helper knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Its id, with which everything that belongs to it is marked.
    pub id: VmId,
    /// Its name, USER_HOST, which is also that of its domain.
    pub name: MachineName,
}

/// The path of the helper, which runs as root.
pub const HELPER: &str = "/usr/lib/vgrid/vgrid-helper";
/// The path of the worker, which carries out one order.
pub const WORKER: &str = "/usr/lib/vgrid/vgrid-worker";

/// Returns the values for the placeholders of a machine's template, but for those that only its
/// hypervisor knows.
// One argument for each placeholder.
#[allow(clippy::too_many_arguments)]
fn template_values(
    machine: &MachineName,
    user: &UserName,
    host: &VirtualHost,
    ip: std::net::Ipv4Addr,
    memory: MiB,
    cpus: Cpus,
    group: Option<&VolumeGroup>,
    extra: &str,
) -> Values {
    Values {
        machinename: machine.to_string(),
        vm_ip: ip.to_string(),
        vm_hostname: host.to_string(),
        vm_memory: memory.get(),
        vm_cpus: cpus.get(),
        username: user.encoded(),
        vm_extra: extra.to_owned(),
        volumegroup: group.map(VolumeGroup::to_string).unwrap_or_default(),
        libvirt: LibvirtValues::default(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{self, Common};
    use crate::template::machine;

    fn etc() -> &'static Path {
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/etc"))
    }

    #[test]
    fn the_example_configuration_is_valid() {
        let common = Common::load(etc()).unwrap();
        let node = config::Node::load(etc()).unwrap();
        for (tag, _) in &common.images {
            let image = node.image(tag).unwrap();
            assert!(image.file.starts_with("/var/lib/vgrid/images"), "{image:?}");
        }
        assert_eq!(node.images().count(), common.images.len());
        assert_eq!(node.image(&"tiny".parse().unwrap()).unwrap().swap.get(), 16);
        assert!(node.volume_group().is_some());
    }

    #[test]
    fn the_templates_are_rendered_and_differ_only_in_the_disk() {
        let dir = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/vmtmpl"));
        let values = template_values(
            &"alice_vm1".parse().unwrap(),
            &"alice".parse().unwrap(),
            &"vm1".parse().unwrap(),
            "10.0.2.21".parse().unwrap(),
            "128".parse().unwrap(),
            "4".parse().unwrap(),
            "vg1".parse().ok().as_ref(),
            "quiet",
        );
        let xvda = machine::render_file(&dir.join("xen-xvda"), &values).unwrap();
        let sda = machine::render_file(&dir.join("xen-sda"), &values).unwrap();
        let lines = |text: &str| text.lines().skip(1).map(|l| l.replace("xvda", "sda")).collect::<Vec<_>>();
        assert_eq!(lines(&xvda), lines(&sda));
        let extra =
            "extra = \"vgrid_username=alice ip=10.0.2.21::GATEWAY:NETMASK:vm1:eth0:off console=hvc0 quiet\"";
        assert!(xvda.contains(extra), "{xvda}");
        assert!(xvda.contains("\nmemory = 128\nvcpus = 4\n"), "{xvda}");
        let pvgrub = machine::render_file(&dir.join("xen-pvgrub"), &values).unwrap();
        assert!(pvgrub.contains("\nvcpus = 4\n"), "{pvgrub}");
        assert!(xvda.contains("\"phy:/dev/vg1/xen-root-alice_vm1,xvda1,w\""), "{xvda}");
    }
}
