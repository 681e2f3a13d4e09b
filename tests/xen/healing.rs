//! Every order meets every mishap in every stage of its work. Afterward upkeep restores order:
//! each machine is in a resting state, and the host has exactly what the portal knows.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::Value;
use vgrid::model::stage::{Order, Stage};

use super::host::{Host, TINY, scenario};
use super::mishap::Mishap;
use crate::support::healing::Healing;
use crate::support::visited::Visited as _;

/// The machine that all orders but deploys are tried on.
const NAME: &str = "vm1";

impl Healing for Host {
    const PATIENCE: Duration = Duration::from_secs(400);

    fn upkeep(&self) -> String {
        self.sh("runuser -u www-data -- /usr/bin/vgrid-upkeep 2>&1")
    }

    fn differences(&self) -> Vec<String> {
        let (mut running, mut volumes) = (BTreeSet::new(), BTreeSet::new());
        for machine in self.machines() {
            let text = |name: &str| machine[name].as_str().expect("text").to_owned();
            let name = format!("{}_{}", text("owner"), text("virtual_host"));
            match text("state").as_str() {
                "deployed" => running.insert(name.clone()),
                "stopped" | "expired" => true,
                "failed" => continue,
                state => return vec![format!("{name} is still {state}")],
            };
            volumes.extend([format!("xen-root-{name}"), format!("xen-swap-{name}")]);
        }
        let lines = |command: &str| -> BTreeSet<String> {
            self.try_sh(command).out.lines().map(|line| line.trim().to_owned()).collect()
        };
        let there = [
            ("domain", running, lines("xl list | awk 'NR > 1 && $1 != \"Domain-0\" {print $1}'")),
            ("volume", volumes, lines("lvs --noheadings -o lv_name vg1 | grep xen-")),
        ];
        let mut found: Vec<String> = Vec::new();
        for (kind, known, there) in there {
            found.extend(there.difference(&known).map(|name| format!("unknown {kind} {name}")));
            found.extend(known.difference(&there).map(|name| format!("missing {kind} {name}")));
        }
        found.extend(lines("pgrep -a vgrid-worker").into_iter().map(|line| format!("still running: {line}")));
        found
    }
}

/// Adds names and slots, so that a machine can fail in every stage.
pub fn make_room(host: &Host) {
    host.sh("for n in $(seq 9 12); do echo \"10.0.2.$((20 + n)) vm$n\" >> /etc/hosts; \
         sed -i \"/^\\[VirtualHostsPool\\]/a vm$n = \\\"\\\"\" /etc/vgrid/common.cfg; done; \
         sed -i 's/^xenhost = .*/xenhost = 12/' /etc/vgrid/common.cfg");
}

/// Gives an order about the machine with that name, or deploys it. If the portal is struck down
/// meanwhile, there may be no answer or an unreliable one; the outcome shows later.
fn give_despite_faults(host: &Host, order: Order, name: &str) {
    let fields = match order {
        Order::Deploy => format!("{TINY}&vmHostname={name}"),
        Order::Save => format!("vmHostname={name}&name=image"),
        _ => format!("vmHostname={name}"),
    };
    let answer = host.try_ask("alice", order.as_str(), &format!("format=json&{fields}"));
    if let Ok((400..=499, text)) = answer {
        panic!("{order} of {name}: {text}");
    }
}

/// A machine's id.
pub fn id(machine: &Value) -> &str {
    machine["id"].as_str().expect("an id")
}

/// Brings the machine into a state, `deployed` or `stopped`, from whatever state it is in.
fn bring_to(host: &Host, state: &str) {
    let mut machine = host.named(NAME);
    if let Some(failed) = machine.take_if(|machine| machine["state"] == "failed") {
        host.terminate("alice", id(&failed));
    }
    let order = match &machine {
        None => Order::Deploy,
        Some(machine) if machine["state"] == state => return,
        Some(_) if state == "stopped" => Order::Stop,
        Some(_) => Order::Start,
    };
    give_despite_faults(host, order, NAME);
    let machine = host.named(NAME).expect("the machine");
    let done = if order == Order::Deploy { "deployed" } else { state };
    host.wait_for("alice", id(&machine), done, 300);
    if done != state {
        bring_to(host, state);
    }
}

/// The stages of an order in which a mishap can strike.
fn stages(order: Order, mishap: Mishap) -> impl Iterator<Item = Stage> {
    let all = order.stages().iter().copied();
    // No helper runs while a deploy is queued.
    all.filter(move |stage| mishap != Mishap::Helper || *stage != Stage::Accepted)
}

/// The states that a machine may be in afterward; `gone` if it no longer exists.
fn ends(order: Order, mishap: Mishap) -> &'static [&'static str] {
    match (order, mishap) {
        // With a full disk it depends on whether there was still something to write.
        (Order::Deploy, Mishap::Disk) => &["failed", "deployed"],
        (Order::Deploy, _) => &["failed"],
        // A removal is resumed. If the helper died, the owner first sees a failure.
        (Order::Terminate, Mishap::Helper) => &["failed", "gone"],
        (Order::Terminate, _) => &["gone"],
        (Order::Stop | Order::Start, Mishap::Disk) | (Order::Reboot, Mishap::Disk | Mishap::Helper) => {
            &["stopped", "deployed"]
        }
        // A stop whose helper died is abandoned, with the reason; a reboot is resumed.
        (Order::Stop, Mishap::Helper) | (Order::Reboot, _) => &["deployed"],
        // A stop is resumed. A start is undone, and the owner can repeat it. A half-written image
        // is deleted.
        (Order::Stop | Order::Start | Order::Save | Order::Resize, _) => &["stopped"],
    }
}

/// Makes a mishap happen in a stage of an order, and has upkeep repair it.
fn befall(host: &Host, order: Order, stage: Stage, mishap: Mishap, name: &str) {
    let what = format!("{order} {stage}, {mishap:?}");
    let strike = host.strike_at(&format!("alice_{name}"), order, stage, mishap);
    give_despite_faults(host, order, name);
    strike.wait();
    host.heal(&what);
    let machine = host.named(name);
    let state = machine.as_ref().map_or("gone", |machine| machine["state"].as_str().expect("a state"));
    let reason = machine.as_ref().and_then(|machine| machine["reason"].as_str()).unwrap_or_default();
    eprintln!("{what}: {state}. {reason}");
    assert!(ends(order, mishap).contains(&state), "{what}: {state}, {reason}\n{}", host.log());
    if order == Order::Deploy && state == "failed" {
        // Apache takes a moment to stop.
        let at_once = matches!(mishap, Mishap::Worker | Mishap::Helper);
        assert!(mishap == Mishap::Disk || reason.contains("interrupted"), "{what}: {reason}");
        assert!(!at_once || reason.contains(&stage.to_string()), "{what}: {reason}");
    }
}

/// Tries all orders in all stages. `also` runs while one machine is running and another half
/// deployed.
fn all_orders(mishap: Mishap, also: impl Fn(&Host)) {
    scenario(&format!("healing-{mishap:?}").to_lowercase(), |host| {
        make_room(host);
        let before = host.inventory();
        for (n, stage) in (2..).zip(stages(Order::Deploy, mishap)) {
            befall(host, Order::Deploy, stage, mishap, &format!("vm{n}"));
        }
        bring_to(host, "deployed");
        also(host);
        for order in [Order::Reboot, Order::Stop, Order::Save, Order::Start, Order::Terminate] {
            for stage in stages(order, mishap) {
                let stopped = matches!(order, Order::Start | Order::Save);
                bring_to(host, if stopped { "stopped" } else { "deployed" });
                befall(host, order, stage, mishap, NAME);
            }
        }
        for machine in host.machines() {
            host.terminate("alice", id(&machine));
        }
        // Apache takes a moment to stop, and an image may be completed meanwhile. The portal then
        // knows it.
        if host.ask("alice", "images", "format=text").1.contains("image\t") {
            host.delete_image("alice", "image");
        }
        host.must_be_as(&before);
    });
}

#[test]
fn worker_killed_in_each_stage() {
    all_orders(Mishap::Worker, |_| {});
}

#[test]
fn helper_killed_in_each_stage() {
    all_orders(Mishap::Helper, |_| {});
}

/// An upgrade of Apache restarts it, and `KillMode=mixed` then kills its whole control group.
#[test]
fn apache_stopped_in_each_stage() {
    all_orders(Mishap::Service, |host| {
        // A running machine does not belong to Apache. It comes back after a reboot, so the process
        // that manages it is alive.
        befall(host, Order::Deploy, Stage::Start, Mishap::Service, "vm12");
        let before = boots(host);
        host.sh(&format!("xl reboot alice_{NAME}"));
        let end = Instant::now() + Duration::from_secs(90);
        while boots(host) == before {
            assert!(Instant::now() < end, "the machine does not come back\n{}", host.sh("xl list"));
            std::thread::sleep(Duration::from_secs(1));
        }
    });
}

#[test]
fn disk_full_in_each_stage() {
    all_orders(Mishap::Disk, |_| {});
}

/// How often the machine has booted, according to its console.
fn boots(host: &Host) -> u32 {
    let count =
        host.try_sh(&format!("grep -c 'GUEST READY' /var/log/xen/console/guest-alice_{NAME}.log")).out;
    count.trim().parse().unwrap_or_else(|_| panic!("no count: {count}"))
}
