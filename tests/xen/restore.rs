//! The registry is restored from a backup of an hour ago, while a real host has the machines that
//! changed since: no disk is lost, each difference is shown, and one order adopts or removes each.

use std::time::{Duration, Instant};

use serde_json::Value;
use vgrid::model::stage::Order;

use super::healing::make_room;
use super::host::{Host, TINY, scenario};
use super::reports::wait_for_workers;
use crate::support::healing::Healing as _;
use crate::support::visited::Visited as _;

const BACKUP: &str = "/var/lib/vgrid/registry-backup.sqlite";

/// A volume with a mark, which must still be there when its machine has been adopted.
const MARKED: &str = "/dev/vg1/xen-root-bob_vm9";

/// How long all machines together may take to carry out their orders.
const PATIENCE: Duration = Duration::from_secs(1500);

/// A machine, as the test knows it.
struct Machine {
    owner: &'static str,
    name: String,
    id: String,
}

impl Machine {
    fn deploy(host: &Host, owner: &'static str, fields: &str) -> Self {
        let id = host.deploy(owner, fields);
        let machine = host.machine(owner, &id);
        Self { owner, name: machine["virtual_host"].as_str().expect("a name").to_owned(), id }
    }

    /// Its name on the host.
    fn domain(&self) -> String {
        format!("{}_{}", self.owner, self.name)
    }
}

/// Orders machines without waiting for them.
fn deploy<const N: usize>(host: &Host, wanted: [(&'static str, &str); N]) -> [Machine; N] {
    wanted.map(|(owner, name)| Machine::deploy(host, owner, &format!("{TINY}&vmHostname={name}")))
}

fn give(host: &Host, order: Order, machines: &[&Machine]) {
    for Machine { owner, id, .. } in machines {
        host.order(owner, order, &format!("id={id}"));
    }
}

/// Waits until no machine is in transition, then asserts that these are in that state. It asks only
/// every few seconds, because answering takes time from the work it waits for.
fn wait<'a>(host: &Host, state: &str, machines: impl IntoIterator<Item = &'a Machine>) {
    let end = Instant::now() + PATIENCE;
    while host.machines().iter().any(|machine| machine["moving"] == true) {
        assert!(Instant::now() < end, "{:#?}\n{}", host.machines(), host.log());
        std::thread::sleep(Duration::from_secs(3));
    }
    for machine in machines {
        assert_eq!(
            self::state(host, machine),
            state,
            "{}: {}",
            machine.name,
            host.machine(machine.owner, &machine.id)
        );
    }
}

fn state(host: &Host, machine: &Machine) -> String {
    host.machine(machine.owner, &machine.id)["state"].as_str().expect("a state").to_owned()
}

/// The volumes as LVM lists them, with their tags.
fn volumes(host: &Host) -> Vec<String> {
    let all = host.sh("lvs --noheadings -o lv_name,lv_uuid,lv_tags vg1 | sort");
    // Column widths depend on the widest entry.
    all.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

/// Everything on the host that belongs to machines: running domains and their numbers, volumes, and
/// the content of configurations and records.
fn all_of(host: &Host) -> (String, Vec<String>, String) {
    (
        host.sh("xl list | awk 'NR > 1 {print $1, $2}' | sort"),
        volumes(host),
        host.sh("find /etc/xen/auto /var/lib/vgrid/node/jobs -type f -exec md5sum {} + | sort"),
    )
}

fn administration(host: &Host) -> Value {
    host.get_json("admin", "admin", "")
}

/// One field of each entry in a list on the administration page, sorted.
fn column(page: &Value, list: &str, key: &str) -> Vec<String> {
    let all = page[list].as_array().expect("a list").iter();
    let mut all: Vec<String> = all.map(|one| one[key].as_str().expect("a text").to_owned()).collect();
    all.sort();
    all
}

/// The names of the orphans of one kind.
fn unknown(page: &Value, kind: &str) -> Vec<String> {
    let mut all = page["unknown"].as_array().expect("a list").clone();
    all.retain(|one| one["kind"] == kind);
    column(&serde_json::json!({ "unknown": all }), "unknown", "name")
}

fn sorted(texts: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut all: Vec<String> = texts.into_iter().collect();
    all.sort();
    all
}

/// Presses a button on the administration page: status and answer.
fn press(host: &Host, button: &str, machine: &Machine) -> (u16, String) {
    host.ask(
        "admin",
        "admin",
        &format!("format=json&do={button}&kind=record&host=xenhost&name={}", machine.id),
    )
}

/// Moves the clock an hour forward and restores the backup.
fn restore(host: &Host) {
    host.sh("date -s '+1 hour' && systemctl stop apache2");
    let output = host.sh(&format!("vgrid-registry restore {BACKUP}; systemctl start apache2"));
    assert!(output.contains("machines 5,") && output.contains("vgrid-upkeep"), "{output}");
}

#[test]
fn after_a_restore_ten_machines_keep_their_disks_and_are_adopted_or_removed() {
    scenario("restore", |host| {
        make_room(host);
        // Three deploys at a time are too much if the emulated host shares its processors, and this
        // test is not about that.
        host.sh("sed -i '/^imageDirectory/i parallelDeploys = 1' /etc/vgrid/node.cfg");
        let before = host.inventory();

        // Before the backup: one machine is stopped, one running, two will be removed, one is still
        // being deployed.
        let first = deploy(host, [("alice", "vm1"), ("alice", "vm2"), ("alice", "vm3"), ("alice", "vm4")]);
        wait(host, "deployed", &first);
        let [started, stopped, reassigned, replaced] = first;
        give(host, Order::Stop, &[&started]);
        wait(host, "stopped", [&started]);
        let [unfinished] = deploy(host, [("alice", "vm6")]);
        let output = host.sh(&format!("runuser -u www-data -- vgrid-registry backup {BACKUP}"));
        assert!(output.contains("machines 5,"), "{output}");

        // Then ten machines change. The names of the two removed ones are reused.
        give(host, Order::Start, &[&started]);
        give(host, Order::Stop, &[&stopped]);
        give(host, Order::Terminate, &[&reassigned, &replaced]);
        wait(host, "notDeployed", [&reassigned, &replaced]);
        let since = deploy(
            host,
            [("bob", "vm3"), ("alice", "vm4"), ("alice", "vm12"), ("alice", "vm11"), ("bob", "vm9")],
        );
        wait(host, "deployed", since.iter().chain([&started, &unfinished]));
        let [bobs, alices, running, idle, marked] = &since;
        give(host, Order::Stop, &[idle, marked]);
        wait(host, "stopped", [&stopped, idle, marked]);
        host.sh(&format!("mount {MARKED} /mnt && echo mine > /mnt/kept && umount /mnt"));
        wait_for_workers(host);
        let there = all_of(host);

        restore(host);
        // Nothing is deployed before upkeep has queried the host, and everyone reads why.
        let (status, answer) = host.try_deploy("bob", TINY);
        assert!(status == 503 && answer.to_string().contains("restored from a backup"), "{status} {answer}");
        assert_eq!(administration(host)["awaits_comparison"], true);
        let states = || [&started, &stopped, &unfinished].map(|machine| state(host, machine));
        assert_eq!(states(), ["stopped", "deployed", "deploying"], "the states at the time of the backup");

        let summary = host.upkeep();
        for _ in 0..2 {
            host.upkeep();
        }
        assert_eq!(all_of(host), there, "{summary}\n{}", host.log());

        // Each difference is shown.
        assert_eq!(states(), ["deployed", "stopped", "deployed"], "{summary}");
        let page = administration(host);
        assert_eq!(page["awaits_comparison"], false);
        assert_eq!(unknown(&page, "record"), sorted(since.iter().map(|machine| machine.id.clone())));
        let disks =
            since.iter().flat_map(|m| ["root", "swap"].map(|kind| format!("xen-{kind}-{}", m.domain())));
        assert_eq!(unknown(&page, "volume"), sorted(disks));
        let gone = [&reassigned, &replaced];
        assert_eq!(
            column(&page, "missing", "id"),
            sorted(gone.iter().map(|machine| machine.id.clone())),
            "{summary}"
        );
        let (_, html) = host.ask("admin", "admin", "format=html");
        assert_eq!(html.matches("value=\"adopt\"").count(), since.len(), "a button for each: {html}");
        for machine in gone {
            assert!(html.contains(&format!("name=\"id\" value=\"{}\"", machine.id)), "{html}");
            let page = host.machine(machine.owner, &machine.id);
            let reason = page["reason"].as_str().unwrap_or_default();
            assert!(reason.contains(&machine.domain()), "{page}");
        }

        // No name in use on the host is assigned, whether requested or not.
        let (status, answer) = host.try_deploy("bob", &format!("{TINY}&vmHostname={}", running.name));
        assert!(status == 409 && answer.to_string().contains("is in use on xenhost"), "{status} {answer}");
        let new = Machine::deploy(host, "bob", TINY);
        assert!(since.iter().all(|machine| machine.name != new.name), "{} is in use", new.name);

        // A machine whose name the portal has given to another is adopted once that one is gone.
        for machine in [bobs, alices] {
            let (status, text) = press(host, "adopt", machine);
            assert!(status == 409 && text.contains("that of another machine, of alice"), "{status} {text}");
        }
        give(host, Order::Terminate, &gone);
        wait(host, "notDeployed", gone);
        wait(host, "deployed", [&new]);
        let addresses = host.sh("grep -h '^ip = ' /etc/xen/auto/*.cfg /etc/xen/auto/.*.stopped | sort");
        assert_eq!(addresses.lines().count(), 9, "{addresses}");
        assert_eq!(host.sh(&format!("echo '{addresses}' | uniq -d")).trim(), "", "an address is used twice");
        let kept = volumes(host);
        assert!(there.1.iter().all(|volume| kept.contains(volume)), "{kept:#?}\n{}", host.log());

        // One click adopts or removes each.
        for (machine, expected) in [(bobs, "deployed"), (alices, "deployed"), (marked, "stopped")] {
            let (status, text) = press(host, "adopt", machine);
            assert_eq!(status, 200, "{}: {text}", machine.name);
            let adopted = host.machine(machine.owner, &machine.id);
            assert_eq!(
                (&adopted["state"], &adopted["owner"], &adopted["virtual_host"]),
                (&expected.into(), &machine.owner.into(), &machine.name.as_str().into()),
                "{adopted}"
            );
        }
        assert_eq!(volumes(host), kept);
        let removed = [running, idle];
        for machine in removed {
            let (status, text) = press(host, "remove", machine);
            assert_eq!(status, 202, "{}: {text}", machine.name);
        }
        wait_for_workers(host);
        let of_removed = |volume: &String| removed.iter().any(|machine| volume.contains(&machine.id));
        let (lost, kept): (Vec<String>, Vec<String>) = kept.into_iter().partition(of_removed);
        assert_eq!(lost.len(), 4, "{lost:#?}");
        assert_eq!(volumes(host), kept, "{}", host.log());
        host.heal("after all differences were resolved");
        let page = administration(host);
        for list in ["unknown", "missing"] {
            assert_eq!(page[list], Value::Array(Vec::new()));
        }

        // They belong to their owners again, and to no one else.
        let (status, text) = host.ask("alice", "stop", &format!("format=json&id={}", bobs.id));
        assert_eq!(status, 403, "{text}");
        assert_eq!(host.sh(&format!("mount -o ro {MARKED} /mnt && cat /mnt/kept && umount /mnt")), "mine\n");
        give(host, Order::Stop, &[bobs, alices]);
        give(host, Order::Start, &[marked]);
        wait(host, "stopped", [bobs, alices]);
        wait(host, "deployed", [marked]);
        host.must_answer_ping("vm9");
        give(host, Order::Start, &[bobs]);
        wait(host, "deployed", [bobs]);
        assert_eq!(volumes(host), kept, "{}", host.log());

        let last = [&started, &stopped, &unfinished, bobs, alices, marked, &new];
        give(host, Order::Terminate, &last);
        wait(host, "notDeployed", last);
        host.sh("cd /var/lib/vgrid && rm registry-backup.sqlite registry.sqlite.before-*");
        host.must_be_as(&before);
    });
}
