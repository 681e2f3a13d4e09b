//! A volume of LVM that becomes larger shows nobody what others left in the group, and keeps what is
//! on it, whatever is killed.

use serde_json::Value;
use vgrid::model::stage::{Order, Stage};

use super::host::{Host, TINY, quote, scenario};
use super::mishap::Mishap;
use crate::support::healing::Healing as _;
use crate::support::visited::Visited as _;

const VOLUME: &str = "/dev/vg1/xen-root-alice_vm1";

/// Marks a volume at every 16 MiB (`put`), or counts the places there that are not zero (`get`).
const MARKS: &str = "
import os, sys
what, path, start = sys.argv[1], sys.argv[2], int(sys.argv[3])
with open(path, 'r+b' if what == 'put' else 'rb') as volume:
    end, found = volume.seek(0, 2), 0
    for at in range(start << 20, end, 16 << 20):
        volume.seek(at)
        if what == 'put':
            volume.write(b'S' * 65536)
        else:
            found += volume.read(65536).strip(b'\\0') != b''
    if what == 'put':
        volume.flush()
        os.fsync(volume.fileno())
print(found)
";

fn marks(host: &Host, what: &str, volume: &str, start: u64) -> u64 {
    let found = host.sh(&format!("python3 -c {} {what} {volume} {start}", quote(MARKS)));
    found.trim().parse().expect("a number")
}

/// The first GiB, in samples.
fn content(host: &Host) -> String {
    let sample =
        format!("for n in $(seq 0 32 1023); do dd if={VOLUME} bs=1M skip=$n count=1 status=none; done");
    host.sh(&format!("({sample}) | md5sum"))
}

/// The size of the volume in GiB, and its tags.
fn volume(host: &Host) -> (u64, String) {
    let line = host.sh(&format!("lvs --noheadings --units g --nosuffix -o lv_size,lv_tags {VOLUME}"));
    let mut words = line.split_whitespace();
    let size = words.next().and_then(|size| size.split('.').next()?.parse().ok()).expect("a size");
    (size, words.next().unwrap_or_default().to_owned())
}

#[test]
fn a_volume_grows_with_nothing_of_others_on_it() {
    scenario("resize", |host| {
        let before = host.inventory();
        let id = host.deployed("alice", &format!("{TINY}&vmHostname=vm1"));
        host.carry_out("alice", Order::Stop, &id, "stopped");
        let left = "/dev/vg1/left";
        host.sh("lvcreate -q -y -n left -l 100%FREE vg1");
        marks(host, "put", left, 0);
        host.sh("lvremove -q -f vg1/left");
        // Without a measure against it, that is what root in another machine could read.
        host.sh("lvcreate -q -y -n left -L 1g vg1");
        assert!(marks(host, "get", left, 16) > 30);
        host.sh("lvremove -q -f vg1/left");
        let (on_it, tag) = (content(host), format!("vgrid-{id}"));

        host.order("alice", Order::Resize, &format!("id={id}&vmMemory=112&vmPartition=2"));
        let machine = host.wait_for("alice", &id, "stopped", 600);
        assert_eq!(machine["reason"], Value::Null);
        assert_eq!((machine["memory_mib"].as_u64(), machine["disk_gib"].as_u64()), (Some(112), Some(2)));
        assert_eq!(volume(host), (2, tag.clone()));
        assert_eq!((marks(host, "get", VOLUME, 1024), content(host)), (0, on_it.clone()));
        let configuration = host.sh("cat /etc/xen/auto/.alice_vm1.cfg.stopped");
        assert!(configuration.lines().any(|line| line.starts_with("memory") && line.contains("112")));
        assert_eq!(host.try_sh("test -e /etc/xen/auto/alice_vm1.cfg").status, 1, "it starts with the host");

        let mut disk = 2;
        for mishap in [Mishap::Worker, Mishap::Helper] {
            let strike = host.strike_at("alice_vm1", Order::Resize, Stage::Grow, mishap);
            host.order("alice", Order::Resize, &format!("id={id}&vmPartition={}", disk + 1));
            strike.wait();
            host.heal(&format!("resize grow, {mishap:?}"));
            let machine = host.wait_for("alice", &id, "stopped", 600);
            let now = machine["disk_gib"].as_u64().expect("a size");
            let reason = machine["reason"].as_str().unwrap_or_default();
            eprintln!("{mishap:?}: {now} GiB. {reason}");
            assert!(
                now == disk + 1 && reason.is_empty() || now == disk && reason.contains("interrupted"),
                "{machine}"
            );
            assert_eq!(volume(host), (now, tag.clone()), "{mishap:?}\n{}", host.log());
            assert_eq!((marks(host, "get", VOLUME, 1024), content(host)), (0, on_it.clone()), "{mishap:?}");
            disk = now;
        }
        // More than there is.
        let (status, sentence) = host.ask("alice", "resize", &format!("format=text&id={id}&vmPartition=900"));
        assert!(status == 409 && sentence.contains("of disk space free"), "{sentence}");
        assert_eq!(volume(host), (disk, tag));

        host.carry_out("alice", Order::Start, &id, "deployed");
        host.must_answer_ping("vm1");
        host.terminate("alice", &id);
        host.must_be_as(&before);
    });
}
