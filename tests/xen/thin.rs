//! Disks in a thin pool: an image is prepared once, and machines get snapshots of it.

use std::time::Duration;

use vgrid::model::stage::Order;

use super::check::run_checks;
use super::healing::make_room;
use super::host::{Host, TINY, scenario};
use crate::support::portal::id_of;
use crate::support::visited::Visited as _;
use crate::support::{at_once, eventually};

pub const USE_THIN: &str = "\
    lvcreate -q -y --type thin-pool -L 6G -n pool vg1 && \
    sed -i '/^\\[General\\]/a storage = \"thin\"\\nthinPool = \"pool\"' /etc/vgrid/node.cfg && \
    sudo -u www-data vgrid-upkeep";

/// What LVM says of a volume.
pub fn field(host: &Host, volume: &str, field: &str) -> String {
    host.sh(&format!("lvs --noheadings --nosuffix --units m -o {field} vg1/{volume}")).trim().to_owned()
}

pub fn root(name: &str) -> String {
    format!("xen-root-alice_{name}")
}

fn named(host: &Host, beginning: &str) -> Vec<String> {
    let all = host.sh("lvs --noheadings -o lv_name vg1");
    all.split_whitespace().filter(|name| name.starts_with(beginning)).map(str::to_owned).collect()
}

/// The prepared disks of the image.
pub fn prepared(host: &Host) -> Vec<String> {
    named(host, "vgrid.image.tiny.")
}

/// The prepared disks of saved images of it.
fn prepared_of_saved(host: &Host) -> Vec<String> {
    named(host, "vgrid.saved.tiny.")
}

/// The UUID of the file system of a machine that does not run.
fn uuid(host: &Host, name: &str) -> String {
    host.sh(&format!("blkid -p -o value -s UUID /dev/vg1/{}", root(name)))
}

/// A file in the file system of a machine that does not run; empty if it is not there.
fn content(host: &Host, name: &str, file: &str) -> String {
    host.sh(&format!("debugfs -R 'cat {file}' /dev/vg1/{} 2> /dev/null", root(name)))
}

/// Puts another image in the place of the image's file, with a mark in it.
fn change_image(host: &Host, mark: &str) {
    host.sh(&format!(
        "cd /var/lib/vgrid/images && mkdir /root/new && tar -xzf tiny.tar.gz -C /root/new && \
         echo {mark} > /root/new/mark && tar -czf tiny.new -C /root/new . && mv tiny.new tiny.tar.gz && \
         rm -r /root/new && sleep 4"
    ));
}

#[test]
fn machines_are_snapshots_of_prepared_images() {
    scenario("thin", |host| {
        host.sh("sed -i '/^\\[General\\]/a shutdownTimeout = 20' /etc/vgrid/node.cfg; \
                 sed -i 's/^xenhost = .*/xenhost = 8/' /etc/vgrid/common.cfg");
        let tiny = |name: &str, gib: u32| {
            host.deployed("alice", &format!("vmImage=tiny&vmMemory=96&vmPartition={gib}&vmHostname={name}"))
        };
        let nothing = host.inventory();
        // Made before the host got its pool.
        let old = host.deployed("alice", &format!("{TINY}&vmHostname=vm1"));
        host.sh(USE_THIN);
        let (failed, skipped, messages) = run_checks(host);
        assert!(failed.is_empty() && skipped.is_empty(), "{messages}");

        let first = tiny("vm2", 1);
        let there = prepared(host);
        assert_eq!(there.len(), 1, "{there:?}\n{}", host.log());
        let attributes = field(host, &there[0], "lv_attr");
        assert!(attributes.starts_with("Vri---tz"), "anybody could change it: {attributes}");
        let used: f64 = field(host, "pool", "data_percent").parse().expect("a percentage");
        let second = tiny("vm3", 2);
        assert_eq!(field(host, &root("vm3"), "origin"), there[0]);
        assert_eq!(field(host, &root("vm3"), "lv_size"), "2048.00");
        let now: f64 = field(host, "pool", "data_percent").parse().expect("a percentage");
        assert!(now - used < 1.0, "{used}% of the pool were used, and now {now}%");
        host.must_answer_ping("vm3");

        // Each is a system of its own, and its disk stays its own.
        for id in [&first, &second] {
            host.carry_out("alice", Order::Stop, id, "stopped");
        }
        assert_ne!(uuid(host, "vm2"), uuid(host, "vm3"));
        let blocks =
            host.sh(&format!("dumpe2fs -h /dev/vg1/{} 2> /dev/null | grep -i '^block'", root("vm3")));
        let number = |what: &str| -> u64 {
            let line = blocks.lines().find_map(|line| line.strip_prefix(what)).expect(what);
            line.trim().parse().expect("a number")
        };
        assert!(number("Block count:") * number("Block size:") > 2000 << 20, "{blocks}");
        host.sh(&format!("e2fsck -fn /dev/vg1/{}", root("vm3")));

        // A changed image is prepared anew. Machines of the old one are what they were.
        change_image(host, "new");
        let third = tiny("vm4", 1);
        let newer = prepared(host);
        assert!(newer.len() == 1 && newer != there, "{newer:?}");
        host.carry_out("alice", Order::Stop, &third, "stopped");
        assert_eq!(
            (content(host, "vm4", "/mark"), content(host, "vm3", "/mark")),
            ("new\n".into(), String::new())
        );
        host.carry_out("alice", Order::Start, &second, "deployed");
        host.must_answer_ping("vm3");

        // A saved image is another, whatever its name. Its first deploy prepares it.
        host.order("alice", Order::Save, &format!("id={third}&name=tiny"));
        host.wait_for("alice", &third, "stopped", 900);
        host.sh("sleep 4");
        let fields = "savedImage=tiny&vmMemory=96&vmPartition=1&vmHostname=vm5";
        let saved = host.deployed("alice", fields);
        assert_eq!(field(host, &root("vm5"), "origin"), "");
        let of_saved = prepared_of_saved(host);
        assert_eq!((prepared(host), of_saved.len()), (newer.clone(), 1), "{}", host.log());
        let attributes = field(host, &of_saved[0], "lv_attr");
        assert!(attributes.starts_with("Vri---tz"), "anybody could change it: {attributes}");
        host.terminate("alice", &saved);
        let saved = host.deployed("alice", fields);
        assert_eq!(field(host, &root("vm5"), "origin"), of_saved[0]);
        host.must_answer_ping("vm5");

        // What could overfill the pool is refused, whatever is written yet.
        let (status, answer) =
            host.try_deploy("alice", "vmImage=tiny&vmMemory=96&vmPartition=3&vmHostname=vm6");
        let sentence = answer["error"]["message"].as_str().unwrap_or_default();
        assert!(status == 409 && sentence.contains("disk space"), "{status} {answer}");

        // The machine from before is no worse off.
        host.carry_out("alice", Order::Stop, &old, "stopped");
        assert_eq!(field(host, &root("vm1"), "pool_lv"), "");
        host.carry_out("alice", Order::Start, &old, "deployed");
        host.must_answer_ping("vm1");
        for id in [old, first, second, third, saved] {
            host.terminate("alice", &id);
        }
        assert_eq!(prepared_of_saved(host), of_saved);
        host.delete_image("alice", "tiny");
        host.as_www_data("vgrid-upkeep");
        assert_eq!(host.sh("lvs --noheadings -o lv_name vg1 | sort").split_whitespace().count(), 2);
        host.sh(&format!("lvremove -q -f vg1/{} && lvremove -q -f vg1/pool", newer[0]));
        host.must_be_as(&nothing);
    });
}

/// The ids of the machines for which the image has been unpacked to prepare it, as sudo logged that.
fn unpacked_for(host: &Host, ids: &[String]) -> Vec<String> {
    let log = host.sh("journalctl -q --no-pager -o cat -t sudo | grep 'COMMAND=.* unpack-image ' || true");
    let of = |line: &str| ids.iter().find(|id| line.contains(id.as_str())).cloned();
    log.lines().filter_map(of).collect()
}

#[test]
fn deploys_at_once_prepare_their_image_once() {
    scenario("thin-once", |host| {
        make_room(host);
        host.sh("sed -i '/^\\[General\\]/a shutdownTimeout = 5\\nparallelDeploys = 10' /etc/vgrid/node.cfg");
        let nothing = host.inventory();
        host.sh("truncate -s 24G /root/more.img && vgextend -qq vg1 $(losetup -f --show /root/more.img)");
        host.sh(&USE_THIN.replace("-L 6G", "-L 14G"));
        let answers = at_once(10, |_| host.try_deploy("alice", "vmImage=tiny&vmMemory=96&vmPartition=1"));
        let mut ids: Vec<String> = answers
            .iter()
            .map(|(status, answer)| {
                assert_eq!(*status, 202, "{answer}");
                id_of(answer)
            })
            .collect();
        // The one that prepares it is killed, with its helper.
        let first = eventually(Duration::from_secs(120), || unpacked_for(host, &ids).pop());
        let first = first.unwrap_or_else(|| panic!("{}", host.log()));
        host.sh(&format!("pkill -KILL -f '[v]grid-worker begin {first}|[v]grid-helper .*{first}'"));
        ids.retain(|id| *id != first);
        for id in &ids {
            host.wait_for("alice", id, "deployed", 900);
        }
        // Another one did it anew, once, and the others have clones.
        let again = unpacked_for(host, &ids);
        assert_eq!(again.len(), 1, "{again:?}\n{}", host.log());
        let there = prepared(host);
        assert_eq!(there.len(), 1, "{there:?}");
        let mut origins: Vec<String> = ids
            .iter()
            .map(|id| {
                let machine = host.machine("alice", id);
                let name = machine["virtual_host"].as_str().expect("a name");
                host.must_answer_ping(name);
                field(host, &root(name), "origin")
            })
            .collect();
        origins.sort();
        assert_eq!((origins.len(), origins[0].as_str()), (9, ""));
        assert!(origins[1..].iter().all(|origin| *origin == there[0]), "{origins:?}");
        // Nothing is left of the one that was killed.
        let failed = eventually(Duration::from_secs(300), || {
            host.as_www_data("vgrid-upkeep");
            (host.machine("alice", &first)["state"] == "failed").then_some(())
        });
        assert!(failed.is_some(), "{}", host.log());
        for id in ids.iter().chain([&first]) {
            host.terminate("alice", id);
        }
        assert_eq!(host.sh("lvs --noheadings -o lv_name vg1 | sort").split_whitespace().count(), 2);
        host.sh(&format!("lvremove -q -f vg1/{} && lvremove -q -f vg1/pool", there[0]));
        host.sh(
            "loop=$(losetup -n -O NAME -j /root/more.img) && vgreduce -qq vg1 $loop && pvremove -qq $loop && \
             losetup -d $loop && rm /root/more.img",
        );
        host.must_be_as(&nothing);
    });
}

#[test]
fn an_image_is_prepared_before_it_is_deployed() {
    scenario("thin-ahead", |host| {
        // One image is enough.
        host.sh(
            "sed -i 's/^prepareAhead = .*/prepareAhead = true/; /^debian = \"debian/d' /etc/vgrid/node.cfg",
        );
        let nothing = host.inventory();
        host.sh(USE_THIN);
        let is_there = |name: &str| host.sh("lvs --noheadings -o lv_name vg1").contains(name);
        // The helper is killed while it unpacks: the next upkeep begins anew.
        let begun = eventually(Duration::from_secs(120), || is_there("vgrid.ahead").then_some(()));
        assert!(begun.is_some(), "{}", host.log());
        host.sh("pkill -KILL -f '[v]grid-helper .*prepare-image'");
        assert_eq!(prepared(host), [""; 0]);
        let there = eventually(Duration::from_secs(600), || {
            host.as_www_data("vgrid-upkeep");
            prepared(host).pop()
        });
        let there = there.unwrap_or_else(|| panic!("{}", host.log()));
        assert!(!is_there("vgrid.ahead"));
        let facts = (field(host, &there, "lv_attr"), field(host, &there, "lv_size"));
        assert!(facts.0.starts_with("Vri---tz") && facts.1 == "1024.00", "{facts:?}");
        let id = host.deployed("alice", "vmImage=tiny&vmMemory=96&vmPartition=1&vmHostname=vm1");
        assert_eq!(field(host, &root("vm1"), "origin"), there);
        host.must_answer_ping("vm1");
        host.terminate("alice", &id);
        assert_eq!(prepared(host), vec![there.clone()]);
        host.sh(&format!("lvremove -q -f vg1/{there} && lvremove -q -f vg1/pool"));
        host.must_be_as(&nothing);
    });
}
