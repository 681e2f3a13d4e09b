//! Whoever works on a machine may be killed at any moment: nothing is left, and the reason says so.

use std::cell::Cell;
use std::time::{Duration, Instant};

use vgrid::model::wire::Work;

use super::host::{Host, scenario};
use super::kill::{Stage, Victim, stages};

const TINY: &str = "vmImage=tiny&vmMemory=96&vmPartition=1";

/// The names that the host is given for machines.
const NAMES: usize = 24;

/// Has names and places for a machine for every stage.
fn make_room(host: &Host) {
    host.sh(&format!(
        "for n in $(seq 9 {NAMES}); do echo \"10.0.2.$((20 + n)) vm$n\" >> /etc/hosts; \
         sed -i \"/^\\[VirtualHostsPool\\]/a vm$n = \\\"\\\"\" /etc/vgrid/common.cfg; done; \
         sed -i 's/^xenhost = .*/xenhost = {NAMES}/' /etc/vgrid/common.cfg"
    ));
}

/// Deploys a machine, and returns its id.
fn deploy(host: &Host, name: &str) -> String {
    let (status, answer) = host.deploy("alice", &format!("{TINY}&vmHostname={name}"));
    assert_eq!(status, 202, "{answer}");
    answer["machine"]["id"].as_str().expect("an id").to_owned()
}

/// Waits until a deploy has failed for being killed in that stage.
fn must_have_failed(host: &Host, id: &str, stage: &Stage) {
    let machine = host.wait_for("alice", id, "failed", 300);
    let reason = machine["reason"].as_str().expect("a reason");
    assert!(
        reason.contains("interrupted") && reason.contains(&stage.text),
        "{stage:?}: {reason}\n{}",
        host.log()
    );
}

#[test]
fn worker_killed_in_each_stage_of_deploy() {
    scenario("killed-worker", |host| {
        make_room(host);
        let before = host.inventory();
        let number = Cell::new(0);
        // One after the other; what was killed is found by the request for the next.
        let killed = |stage: &Stage, victim| {
            number.set(number.get() + 1);
            let name = format!("vm{}", number.get());
            let killer = host.kill_at(&format!("alice_{name}"), Work::Deploy, stage, victim);
            let id = deploy(host, &name);
            killer.wait();
            id
        };
        let all = stages(Work::Deploy);
        let mut ids: Vec<_> = all.iter().map(|stage| (stage, killed(stage, Victim::Worker))).collect();
        // Nobody has noticed the last one yet.
        let (_, last) = ids.last().expect("a stage");
        assert_eq!(host.machine("alice", last)["state"], "deploying");
        // A helper that is killed is noticed by its worker. These are the stages in which what the helper runs
        // outlives it for long.
        let lasting = all.iter().filter(|stage| matches!(stage.name, Some("unpack" | "start")));
        ids.extend(lasting.map(|stage| (stage, killed(stage, Victim::Helper))));
        for (stage, id) in &ids {
            must_have_failed(host, id, stage);
        }
        for (_, id) in &ids {
            host.terminate("alice", id);
        }
        host.must_be_as(&before);
    });
}

/// The number of times that a machine has booted, by its console.
fn boots(host: &Host, name: &str) -> u32 {
    let count =
        host.try_sh(&format!("grep -c 'GUEST READY' /var/log/xen/console/guest-alice_{name}.log")).out;
    count.trim().parse().unwrap_or_else(|_| panic!("no count: {count}"))
}

/// An upgrade of Apache restarts it, and `KillMode=mixed` then ends all of its control group.
fn apache_restarted_while_a_machine_starts(host: &Host, running: &str) {
    let all = stages(Work::Deploy);
    let stage = all.iter().find(|stage| stage.name == Some("start")).expect("the stage");
    let killer = host.kill_at("alice_vm8", Work::Deploy, stage, Victim::Service);
    let id = deploy(host, "vm8");
    killer.wait();
    host.ask_node();
    must_have_failed(host, &id, stage);
    host.terminate("alice", &id);
    // What runs is none of Apache's: it comes back from a reboot, so whoever minds it is alive.
    let before = boots(host, running);
    host.sh(&format!("xl reboot alice_{running}"));
    let end = Instant::now() + Duration::from_secs(90);
    while boots(host, running) == before {
        assert!(Instant::now() < end, "it does not come back\n{}", host.sh("xl list"));
        std::thread::sleep(Duration::from_secs(1));
    }
}

#[test]
fn worker_killed_in_each_stage_of_terminate() {
    scenario("killed-terminate", |host| {
        let before = host.inventory();
        let all = stages(Work::Terminate);
        let machines: Vec<_> = all
            .iter()
            .zip(1..)
            .map(|(stage, n)| (stage, format!("vm{n}"), deploy(host, &format!("vm{n}"))))
            .collect();
        for (_, _, id) in &machines {
            host.wait_for("alice", id, "deployed", 300);
        }
        apache_restarted_while_a_machine_starts(host, "vm1");
        for (stage, name, id) in &machines {
            let killer = host.kill_at(&format!("alice_{name}"), Work::Terminate, stage, Victim::Worker);
            let (status, text) = host.ask("alice", "terminate", &format!("format=json&id={id}"));
            assert_eq!(status, 202, "{text}");
            killer.wait();
            assert_eq!(host.machine("alice", id)["state"], "terminating");
            // The next request finds it, and the removal is carried on.
            host.ask_node();
            host.wait_for("alice", id, "notDeployed", 300);
        }
        host.must_be_as(&before);
    });
}
