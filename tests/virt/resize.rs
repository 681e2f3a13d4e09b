//! Other sizes for a machine: its guest has them, and all that was on its disk; and whatever is killed
//! meanwhile, it has either all of the old sizes or all of the new ones.

use serde_json::Value;
use vgrid::model::stage::{Order, Stage};

use super::host::{HELPER, TINY, VirtHost, quote, scenario, scenario_with};
use super::mishaps::{Case, MENU, Mishap, befall};
use crate::support::healing::Healing as _;
use crate::support::visited::Visited as _;

const READY: &str = "GUEST READY: ";

/// Memory (MiB), processors, and disk (GiB).
type Sizes = (u64, u64, u64);

fn in_the_portal(machine: &Value) -> Sizes {
    let size = |name: &str| machine[name].as_u64().expect("a size");
    (size("memory_mib"), size("vmCPUs"), size("disk_gib"))
}

/// The sizes that a machine has on its host, running or not.
fn on_its_host(host: &VirtHost, name: &str, id: &str) -> Sizes {
    let line = host.sh(&format!(
        "virsh -q dominfo alice_{name} | awk '$1 $2 == \"Maxmemory:\" {{ print $3 / 1024 }} \
             $1 == \"CPU(s):\" {{ print $2 }}' | sort -k1n | tr '\\n' ' '; \
         stat -c %s /var/lib/vgrid-machines/{id}/root.raw"
    ));
    let mut numbers: Vec<u64> = line.split_whitespace().map(|n| n.parse().expect("a number")).collect();
    numbers.sort_unstable();
    let [cpus, memory, disk] = numbers[..] else { panic!("{line}") };
    assert_eq!(disk % (1 << 30), 0, "{line}");
    (memory, cpus, disk >> 30)
}

#[test]
fn a_stopped_machine_gets_other_sizes_and_keeps_what_is_on_its_disk() {
    scenario("resize", |host| {
        let before = host.inventory();
        let id = host.deployed("alice", &format!("{TINY}&vmHostname=vm3"));
        host.wait_for_console("alice_vm3", READY, 1);
        let facts =
            "awk '/MemTotal/ { print int($2 / 1024) }' /proc/meminfo; nproc; cat /sys/class/block/vda/size";
        let inside = || -> Vec<u64> {
            let text = host.ssh("alice", "vm3", facts).expect("alice gets in");
            text.split_whitespace().map(|n| n.parse().expect("a number")).collect()
        };
        let small = inside();
        assert_eq!(small[1..], [1, 2 << 20], "processors, sectors");
        let write = "seq 200000 > /kept; sync; md5sum < /kept";
        let sum = host.ssh("alice", "vm3", write).expect("alice gets in");

        // Not while it runs, neither for the portal nor for its host.
        let ask = |sizes: &str| host.ask("alice", "resize", &format!("format=text&vmHostname=vm3&{sizes}"));
        assert_eq!(ask("vmMemory=256").0, 409);
        host.carry_out("alice", Order::Stop, &id, "stopped");
        let (status, room) = ask("");
        assert!(status == 200 && room.contains("# most\t"), "{room}");
        let (status, sentence) = ask("vmPartition=60000");
        assert!(status == 409 && sentence.contains("of disk space free"), "{sentence}");
        let disk = format!("/var/lib/vgrid-machines/{id}/root.raw");
        let content = || host.sh(&format!("head -c {} {disk} | md5sum", 1u64 << 30));
        let on_disk = content();

        host.order("alice", Order::Resize, &format!("id={id}&vmMemory=192&vmCPUs=2&vmPartition=3"));
        let machine = host.wait_for("alice", &id, "stopped", 120);
        assert_eq!((machine["reason"].clone(), in_the_portal(&machine)), (Value::Null, (192, 2, 3)));
        assert_eq!(on_its_host(host, "vm3", &id), (192, 2, 3));
        // Nothing but its size has changed, and what is new is zeros.
        assert_eq!(content(), on_disk, "root touched what was on it");
        host.sh(&format!("cmp -n {0} -i {1}:0 {disk} /dev/zero", 2u64 << 30, 1u64 << 30));
        assert_eq!(host.sh("virsh -q domstate alice_vm3").trim(), "shut off");
        assert!(!host.sh("virsh -q dominfo alice_vm3").contains("Autostart:      enable"));
        // What is promised to it is not free for others.
        let used: u64 = host.sh(&format!("stat -c %b {disk}")).trim().parse().expect("blocks");
        assert!(used < 2 << 20, "it is sparse: {used} blocks");

        host.carry_out("alice", Order::Start, &id, "deployed");
        host.wait_for_console("alice_vm3", READY, 1);
        let large = inside();
        assert!(large[0] >= small[0] + 56, "{small:?} {large:?}");
        assert_eq!(large[1..], [2, 6 << 20], "processors, sectors");
        assert_eq!(host.ssh("alice", "vm3", "md5sum < /kept").as_deref(), Some(sum.as_str()));

        // Never smaller. Less memory is possible.
        host.carry_out("alice", Order::Stop, &id, "stopped");
        let (status, sentence) = ask("vmPartition=2");
        assert!(status == 400 && sentence.contains("deploy another machine"), "{sentence}");
        host.order("alice", Order::Resize, &format!("id={id}&vmMemory=128&vmCPUs=1"));
        let machine = host.wait_for("alice", &id, "stopped", 120);
        assert_eq!((machine["reason"].clone(), in_the_portal(&machine)), (Value::Null, (128, 1, 3)));
        assert_eq!(on_its_host(host, "vm3", &id), (128, 1, 3));
        // Its host knows better than the portal if somebody has started it there: at once, or, if it has
        // looked a moment ago, once it is to be changed.
        host.sh("virsh -q start alice_vm3");
        let answer = ask("vmMemory=256&vmPartition=4");
        assert!([202, 409].contains(&answer.0), "{answer:?}");
        let machine = host.wait_for("alice", &id, "stopped", 120);
        let reason = machine["reason"].as_str().unwrap_or_default();
        assert!(reason.contains("alice_vm3 runs on its host"), "{machine}");
        assert_eq!(in_the_portal(&machine), (128, 1, 3));
        host.sh("virsh -q destroy alice_vm3");
        assert_eq!(on_its_host(host, "vm3", &id), (128, 1, 3));

        host.terminate("alice", &id);
        host.must_be_as(&before);
    });
}

/// Has a machine's disk be in use for a while, so that it can't grow yet.
fn hold_disk(host: &VirtHost, name: &str) {
    let id = host.named(name).expect("the machine")["id"].as_str().expect("an id").to_owned();
    let hold = format!(
        "import fcntl, time; f = open(\"/var/lib/vgrid-machines/{id}/root.raw\", \"r+b\"); \
         fcntl.lockf(f, fcntl.LOCK_EX); time.sleep(12)"
    );
    host.sh(&format!("setsid python3 -c {} < /dev/null > /dev/null 2>&1 &", quote(&hold)));
}

#[test]
fn a_killed_worker_or_helper_leaves_all_old_sizes_or_all_new_ones() {
    scenario_with("resize-killed", &["--machines", "ext4", "--size", "40G"], |host| {
        host.make_room();
        let before = host.inventory();
        for mishap in [Mishap::Worker, Mishap::Helper] {
            let stages = (1..).zip(Order::Resize.stages());
            let cases =
                stages.map(|(n, &stage)| Case { order: Order::Resize, stage, name: format!("vm{n}") });
            let cases: Vec<Case> = cases.collect();
            let names: Vec<String> = cases.iter().map(|case| case.name.clone()).collect();
            host.all_to(Order::Deploy, &names, "deployed");
            host.all_to(Order::Stop, &names, "stopped");
            for case in cases.iter().filter(|case| case.stage == Stage::Grow) {
                hold_disk(host, &case.name);
            }
            befall(host, mishap, &cases);
            host.heal(&format!("resize-{mishap:?}"));
            for case in &cases {
                let machine = host.named(&case.name).expect("the machine");
                let has = in_the_portal(&machine);
                let what = format!("{mishap:?} {}: {machine}", case.stage);
                eprintln!("{what}");
                assert_eq!(machine["state"], "stopped", "{what}\n{}", host.log());
                let id = machine["id"].as_str().expect("an id");
                assert_eq!(on_its_host(host, &case.name, id), has, "{what}\n{}", host.log());
                // Killed with its helper going on, an order is carried out; without one, it is taken back
                // or was over, and its owner is told which.
                let reason = machine["reason"].as_str().unwrap_or_default();
                match has {
                    (64, 1, 1) => assert!(reason.contains("interrupted"), "{what}"),
                    (80, 1, 2) => assert_eq!(reason, "", "{what}"),
                    sizes => panic!("{sizes:?}: {what}"),
                }
                assert!(mishap == Mishap::Helper || has == (80, 1, 2), "{what}");
            }
            // The next orders succeed.
            for name in &names {
                host.order("alice", Order::Resize, &format!("vmHostname={name}&vmMemory=96&vmPartition=3"));
            }
            for name in &names {
                let id = host.named(name).expect("the machine")["id"].as_str().expect("an id").to_owned();
                let machine = host.wait_for("alice", &id, "stopped", 120);
                assert_eq!((machine["reason"].clone(), in_the_portal(&machine)), (Value::Null, (96, 1, 3)));
                assert_eq!(on_its_host(host, name, &id), (96, 1, 3));
            }
            host.all_to(Order::Start, &names, "deployed");
            for name in &names {
                let machine = host.named(name).expect("the machine");
                host.terminate("alice", machine["id"].as_str().expect("an id"));
            }
        }
        assert!(MENU.contains("vmMemory=64&vmPartition=1"), "the sizes before");
        // A helper is killed right after the disk has grown, which can't be taken back.
        let id = host.deployed("alice", &format!("{MENU}&vmHostname=vm1"));
        host.carry_out("alice", Order::Stop, &id, "stopped");
        host.sh(&format!(
            "mv {HELPER} {HELPER}.real; printf '%s\\n' '#!/bin/bash' '{HELPER}.real \"$@\"; status=$?' \
                 'case \" $* \" in *\" grow-volume \"*) mkdir /run/struck && kill -9 $$;; esac' 'exit $status' > {HELPER}; \
             chmod 755 {HELPER}"
        ));
        host.order("alice", Order::Resize, &format!("id={id}&vmMemory=80&vmPartition=2"));
        let machine = host.wait_for("alice", &id, "stopped", 120);
        host.sh(&format!("rmdir /run/struck; mv {HELPER}.real {HELPER}"));
        assert_eq!((machine["reason"].clone(), in_the_portal(&machine)), (Value::Null, (80, 1, 2)));
        assert_eq!(on_its_host(host, "vm1", &id), (80, 1, 2));
        host.terminate("alice", &id);
        host.must_be_as(&before);
    });
}
