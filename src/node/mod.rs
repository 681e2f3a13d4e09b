//! Layer 2: the part on each host of the pool.
//!
//! | module | runs as | what it does |
//! | --- | --- | --- |
//! | [`deploy`], [`terminate`], [`power`], [`save`], [`saved`], [`discard`], [`info`], [`console`] | the web server's user, under Apache | answer the server's orders and questions |
//! | [`worker`] | the web server's user, detached | carries out one order, reports its stages |
//! | [`helper`] | root, by sudo | the only program that does; a fixed list of verbs |
//!
//! The others are theirs: [`jobs`] keeps the records, [`host`] knows what the host has free,
//! [`privileged`] calls the helper, [`report`] talks to the server, [`image`] decompresses, [`filesystem`] knows
//! superblocks, [`lvm`] and [`hypervisor`] understand the programs that the helper runs. [`check`] has the node's part of `vgrid-check`.

pub mod check;
pub mod console;
pub mod deploy;
pub mod discard;
pub mod filesystem;
pub mod helper;
pub mod host;
pub mod hypervisor;
pub mod image;
pub mod info;
pub mod jobs;
pub mod lvm;
pub mod power;
pub mod privileged;
pub mod report;
pub mod save;
pub mod saved;
pub mod terminate;
pub mod worker;

use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::cgi::reply::{Refusal, Reply};
use crate::cgi::serve::NodeCall;
use crate::config::{self, Common};
use crate::model::fault::Fault;
use crate::model::names::{MachineName, UserName, VirtualHost, VolumeGroup};
use crate::model::size::MiB;
use crate::model::wire::MachineOrder;
use crate::template::machine::Values;

use jobs::{Jobs, NodeLock};

/// The program that runs as root.
pub const HELPER: &str = "/usr/lib/vgrid/vgrid-helper";
/// The program that carries out one order.
pub const WORKER: &str = "/usr/lib/vgrid/vgrid-worker";

/// The longest console tail that is handed out, in bytes.
pub const CONSOLE_BYTES: u32 = 64 << 10;

/// What every program of the node needs: `common.cfg`, and the records, swept.
struct Node {
    common: Common,
    jobs: Jobs,
}

impl Node {
    /// Opens the records and starts a worker for whatever an earlier one left unfinished.
    fn open(call: &NodeCall<'_>) -> Result<Self, Refusal> {
        let common = Common::load(&config::directory())?;
        let jobs = Jobs::open(&call.config.general.state_directory).map_err(|error| {
            Refusal::internal(format!("{}: {error}", call.config.general.state_directory.display()))
        })?;
        jobs.sweep();
        saved::Store::new(&call.config).sweep();
        Ok(Self { common, jobs })
    }

    /// Takes the node's lock, under which orders are judged, or refuses.
    fn lock(&self, patience: Duration) -> Result<NodeLock, Refusal> {
        self.jobs
            .lock_node(patience)
            .map_err(Refusal::internal)?
            .ok_or_else(|| Refusal::busy("This host is busy with other orders. Try again in a moment."))
    }
}

/// The order in a request's body.
fn order<T: DeserializeOwned>(call: &NodeCall<'_>) -> Result<T, Refusal> {
    serde_json::from_slice(&call.request.body)
        .map_err(|error| Refusal::bad_request(format!("This is not an order that this node knows: {error}.")))
}

/// The order in a request's body, about a machine that is there, and that machine's name.
fn machine_order(call: &NodeCall<'_>) -> Result<(MachineOrder, MachineName), Refusal> {
    let order: MachineOrder = order(call)?;
    let machine = machine_name(&order)?;
    Ok((order, machine))
}

/// The name of the machine that an order is about.
fn machine_name(order: &MachineOrder) -> Result<MachineName, Refusal> {
    MachineName::new(&order.user, &order.virtual_host)
        .map_err(|fault| Refusal::bad_request(format!("The machine's name {fault}.")))
}

/// The refusal of an order, with the status that goes with the fault.
fn refuse(fault: Fault) -> Refusal {
    Refusal::fault(fault.node_status(), fault)
}

/// What a machine's template is filled in with.
fn template_values(
    machine: &MachineName,
    user: &UserName,
    host: &VirtualHost,
    ip: std::net::Ipv4Addr,
    memory: MiB,
    group: &VolumeGroup,
    extra: &str,
) -> Values {
    Values {
        machinename: machine.to_string(),
        vm_ip: ip.to_string(),
        vm_hostname: host.to_string(),
        vm_memory: memory.get(),
        username: user.encoded(),
        vm_extra: extra.to_owned(),
        volumegroup: group.to_string(),
    }
}

/// A JSON answer of 202: the order is taken.
fn accepted(id: crate::model::names::VmId, host: crate::model::wire::HostFacts) -> Result<Reply, Refusal> {
    Reply::json(202, &crate::model::wire::Accepted { id, host })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::template::machine;

    fn etc() -> &'static Path {
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/etc"))
    }

    #[test]
    fn the_example_configuration_is_one() {
        let common = Common::load(etc()).unwrap();
        let node = config::Node::load(etc()).unwrap();
        for (tag, _) in &common.images {
            let image = node.image(tag).unwrap();
            assert!(image.file.starts_with("/var/lib/vgrid/images"), "{image:?}");
        }
        assert_eq!(node.images().count(), common.images.len());
        assert_eq!(node.image(&"tiny".parse().unwrap()).unwrap().swap.get(), 16);
    }

    #[test]
    fn the_templates_are_filled_in_and_differ_in_the_disk_only() {
        let dir = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/vmtmpl"));
        let values = template_values(
            &"alice_vm1".parse().unwrap(),
            &"alice".parse().unwrap(),
            &"vm1".parse().unwrap(),
            "10.0.2.21".parse().unwrap(),
            "128".parse().unwrap(),
            &"vg1".parse().unwrap(),
            "quiet",
        );
        let xvda = machine::render_file(&dir.join("xen-xvda"), &values).unwrap();
        let sda = machine::render_file(&dir.join("xen-sda"), &values).unwrap();
        let lines = |text: &str| text.lines().skip(1).map(|l| l.replace("xvda", "sda")).collect::<Vec<_>>();
        assert_eq!(lines(&xvda), lines(&sda));
        let extra =
            "extra = \"vgrid_username=alice ip=10.0.2.21::GATEWAY:NETMASK:vm1:eth0:off console=hvc0 quiet\"";
        assert!(xvda.contains(extra), "{xvda}");
        assert!(xvda.contains("\"phy:/dev/vg1/xen-root-alice_vm1,xvda1,w\""), "{xvda}");
    }
}
