//! Orphans: what a host has and vGrid did not create. Upkeep sees them, administrators are shown
//! them, and they are removed only if root has allowed that and an administrator orders it.

use serde_json::Value;

use super::host::{HELPER, Host, TINY, UNKNOWN_ID, scenario};
use crate::support::healing::Healing as _;
use crate::support::visited::Visited as _;

/// Runs upkeep and returns the orphans on the host: kind and name.
fn orphans(host: &Host) -> Vec<(String, String)> {
    host.upkeep();
    let page = host.get_json("admin", "admin", "");
    let word = |one: &Value, key: &str| one[key].as_str().expect("a text").to_owned();
    let all = page["unknown"].as_array().expect("orphans");
    all.iter().map(|one| (word(one, "kind"), word(one, "name"))).collect()
}

/// Orders the removal of an orphan: status and answer.
fn remove(host: &Host, kind: &str, name: &str) -> (u16, String) {
    host.ask("admin", "admin", &format!("format=json&do=remove&kind={kind}&host=xenhost&name={name}"))
}

#[track_caller]
fn refuses(host: &Host, kind: &str, name: &str, why: &str) {
    let (status, text) = remove(host, kind, name);
    assert!(status == 409 && text.contains(why), "{kind} {name}: {status} {text}\n{}", host.log());
}

/// Even if root allows the removal of orphans, the helper refuses to remove what is not one.
fn helper_spares_what_is_no_orphan(host: &Host) {
    let number = host.sh("xl domid alice_vm1").trim().to_owned();
    let orphan = host.sh("xl domid stranger").trim().to_owned();
    for arguments in [
        "volume xen-root-alice_vm1".to_owned(),
        "volume xen-swap-alice_vm1".to_owned(),
        "volume other".to_owned(),
        "volume xen-root-origin".to_owned(),
        "volume xen-root-stranger other".to_owned(),
        format!("domain alice_vm1 {number}"),
        format!("domain alice_vm1 {orphan}"),
        format!("domain stranger {number}"),
        "domain stranger 0".to_owned(),
        "domain Domain-0 0".to_owned(),
    ] {
        let output = host.as_www_data(&format!("sudo -n {HELPER} discard {arguments} < /dev/null"));
        assert!(matches!(output.status, 1 | 2) && output.out.len() > 20, "{arguments}: {}", output.out);
    }
}

#[test]
fn orphans_are_removed_only_if_root_and_an_administrator_agree() {
    scenario("strangers", |host| {
        let id = host.deployed("alice", &format!("{TINY}&vmHostname=vm1"));
        host.sh("lvcreate -qq -y -L 8M -n other vg1");
        let before = host.inventory();
        assert!(orphans(host).is_empty());

        host.sh("lvcreate -qq -y -L 8M -n xen-root-stranger vg1");
        // One with a snapshot, which would be removed with it.
        host.sh("lvcreate -qq -y -L 8M -n xen-root-origin vg1 && lvcreate -qq -y -s -L 8M -n copy vg1/xen-root-origin");
        host.sh(&format!("lvcreate -qq -y -L 8M -n xen-root-eve_vm9 --addtag vgrid-{UNKNOWN_ID} vg1"));
        host.sh(
            "printf 'name=\"stranger\"\nmemory=96\nkernel=\"%s\"\n' /boot/vmlinuz-* > /root/other.cfg && xl create -p /root/other.cfg",
        );
        let orphan = |kind: &str, name: &str| (kind.to_owned(), name.to_owned());
        let (domain, volume) = (orphan("domain", "stranger"), orphan("volume", "xen-root-stranger"));
        let (tagged, origin) = (orphan("volume", "xen-root-eve_vm9"), orphan("volume", "xen-root-origin"));
        let all = [domain.clone(), tagged.clone(), origin.clone(), volume.clone()];
        assert_eq!(orphans(host), all);

        // Root has not allowed it.
        let with_orphans = host.inventory();
        for (kind, name) in [&domain, &volume, &origin] {
            refuses(host, kind, name, "removeStrangers = true");
        }
        host.must_be_as(&with_orphans);
        host.sh("sed -i '/^imageDirectory/i removeStrangers = true' /etc/vgrid/node.cfg");
        refuses(host, "volume", "xen-root-origin", "has snapshots");
        host.sh("setsid sleep 900 < /dev/vg1/xen-root-stranger > /dev/null 2>&1 & echo $! > /root/holder");
        refuses(host, "volume", "xen-root-stranger", "in use");
        host.sh("kill $(cat /root/holder); rm /root/holder");
        let (status, text) = remove(host, "volume", "other");
        assert_eq!(status, 404, "{text}");
        helper_spares_what_is_no_orphan(host);
        host.must_be_as(&with_orphans);
        assert_eq!(orphans(host), all, "upkeep only looks");

        for (kind, name) in [&domain, &volume] {
            let (status, text) = remove(host, kind, name);
            assert!(
                status == 200 && !text.contains(&format!("\"{name}\"")),
                "{status} {text}\n{}",
                host.log()
            );
        }
        assert_eq!(orphans(host), [tagged.clone(), origin]);
        // A worker removes it, as the machine that its tag names.
        let (status, text) = remove(host, &tagged.0, &tagged.1);
        assert_eq!(status, 202, "{text}");
        host.sh("lvremove -qq -y vg1/xen-root-origin");
        host.sh("rm -f /root/other.cfg /var/log/xen/console/guest-stranger.log");
        host.must_be_as(&before);
        assert!(orphans(host).is_empty());
        assert_eq!(host.machine("alice", &id)["state"], "deployed");
        host.terminate("alice", &id);
    });
}
