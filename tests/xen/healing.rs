//! Every order, in every stage of its work, meets every mishap; afterwards upkeep has brought all in order: each
//! machine is in one of its resting states, and the host has what the portal knows of and nothing else.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::Value;
use vgrid::model::stage::{Order, Stage};

use super::host::{Host, scenario};
use super::mishap::Mishap;

pub const TINY: &str = "vmImage=tiny&vmMemory=96&vmPartition=1";

/// How long upkeep may need, run again and again: longer than a host is left in peace with an order (two minutes),
/// and than it waits before it tries again what failed (one).
const PATIENCE: Duration = Duration::from_secs(400);

/// The machine on which everything but deploys is tried.
const NAME: &str = "vm1";

impl Host {
    /// Runs upkeep as cron does; returns its summary.
    pub fn upkeep(&self) -> String {
        self.sh("runuser -u www-data -- /usr/bin/vgrid-upkeep 2>&1")
    }

    /// All machines that the portal knows.
    pub fn machines(&self) -> Vec<Value> {
        let (status, text) = self.ask("admin", "list", "format=json&scope=all");
        assert_eq!(status, 200, "{text}");
        let page: Value = serde_json::from_str(&text).expect("JSON");
        page["machines"].as_array().expect("machines").clone()
    }

    /// What the host has and the portal does not know of, or the other way round.
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
        let lines = |line: &str| -> BTreeSet<String> {
            self.try_sh(line).out.lines().map(|line| line.trim().to_owned()).collect()
        };
        let there = [
            ("domain", running, lines("xl list | awk 'NR > 1 && $1 != \"Domain-0\" {print $1}'")),
            ("volume", volumes, lines("lvs --noheadings -o lv_name vg1 | grep xen-")),
        ];
        let mut found: Vec<String> = Vec::new();
        for (kind, known, there) in there {
            found.extend(there.difference(&known).map(|name| format!("{kind} {name} is not known")));
            found.extend(known.difference(&there).map(|name| format!("{kind} {name} is not there")));
        }
        found.extend(lines("pgrep -a vgrid-worker").into_iter().map(|line| format!("at work: {line}")));
        found
    }

    /// Runs upkeep, as often as it takes, until all is in order.
    pub fn heal(&self, what: &str) {
        let end = Instant::now() + PATIENCE;
        loop {
            let said = self.upkeep();
            let differences = self.differences();
            if differences.is_empty() && said.contains("\n0 things done about machines.") {
                assert!(!said.contains("unknown here"), "{what}: {said}");
                return;
            }
            assert!(Instant::now() < end, "{what}: {differences:#?}\n{said}\n{}", self.log());
            std::thread::sleep(Duration::from_secs(2));
        }
    }

    /// Alice's machine of that name; none if it is gone.
    pub fn named(&self, name: &str) -> Option<Value> {
        self.machines().into_iter().find(|machine| machine["virtual_host"] == name)
    }
}

/// Has names and places for a machine for every stage.
pub fn make_room(host: &Host) {
    host.sh("for n in $(seq 9 12); do echo \"10.0.2.$((20 + n)) vm$n\" >> /etc/hosts; \
         sed -i \"/^\\[VirtualHostsPool\\]/a vm$n = \\\"\\\"\" /etc/vgrid/common.cfg; done; \
         sed -i 's/^xenhost = .*/xenhost = 12/' /etc/vgrid/common.cfg");
}

/// Gives an order about the machine of that name, or deploys it. Where the portal is struck while it answers, there may
/// be no answer, or none to rely on; what became of it shows later.
fn give(host: &Host, order: Order, name: &str) {
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

/// The id of a machine.
pub fn id(machine: &Value) -> &str {
    machine["id"].as_str().expect("an id")
}

/// Sees to it that the machine is there, and running or stopped.
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
    give(host, order, NAME);
    let machine = host.named(NAME).expect("it is there");
    let done = if order == Order::Deploy { "deployed" } else { state };
    host.wait_for("alice", id(&machine), done, 300);
    if done != state {
        bring_to(host, state);
    }
}

/// The stages of an order in which a mishap can happen.
fn stages(order: Order, mishap: Mishap) -> impl Iterator<Item = Stage> {
    let all = order.stages().iter().copied();
    // Nobody helps a deploy that waits.
    all.filter(move |stage| mishap != Mishap::Helper || *stage != Stage::Accepted)
}

/// The states in which a machine may be afterwards; `gone` if there is none any more.
fn ends(order: Order, mishap: Mishap) -> &'static [&'static str] {
    match (order, mishap) {
        // With a full disk each depends on whether it still needed to write.
        (Order::Deploy, Mishap::Disk) => &["failed", "deployed"],
        (Order::Deploy, _) => &["failed"],
        // It is carried on; when a helper is gone its owner hears of it first.
        (Order::Terminate, Mishap::Helper) => &["failed", "gone"],
        (Order::Terminate, _) => &["gone"],
        (Order::Stop | Order::Start, Mishap::Disk) | (Order::Reboot, Mishap::Disk | Mishap::Helper) => {
            &["stopped", "deployed"]
        }
        // A stop stays undone when its helper is gone, with the reason; a reboot is carried on.
        (Order::Stop, Mishap::Helper) | (Order::Reboot, _) => &["deployed"],
        // A stop is carried on; a start is undone, and its owner can start the machine again. Half an image goes.
        (Order::Stop | Order::Start | Order::Save, _) => &["stopped"],
    }
}

/// Has a mishap happen in a stage of an order about the machine of that name, and upkeep heal it.
fn befall(host: &Host, order: Order, stage: Stage, mishap: Mishap, name: &str) {
    let what = format!("{order} {stage}, {mishap:?}");
    let strike = host.strike_at(&format!("alice_{name}"), order, stage, mishap);
    give(host, order, name);
    strike.wait();
    host.heal(&what);
    let machine = host.named(name);
    let state = machine.as_ref().map_or("gone", |machine| machine["state"].as_str().expect("a state"));
    let reason = machine.as_ref().and_then(|machine| machine["reason"].as_str()).unwrap_or_default();
    eprintln!("{what}: {state}. {reason}");
    assert!(ends(order, mishap).contains(&state), "{what}: {state}, {reason}\n{}", host.log());
    if order == Order::Deploy && state == "failed" {
        // It takes a moment until Apache has stopped.
        let at_once = matches!(mishap, Mishap::Worker | Mishap::Helper);
        assert!(mishap == Mishap::Disk || reason.contains("interrupted"), "{what}: {reason}");
        assert!(!at_once || reason.contains(&stage.to_string()), "{what}: {reason}");
    }
}

/// All orders in all stages; `also` happens while a machine runs and another has been half deployed.
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
        // Apache takes a moment to stop, in which an image can become whole; then the portal knows it.
        if host.ask("alice", "images", "format=text").1.contains("image\t") {
            let (status, text) = host.ask("alice", "images", "format=json&do=delete&name=image");
            assert_eq!(status, 202, "{text}");
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

/// An upgrade of Apache restarts it, and `KillMode=mixed` then ends all of its control group.
#[test]
fn apache_stopped_in_each_stage() {
    all_orders(Mishap::Service, |host| {
        // What runs is none of Apache's: it comes back from a reboot, so whoever minds it is alive.
        befall(host, Order::Deploy, Stage::Start, Mishap::Service, "vm12");
        let before = boots(host);
        host.sh(&format!("xl reboot alice_{NAME}"));
        let end = Instant::now() + Duration::from_secs(90);
        while boots(host) == before {
            assert!(Instant::now() < end, "it does not come back\n{}", host.sh("xl list"));
            std::thread::sleep(Duration::from_secs(1));
        }
    });
}

#[test]
fn disk_full_in_each_stage() {
    all_orders(Mishap::Disk, |_| {});
}

/// The number of times that the machine has booted, by its console.
fn boots(host: &Host) -> u32 {
    let count =
        host.try_sh(&format!("grep -c 'GUEST READY' /var/log/xen/console/guest-alice_{NAME}.log")).out;
    count.trim().parse().unwrap_or_else(|_| panic!("no count: {count}"))
}
