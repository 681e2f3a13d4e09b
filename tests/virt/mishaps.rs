//! Every order meets every mishap in every stage of its work, each on a machine of its own, all at
//! once: the mishap happens when all are in their stage. Afterwards upkeep restores order: each
//! machine is in a defined state, and host, libvirt and portal know the same of it.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use vgrid::model::stage::{Order, Stage};

use super::host::{VirtHost, quote, scenario_with};
use crate::support::healing::Healing;
use crate::support::visited::Visited as _;

/// A machine that starts at once and rests. It does not hear the power button.
pub const MENU: &str = "vmImage=menu&vmMemory=64&vmPartition=1";

/// A kind of mishap (see `strike.py`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mishap {
    /// The worker is killed; its helper goes on.
    Worker,
    /// The helper is killed, alone or with all that it ran.
    Helper,
    /// The disk of the machines is full until the orders have ended.
    Disk,
    /// libvirtd is killed, and started again once the orders have ended.
    Killed,
    /// libvirtd is restarted.
    Restarted,
    /// libvirtd does not answer until the orders have ended.
    Hanging,
}

/// An order that meets a mishap in a stage, on a machine of its own.
#[derive(Debug, Clone)]
pub struct Case {
    pub order: Order,
    pub stage: Stage,
    /// The name of the machine without its owner's.
    pub name: String,
}

impl Case {
    /// All orders in all stages in which a mishap can strike. A disk grows too fast for it to strike
    /// there among so many; `super::resize` sees to that.
    fn all(mishap: Mishap) -> Vec<Self> {
        // No helper runs while a deploy is queued.
        let strikes =
            |stage: Stage| stage != Stage::Grow && (mishap != Mishap::Helper || stage != Stage::Accepted);
        let stages = |&order: &Order| order.stages().iter().map(move |&stage| (order, stage));
        let all = Order::ALL.iter().flat_map(stages).filter(|(_, stage)| strikes(*stage));
        (1..).zip(all).map(|(n, (order, stage))| Self { order, stage, name: format!("vm{n}") }).collect()
    }

    /// The state that the machine is in before: `None` if there is none yet.
    fn before(&self) -> Option<&'static str> {
        match self.order {
            Order::Deploy => None,
            Order::Stop | Order::Reboot | Order::Terminate => Some("deployed"),
            Order::Start | Order::Save | Order::Resize => Some("stopped"),
        }
    }

    /// When the order is given, from 0 on: only one machine is started at a time on a host, so
    /// those that are to be held there come after those that have to get past that. A worker that
    /// is held where there is no helper may hold the node's lock, so it comes last.
    fn wave(&self) -> usize {
        match self.stage {
            Stage::Accepted => 2,
            Stage::Start => 1,
            _ => 0,
        }
    }

    /// The states that the machine may be in afterwards; `gone` if it no longer exists.
    fn ends(&self, mishap: Mishap) -> &'static [&'static str] {
        match (self.order, mishap) {
            // It depends on whether libvirtd was being asked just then.
            (Order::Deploy, Mishap::Restarted) => &["failed", "deployed"],
            (Order::Stop | Order::Start | Order::Reboot, Mishap::Restarted) => &["deployed", "stopped"],
            // It depends on whether there was still something to write.
            (Order::Deploy | Order::Start | Order::Reboot, Mishap::Disk) => {
                &["failed", "deployed", "stopped"]
            }
            (Order::Deploy, _) => &["failed"],
            // A removal is resumed. The owner may first see a failure.
            (Order::Terminate, _) => &["gone"],
            // A stop whose helper died, or that libvirtd did not take, is abandoned with the reason.
            (Order::Stop, Mishap::Worker | Mishap::Disk) => &["stopped"],
            (Order::Stop, _) | (Order::Reboot, Mishap::Worker) => &["deployed"],
            // It has been shut down or not; a machine that had been started runs on without libvirtd.
            (Order::Reboot, _) | (Order::Start, Mishap::Killed | Mishap::Hanging) => &["stopped", "deployed"],
            // A start is undone, and the owner can repeat it. A half-written image is deleted.
            // A change of sizes is carried out or taken back.
            (Order::Start | Order::Save | Order::Resize, _) => &["stopped"],
        }
    }

    /// What the owner must read of a failed order: one of these.
    fn words(&self, mishap: Mishap) -> &'static [&'static str] {
        match (self.order, mishap) {
            (_, Mishap::Killed | Mishap::Restarted) => &["libvirtd is not running on this host"],
            (_, Mishap::Hanging) => &["libvirtd has not answered for 30 s"],
            (_, Mishap::Disk) => &["MiB of disk space free", "no space is left", "No space left"],
            _ => &["interrupted"],
        }
    }
}

/// A process on a host that waits for the moment to strike.
struct Strike {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Strike {
    /// Waits until that many are held.
    fn wait_for(&mut self, held: usize) {
        for _ in 0..held {
            let line = self.line();
            if !line.starts_with("held ") {
                let mut rest = String::new();
                self.output.read_to_string(&mut rest).expect("text");
                panic!("{line}{rest}");
            }
        }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("a line");
        line
    }

    /// Waits until the mishap is over.
    fn wait(mut self) {
        let mut text = String::new();
        self.output.read_to_string(&mut text).expect("text");
        let status = self.child.wait().expect("an exit status");
        assert!(status.success() && text == "struck\n", "{status}: {text}");
    }
}

impl VirtHost {
    fn strike(&self, mishap: Mishap, cases: &[Case]) -> Strike {
        let targets: Vec<_> = cases
            .iter()
            .map(|case| format!("alice_{}:{}:{}", case.name, case.order, case.stage.as_str()))
            .collect();
        let script = quote(concat!(include_str!("../support/strike_lib.py"), include_str!("strike.py")));
        let mishap = format!("{mishap:?}").to_lowercase();
        let mut child = self
            .command(&format!("python3 -c {script} {mishap} {} 2>&1", targets.join(" ")))
            .stdout(Stdio::piped())
            .spawn()
            .expect("tests/virthost/sh runs");
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut strike = Strike { child, output };
        assert_eq!(strike.line(), "armed\n");
        strike
    }

    /// Adds names, and has many deploys work at once.
    pub fn make_room(&self) {
        self.sh("for n in $(seq 9 30); do echo \"10.0.3.$((20 + n)) vm$n\" >> /etc/hosts; \
             sed -i \"/^\\[VirtualHostsPool\\]/a vm$n = \\\"\\\"\" /etc/vgrid/common.cfg; done; \
             sed -i 's/^virthost = .*/virthost = 30/' /etc/vgrid/common.cfg; \
             sed -i '/^\\[General\\]/a parallelDeploys = 16\\nshutdownTimeout = 2' /etc/vgrid/node.cfg");
    }

    /// Gives an order about each of these machines at once, and waits until all are in the state
    /// that it leads to.
    pub fn all_to(&self, order: Order, names: &[String], state: &str) {
        let given: Vec<_> = names
            .iter()
            .map(|name| {
                if order == Order::Deploy {
                    return self.deploy("alice", &format!("{MENU}&vmHostname={name}"));
                }
                self.order("alice", order, &format!("vmHostname={name}"));
                id(&self.named(name).expect("the machine"))
            })
            .collect();
        for id in given {
            self.wait_for("alice", &id, state, 300);
        }
    }
}

impl Healing for VirtHost {
    const PATIENCE: Duration = Duration::from_secs(300);

    fn upkeep(&self) -> String {
        self.as_www_data("/usr/bin/vgrid-upkeep").out
    }

    fn differences(&self) -> Vec<String> {
        let mut known = BTreeSet::new();
        for machine in self.machines() {
            let text = |name: &str| machine[name].as_str().expect("text").to_owned();
            let (name, folder) = (format!("alice_{}", text("virtual_host")), text("id"));
            let definition = match text("state").as_str() {
                "deployed" => {
                    known.extend([format!("running {name}"), format!("autostart {name}")]);
                    "domain.xml"
                }
                "stopped" => "domain.stopped.xml",
                "failed" => continue,
                state => return vec![format!("{name} is still {state}")],
            };
            known.insert(format!("defined {name}"));
            known.extend(
                [definition, "pcgrub.img", "root.raw", "swap.raw"]
                    .map(|file| format!("file {folder}/{file}")),
            );
        }
        let there = self.sh("
            for option in running:--state-running defined:--all autostart:--autostart; do
                virsh -q list --name ${option#*:} $([ $option = autostart:--autostart ] && echo --all) |
                    sed -n \"s/./${option%:*} &/p\"
            done
            cd /var/lib/vgrid-machines && find . -mindepth 2 -printf 'file %P\\n'
            pgrep -a 'vgrid-' | sed 's/^/process /'");
        let there: BTreeSet<String> = there.lines().map(str::to_owned).collect();
        let unknown = there.difference(&known).map(|what| format!("unknown {what}"));
        unknown.chain(known.difference(&there).map(|what| format!("missing {what}"))).collect()
    }
}

fn id(machine: &Value) -> String {
    machine["id"].as_str().expect("an id").to_owned()
}

/// Names of the machines of cases that are in that state before.
fn names(cases: &[Case], state: Option<&str>) -> Vec<String> {
    let those =
        cases.iter().filter(|case| state.map_or(case.before().is_some(), |s| case.before() == Some(s)));
    those.map(|case| case.name.clone()).collect()
}

/// Gives the orders of the cases, and has them meet the mishap.
pub fn befall(host: &VirtHost, mishap: Mishap, cases: &[Case]) {
    let mut strike = host.strike(mishap, cases);
    for wave in 0..=2 {
        let now: Vec<_> = cases.iter().filter(|case| case.wave() == wave).collect();
        for case in &now {
            let fields = match case.order {
                Order::Deploy => format!("{MENU}&vmHostname={}", case.name),
                Order::Save => format!("vmHostname={0}&name={0}", case.name),
                Order::Resize => format!("vmHostname={}&vmMemory=80&vmPartition=2", case.name),
                _ => format!("vmHostname={}", case.name),
            };
            host.order("alice", case.order, &fields);
        }
        strike.wait_for(now.len());
    }
    strike.wait();
}

/// Tries all orders in all stages.
fn all_orders(mishap: Mishap) {
    let name = format!("{mishap:?}").to_lowercase();
    scenario_with(&name, &["--machines", "ext4", "--size", "40G"], |host| {
        let begin = Instant::now();
        let say = |what: &str| eprintln!("{:6.1} s {what}", begin.elapsed().as_secs_f64());
        host.make_room();
        let before = host.inventory();
        let cases = Case::all(mishap);
        host.all_to(Order::Deploy, &names(&cases, None), "deployed");
        host.all_to(Order::Stop, &names(&cases, Some("stopped")), "stopped");
        assert_eq!(host.differences(), [""; 0]);
        say("prepared");
        befall(host, mishap, &cases);
        say("struck");
        host.heal(&name);
        say("healed");
        let mut wrong = Vec::new();
        for case in &cases {
            let machine = host.named(&case.name);
            let state =
                machine.as_ref().map_or("gone", |machine| machine["state"].as_str().expect("a state"));
            let reason = machine.as_ref().and_then(|machine| machine["reason"].as_str()).unwrap_or_default();
            let line = format!("{} {}, {mishap:?}: {state}. {reason}", case.order, case.stage);
            say(&line);
            let is_told = reason.is_empty() && state != "failed"
                || case.words(mishap).iter().any(|words| reason.contains(words));
            if !case.ends(mishap).contains(&state) || !is_told {
                wrong.push(line);
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}\n{}", host.log());
        // No machine is lost: the next order succeeds.
        let there = host.machines();
        let those = |state: &str| -> Vec<String> {
            let those = there.iter().filter(|machine| machine["state"] == state);
            those.map(|machine| machine["virtual_host"].as_str().expect("a name").to_owned()).collect()
        };
        host.all_to(Order::Start, &those("stopped"), "deployed");
        host.all_to(Order::Stop, &those("deployed"), "stopped");
        say("given the next order");
        let all: Vec<_> = ["stopped", "deployed", "failed"].into_iter().flat_map(those).collect();
        let ids: Vec<_> = there.iter().map(id).collect();
        for name in &all {
            host.order("alice", Order::Terminate, &format!("vmHostname={name}"));
        }
        for id in ids {
            host.wait_for("alice", &id, "notDeployed", 300);
        }
        // Those of saves that did not need what was broken.
        for image in host.get_json("alice", "images", "")["images"].as_array().expect("images") {
            host.delete_image("alice", image["id"].as_str().expect("a name"));
        }
        host.must_be_as(&before);
        say("gone");
    });
}

#[test]
fn worker_killed_in_each_stage() {
    all_orders(Mishap::Worker);
}

#[test]
fn helper_killed_in_each_stage() {
    all_orders(Mishap::Helper);
}

#[test]
fn disk_full_in_each_stage() {
    all_orders(Mishap::Disk);
}

#[test]
fn libvirtd_killed_in_each_stage() {
    all_orders(Mishap::Killed);
}

#[test]
fn libvirtd_restarted_in_each_stage() {
    all_orders(Mishap::Restarted);
}

#[test]
fn libvirtd_hanging_in_each_stage() {
    all_orders(Mishap::Hanging);
}
