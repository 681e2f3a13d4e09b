//! The whole host goes down and comes back.

use std::time::{Duration, Instant};

use super::host::{Host, TINY, scenario};
use crate::support::visited::Visited as _;

/// Waits until a machine's console shows that many boots.
fn must_have_booted(host: &Host, id: &str, times: usize) {
    for _ in 0..90 {
        let console = host.console("alice", id);
        if console.matches("GUEST READY").count() == times {
            return;
        }
        std::thread::sleep(Duration::from_secs(1));
    }
    panic!("{id} has not booted {times} times\n{}\n{}", host.sh("xl list"), host.log());
}

/// Asserts that the toolstack runs the machine with this id, and that the portal shows it as
/// running.
fn must_run(host: &Host, id: &str, name: &str) {
    assert!(host.sh(&format!("xl list -v alice_{name}")).contains(id), "another machine of that name");
    let machine = host.machine("alice", id);
    assert_eq!((machine["state"].as_str(), machine["moving"].as_bool()), (Some("deployed"), Some(false)));
    host.must_answer_ping(name);
}

/// Shuts the host down cleanly and boots it.
fn reboot(host: &Host, id: &str, name: &str) {
    let boot = "cat /proc/sys/kernel/random/boot_id";
    let first = host.sh(boot);
    must_have_booted(host, id, 1);
    host.reboot();
    assert_ne!(host.sh(boot), first, "the host did not reboot");
    must_have_booted(host, id, 2);
    must_run(host, id, name);
    let console = host.console("alice", id);
    assert!(console.contains("GUEST HALT"), "the guest was not shut down cleanly:\n{console}");
}

/// Cuts the power while an image is unpacked, and boots the host. Returns the id of the unfinished
/// machine. For what a power cut does to the disks, see tests/xenhost/README.md.
fn cut_the_power(host: &Host) -> String {
    let id = host.deploy("alice", "vmImage=debian&vmMemory=128&vmPartition=2&vmHostname=vm2");
    let end = Instant::now() + Duration::from_secs(300);
    while host.machine("alice", &id)["percent"].as_u64().is_none_or(|percent| percent < 5) {
        assert!(Instant::now() < end, "{:#}\n{}", host.machine("alice", &id), host.log());
    }
    host.cut_power();
    host.boot();
    id
}

#[test]
fn finished_machines_come_back_with_their_host_and_unfinished_ones_do_not() {
    scenario("power", |host| {
        let before = host.inventory();
        let finished = host.deploy("alice", &format!("{TINY}&vmHostname=vm1"));
        host.wait_for("alice", &finished, "deployed", 300);
        reboot(host, &finished, "vm1");
        let unfinished = cut_the_power(host);
        must_run(host, &finished, "vm1");
        // The unfinished machine is still there: nobody has looked yet.
        assert_eq!(host.machine("alice", &unfinished)["state"], "deploying");
        let volumes = host.sh("lvs --noheadings -o lv_name,lv_tags vg1");
        assert!(volumes.contains(&unfinished), "the cut came too early, or too late: {volumes}");
        // The order to remove the first makes the node undo the second.
        host.terminate("alice", &finished);
        let machine = host.wait_for("alice", &unfinished, "failed", 300);
        let reason = machine["reason"].as_str().expect("a reason");
        assert!(reason.contains("interrupted") && reason.contains("unpacking"), "{reason}");
        host.terminate("alice", &unfinished);
        host.must_be_as(&before);
    });
}
