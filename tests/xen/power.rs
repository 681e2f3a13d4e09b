//! The whole host goes away and comes back.

use std::time::{Duration, Instant};

use super::host::{Host, scenario};

/// Waits until a machine has booted that often since its host's console log began, as the portal shows it.
fn must_have_booted(host: &Host, id: &str, times: usize) {
    for _ in 0..90 {
        let (status, console) = host.ask("alice", "console", &format!("format=text&id={id}"));
        assert_eq!(status, 200, "{console}");
        if console.matches("GUEST READY").count() == times {
            return;
        }
        std::thread::sleep(Duration::from_secs(1));
    }
    panic!("{id} has not booted {times} times\n{}\n{}", host.sh("xl list"), host.log());
}

/// The machine as the toolstack has it is the one that the portal shows, and its owner sees nothing amiss.
fn must_run(host: &Host, id: &str, name: &str) {
    assert!(host.sh(&format!("xl list -v alice_{name}")).contains(id), "another machine of that name");
    let machine = host.machine("alice", id);
    assert_eq!((machine["state"].as_str(), machine["moving"].as_bool()), (Some("deployed"), Some(false)));
    host.sh(&format!("for i in $(seq 30); do ping -q -c 1 -W 2 {name} && exit; sleep 1; done; exit 1"));
}

fn deploy(host: &Host, fields: &str) -> String {
    let (status, answer) = host.deploy("alice", fields);
    assert_eq!(status, 202, "{answer}");
    answer["machine"]["id"].as_str().expect("an id").to_owned()
}

/// Stops the host in good order and boots it.
fn reboot(host: &Host, id: &str, name: &str) {
    let boot = "cat /proc/sys/kernel/random/boot_id";
    let first = host.sh(boot);
    must_have_booted(host, id, 1);
    host.reboot();
    assert_ne!(host.sh(boot), first, "the host was not booted again");
    must_have_booted(host, id, 2);
    must_run(host, id, name);
    let (_, console) = host.ask("alice", "console", &format!("format=text&id={id}"));
    assert!(console.contains("GUEST HALT"), "it was not shut down but cut off:\n{console}");
}

/// Cuts the power in the middle of an unpack, and boots the host. Returns the id of what was half made. What a
/// cut does to the disks is in tests/xenhost/README.md.
fn cut_the_power(host: &Host) -> String {
    let id = deploy(host, "vmImage=debian&vmMemory=128&vmPartition=2&vmHostname=vm2");
    let end = Instant::now() + Duration::from_secs(300);
    while host.machine("alice", &id)["percent"].as_u64().is_none_or(|percent| percent < 5) {
        assert!(Instant::now() < end, "{:#}\n{}", host.machine("alice", &id), host.log());
    }
    host.cut_power();
    host.boot();
    id
}

#[test]
fn what_was_whole_comes_back_with_its_host_and_what_was_half_made_does_not() {
    scenario("power", |host| {
        let before = host.inventory();
        let whole = deploy(host, "vmImage=tiny&vmMemory=96&vmPartition=1&vmHostname=vm1");
        host.wait_for("alice", &whole, "deployed", 300);
        reboot(host, &whole, "vm1");
        let half = cut_the_power(host);
        must_run(host, &whole, "vm1");
        // What was half made is there in halves: nobody has looked yet.
        assert_eq!(host.machine("alice", &half)["state"], "deploying");
        let volumes = host.sh("lvs --noheadings -o lv_name,lv_tags vg1");
        assert!(volumes.contains(&half), "the cut came too early, or too late: {volumes}");
        // The order to remove the one has the other undone.
        host.terminate("alice", &whole);
        let machine = host.wait_for("alice", &half, "failed", 300);
        let reason = machine["reason"].as_str().expect("a reason");
        assert!(reason.contains("interrupted") && reason.contains("unpacking"), "{reason}");
        host.terminate("alice", &half);
        host.must_be_as(&before);
    });
}
