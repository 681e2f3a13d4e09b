//! What an owner of a machine, or who has taken over the web server's user, tries to do to a host.

use serde_json::Value;

use super::host::{Host, scenario};

const HELPER: &str = "/usr/lib/vgrid/vgrid-helper";
const ROOT: &str = "/dev/vg1/xen-root-alice_vm1";
const IMAGES: &str = "/var/lib/vgrid/images";
const CONSOLE: &str = "/var/log/xen/console/guest-alice_vm1.log";

/// The id of a machine that no server knows.
const NOBODYS: &str = "019dd5a3-2f3a-7c11-9d9b-0123456789ab";

fn deployed(host: &Host) -> String {
    let (status, machine) = host.deploy("alice", "vmImage=tiny&vmMemory=96&vmPartition=1&vmHostname=vm1");
    assert_eq!(status, 202, "{machine}");
    let id = machine["machine"]["id"].as_str().expect("an id").to_owned();
    host.wait_for("alice", &id, "deployed", 900);
    id
}

/// Gives an order of alice's and waits until her machine is stopped; returns why, if something went wrong.
fn until_stopped(host: &Host, page: &str, query: &str, id: &str) -> Value {
    let (status, text) = host.ask("alice", page, &format!("format=json&id={id}{query}"));
    assert_eq!(status, 202, "{page}: {text}");
    host.wait_for("alice", id, "stopped", 1200)["reason"].clone()
}

fn tags(host: &Host, volume: &str) -> String {
    host.sh(&format!("lvs --noheadings -o lv_tags vg1/{volume}")).trim().to_owned()
}

/// What identifies the beginning of alice's disk: superblock, tables, and the first files.
fn sum(host: &Host) -> String {
    host.sh(&format!("head -c 96M {ROOT} | md5sum"))
}

fn debugfs(host: &Host, commands: &[String]) {
    let quoted = commands.join("\\n");
    host.sh(&format!(
        "printf '{quoted}\\n' > /root/commands; debugfs -w -f /root/commands {ROOT}; rm /root/commands"
    ));
}

/// The names beside the first of a file that has one link.
fn names() -> impl Iterator<Item = u32> {
    2..=30
}

#[test]
fn a_disk_that_a_machine_has_had_is_only_read_and_not_without_end() {
    scenario("hostile-disk", |host| {
        host.sh("sed -i '/^imageDirectory/i savedImages = \"zst\"' /etc/vgrid/node.cfg");
        let before = host.inventory();
        // Who is www-data may make a machine, and fill its disk until it starts.
        let helper = |line: &str| host.as_www_data(&format!("sudo -n {HELPER} {line}"));
        let make = format!("make-volumes {NOBODYS} bob_vm2 tiny 1");
        let format = format!("make-filesystems {NOBODYS} bob_vm2 tiny");
        for line in [&make, &format, &format] {
            let said = helper(line);
            assert_eq!(said.status, 0, "{line}: {}", said.out);
        }
        assert_eq!(tags(host, "xen-root-bob_vm2"), format!("vgrid-{NOBODYS},vgrid.new"));
        assert_eq!(helper(&format!("undo {NOBODYS} bob_vm2")).status, 0);

        let id = deployed(host);
        for volume in ["xen-root-alice_vm1", "xen-swap-alice_vm1"] {
            assert_eq!(tags(host, volume), format!("vgrid-{id}"));
        }
        assert_eq!(until_stopped(host, "stop", "", &id), Value::Null);
        let was = sum(host);
        host.sh("mkdir /tmp/evil && touch /tmp/evil/x && tar -C /tmp/evil -cf /tmp/evil.tar .");
        for line in [
            format!("make-volumes {id} alice_vm1 tiny 1"),
            format!("make-filesystems {id} alice_vm1 tiny"),
            format!("unpack {id} alice_vm1 tiny < /tmp/evil.tar"),
        ] {
            let said = helper(&line);
            let makes_nothing = line.starts_with("make-volumes");
            assert_eq!(said.status == 0, makes_nothing, "{line}: {}", said.out);
            assert!(makes_nothing || said.out.contains("has been started from the volume"), "{}", said.out);
        }
        assert_eq!(sum(host), was, "it was written to");
        host.sh("rm -r /tmp/evil /tmp/evil.tar");

        // What is in the journal would be carried out over what is written below.
        host.sh(&format!("e2fsck -y -E journal_only {ROOT} || [ $? = 1 ]"));
        // One file of 64 MiB, of which each of thirty names says that it is the only one.
        host.sh("head -c 64M /dev/zero | tr '\\0' x > /root/big");
        let mut commands = vec!["write /root/big n1".to_owned()];
        commands.extend(names().map(|n| format!("ln n1 n{n}")));
        debugfs(host, &commands);
        let links = host.sh(&format!("debugfs -R 'stat n1' {ROOT} 2>/dev/null | grep -o 'Links: [0-9]*'"));
        assert_eq!(links, "Links: 1\n");
        let free = || -> u64 {
            let text = host.sh(&format!("df --output=avail -k {IMAGES} | tail -n 1"));
            text.trim().parse().expect("a number")
        };
        let free_before = free();
        let reason = until_stopped(host, "save", "&name=bomb", &id);
        let reason = reason.as_str().unwrap_or_default();
        assert!(reason.contains("yields more than the 1.0 GiB"), "{reason:?}\n{}", host.log());
        assert_eq!(host.sh(&format!("find {IMAGES} -name '*alice*'")), "");
        assert!(free() + 1024 > free_before, "{} KiB were free, and {} are", free_before, free());

        // Without the other names it is as good as any, and has no more space than it needs.
        debugfs(host, &names().map(|n| format!("unlink n{n}")).collect::<Vec<_>>());
        assert_eq!(until_stopped(host, "save", "&name=good", &id), Value::Null);
        let facts = host.sh(&format!("stat -c '%s %b' {IMAGES}/alice_good.tar.zst"));
        let facts: Vec<u64> = facts.split_whitespace().map(|n| n.parse().expect("a number")).collect();
        assert!(facts[0] > 1 << 20 && facts[1] * 512 < facts[0] + (1 << 20), "{facts:?}");

        // A machine that talks and talks.
        let (status, text) = host.ask("alice", "start", &format!("format=json&id={id}"));
        assert_eq!(status, 202, "{text}");
        host.wait_for("alice", &id, "deployed", 900);
        host.sh(&format!(
            "head -c 6M /dev/zero | tr '\\0' x >> {CONSOLE}; echo >> {CONSOLE}; echo the end >> {CONSOLE}"
        ));
        host.ask_node();
        let long: u64 = host.sh(&format!("stat -c %s {CONSOLE}")).trim().parse().expect("a number");
        assert!(long < 2 << 20, "{long} bytes are left");
        assert_eq!(host.sh(&format!("tail -n 1 {CONSOLE}")), "the end\n");
        // What its kernel says now comes after that, and nothing is between.
        host.sh("xl sysrq alice_vm1 h; sleep 5");
        let said = host.sh(&format!("grep -a -A 3 -x 'the end' {CONSOLE}"));
        assert!(said.to_lowercase().contains("sysrq") && !said.contains('\0'), "{said:?}");

        host.terminate("alice", &id);
        host.sh(&format!("rm {IMAGES}/alice_good.tar.zst /root/big"));
        host.must_be_as(&before);
    });
}
