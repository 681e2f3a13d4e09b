//! Each fault for real: it ends in `failed`, with a reason that its user understands, and nothing is left.

use std::path::Path;
use std::process::Command;

use super::host::scenario;

const TINY: &str = "vmImage=tiny&vmMemory=96&vmPartition=1&vmHostname=vm1";

/// Breaks something, deploys, expects `failed` with `words` in the reason, mends it, and expects that the
/// host is as it was before.
fn fails(name: &str, fields: &str, breaks: &str, mends: &str, words: &[&str]) {
    fails_with(name, None, fields, breaks, mends, words);
}

/// The same with a file of this machine, which is `/root/brought` there.
fn fails_with(name: &str, file: Option<&Path>, fields: &str, breaks: &str, mends: &str, words: &[&str]) {
    scenario(name, |host| {
        if let Some(file) = file {
            host.put(file, "/root/brought");
        }
        let before = host.inventory();
        host.sh(breaks);
        let broken = host.inventory();
        let (status, answer) = host.deploy("alice", fields);
        assert!(matches!(status, 202 | 409 | 502), "{status} {answer}");
        let id =
            answer["machine"]["id"].as_str().unwrap_or_else(|| panic!("no machine in {answer}")).to_owned();
        let machine = host.wait_for("alice", &id, "failed", 900);
        let reason = machine["reason"].as_str().expect("a reason");
        for word in words {
            assert!(reason.contains(word), "{reason:?} does not say {word:?}\n{}", host.log());
        }
        // Nothing of the machine is there, and nothing that was there is gone.
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
        TINY,
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
        TINY,
        &format!(
            "cp -p {file} /root/ && dd if=/dev/zero of={file} bs=1 seek=2000000 count=5000 conv=notrunc status=none"
        ),
        &format!("cp -p /root/tiny.tar.gz {file} && rm /root/tiny.tar.gz"),
        &["image tiny", "damaged"],
    );
}

#[test]
fn archive_cut_off() {
    let file = "/var/lib/vgrid/images/tiny.tar.gz";
    fails(
        "cut-off",
        TINY,
        &format!("cp -p {file} /root/ && truncate -s 3000000 {file}"),
        &format!("cp -p /root/tiny.tar.gz {file} && rm /root/tiny.tar.gz"),
        &["image tiny", "damaged"],
    );
}

#[test]
fn image_larger_than_the_partition() {
    // 1.1 GiB of zeros in an archive of a megabyte, made here because it is quicker.
    let dir = tempfile::tempdir().expect("a temporary folder");
    let made = Command::new("sh")
        .args(["-c", "truncate -s 1100M zeros && tar -cf - zeros | gzip -1 > large"])
        .current_dir(dir.path())
        .status();
    assert!(made.is_ok_and(|status| status.success()), "the archive can't be made");
    let image = "/var/lib/vgrid/images/tiny.tar.gz";
    fails_with(
        "too-large",
        Some(&dir.path().join("large")),
        TINY,
        &format!("mv {image} /root/away && cp /root/brought {image}"),
        &format!("mv /root/away {image}"),
        &["does not fit", "larger partition"],
    );
}

#[test]
fn volume_group_full() {
    fails(
        "vg-full",
        TINY,
        "lvcreate -qq -y -l 95%FREE -n filler vg1",
        "lvremove -qq -y vg1/filler",
        &["disk space", "free"],
    );
}

#[test]
fn a_volume_of_that_name_is_there() {
    fails(
        "volume",
        TINY,
        "lvcreate -qq -y -L 8M -n xen-root-alice_vm1 vg1",
        "lvremove -qq -y vg1/xen-root-alice_vm1",
        &["xen-root-alice_vm1", "already there"],
    );
}

#[test]
fn not_enough_memory() {
    fails(
        "memory",
        "vmImage=tiny&vmMemory=100000&vmPartition=1&vmHostname=vm1",
        "true",
        "true",
        &["memory", "free"],
    );
}

#[test]
fn an_address_that_something_else_has_or_nobody_can_have() {
    // 10.0.2.2 is QEMU's own on the host's network, and answers.
    for (address, words) in [("10.0.2.2", "Something answers at 10.0.2.2"), ("127.0.0.9", "loopback")] {
        fails(
            "address",
            "vmImage=tiny&vmMemory=96&vmPartition=1&vmHostname=vm8",
            &format!(
                "cp -p /etc/hosts /root/ && sed -i 's/^[0-9.]* vm8$/{address} vm8/' /etc/hosts && grep -q '^{address} vm8$' /etc/hosts"
            ),
            "mv /root/hosts /etc/",
            &[words, "vm8"],
        );
    }
}

#[test]
fn a_domain_of_that_name_is_there() {
    fails(
        "domain",
        TINY,
        "printf 'name=\"alice_vm1\"\nmemory=96\nkernel=\"%s\"\n' /boot/vmlinuz-* > /root/other.cfg && xl create -p /root/other.cfg",
        "xl destroy alice_vm1; rm -f /root/other.cfg /var/log/xen/console/guest-alice_vm1.log",
        &["alice_vm1", "already"],
    );
}

#[test]
fn a_template_with_an_unknown_placeholder() {
    let file = "/etc/vgrid/vmtmpl/xen-xvda";
    fails(
        "template",
        TINY,
        &format!("cp -p {file} /root/ && echo 'x = \"${{vmNane}}\"' >> {file}"),
        &format!("mv /root/xen-xvda {file}"),
        &["xen-xvda", "vmNane"],
    );
}

#[test]
fn a_template_that_the_toolstack_cannot_read() {
    let file = "/etc/vgrid/vmtmpl/xen-xvda";
    fails(
        "syntax",
        TINY,
        &format!("cp -p {file} /root/ && echo 'memory 128' >> {file}"),
        &format!("mv /root/xen-xvda {file}"),
        &["xen-xvda", "error"],
    );
}

#[test]
fn the_toolstack_missing() {
    fails("no-xl", TINY, "mv /usr/sbin/xl /usr/sbin/lx", "mv /usr/sbin/lx /usr/sbin/xl", &["Xen tools"]);
}

#[test]
fn sudo_refused() {
    fails("no-sudo", TINY, "mv /etc/sudoers.d/vgrid /root/", "mv /root/vgrid /etc/sudoers.d/", &["sudo"]);
}

#[test]
fn the_worker_killed_while_it_unpacks() {
    scenario("killed", |host| {
        let before = host.inventory();
        let (status, answer) =
            host.deploy("alice", "vmImage=debian&vmMemory=128&vmPartition=2&vmHostname=vm1");
        assert_eq!(status, 202, "{answer}");
        let id = answer["machine"]["id"].as_str().expect("an id").to_owned();
        let end = std::time::Instant::now() + std::time::Duration::from_secs(600);
        loop {
            let machine = host.machine("alice", &id);
            if machine["percent"].as_u64().is_some_and(|percent| percent >= 2) {
                break;
            }
            assert!(
                machine["moving"] == true && std::time::Instant::now() < end,
                "{machine:#}\n{}",
                host.log()
            );
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
        host.sh("pkill -KILL -f [v]grid-worker");
        // Nobody has noticed yet; the next request to that node finds it and has it undone.
        assert_eq!(host.machine("alice", &id)["state"], "deploying");
        host.ask("alice", "console", &format!("format=text&id={id}"));
        let machine = host.wait_for("alice", &id, "failed", 900);
        let reason = machine["reason"].as_str().expect("a reason");
        assert!(reason.contains("interrupted") && reason.contains("unpacking"), "{reason}");
        host.terminate("alice", &id);
        host.must_be_as(&before);
    });
}
