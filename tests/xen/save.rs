//! Disks that become images, and machines deployed from them.

use serde_json::{Value, json};
use vgrid::model::stage::{Order, Stage};

use super::host::{Host, TINY, scenario};
use super::mishap::Mishap;
use super::signed::Message;
use crate::support::visited::Visited as _;

const IMAGES: &str = "/var/lib/vgrid/images";

fn stop(host: &Host, id: &str) {
    host.carry_out("alice", Order::Stop, id, "stopped");
}

/// Runs a command in a stopped machine's file system.
fn inside(host: &Host, machine: &str, line: &str) -> String {
    host.sh(&format!(
        "mount /dev/vg1/xen-root-{machine} /mnt && (set -e; cd /mnt; {line}); s=$?; umount /mnt; exit $s"
    ))
}

/// Sends the node an order as the server does: status and answer.
fn order_node(host: &Host, program: &str, body: &Value) -> (u16, Value) {
    let (key, registry) = (host.key(), host.registry());
    let path = format!("/cgi-bin/node/{program}");
    let body = body.to_string();
    let (status, text) =
        host.send(&Message { to: "xenhost", path: &path, body: &body, key: Some(&key), registry, from: "" });
    (status, serde_json::from_str(&text).unwrap_or_else(|_| panic!("no JSON: {text}")))
}

/// The files in the image folder besides the administrator's.
fn saved(host: &Host) -> String {
    host.sh(&format!("ls -A {IMAGES} | grep -v -x -e tiny.tar.gz -e debian.tar.gz || true"))
}

#[test]
fn a_disk_becomes_an_image_and_the_image_a_machine() {
    scenario("save", |host| {
        let before = host.inventory();
        let first = host.deployed("alice", &format!("{TINY}&vmHostname=vm1"));
        stop(host, &first);
        inside(
            host,
            "alice_vm1",
            "echo mine > kept; chmod 600 kept; chown 1234:5678 kept; mkdir -p etc/ssh root/.ssh; \
             echo 0123456789abcdef0123456789abcdef > etc/machine-id; echo key > etc/ssh/ssh_host_rsa_key; \
             echo key > root/.ssh/authorized_keys; echo x > tmp/x; \
             python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"socket\")'",
        );
        host.order("alice", Order::Save, &format!("id={first}&name=base"));
        let machine = host.wait_for("alice", &first, "stopped", 900);
        assert_eq!(machine["reason"], Value::Null);
        let file = format!("{IMAGES}/alice_base.tar.gz");
        assert_eq!(saved(host), "alice_base.tar.gz\n");
        assert_eq!(host.sh(&format!("stat -c '%a %U' {file}")), "640 www-data\n");
        let list = host.sh(&format!("tar -tvzf {file}"));
        let line = |name: &str| list.lines().find(|line| line.ends_with(&format!(" ./{name}")));
        assert!(line("kept").is_some_and(|line| line.contains("1234/5678")), "{list}");
        assert!(line("etc/machine-id").is_some_and(|line| line.contains(" 0 ")), "{list}");
        for name in
            ["etc/ssh/ssh_host_rsa_key", "root/.ssh/authorized_keys", "tmp/x", "socket", "lost+found/"]
        {
            assert_eq!(line(name), None, "{list}");
        }
        let info = host.ask_node();
        assert_eq!(info["saved"][0]["stem"], "alice_base", "{info}");

        // No save overwrites it, neither by the portal nor by the node.
        let (status, text) = host.ask("alice", "save", &format!("format=json&id={first}&name=base"));
        assert_eq!(status, 409, "{text}");
        // A number higher than that of any order so far.
        let machine = json!({"id": first, "number": u64::MAX >> 11, "user": "alice", "virtual_host": "vm1"});
        let (status, answer) = order_node(host, "save", &json!({"machine": machine, "name": "base"}));
        assert_eq!((status, &answer["fault"]["code"]), (409, &json!("image-exists")), "{answer}");

        let second = host.deployed("alice", "savedImage=base&vmMemory=96&vmPartition=1&vmHostname=vm2");
        host.must_answer_ping("vm2");
        stop(host, &second);
        let files = inside(
            host,
            "alice_vm2",
            "cat kept; stat -c '%a %u:%g' kept; stat -c %s etc/machine-id; ls -A etc/ssh root/.ssh tmp; ls -d lost+found",
        );
        assert_eq!(files, "mine\n600 1234:5678\n0\netc/ssh:\n\nroot/.ssh:\n\ntmp:\nlost+found\n");

        let image = |name: &str| json!({"owner": "alice", "name": name});
        let (status, answer) =
            order_node(host, "image", &json!({"image": image("base"), "act": {"rename": "other"}}));
        assert_eq!(status, 200, "{answer}");
        assert_eq!(saved(host), "alice_other.tar.gz\n");
        let (status, answer) = order_node(host, "image", &json!({"image": image("other"), "act": "delete"}));
        assert_eq!(status, 200, "{answer}");
        for id in [&first, &second] {
            host.terminate("alice", id);
        }
        host.must_be_as(&before);
    });
}

#[test]
fn a_machine_is_saved_when_it_is_terminated() {
    scenario("save-as", |host| {
        host.sh("sed -i '/^imageDirectory/i savedImages = \"zst\"' /etc/vgrid/node.cfg");
        let before = host.inventory();
        let id = host.deployed("alice", &format!("{TINY}&vmHostname=vm1"));
        host.order("alice", Order::Terminate, &format!("id={id}&saveAs=last"));
        host.wait_for("alice", &id, "notDeployed", 900);
        let log = host.log();
        assert!(!log.contains("stop.forced") && !log.contains("stop.not-asked"), "{log}");
        assert_eq!(saved(host), "alice_last.tar.zst\n");
        host.sh(&format!("rm {IMAGES}/alice_last.tar.zst"));
        host.must_be_as(&before);
    });
}

#[test]
fn a_full_disk_leaves_the_machine_as_it_was() {
    scenario("save-full", |host| {
        let before = host.inventory();
        let id = host.deployed("alice", &format!("{TINY}&vmHostname=vm1"));
        host.sh(&format!("mount -t tmpfs -o size=8m,mode=1775,gid=$(id -g www-data) full {IMAGES}"));
        host.order("alice", Order::Terminate, &format!("id={id}&saveAs=last"));
        let machine = host.wait_for("alice", &id, "deployed", 900);
        let reason = machine["reason"].as_str().unwrap_or_default();
        assert!(reason.contains("does not fit"), "{machine:#}\n{}", host.log());
        assert_eq!(host.sh(&format!("ls -A {IMAGES}; umount {IMAGES}")), "");
        host.must_answer_ping("vm1");
        host.terminate("alice", &id);
        host.must_be_as(&before);
    });
}

#[test]
fn an_interrupted_save_leaves_nothing_and_can_be_repeated() {
    scenario("save-killed", |host| {
        let before = host.inventory();
        let id = host.deployed("alice", &format!("{TINY}&vmHostname=vm1"));
        stop(host, &id);
        let stopped = host.inventory();
        let save = format!("id={id}&name=base");
        for mishap in [Mishap::Worker, Mishap::Helper, Mishap::Service] {
            let strike = host.strike_at("alice_vm1", Order::Save, Stage::Pack, mishap);
            host.order("alice", Order::Save, &save);
            strike.wait();
            // The next request finds the dead job.
            host.ask_node();
            let machine = host.wait_for("alice", &id, "stopped", 300);
            let reason = machine["reason"].as_str().unwrap_or_default();
            assert!(reason.contains("interrupted"), "{mishap:?}: {machine:#}\n{}", host.log());
            host.must_be_as(&stopped);
        }
        host.order("alice", Order::Save, &save);
        let machine = host.wait_for("alice", &id, "stopped", 900);
        assert_eq!(machine["reason"], Value::Null);
        assert_eq!(saved(host), "alice_base.tar.gz\n");
        host.order("alice", Order::Start, &format!("id={id}"));
        host.wait_for("alice", &id, "deployed", 900);
        host.terminate("alice", &id);
        host.sh(&format!("rm {IMAGES}/alice_base.tar.gz"));
        host.must_be_as(&before);
    });
}
