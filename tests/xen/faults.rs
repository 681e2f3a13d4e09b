//! Each fault for real: the deploy ends in `failed` with a reason that the user understands, and
//! leaves nothing behind.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::host::{TINY, scenario};
use crate::support::portal::id_of;
use crate::support::visited::Visited as _;

/// Breaks something and deploys a machine as vm1. Expects it to fail with `words` in the reason,
/// mends what was broken, and expects the host to be as it was.
fn fails(name: &str, breaks: &str, mends: &str, words: &[&str]) {
    fails_with(name, None, &format!("{TINY}&vmHostname=vm1"), breaks, mends, words);
}

/// Like [`fails`], with other fields, and with a file of this machine that is copied to
/// `/root/brought`.
fn fails_with(name: &str, file: Option<&Path>, fields: &str, breaks: &str, mends: &str, words: &[&str]) {
    scenario(name, |host| {
        if let Some(file) = file {
            host.put(file, "/root/brought");
        }
        let before = host.inventory();
        host.sh(breaks);
        let broken = host.inventory();
        let (status, answer) = host.try_deploy("alice", fields);
        assert!(matches!(status, 202 | 409 | 502), "{status} {answer}");
        let id = id_of(&answer);
        let machine = host.wait_for("alice", &id, "failed", 900);
        let reason = machine["reason"].as_str().expect("a reason");
        for word in words {
            assert!(reason.contains(word), "{reason:?} does not say {word:?}\n{}", host.log());
        }
        // The machine left nothing behind, and nothing else is gone.
        host.must_be_as(&broken);
        host.terminate("alice", &id);
        host.sh(mends);
        host.must_be_as(&before);
    });
}

#[test]
fn image_file_missing() {
    let images = "/var/lib/vgrid/images";
    fails(
        "no-image",
        &format!("mv {images}/tiny.tar.gz {images}/away"),
        &format!("mv {images}/away {images}/tiny.tar.gz"),
        &["image tiny", "missing"],
    );
}

#[test]
fn corrupt_archive() {
    let file = "/var/lib/vgrid/images/tiny.tar.gz";
    fails(
        "corrupt",
        &format!(
            "cp -p {file} /root/ && dd if=/dev/zero of={file} bs=1 seek=2000000 count=5000 conv=notrunc status=none"
        ),
        &format!("cp -p /root/tiny.tar.gz {file} && rm /root/tiny.tar.gz"),
        &["image tiny", "damaged"],
    );
}

#[test]
fn truncated_archive() {
    let file = "/var/lib/vgrid/images/tiny.tar.gz";
    fails(
        "cut-off",
        &format!("cp -p {file} /root/ && truncate -s 3000000 {file}"),
        &format!("cp -p /root/tiny.tar.gz {file} && rm /root/tiny.tar.gz"),
        &["image tiny", "damaged"],
    );
}

#[test]
fn image_larger_than_the_partition() {
    // 1.1 GiB of zeros in a 1 MB archive. It is built here because that is faster.
    let dir = tempfile::tempdir().expect("a temporary folder");
    let made = Command::new("sh")
        .args(["-c", "truncate -s 1100M zeros && tar -cf - zeros | gzip -1 > large"])
        .current_dir(dir.path())
        .status();
    assert!(made.is_ok_and(|status| status.success()), "the archive can't be built");
    let image = "/var/lib/vgrid/images/tiny.tar.gz";
    fails_with(
        "too-large",
        Some(&dir.path().join("large")),
        &format!("{TINY}&vmHostname=vm1"),
        &format!("mv {image} /root/away && cp /root/brought {image}"),
        &format!("mv /root/away {image}"),
        &["does not fit", "larger partition"],
    );
}

#[test]
fn volume_group_full() {
    fails(
        "vg-full",
        "lvcreate -qq -y -l 95%FREE -n filler vg1",
        "lvremove -qq -y vg1/filler",
        &["disk space", "free"],
    );
}

#[test]
fn volume_of_that_name_exists() {
    fails(
        "volume",
        "lvcreate -qq -y -L 8M -n xen-root-alice_vm1 vg1",
        "lvremove -qq -y vg1/xen-root-alice_vm1",
        &["xen-root-alice_vm1", "already there"],
    );
}

#[test]
fn not_enough_memory() {
    fails_with(
        "memory",
        None,
        "vmImage=tiny&vmMemory=100000&vmPartition=1&vmHostname=vm1",
        "true",
        "true",
        &["memory", "free"],
    );
}

#[test]
fn address_in_use_or_unusable() {
    // 10.0.2.2 is QEMU's own address on the host's network. It answers.
    for (address, words) in [("10.0.2.2", "Something answers at 10.0.2.2"), ("127.0.0.9", "loopback")] {
        fails_with(
            "address",
            None,
            &format!("{TINY}&vmHostname=vm8"),
            &format!(
                "cp -p /etc/hosts /root/ && sed -i 's/^[0-9.]* vm8$/{address} vm8/' /etc/hosts && grep -q '^{address} vm8$' /etc/hosts"
            ),
            "mv /root/hosts /etc/",
            &[words, "vm8"],
        );
    }
}

#[test]
fn domain_of_that_name_exists() {
    fails(
        "domain",
        "printf 'name=\"alice_vm1\"\nmemory=96\nkernel=\"%s\"\n' /boot/vmlinuz-* > /root/other.cfg && xl create -p /root/other.cfg",
        "xl destroy alice_vm1; rm -f /root/other.cfg /var/log/xen/console/guest-alice_vm1.log",
        &["alice_vm1", "already"],
    );
}

#[test]
fn template_with_an_unknown_placeholder() {
    let file = "/etc/vgrid/vmtmpl/xen-xvda";
    fails(
        "template",
        &format!("cp -p {file} /root/ && echo 'x = \"${{vmNane}}\"' >> {file}"),
        &format!("mv /root/xen-xvda {file}"),
        &["xen-xvda", "vmNane"],
    );
}

#[test]
fn template_that_the_toolstack_cannot_read() {
    let file = "/etc/vgrid/vmtmpl/xen-xvda";
    fails(
        "syntax",
        &format!("cp -p {file} /root/ && echo 'memory 128' >> {file}"),
        &format!("mv /root/xen-xvda {file}"),
        &["xen-xvda", "error"],
    );
}

#[test]
fn toolstack_missing() {
    fails("no-xl", "mv /usr/sbin/xl /usr/sbin/lx", "mv /usr/sbin/lx /usr/sbin/xl", &["virtualization tools"]);
}

#[test]
fn sudo_refused() {
    fails("no-sudo", "mv /etc/sudoers.d/vgrid /root/", "mv /root/vgrid /etc/sudoers.d/", &["sudo"]);
}

#[test]
fn worker_killed_while_unpacking() {
    scenario("killed", |host| {
        let before = host.inventory();
        let id = host.deploy("alice", "vmImage=debian&vmMemory=128&vmPartition=2&vmHostname=vm1");
        let end = Instant::now() + Duration::from_secs(600);
        loop {
            let machine = host.machine("alice", &id);
            if machine["percent"].as_u64().is_some_and(|percent| percent >= 2) {
                break;
            }
            assert!(machine["moving"] == true && Instant::now() < end, "{machine:#}\n{}", host.log());
            std::thread::sleep(Duration::from_millis(200));
        }
        host.sh("pkill -KILL -f [v]grid-worker");
        // Nobody has noticed yet. The next request to the node finds the dead job and undoes it.
        assert_eq!(host.machine("alice", &id)["state"], "deploying");
        host.ask("alice", "console", &format!("format=text&id={id}"));
        let machine = host.wait_for("alice", &id, "failed", 900);
        let reason = machine["reason"].as_str().expect("a reason");
        assert!(reason.contains("interrupted") && reason.contains("unpacking"), "{reason}");
        host.terminate("alice", &id);
        host.must_be_as(&before);
    });
}
