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
//! (compression, saved images), [`seed`] (what cloud-init is told), [`filesystem`] (superblocks),
//! [`storage`] and [`hypervisor`] (the programs that the helper runs), [`files`] and [`trust`]
//! (root's files).

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
pub mod seed;
pub mod storage;
pub mod trust;
pub mod worker;

use std::net::Ipv4Addr;

use crate::config::{self, ImageSettings, VmType};
use crate::model::names::{MachineName, UserName, VirtualHost, VmId};
use crate::model::size::{Cpus, MiB};
use crate::template::machine::Values;

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

/// What the template of a machine's definition is filled with.
struct Definition<'a> {
    machine: &'a Machine,
    user: &'a UserName,
    host: &'a VirtualHost,
    ip: Ipv4Addr,
    memory: MiB,
    cpus: Cpus,
    /// The text for the host name in common.cfg.
    extra: &'a str,
}

impl Definition<'_> {
    /// Returns the values of the placeholders on this node, for a machine of that type.
    fn values(&self, node: &config::Node, vm_type: VmType) -> Values {
        Values {
            machinename: self.machine.name.to_string(),
            vm_ip: self.ip.to_string(),
            vm_hostname: self.host.to_string(),
            vm_memory: self.memory.get(),
            vm_cpus: self.cpus.get(),
            username: self.user.encoded(),
            vm_extra: self.extra.to_owned(),
            vm_mac: seed::mac(self.ip),
            volumegroup: node.volume_group().map(ToString::to_string).unwrap_or_default(),
            libvirt: hypervisor::of(vm_type, &node.general).placeholders(self.machine),
        }
    }
}

/// Checks that a rendered template goes with its image: that of a whole disk has the seed, which no
/// other image's machines have. Returns what is wrong.
fn misfit(text: &str, values: &Values, image: &ImageSettings) -> Option<&'static str> {
    let seed = &values.libvirt.seed_disk;
    let is_quoted = |quote| text.contains(&format!("{quote}{seed}{quote}"));
    let has_seed = !seed.is_empty() && ['\'', '"'].into_iter().any(is_quoted);
    match (image.disk.is_some(), has_seed) {
        (true, false) => {
            Some("it has no disk ${seedDisk}, which whole-disk images need; kvm-cloud.xml has one")
        }
        (false, true) => {
            Some("it has a disk ${seedDisk}, which only whole-disk images get; kvm.xml has none")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Common;
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
        let machine = Machine { id: VmId::generate(), name: "alice_vm1".parse().unwrap() };
        let definition = Definition {
            machine: &machine,
            user: &"alice".parse().unwrap(),
            host: &"vm1".parse().unwrap(),
            ip: "10.0.2.21".parse().unwrap(),
            memory: "128".parse().unwrap(),
            cpus: "4".parse().unwrap(),
            extra: "quiet",
        };
        let node = config::Node::load(etc()).unwrap();
        let values = definition.values(&node, VmType::Xen);
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
