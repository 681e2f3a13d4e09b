//! The registry is put back from a backup of an hour ago, and the machines that changed since are on a real host: no disk is
//! lost, each difference is shown, and one order adopts or removes each.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::healing::{TINY, make_room};
use super::host::{Host, scenario};
use super::reports::wait_for_workers;

const BACKUP: &str = "/var/lib/vgrid/registry-backup.sqlite";

/// The volume on which something is written, to be read again when its machine has been adopted.
const MARKED: &str = "/dev/vg1/xen-root-bob_vm9";

/// How long all machines together may take to do what they were told.
const PATIENCE: Duration = Duration::from_secs(1500);

/// A machine, as the test knows it.
struct Machine {
    owner: &'static str,
    name: String,
    id: String,
}

impl Machine {
    fn of(owner: &'static str, machine: &Value) -> Self {
        let text = |key: &str| machine[key].as_str().expect("a text").to_owned();
        Self { owner, name: text("virtual_host"), id: text("id") }
    }

    /// As the host calls it.
    fn domain(&self) -> String {
        format!("{}_{}", self.owner, self.name)
    }
}

/// Asks for machines, all at once.
fn deploy<const N: usize>(host: &Host, wanted: [(&'static str, &str); N]) -> [Machine; N] {
    wanted.map(|(owner, name)| {
        let (status, answer) = host.deploy(owner, &format!("{TINY}&vmHostname={name}"));
        assert_eq!(status, 202, "{name}: {answer}");
        Machine::of(owner, &answer["machine"])
    })
}

fn give(host: &Host, order: &str, machines: &[&Machine]) {
    for Machine { owner, name, id } in machines {
        let (status, text) = host.ask(owner, order, &format!("format=json&id={id}"));
        assert_eq!(status, 202, "{order} of {name}: {text}");
    }
}

/// Waits until nothing changes by itself any more, and each of these is in that state. One request every few seconds is enough:
/// what answers it takes the time of what is waited for.
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

/// The volumes as LVM knows them, with whose they are.
fn volumes(host: &Host) -> Vec<String> {
    let all = host.sh("lvs --noheadings -o lv_name,lv_uuid,lv_tags vg1 | sort");
    // The columns are as wide as their widest entry.
    all.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

/// All that there is of machines: who runs, under which number; volumes; configurations and records, with what is in them.
fn all_of(host: &Host) -> (String, Vec<String>, String) {
    (
        host.sh("xl list | awk 'NR > 1 {print $1, $2}' | sort"),
        volumes(host),
        host.sh("find /etc/xen/auto /var/lib/vgrid/node/jobs -type f -exec md5sum {} + | sort"),
    )
}

fn administration(host: &Host) -> Value {
    let (status, text) = host.ask("admin", "admin", "format=json");
    assert_eq!(status, 200, "{text}");
    serde_json::from_str(&text).expect("JSON")
}

/// What a list of the administration page says of each, in order.
fn told(page: &Value, list: &str, key: &str) -> Vec<String> {
    let all = page[list].as_array().expect("a list").iter();
    let mut all: Vec<String> = all.map(|one| one[key].as_str().expect("a text").to_owned()).collect();
    all.sort();
    all
}

/// The names of what is unknown, of one kind.
fn unknown(page: &Value, kind: &str) -> Vec<String> {
    let mut all = page["unknown"].as_array().expect("a list").clone();
    all.retain(|one| one["kind"] == kind);
    told(&serde_json::json!({ "unknown": all }), "unknown", "name")
}

fn sorted(texts: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut all: Vec<String> = texts.into_iter().collect();
    all.sort();
    all
}

/// One press of a button: status and answer.
fn press(host: &Host, what: &str, machine: &Machine) -> (u16, String) {
    host.ask("admin", "admin", &format!("format=json&do={what}&kind=record&host=xenhost&name={}", machine.id))
}

/// An hour passes, and the registry of before it is put back.
fn restore(host: &Host) {
    host.sh("date -s '+1 hour' && systemctl stop apache2");
    let said = host.sh(&format!("vgrid-registry restore {BACKUP}; systemctl start apache2"));
    assert!(said.contains("machines 5,") && said.contains("vgrid-upkeep"), "{said}");
}

#[test]
fn after_a_restore_ten_machines_keep_their_disks_and_are_adopted_or_removed() {
    scenario("restore", |host| {
        make_room(host);
        // Three at a time are too much where the emulated host is not alone, and this is not about them.
        host.sh("sed -i '/^imageDirectory/i parallelDeploys = 1' /etc/vgrid/node.cfg");
        let before = host.inventory();

        // Of before the backup: one that is stopped, one that runs, two that will be removed, one that is still being made.
        let first = deploy(host, [("alice", "vm1"), ("alice", "vm2"), ("alice", "vm3"), ("alice", "vm4")]);
        wait(host, "deployed", &first);
        let [started, stopped, given_to_bob, made_anew] = first;
        give(host, "stop", &[&started]);
        wait(host, "stopped", [&started]);
        let [half_made] = deploy(host, [("alice", "vm6")]);
        let said = host.sh(&format!("runuser -u www-data -- vgrid-registry backup {BACKUP}"));
        assert!(said.contains("machines 5,"), "{said}");

        // Since then ten machines change. The names of the two that are removed are given out again.
        give(host, "start", &[&started]);
        give(host, "stop", &[&stopped]);
        give(host, "terminate", &[&given_to_bob, &made_anew]);
        wait(host, "notDeployed", [&given_to_bob, &made_anew]);
        let since = deploy(
            host,
            [("bob", "vm3"), ("alice", "vm4"), ("alice", "vm12"), ("alice", "vm11"), ("bob", "vm9")],
        );
        wait(host, "deployed", since.iter().chain([&started, &half_made]));
        let [bobs, anew, runs, rests, marked] = &since;
        give(host, "stop", &[rests, marked]);
        wait(host, "stopped", [&stopped, rests, marked]);
        host.sh(&format!("mount {MARKED} /mnt && echo mine > /mnt/kept && umount /mnt"));
        wait_for_workers(host);
        let there = all_of(host);

        restore(host);
        // Nothing is deployed before the host has been looked at; everybody reads why.
        let (status, answer) = host.deploy("bob", TINY);
        assert!(status == 503 && answer.to_string().contains("restored from a backup"), "{status} {answer}");
        assert_eq!(administration(host)["awaits_comparison"], true);
        let states = || [&started, &stopped, &half_made].map(|machine| state(host, machine));
        assert_eq!(states(), ["stopped", "deployed", "deploying"], "it is the registry of then");

        let said = host.upkeep();
        for _ in 0..2 {
            host.upkeep();
        }
        assert_eq!(all_of(host), there, "{said}\n{}", host.log());

        // Each difference is shown.
        assert_eq!(states(), ["deployed", "stopped", "deployed"], "{said}");
        let page = administration(host);
        assert_eq!(page["awaits_comparison"], false);
        assert_eq!(unknown(&page, "record"), sorted(since.iter().map(|machine| machine.id.clone())));
        let disks =
            since.iter().flat_map(|m| ["root", "swap"].map(|kind| format!("xen-{kind}-{}", m.domain())));
        assert_eq!(unknown(&page, "volume"), sorted(disks));
        let gone = [&given_to_bob, &made_anew];
        assert_eq!(
            told(&page, "missing", "id"),
            sorted(gone.iter().map(|machine| machine.id.clone())),
            "{said}"
        );
        let (_, html) = host.ask("admin", "admin", "format=html");
        assert_eq!(html.matches("value=\"adopt\"").count(), since.len(), "a button for each: {html}");
        for machine in gone {
            assert!(html.contains(&format!("name=\"id\" value=\"{}\"", machine.id)), "{html}");
            let page = host.machine(machine.owner, &machine.id);
            let reason = page["reason"].as_str().unwrap_or_default();
            assert!(reason.contains(&machine.domain()), "{page}");
        }

        // No name is given out that something on the host has, whether it is asked for or not.
        let (status, answer) = host.deploy("bob", &format!("{TINY}&vmHostname={}", runs.name));
        assert!(status == 409 && answer.to_string().contains("is in use on xenhost"), "{status} {answer}");
        let (status, answer) = host.deploy("bob", TINY);
        assert_eq!(status, 202, "{answer}");
        let new = Machine::of("bob", &answer["machine"]);
        assert!(since.iter().all(|machine| machine.name != new.name), "{} is in use", new.name);

        // What has a name that the portal believes to be another's is adopted when that one is gone.
        for machine in [bobs, anew] {
            let (status, text) = press(host, "adopt", machine);
            assert!(status == 409 && text.contains("that of another machine, of alice"), "{status} {text}");
        }
        give(host, "terminate", &gone);
        wait(host, "notDeployed", gone);
        wait(host, "deployed", [&new]);
        let addresses = host.sh("grep -h '^ip = ' /etc/xen/auto/*.cfg /etc/xen/auto/.*.stopped | sort");
        assert_eq!(addresses.lines().count(), 9, "{addresses}");
        assert_eq!(
            host.sh(&format!("echo '{addresses}' | uniq -d")).trim(),
            "",
            "an address is given out twice"
        );
        let kept = volumes(host);
        assert!(there.1.iter().all(|volume| kept.contains(volume)), "{kept:#?}\n{}", host.log());

        // One press each.
        for (machine, expected) in [(bobs, "deployed"), (anew, "deployed"), (marked, "stopped")] {
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
        let removed = [runs, rests];
        for machine in removed {
            let (status, text) = press(host, "remove", machine);
            assert_eq!(status, 202, "{}: {text}", machine.name);
        }
        wait_for_workers(host);
        let of_removed = |volume: &String| removed.iter().any(|machine| volume.contains(&machine.id));
        let (lost, kept): (Vec<String>, Vec<String>) = kept.into_iter().partition(of_removed);
        assert_eq!(lost.len(), 4, "{lost:#?}");
        assert_eq!(volumes(host), kept, "{}", host.log());
        host.heal("after all differences were seen to");
        let page = administration(host);
        for list in ["unknown", "missing"] {
            assert_eq!(page[list], Value::Array(Vec::new()));
        }

        // They are their owners' again, and nobody else's.
        let (status, text) = host.ask("alice", "stop", &format!("format=json&id={}", bobs.id));
        assert_eq!(status, 403, "{text}");
        assert_eq!(host.sh(&format!("mount -o ro {MARKED} /mnt && cat /mnt/kept && umount /mnt")), "mine\n");
        give(host, "stop", &[bobs, anew]);
        give(host, "start", &[marked]);
        wait(host, "stopped", [bobs, anew]);
        wait(host, "deployed", [marked]);
        host.sh("for i in $(seq 30); do ping -q -c 1 -W 2 vm9 && exit; sleep 1; done; exit 1");
        give(host, "start", &[bobs]);
        wait(host, "deployed", [bobs]);
        assert_eq!(volumes(host), kept, "{}", host.log());

        let last = [&started, &stopped, &half_made, bobs, anew, marked, &new];
        give(host, "terminate", &last);
        wait(host, "notDeployed", last);
        host.sh("cd /var/lib/vgrid && rm registry-backup.sqlite registry.sqlite.before-*");
        host.must_be_as(&before);
    });
}
