//! Whoever works on a machine may be killed at any moment: nothing is left, and the reason says so.

use std::cell::Cell;
use std::time::{Duration, Instant};

use vgrid::model::stage::{Order, Stage};

use super::host::{Host, scenario};
use super::kill::Victim;

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

/// Gives an order about a machine that is there.
fn give(host: &Host, order: Order, id: &str) {
    let name = if order == Order::Save { "&name=killed" } else { "" };
    let (status, text) = host.ask("alice", order.as_str(), &format!("format=json&id={id}{name}"));
    assert_eq!(status, 202, "{order}: {text}");
}

/// Waits until a deploy has failed for being killed in that stage.
fn must_have_failed(host: &Host, id: &str, stage: Stage) {
    let machine = host.wait_for("alice", id, "failed", 300);
    let reason = machine["reason"].as_str().expect("a reason");
    assert!(
        reason.contains("interrupted") && reason.contains(&stage.to_string()),
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
        let killed = |stage: Stage, victim| {
            number.set(number.get() + 1);
            let name = format!("vm{}", number.get());
            let killer = host.kill_at(&format!("alice_{name}"), Order::Deploy, stage, victim);
            let id = deploy(host, &name);
            killer.wait();
            id
        };
        let all = Order::Deploy.stages();
        let mut ids: Vec<_> = all.iter().map(|&stage| (stage, killed(stage, Victim::Worker))).collect();
        // Nobody has noticed the last one yet.
        let (_, last) = ids.last().expect("a stage");
        assert_eq!(host.machine("alice", last)["state"], "deploying");
        // A helper that is killed is noticed by its worker. These are the stages in which what the helper runs
        // outlives it for long.
        ids.extend([Stage::Unpack, Stage::Start].map(|stage| (stage, killed(stage, Victim::Helper))));
        for (stage, id) in &ids {
            must_have_failed(host, id, *stage);
        }
        for (_, id) in &ids {
            host.terminate("alice", id);
        }
        host.must_be_as(&before);
    });
}

/// What a worker leaves in the state of its machine when it is killed: an end that the portal knows.
fn end_of(order: Order) -> &'static str {
    match order {
        Order::Deploy => "failed",
        // Carried on.
        Order::Terminate => "notDeployed",
        Order::Reboot => "deployed",
        // A stop is carried on; a start is undone, and its owner can start the machine again. Half an image goes.
        Order::Stop | Order::Start | Order::Save => "stopped",
    }
}

/// The number of times that a machine has booted, by its console.
fn boots(host: &Host, name: &str) -> u32 {
    let count =
        host.try_sh(&format!("grep -c 'GUEST READY' /var/log/xen/console/guest-alice_{name}.log")).out;
    count.trim().parse().unwrap_or_else(|_| panic!("no count: {count}"))
}

/// An upgrade of Apache restarts it, and `KillMode=mixed` then ends all of its control group.
fn apache_restarted_while_a_machine_starts(host: &Host, running: &str) {
    let killer = host.kill_at("alice_vm8", Order::Deploy, Stage::Start, Victim::Service);
    let id = deploy(host, "vm8");
    killer.wait();
    host.ask_node();
    must_have_failed(host, &id, Stage::Start);
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

/// Every order but deploy, which is above, in every stage that it has.
#[test]
fn worker_killed_in_each_stage_of_all_else() {
    scenario("killed-orders", |host| {
        make_room(host);
        let before = host.inventory();
        let mut name = "vm1".to_owned();
        let mut id = deploy(host, &name);
        host.wait_for("alice", &id, "deployed", 300);
        apache_restarted_while_a_machine_starts(host, &name);
        // The machine is what the one before has left; a removal comes last, and once more for each stage of its.
        for order in [Order::Reboot, Order::Stop, Order::Save, Order::Start, Order::Terminate] {
            for (nth, &stage) in order.stages().iter().enumerate() {
                if order == Order::Terminate && nth > 0 {
                    name = format!("vm{}", nth + 1);
                    id = deploy(host, &name);
                    host.wait_for("alice", &id, "deployed", 300);
                }
                let machine = host.machine("alice", &id);
                if order == Order::Stop && machine["state"] == "stopped" {
                    give(host, Order::Start, &id);
                    host.wait_for("alice", &id, "deployed", 300);
                }
                let killer = host.kill_at(&format!("alice_{name}"), order, stage, Victim::Worker);
                give(host, order, &id);
                killer.wait();
                assert_eq!(host.machine("alice", &id)["moving"], true, "nobody has noticed yet");
                // The next request finds it.
                host.ask_node();
                let machine = host.wait_for("alice", &id, end_of(order), 300);
                if matches!(order, Order::Start | Order::Save) {
                    let reason = machine["reason"].as_str().expect("a reason");
                    let names_stage = order == Order::Save || reason.contains(&stage.to_string());
                    assert!(reason.contains("interrupted") && names_stage, "{reason}");
                }
                let runs = host.try_sh(&format!("xl domid alice_{name}")).status == 0;
                assert_eq!(runs, end_of(order) == "deployed", "{order} {stage}");
            }
        }
        host.must_be_as(&before);
    });
}

/// A helper that is killed is noticed by its worker.
#[test]
fn helper_killed_while_a_machine_is_stopped_and_started() {
    scenario("killed-helper", |host| {
        let before = host.inventory();
        let id = deploy(host, "vm1");
        host.wait_for("alice", &id, "deployed", 300);
        let killed = |order: Order, stage| {
            let killer = host.kill_at("alice_vm1", order, stage, Victim::Helper);
            give(host, order, &id);
            killer.wait();
        };
        // It stays what it was, with the reason, and can be stopped all the same.
        killed(Order::Stop, Stage::Shutdown);
        let machine = host.wait_for("alice", &id, "deployed", 300);
        assert!(
            machine["reason"].as_str().is_some_and(|reason| reason.contains("interrupted")),
            "{machine:#}"
        );
        give(host, Order::Stop, &id);
        let machine = host.wait_for("alice", &id, "stopped", 300);
        assert_eq!(machine["reason"], serde_json::Value::Null);
        for &stage in Order::Start.stages() {
            killed(Order::Start, stage);
            let machine = host.wait_for("alice", &id, "stopped", 300);
            let reason = machine["reason"].as_str().expect("a reason");
            assert!(reason.contains("interrupted") && reason.contains(&stage.to_string()), "{reason}");
        }
        // A removal goes on when the machine could not be asked to shut down, and says so when something is left.
        killed(Order::Terminate, Stage::Shutdown);
        host.wait_for("alice", &id, "notDeployed", 300);
        let id = deploy(host, "vm1");
        host.wait_for("alice", &id, "deployed", 300);
        let killer = host.kill_at("alice_vm1", Order::Terminate, Stage::Remove, Victim::Helper);
        give(host, Order::Terminate, &id);
        killer.wait();
        host.wait_for("alice", &id, "failed", 300);
        host.terminate("alice", &id);
        host.must_be_as(&before);
    });
}
