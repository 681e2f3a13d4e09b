//! What the owner of a machine, or an attacker running as www-data, might do to a host.

use serde_json::Value;

use vgrid::model::stage::Order;

use super::host::{HELPER, Host, TINY, UNKNOWN_ID, scenario};
use crate::support::visited::Visited as _;

const ROOT: &str = "/dev/vg1/xen-root-alice_vm1";
const IMAGES: &str = "/var/lib/vgrid/images";
const CONSOLE: &str = "/var/log/xen/console/guest-alice_vm1.log";

/// Gives an order and waits until the machine is stopped. Returns the reason, if something went
/// wrong.
fn until_stopped(host: &Host, order: Order, fields: &str, id: &str) -> Value {
    host.order("alice", order, &format!("id={id}{fields}"));
    host.wait_for("alice", id, "stopped", 1200)["reason"].clone()
}

fn tags(host: &Host, volume: &str) -> String {
    host.sh(&format!("lvs --noheadings -o lv_tags vg1/{volume}")).trim().to_owned()
}

/// A checksum of the start of the disk: superblock, tables, and the first files.
fn sum(host: &Host) -> String {
    host.sh(&format!("head -c 96M {ROOT} | md5sum"))
}

fn debugfs(host: &Host, commands: &[String]) {
    let quoted = commands.join("\\n");
    host.sh(&format!(
        "printf '{quoted}\\n' > /root/commands; debugfs -w -f /root/commands {ROOT}; rm /root/commands"
    ));
}

/// The other names of a file whose link count says it has only one.
fn names() -> impl Iterator<Item = u32> {
    2..=30
}

#[test]
fn a_used_disk_is_only_read_and_only_up_to_its_size() {
    scenario("hostile-disk", |host| {
        host.sh("sed -i '/^imageDirectory/i savedImages = \"zst\"' /etc/vgrid/node.cfg");
        let before = host.inventory();
        // An attacker running as www-data may create a machine and fill its disk, until it is
        // started.
        let helper = |line: &str| host.as_www_data(&format!("sudo -n {HELPER} {line}"));
        let make = format!("make-volumes {UNKNOWN_ID} bob_vm2 tiny 1");
        let format = format!("make-filesystems {UNKNOWN_ID} bob_vm2 tiny");
        for line in [&make, &format, &format] {
            let output = helper(line);
            assert_eq!(output.status, 0, "{line}: {}", output.out);
        }
        assert_eq!(tags(host, "xen-root-bob_vm2"), format!("vgrid-{UNKNOWN_ID},vgrid.new"));
        assert_eq!(helper(&format!("undo {UNKNOWN_ID} bob_vm2")).status, 0);

        let id = host.deployed("alice", &format!("{TINY}&vmHostname=vm1"));
        for volume in ["xen-root-alice_vm1", "xen-swap-alice_vm1"] {
            assert_eq!(tags(host, volume), format!("vgrid-{id}"));
        }
        assert_eq!(until_stopped(host, Order::Stop, "", &id), Value::Null);
        let before_writes = sum(host);
        host.sh("mkdir /tmp/evil && touch /tmp/evil/x && tar -C /tmp/evil -cf /tmp/evil.tar .");
        for line in [
            format!("make-volumes {id} alice_vm1 tiny 1"),
            format!("make-filesystems {id} alice_vm1 tiny"),
            format!("unpack {id} alice_vm1 tiny < /tmp/evil.tar"),
        ] {
            let output = helper(&line);
            let makes_nothing = line.starts_with("make-volumes");
            assert_eq!(output.status == 0, makes_nothing, "{line}: {}", output.out);
            assert!(
                makes_nothing || output.out.contains("has been started from the volume"),
                "{}",
                output.out
            );
        }
        assert_eq!(sum(host), before_writes, "the disk was written to");
        host.sh("rm -r /tmp/evil /tmp/evil.tar");

        // The journal would be replayed over what is written below.
        host.sh(&format!("e2fsck -y -E journal_only {ROOT} || [ $? = 1 ]"));
        // A file of 64 MiB with thirty names, each of which claims to be the only one.
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
        let reason = until_stopped(host, Order::Save, "&name=bomb", &id);
        let reason = reason.as_str().unwrap_or_default();
        assert!(reason.contains("yields more than the 1.0 GiB"), "{reason:?}\n{}", host.log());
        assert_eq!(host.sh(&format!("find {IMAGES} -name '*alice*'")), "");
        assert!(free() + 1024 > free_before, "{} KiB were free, and {} are", free_before, free());

        // Without the other names it can be saved, and takes no more space than it needs.
        debugfs(host, &names().map(|n| format!("unlink n{n}")).collect::<Vec<_>>());
        assert_eq!(until_stopped(host, Order::Save, "&name=good", &id), Value::Null);
        let facts = host.sh(&format!("stat -c '%s %b' {IMAGES}/alice_good.tar.zst"));
        let facts: Vec<u64> = facts.split_whitespace().map(|n| n.parse().expect("a number")).collect();
        assert!(facts[0] > 1 << 20 && facts[1] * 512 < facts[0] + (1 << 20), "{facts:?}");

        // A machine that floods its console.
        host.order("alice", Order::Start, &format!("id={id}"));
        host.wait_for("alice", &id, "deployed", 900);
        host.sh(&format!(
            "head -c 6M /dev/zero | tr '\\0' x >> {CONSOLE}; echo >> {CONSOLE}; echo the end >> {CONSOLE}"
        ));
        host.ask_node();
        let long: u64 = host.sh(&format!("stat -c %s {CONSOLE}")).trim().parse().expect("a number");
        assert!(long < 2 << 20, "{long} bytes are left");
        assert_eq!(host.sh(&format!("tail -n 1 {CONSOLE}")), "the end\n");
        // What its kernel prints now follows directly.
        host.sh("xl sysrq alice_vm1 h; sleep 5");
        let output = host.sh(&format!("grep -a -A 3 -x 'the end' {CONSOLE}"));
        assert!(output.to_lowercase().contains("sysrq") && !output.contains('\0'), "{output:?}");

        host.terminate("alice", &id);
        host.sh(&format!("rm {IMAGES}/alice_good.tar.zst /root/big"));
        host.must_be_as(&before);
    });
}
