//! A machine's life, from nothing back to nothing.

use serde_json::Value;
use vgrid::model::stage::Order;

use super::host::{TINY, scenario};
use crate::support::visited::Visited as _;

const READY: &str = "GUEST READY: ";

#[test]
fn a_machine_lives_and_leaves_nothing() {
    scenario("life", |host| {
        let before = host.inventory();
        let id = host.deploy("alice", &format!("{TINY}&vmHostname=vm3&vmName=my+first"));
        let machine = host.wait_for("alice", &id, "deployed", 300);
        assert_eq!(
            (machine["virtual_host"].as_str(), machine["label"].as_str()),
            (Some("vm3"), Some("my first"))
        );

        let (_, page) = host.ask("alice", "show", &format!("format=json&id={id}"));
        assert!(page.contains("\"emulated\":true"), "{page}");

        // Its domain has its id, starts with the host, and runs from files of its own.
        assert_eq!(host.sh("virsh -q domuuid alice_vm3").trim(), id);
        assert!(host.sh("virsh -q dominfo alice_vm3").contains("Autostart:      enable"));
        let disks = host.sh("virsh -q domblklist alice_vm3");
        for disk in ["root.raw", "swap.raw"] {
            assert!(disks.contains(&format!("/var/lib/vgrid-machines/{id}/{disk}")), "{disks}");
        }
        // It is what the portal says, and its owner's alone.
        host.wait_for_console("alice_vm3", READY, 1);
        let console = host.console("alice", &id);
        assert!(console.contains(READY) && console.contains("vgrid_username=alice"), "{console}");
        host.must_answer_ping("vm3");
        host.lets_in_only("alice", "vm3");
        // The guest knows its id, so the key would stay while the repository is away.
        let mark = host.ssh("alice", "vm3", "head -n 1 /root/.ssh/authorized_keys").expect("alice gets in");
        assert_eq!(mark, format!("# by copyuserkey for alice on {id}; replaced at every start\n"));
        let swap =
            host.ssh("alice", "vm3", "echo kept > /kept; sync; cat /proc/swaps").expect("alice gets in");
        assert!(swap.contains("/dev/vdb"), "{swap}");
        let (status, sentence) = host.ask("bob", "terminate", &format!("format=text&id={id}"));
        assert_eq!(status, 403, "{sentence}");

        // Stopped, it keeps its disk; started, it is as it was.
        host.carry_out("alice", Order::Stop, &id, "stopped");
        assert!(host.console_log("alice_vm3").contains("GUEST LEAVES: poweroff"), "it was forced off");
        assert_eq!(host.sh("virsh -q domstate alice_vm3").trim(), "shut off");
        assert!(!host.sh("virsh -q dominfo alice_vm3").contains("Autostart:      enable"));
        host.carry_out("alice", Order::Start, &id, "deployed");
        host.wait_for_console("alice_vm3", READY, 1);
        assert_eq!(host.ssh("alice", "vm3", "cat /kept").as_deref(), Some("kept\n"));
        host.carry_out("alice", Order::Reboot, &id, "deployed");
        host.wait_for_console("alice_vm3", READY, 1);

        // Saved, it becomes an image, and the image a machine with a disk of its own.
        host.carry_out("alice", Order::Stop, &id, "stopped");
        host.order("alice", Order::Save, &format!("id={id}&name=base"));
        let machine = host.wait_for("alice", &id, "stopped", 300);
        assert_eq!(machine["reason"], Value::Null);
        let second = host.deployed("alice", "savedImage=base&vmMemory=128&vmPartition=1&vmHostname=vm4");
        host.wait_for_console("alice_vm4", READY, 1);
        assert_eq!(host.ssh("alice", "vm4", "cat /kept; hostname").as_deref(), Some("kept\nvm4\n"));
        host.lets_in_only("alice", "vm4");

        host.terminate("admin", &id);
        host.terminate("alice", &second);
        host.delete_image("alice", "base");
        host.must_be_as(&before);
    });
}
