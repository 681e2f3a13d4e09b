//! Snapshots in a thin pool: a machine gets back the disk that it had, and whatever is killed meanwhile,
//! its disk is either of both.

use vgrid::model::stage::Order;

use super::host::{HELPER, Host, TINY, scenario};
use super::thin::{USE_THIN, field, root};
use crate::support::visited::Visited as _;

/// A place on a disk of 1 GiB, in words of 8 bytes, which no file of the image uses.
const PLACE: &str = "120000000";

fn snapshots(host: &Host, id: &str, more: &str) -> (u16, String) {
    host.ask("alice", "snapshots", &format!("format=text&id={id}{more}"))
}

fn must(host: &Host, id: &str, act: &str, name: &str) -> usize {
    let (status, lines) = snapshots(host, id, &format!("&do={act}&name={name}"));
    assert_eq!(status, 202, "{act} {name}: {lines}\n{}", host.log());
    lines.lines().count()
}

/// Writes a word to a place on the disk of a machine that does not run.
pub fn mark(host: &Host, name: &str, word: &str) {
    let disk = format!("/dev/vg1/{}", root(name));
    host.sh(&format!("printf %-8s {word} | dd of={disk} bs=8 seek={PLACE} conv=notrunc,fsync 2> /dev/null"));
}

pub fn marked(host: &Host, name: &str) -> String {
    let disk = format!("/dev/vg1/{}", root(name));
    host.sh(&format!("dd if={disk} bs=8 skip={PLACE} count=1 2> /dev/null")).trim().to_owned()
}

/// The volumes of the group, by name.
fn volumes(host: &Host) -> Vec<String> {
    let all = host.sh("lvs --noheadings -o lv_name vg1");
    all.split_whitespace().map(str::to_owned).collect()
}

fn free(host: &Host) -> u64 {
    let state: serde_json::Value = serde_json::from_str(&host.sh(&format!("{HELPER} info"))).expect("JSON");
    state["storage"]["Ok"]["space"]["free"].as_u64().expect("a number")
}

/// Kills the helper that runs the program.
const KILL: &str = "kill -9 $PPID";

/// Has a program of LVM's do something else, once: instead of its work, or after it.
pub fn arm(host: &Host, program: &str, after: bool, deed: &str) {
    let work = format!("/usr/sbin/lvm {program} \"$@\"");
    let armed = if after { format!("{work}; {deed}") } else { deed.to_owned() };
    host.sh(&format!(
        "rm /usr/sbin/{program}; touch /run/armed; printf '%s\\n' '#!/bin/bash' \
         'if rm /run/armed 2> /dev/null; then {armed}; exit 1; fi' 'exec {work}' > /usr/sbin/{program}; \
         chmod 755 /usr/sbin/{program}"
    ));
}

/// Puts the program back. Returns whether it has struck.
pub fn disarm(host: &Host, program: &str) -> bool {
    host.try_sh(&format!("ln -sf lvm /usr/sbin/{program}; rm /run/armed 2> /dev/null")).status != 0
}

/// A stopped machine with two snapshots and an enlarged disk goes back to its image, whatever is killed, and
/// then to a snapshot.
fn goes_back_to_its_image(host: &Host, id: &str) {
    let count = volumes(host).len();
    let prepared = volumes(host).into_iter().find(|name| name.starts_with("vgrid.image.")).expect("one");
    let uuid = |name: &str| {
        host.sh(&format!("lvchange -ay -K vg1/{name}; blkid -p -o value -s UUID /dev/vg1/{name}"))
    };
    let (old, original) = (uuid(&root("vm2")), uuid(&prepared));
    host.sh(&format!("lvchange -an vg1/{prepared}"));
    for program in ["lvcreate", "lvextend", "lvremove", "lvrename"] {
        for after in [false, true] {
            mark(host, "vm2", "now");
            arm(host, program, after, KILL);
            host.try_sh(&format!("{HELPER} as-new {id} alice_vm2 tiny 0"));
            let has_struck = disarm(host, program);
            host.sh(&format!("{HELPER} info > /dev/null"));
            let (now, all) = (marked(host, "vm2"), volumes(host));
            eprintln!("{program} {after}, as-new: {has_struck} {now:?}");
            assert!(now == "now" && has_struck || now.trim_matches('\0').is_empty(), "{program}: {now:?}");
            assert_eq!(field(host, &root("vm2"), "lv_size"), "2048.00");
            assert!(!all.iter().any(|name| name.starts_with("vgrid.back")), "{program}: {all:?}");
            assert_eq!(all.len(), count, "{program}");
        }
    }
    mark(host, "vm2", "now");
    let free_before = free(host);
    let (status, lines) = snapshots(host, id, "&do=as-new");
    assert_eq!((status, lines.lines().count(), free(host)), (202, 2, free_before), "{lines}\n{}", host.log());
    let new = uuid(&root("vm2"));
    assert!(new != old && new != original, "{old} {new}");
    assert_eq!(field(host, &root("vm2"), "origin"), prepared);
    let tags = field(host, &root("vm2"), "lv_tags");
    assert!(tags.contains(id) && !tags.contains("vgrid.new"), "{tags}");
    host.carry_out("alice", Order::Start, id, "deployed");
    host.must_answer_ping("vm2");
    host.carry_out("alice", Order::Stop, id, "stopped");
    assert_eq!(must(host, id, "roll-back", "one"), 2);
    assert_eq!(marked(host, "vm2"), "one");
}

#[test]
fn a_machine_goes_back_to_what_it_was() {
    scenario("snapshots", |host| {
        host.sh("sed -i '/^\\[General\\]/a shutdownTimeout = 20' /etc/vgrid/node.cfg");
        let nothing = host.inventory();
        let old = host.deployed("alice", &format!("{TINY}&vmHostname=vm1"));
        host.sh(USE_THIN);
        // It has no thin volume.
        let (status, sentence) = snapshots(host, &old, "&do=take&name=x");
        assert!(status == 409 && sentence.contains("before this host had a pool"), "{sentence}");
        host.terminate("alice", &old);

        let id = host.deployed("alice", "vmImage=tiny&vmMemory=96&vmPartition=1&vmHostname=vm2");
        let name = |snapshot: &str| format!("vgrid.snapshot.{}.{snapshot}", id.replace('-', ""));
        // Of a machine that runs: it holds what the machine's disk has.
        let before = free(host);
        assert_eq!(must(host, &id, "take", "running"), 1);
        let holds: u64 =
            snapshots(host, &id, "").1.trim_end().rsplit('\t').next().unwrap().parse().expect("MiB");
        assert!(holds > 4 && (holds..holds + 8).contains(&(before - free(host))), "{before} {holds}");
        let attributes = field(host, &name("running"), "lv_attr");
        assert!(attributes.starts_with("Vri---tz-k"), "anybody could change it: {attributes}");
        // A copy is a machine of its own, while the first goes on running.
        let fields = format!("fromSnapshot={id}/running&vmMemory=96&vmPartition=1&vmHostname=vm3");
        let copy = host.deployed("alice", &fields);
        host.must_answer_ping("vm3");
        host.must_answer_ping("vm2");
        assert_eq!(field(host, &root("vm3"), "origin"), "", "it holds on to nothing");
        assert!(!volumes(host).iter().any(|name| name.starts_with("vgrid.back")));
        host.terminate("alice", &copy);

        host.carry_out("alice", Order::Stop, &id, "stopped");
        mark(host, "vm2", "one");
        assert_eq!(must(host, &id, "take", "one"), 2);
        mark(host, "vm2", "two");
        // A larger disk stays as large.
        host.order("alice", Order::Resize, &format!("id={id}&vmPartition=2"));
        host.wait_for("alice", &id, "stopped", 300);
        assert_eq!(must(host, &id, "roll-back", "one"), 2);
        assert_eq!(
            (marked(host, "vm2").as_str(), &*field(host, &root("vm2"), "lv_size")),
            ("one", "2048.00")
        );
        assert!(field(host, &root("vm2"), "lv_tags").contains(&id));

        // Killed at each program that changes something.
        let count = volumes(host).len();
        let mut deaths = 0;
        for program in ["lvcreate", "lvextend", "lvremove", "lvrename"] {
            for after in [false, true] {
                let what = format!("{program} {}", if after { "done" } else { "not done" });
                for (verb, snapshot) in
                    [("roll-back", "one"), ("take-snapshot", "new"), ("delete-snapshot", "new")]
                {
                    mark(host, "vm2", "now");
                    let reserved = if verb == "take-snapshot" { "0" } else { "" };
                    arm(host, program, after, KILL);
                    host.try_sh(&format!("{HELPER} {verb} {id} alice_vm2 {snapshot} {reserved}"));
                    let has_struck = disarm(host, program);
                    deaths += usize::from(has_struck);
                    // Whoever comes next finds a whole disk.
                    host.sh(&format!("{HELPER} info > /dev/null"));
                    let (now, all) = (marked(host, "vm2"), volumes(host));
                    eprintln!("{what}, {verb}: {has_struck} {now}");
                    let expected = if verb == "roll-back" { ["one", "now"] } else { ["now", "now"] };
                    assert!(expected.contains(&now.as_str()), "{what} {verb}: {now}");
                    assert!(has_struck || now == expected[0], "{what} {verb}: {now}");
                    assert_eq!(field(host, &root("vm2"), "lv_size"), "2048.00");
                    assert!(!all.iter().any(|name| name.starts_with("vgrid.back")), "{what} {verb}: {all:?}");
                    let is_there = all.contains(&name("new"));
                    match verb {
                        "take-snapshot" => assert!(is_there || has_struck, "{what} {verb}: {all:?}"),
                        "delete-snapshot" => assert!(!is_there || has_struck, "{what} {verb}: {all:?}"),
                        _ => {}
                    }
                }
                host.sh(&format!("{HELPER} delete-snapshot {id} alice_vm2 new > /dev/null"));
                assert_eq!(volumes(host).len(), count, "{what}");
            }
        }
        assert!(deaths >= 9, "{deaths}");

        goes_back_to_its_image(host, &id);
        // A machine that was written to while it ran is one that was switched off.
        assert_eq!(must(host, &id, "roll-back", "running"), 2);
        host.carry_out("alice", Order::Start, &id, "deployed");
        host.must_answer_ping("vm2");
        let (status, sentence) = snapshots(host, &id, "&do=roll-back&name=one");
        assert!(status == 409 && sentence.contains("Stop it first"), "{sentence}");
        // With the machine, its snapshots are gone.
        host.terminate("alice", &id);
        let left = volumes(host);
        assert_eq!(left.len(), 2, "{left:?}");
        host.sh("lvremove -q -f vg1/$(lvs --noheadings -o lv_name vg1 | grep -o 'vgrid.image.*') vg1/pool");
        host.must_be_as(&nothing);
    });
}
