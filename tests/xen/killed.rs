//! Whoever works on a machine may be killed at any moment: nothing is left, and the reason says so.

use std::cell::Cell;

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
        // A helper that is killed is noticed by its worker.
        let with_helper = all.iter().filter(|stage| stage.has_helper());
        ids.extend(with_helper.map(|stage| (stage, killed(stage, Victim::Helper))));
        for (stage, id) in &ids {
            must_have_failed(host, id, stage);
        }
        for (_, id) in &ids {
            host.terminate("alice", id);
        }
        host.must_be_as(&before);
    });
}

#[test]
fn worker_killed_in_each_stage_of_terminate() {
    scenario("killed-terminate", |host| {
        let before = host.inventory();
        for stage in stages(Work::Terminate) {
            let id = deploy(host, "vm1");
            host.wait_for("alice", &id, "deployed", 300);
            let killer = host.kill_at("alice_vm1", Work::Terminate, &stage, Victim::Worker);
            let (status, text) = host.ask("alice", "terminate", &format!("format=json&id={id}"));
            assert_eq!(status, 202, "{text}");
            killer.wait();
            assert_eq!(host.machine("alice", &id)["state"], "terminating");
            // The next request finds it, and the removal is carried on.
            host.ask_node();
            host.wait_for("alice", &id, "notDeployed", 300);
        }
        host.must_be_as(&before);
    });
}

/// As an upgrade of Apache does it: `KillMode=mixed` ends all of its control group.
#[test]
fn apache_restarted_while_machines_are_made() {
    scenario("killed-service", |host| {
        let before = host.inventory();
        let other = deploy(host, "vm1");
        host.wait_for("alice", &other, "deployed", 300);
        let all = stages(Work::Deploy);
        let stage = all.iter().find(|stage| stage.name == Some("start")).expect("the stage");
        let killer = host.kill_at("alice_vm2", Work::Deploy, stage, Victim::Service);
        let id = deploy(host, "vm2");
        killer.wait();
        host.ask_node();
        must_have_failed(host, &id, stage);
        // The one that was there runs on, and whoever minds it comes back with it from a reboot.
        let boots = || host.sh("grep -c 'GUEST READY' /var/log/xen/console/guest-alice_vm1.log");
        let was = boots();
        host.sh("xl reboot alice_vm1");
        host.sh(&format!(
            "for i in $(seq 60); do [ \"$(grep -c 'GUEST READY' /var/log/xen/console/guest-alice_vm1.log)\" -gt {} ] && exit; sleep 1; done; exit 1",
            was.trim()
        ));
        for id in [&other, &id] {
            host.terminate("alice", id);
        }
        host.must_be_as(&before);
    });
}
