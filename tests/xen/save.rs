//! Disks that become images, and machines that are made of them.

use serde_json::{Value, json};
use vgrid::model::stage::{Order, Stage};

use super::host::{Host, scenario};
use super::mishap::Mishap;
use super::signed::Message;

const TINY: &str = "vmImage=tiny&vmMemory=96&vmPartition=1";
const IMAGES: &str = "/var/lib/vgrid/images";

/// Deploys a machine for alice and waits until it runs; returns its id.
fn deployed(host: &Host, fields: &str) -> String {
    let (status, machine) = host.deploy("alice", fields);
    assert_eq!(status, 202, "{machine}");
    let id = machine["machine"]["id"].as_str().expect("an id").to_owned();
    host.wait_for("alice", &id, "deployed", 900);
    id
}

/// Gives an order of alice's.
fn give(host: &Host, page: &str, query: &str) {
    let (status, text) = host.ask("alice", page, &format!("format=json&{query}"));
    assert_eq!(status, 202, "{page}?{query}: {text}");
}

fn stop(host: &Host, id: &str) {
    give(host, "stop", &format!("id={id}"));
    host.wait_for("alice", id, "stopped", 600);
}

/// Does something in a stopped machine's file system.
fn inside(host: &Host, machine: &str, line: &str) -> String {
    host.sh(&format!(
        "mount /dev/vg1/xen-root-{machine} /mnt && (set -e; cd /mnt; {line}); s=$?; umount /mnt; exit $s"
    ))
}

/// Gives the node an order about an image, as the server does: status and answer.
fn act(host: &Host, program: &str, body: &Value) -> (u16, Value) {
    let (key, registry) = (host.key(), host.registry());
    let path = format!("/cgi-bin/node/{program}");
    let body = body.to_string();
    let (status, text) =
        host.send(&Message { to: "xenhost", path: &path, body: &body, key: Some(&key), registry, from: "" });
    (status, serde_json::from_str(&text).unwrap_or_else(|_| panic!("no JSON: {text}")))
}

/// What is in the folder of images beside the administrator's.
fn saved(host: &Host) -> String {
    host.sh(&format!("ls -A {IMAGES} | grep -v -x -e tiny.tar.gz -e debian.tar.gz || true"))
}

#[test]
fn a_disk_becomes_an_image_and_the_image_a_machine() {
    scenario("save", |host| {
        let before = host.inventory();
        let first = deployed(host, &format!("{TINY}&vmHostname=vm1"));
        stop(host, &first);
        inside(
            host,
            "alice_vm1",
            "echo mine > kept; chmod 600 kept; chown 1234:5678 kept; mkdir -p etc/ssh root/.ssh; \
             echo 0123456789abcdef0123456789abcdef > etc/machine-id; echo key > etc/ssh/ssh_host_rsa_key; \
             echo key > root/.ssh/authorized_keys; echo x > tmp/x; \
             python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"socket\")'",
        );
        give(host, "save", &format!("id={first}&name=base"));
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

        // Nothing is saved over it, whoever is asked.
        let (status, text) = host.ask("alice", "save", &format!("format=json&id={first}&name=base"));
        assert_eq!(status, 409, "{text}");
        // After every order so far.
        let machine = json!({"id": first, "number": u64::MAX >> 11, "user": "alice", "virtual_host": "vm1"});
        let (status, answer) = act(host, "save", &json!({"machine": machine, "name": "base"}));
        assert_eq!((status, &answer["fault"]["code"]), (409, &json!("image-exists")), "{answer}");

        let second = deployed(host, "savedImage=base&vmMemory=96&vmPartition=1&vmHostname=vm2");
        host.sh("for i in $(seq 30); do ping -q -c 1 -W 2 vm2 && exit; sleep 1; done; exit 1");
        stop(host, &second);
        let said = inside(
            host,
            "alice_vm2",
            "cat kept; stat -c '%a %u:%g' kept; stat -c %s etc/machine-id; ls -A etc/ssh root/.ssh tmp; ls -d lost+found",
        );
        assert_eq!(said, "mine\n600 1234:5678\n0\netc/ssh:\n\nroot/.ssh:\n\ntmp:\nlost+found\n");

        let image = |name: &str| json!({"owner": "alice", "name": name});
        let (status, answer) =
            act(host, "image", &json!({"image": image("base"), "act": {"rename": "other"}}));
        assert_eq!(status, 200, "{answer}");
        assert_eq!(saved(host), "alice_other.tar.gz\n");
        let (status, answer) = act(host, "image", &json!({"image": image("other"), "act": "delete"}));
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
        let id = deployed(host, &format!("{TINY}&vmHostname=vm1"));
        give(host, "terminate", &format!("id={id}&saveAs=last"));
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
        let id = deployed(host, &format!("{TINY}&vmHostname=vm1"));
        host.sh(&format!("mount -t tmpfs -o size=8m,mode=1775,gid=$(id -g www-data) full {IMAGES}"));
        give(host, "terminate", &format!("id={id}&saveAs=last"));
        let machine = host.wait_for("alice", &id, "deployed", 900);
        let reason = machine["reason"].as_str().unwrap_or_default();
        assert!(reason.contains("does not fit"), "{machine:#}\n{}", host.log());
        assert_eq!(host.sh(&format!("ls -A {IMAGES}; umount {IMAGES}")), "");
        host.sh("for i in $(seq 30); do ping -q -c 1 -W 2 vm1 && exit; sleep 1; done; exit 1");
        host.terminate("alice", &id);
        host.must_be_as(&before);
    });
}

#[test]
fn saving_that_was_interrupted_leaves_nothing_and_can_be_repeated() {
    scenario("save-killed", |host| {
        let before = host.inventory();
        let id = deployed(host, &format!("{TINY}&vmHostname=vm1"));
        stop(host, &id);
        let stopped = host.inventory();
        let save = format!("id={id}&name=base");
        for mishap in [Mishap::Worker, Mishap::Helper, Mishap::Service] {
            let strike = host.strike_at("alice_vm1", Order::Save, Stage::Pack, mishap);
            give(host, "save", &save);
            strike.wait();
            // The next request finds it.
            host.ask_node();
            let machine = host.wait_for("alice", &id, "stopped", 300);
            let reason = machine["reason"].as_str().unwrap_or_default();
            assert!(reason.contains("interrupted"), "{mishap:?}: {machine:#}\n{}", host.log());
            host.must_be_as(&stopped);
        }
        give(host, "save", &save);
        let machine = host.wait_for("alice", &id, "stopped", 900);
        assert_eq!(machine["reason"], Value::Null);
        assert_eq!(saved(host), "alice_base.tar.gz\n");
        give(host, "start", &format!("id={id}"));
        host.wait_for("alice", &id, "deployed", 900);
        host.terminate("alice", &id);
        host.sh(&format!("rm {IMAGES}/alice_base.tar.gz"));
        host.must_be_as(&before);
    });
}
