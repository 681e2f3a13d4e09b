//! Mishaps while disks are made, saved, enlarged and removed in a thin pool. Whatever happens, the pool
//! has what its machines have and nothing else, and a machine that has nothing to do with it runs on.

use std::time::Duration;

use serde_json::Value;
use vgrid::model::stage::{Order, Stage};

use super::healing::{id, make_room};
use super::host::{HELPER, Host, Inventory, TINY, scenario};
use super::mishap::Mishap;
use super::snapshots::{arm, disarm, mark, marked};
use super::thin::{USE_THIN, field, prepared, root};
use crate::support::eventually;
use crate::support::healing::Healing as _;
use crate::support::visited::Visited as _;

/// A machine that runs all the while.
const NEIGHBOUR: &str = "vm8";

/// The machine that is struck.
const STRUCK: &str = "vm1";

/// A machine with a snapshot, to be copied.
const COPIED: &str = "vm2";

fn fields(name: &str) -> String {
    format!("{TINY}&vmHostname={name}")
}

/// Gives an order about [`STRUCK`], which must be accepted.
fn give(host: &Host, order: Order, fields: &str) {
    let (status, text) = host.ask("alice", order.as_str(), &format!("format=json&{fields}"));
    assert_eq!(status, 202, "{order} {fields}: {text}");
}

/// Makes a mishap happen in a stage of an order, and has upkeep repair it. Returns the machine, if there
/// still is one.
fn befall(host: &Host, order: Order, stage: Stage, mishap: Mishap, fields: &str) -> Option<Value> {
    let what = format!("{order} {stage}, {mishap:?}");
    let strike = host.strike_at(&format!("alice_{STRUCK}"), order, stage, mishap);
    give(host, order, fields);
    strike.wait();
    if mishap == Mishap::Power {
        host.cut_power();
        host.boot();
    }
    host.heal(&what);
    let machine = host.named(STRUCK);
    let word = |name: &str| machine.as_ref().and_then(|machine| machine[name].as_str()).unwrap_or_default();
    eprintln!("{what}: {} {}", word("state"), word("reason"));
    machine
}

/// A deploy that meets a mishap fails, says why, and leaves nothing. Where only metadata is scarce, it
/// succeeds if no more disks are to be made.
fn fails(host: &Host, before: &Inventory, stage: Stage, mishap: Mishap, fields: &str) {
    let machine = befall(host, Order::Deploy, stage, mishap, fields).expect("a failed machine");
    if mishap == Mishap::Metadata && machine["state"] == "deployed" {
        host.must_answer_ping(STRUCK);
        host.carry_out("alice", Order::Stop, id(&machine), "stopped");
        host.sh(&format!("e2fsck -fn /dev/vg1/{}", root(STRUCK)));
    } else {
        let words: &[&str] = match mishap {
            Mishap::Pool => &["no space is left", "of disk space free"],
            Mishap::Metadata => &["too little space for metadata"],
            _ => &["interrupted"],
        };
        let reason = machine["reason"].as_str().unwrap_or_default();
        let says_why = words.iter().any(|word| reason.contains(word));
        assert!(machine["state"] == "failed" && says_why, "{stage}, {mishap:?}: {machine:#}");
    }
    host.terminate("alice", id(&machine));
    assert_eq!(volumes(host), before["volumes"], "{stage}, {mishap:?}\n{}", host.log());
}

/// The volumes of the group but for the prepared disk, and one that is becoming one: the next deploy
/// removes that.
fn volumes(host: &Host) -> String {
    host.sh("lvs --noheadings -o lv_name,lv_size vg1 | grep -v -e 'vgrid.image' -e 'vgrid.unfinished' | sort")
}

fn stock(host: &Host) -> Inventory {
    let mut there = host.inventory();
    there.insert("volumes", volumes(host));
    there.remove("device nodes");
    there
}

fn must_be_as(host: &Host, before: &Inventory, what: &str) {
    let now = stock(host);
    for (kind, was) in before {
        assert_eq!(now.get(kind), Some(was), "{what}: left over: {kind}\n{}", host.log());
    }
}

/// Removes the image's prepared disk, so that the next deploy makes it anew.
fn forget_prepared(host: &Host) {
    for volume in prepared(host) {
        host.sh(&format!("lvremove -qq -f vg1/{volume}"));
    }
}

#[test]
fn what_is_killed_leaves_nothing_in_the_pool() {
    suffers("pool-killed", &[Mishap::Worker, Mishap::Helper]);
}

#[test]
fn a_full_pool_fails_a_deploy_and_harms_no_machine() {
    suffers("pool-full", &[Mishap::Pool]);
}

#[test]
fn a_pool_short_of_metadata_harms_no_machine() {
    suffers("pool-metadata", &[Mishap::Metadata]);
}

#[test]
fn a_power_cut_leaves_nothing_in_the_pool() {
    suffers("pool-power", &[Mishap::Power]);
}

/// Makes mishaps happen wherever disks are worked on.
fn suffers(name: &str, mishaps: &[Mishap]) {
    scenario(name, |host| {
        make_room(host);
        host.sh("sed -i '/^\\[General\\]/a shutdownTimeout = 20' /etc/vgrid/node.cfg");
        let nothing = host.inventory();
        // Little enough metadata to be filled within seconds.
        host.sh(&USE_THIN.replace("-L 6G", "-L 6G -c 64k --poolmetadatasize 2M"));
        // Writes fail at once, instead of after a minute.
        host.sh("lvchange -qq --errorwhenfull y vg1/pool");
        let neighbour = host.deployed("alice", &fields(NEIGHBOUR));
        let copied = host.deployed("alice", &fields(COPIED));
        let (status, lines) =
            host.ask("alice", "snapshots", &format!("format=text&id={copied}&do=take&name=s"));
        assert_eq!(status, 202, "{lines}");
        let copy = format!("fromSnapshot={copied}/s&vmMemory=96&vmPartition=1&vmHostname={STRUCK}");
        let before = stock(host);

        for &mishap in mishaps {
            // A clone of what is prepared, and what is prepared for others.
            assert_eq!(prepared(host).len(), 1);
            fails(host, &before, Stage::Volumes, mishap, &fields(STRUCK));
            fails(host, &before, Stage::Filesystems, mishap, &fields(STRUCK));
            forget_prepared(host);
            fails(host, &before, Stage::Unpack, mishap, &fields(STRUCK));
            fails(host, &before, Stage::Unpack, mishap, &copy);
            host.must_answer_ping(NEIGHBOUR);

            let machine = host.deployed("alice", &fields(STRUCK));
            host.carry_out("alice", Order::Stop, &machine, "stopped");
            let stopped = stock(host);
            let resting = |order, stage, fields: &str| {
                let left = befall(host, order, stage, mishap, &format!("id={machine}&{fields}"));
                let left = left.expect("the machine");
                assert_eq!(left["state"], "stopped", "{order}, {mishap:?}: {left:#}");
                left
            };
            let is_killed = !matches!(mishap, Mishap::Pool | Mishap::Metadata);
            if is_killed {
                let left = resting(Order::Save, Stage::Pack, "name=base");
                assert!(left["reason"].as_str().is_some_and(|why| why.contains("interrupted")), "{left:#}");
                must_be_as(host, &stopped, "save");
            }
            let left = resting(Order::Resize, Stage::Grow, "vmPartition=2");
            let size =
                host.sh(&format!("lvs --noheadings --nosuffix --units g -o lv_size vg1/{}", root(STRUCK)));
            let size: f64 = size.trim().parse().expect("a size");
            assert_eq!(left["disk_gib"].as_f64(), Some(size), "{left:#}");
            host.sh(&format!("e2fsck -fn /dev/vg1/{}", root(STRUCK)));
            host.carry_out("alice", Order::Start, &machine, "deployed");
            host.must_answer_ping(STRUCK);
            if is_killed {
                befall(host, Order::Terminate, Stage::Remove, mishap, &format!("id={machine}"));
                if let Some(left) = host.named(STRUCK) {
                    host.terminate("alice", id(&left));
                }
            } else {
                host.terminate("alice", &machine);
            }
            must_be_as(host, &before, "afterwards");
        }

        // The others have noticed nothing.
        for (id, name) in [(&neighbour, NEIGHBOUR), (&copied, COPIED)] {
            host.must_answer_ping(name);
            host.carry_out("alice", Order::Stop, id, "stopped");
            host.sh(&format!("e2fsck -fn /dev/vg1/{}", root(name)));
            host.terminate("alice", id);
        }
        forget_prepared(host);
        host.sh("lvremove -q -f vg1/pool");
        host.must_be_as(&nothing);
    });
}

/// Cuts the power while a verb of the helper is in the middle of a program of LVM's, or between two.
fn cut_the_power_in(host: &Host, verb: &str, program: &str, after: bool) {
    arm(host, program, after, "touch /run/struck; sleep 900");
    // That is to outlive the cut.
    host.sh("sync");
    let mut helper = host.command(&format!("{HELPER} {verb}")).spawn().expect("tests/xenhost/sh runs");
    let struck = eventually(Duration::from_secs(60), || {
        (host.try_sh("test -e /run/struck").status == 0).then_some(())
    });
    assert!(struck.is_some(), "{verb}: {program} has not run");
    host.cut_power();
    // It ends with the connection.
    let _ = helper.wait();
    host.boot();
    disarm(host, program);
}

#[test]
fn a_power_cut_leaves_a_disk_from_before_or_after() {
    scenario("pool-cut", |host| {
        host.sh("sed -i '/^\\[General\\]/a shutdownTimeout = 20' /etc/vgrid/node.cfg");
        let nothing = host.inventory();
        host.sh(USE_THIN);
        let neighbour = host.deployed("alice", &fields(NEIGHBOUR));
        let machine = host.deployed("alice", &fields(STRUCK));
        host.carry_out("alice", Order::Stop, &machine, "stopped");
        mark(host, STRUCK, "then");
        let about = |verb: &str, more: &str| format!("{verb} {machine} alice_{STRUCK} {more}");
        host.sh(&format!("{HELPER} {}", about("take-snapshot", "s 0")));
        for (verb, program, after) in [
            (about("roll-back", "s"), "lvcreate", true),
            (about("roll-back", "s"), "lvremove", true),
            (about("roll-back", "s"), "lvrename", true),
            (about("take-snapshot", "t 0"), "lvcreate", true),
        ] {
            mark(host, STRUCK, "now");
            cut_the_power_in(host, &verb, program, after);
            // Upkeep does that.
            host.sh(&format!("{HELPER} info > /dev/null"));
            let (disk, all) = (marked(host, STRUCK), volumes(host));
            eprintln!("{verb}, {program}: {disk}");
            let is_whole = if verb.starts_with("roll-back") { ["then", "now"] } else { ["now", "now"] };
            assert!(is_whole.contains(&disk.as_str()), "{verb}, {program}: {disk}");
            assert!(!all.contains("vgrid.back"), "{verb}, {program}: {all}");
            assert!(field(host, &root(STRUCK), "lv_tags").contains(&machine), "{verb}, {program}");
            host.sh(&format!("e2fsck -fn /dev/vg1/{}", root(STRUCK)));
            host.must_answer_ping(NEIGHBOUR);
        }
        host.carry_out("alice", Order::Start, &machine, "deployed");
        host.must_answer_ping(STRUCK);
        for (id, name) in [(&machine, STRUCK), (&neighbour, NEIGHBOUR)] {
            host.carry_out("alice", Order::Stop, id, "stopped");
            host.sh(&format!("e2fsck -fn /dev/vg1/{}", root(name)));
            host.terminate("alice", id);
        }
        forget_prepared(host);
        host.sh("lvremove -q -f vg1/pool");
        host.must_be_as(&nothing);
    });
}
