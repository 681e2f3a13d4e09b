//! One server with a Xen host and a KVM host: `xenhost` is server and node, `kvmhost` a node that runs
//! machines on libvirt. Machines come to a host that can run their image.

use std::time::Duration;

use serde_json::Value;
use vgrid::model::stage::Order;

use super::host::{TINY, linked_scenario};
use crate::support::eventually;
use crate::support::visited::Visited as _;
use crate::virt::host::VirtHost;

/// An image that both hosts have.
const BOTH: &str = "vmImage=kvm-tiny&vmMemory=128&vmPartition=1";
/// An image that only the KVM host has.
const MENU: &str = "vmImage=menu&vmMemory=64&vmPartition=1";

const READY: &str = "GUEST READY: ";

/// The host of a machine.
fn host_of(machine: &Value) -> &str {
    machine["physical_host"].as_str().expect("a host")
}

#[test]
fn machines_come_to_hosts_that_can_run_them() {
    linked_scenario("mixed", |xen, link| {
        let kvm = VirtHost::start("mixed", &[]);
        kvm.join(xen.run(), link);
        let nowhere = "sed -i '/^\\[VMImages\\]/a nowhere = \"On no host\"' /etc/vgrid/common.cfg";
        xen.sh(nowhere);
        kvm.sh(nowhere);
        let (xen_before, kvm_before) = (xen.inventory(), kvm.inventory());
        // Upkeep tells the portal what each host can run.
        xen.as_www_data("/usr/bin/vgrid-upkeep");
        for (host, checked) in
            [("xenhost", xen.try_sh("vgrid-check").out), ("kvmhost", kvm.try_sh("vgrid-check").out)]
        {
            assert!(checked.contains("ok ") && !checked.contains("FAILED"), "{host}: {checked}");
        }

        // Those that only one can run come to that one, although the other is as empty.
        let mut ids = Vec::new();
        for (image, name, expected) in
            [(TINY, "vm1", "xenhost"), (MENU, "vm2", "kvmhost"), (MENU, "vm3", "kvmhost")]
        {
            let id = xen.deploy("alice", &format!("{image}&vmHostname={name}"));
            assert_eq!(host_of(&xen.machine("alice", &id)), expected, "{image}");
            xen.wait_for("alice", &id, "deployed", 900);
            ids.push(id);
        }
        // The Xen host has fewer machines now.
        let on_both = xen.deployed("alice", &format!("{BOTH}&vmHostname=vm4&physicalHost=kvmhost"));
        let emptier = xen.deployed("alice", &format!("{BOTH}&vmHostname=vm5"));
        assert_eq!(host_of(&xen.machine("alice", &emptier)), "xenhost");
        ids.extend([on_both.clone(), emptier.clone()]);
        // The same image runs on both: each is on the network under its name, and its owner's.
        for (id, name) in [(&on_both, "vm4"), (&emptier, "vm5")] {
            xen.must_answer_ping(name);
            let shown = || Some(xen.console("alice", id)).filter(|console| console.contains(READY));
            let console = eventually(Duration::from_secs(300), shown)
                .unwrap_or_else(|| panic!("{name}: {}", xen.console("alice", id)));
            assert!(console.contains("vgrid_username=alice"), "{console}");
        }
        assert!(kvm.sh("virsh -q list --name").contains("alice_vm4"));
        assert!(xen.sh("xl list").contains("alice_vm5"));

        // Where it can't run, the answer says so, and where it can.
        for (fields, why) in [
            (format!("{TINY}&physicalHost=kvmhost"), "kvmhost can't run the image tiny"),
            (format!("{MENU}&physicalHost=xenhost"), "xenhost can't run the image menu"),
            ("vmImage=nowhere&vmMemory=64&vmPartition=1".to_owned(), "No host has the image nowhere"),
        ] {
            let (status, answer) = xen.try_deploy("bob", &format!("{fields}&vmHostname=vm6"));
            let sentence = answer["error"]["message"].as_str().unwrap_or_default();
            assert!(status == 409 && sentence.contains(why), "{fields}: {status} {answer}");
        }

        // Orders reach the right host.
        xen.carry_out("alice", Order::Stop, &on_both, "stopped");
        xen.carry_out("alice", Order::Start, &on_both, "deployed");
        for id in &ids {
            xen.terminate("alice", id);
        }
        xen.must_be_as(&xen_before);
        kvm.must_be_as(&kvm_before);
    });
}
