//! A whole-disk image as clouds have it: Debian with GRUB on a partitioned disk, cloud-init and sshd.
//! Nothing in it knows vGrid.

use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use vgrid::model::stage::Order;

use super::host::{VirtHost, scenario, script};
use crate::support::eventually;
use crate::support::visited::Visited as _;

/// Where the host has its image.
const IMAGE: &str = "/var/lib/vgrid/images/cloud.qcow2";

/// The longest that it may take to boot. In emulation it takes two minutes.
const BOOT: Duration = Duration::from_secs(600);
/// What it says last.
const READY: &str = "login: ";

/// Adds the image to a host, as INSTALL.md says.
fn add_image(host: &VirtHost) {
    let built = Command::new(script("cloud")).stdin(Stdio::null()).status().expect("the script runs");
    assert!(built.success(), "no cloud image");
    let path = Command::new(script("cloud")).arg("--path").output().expect("the script runs").stdout;
    std::fs::copy(String::from_utf8_lossy(&path).trim(), host.path(IMAGE)).expect("a copy");
    host.sh("cd /etc/vgrid
         sed -i -e '/^.VMImages/a cloud = \"Debian as clouds have it\"' common.cfg
         sed -i -e '/^storage/a savedImages = \"zst\"' -e '/^.VMImageFiles/a cloud = \"cloud.qcow2\"' \
             -e '/^.VMConfigTemplates/a cloud = \"kvm-cloud.xml\"' node.cfg
         printf '%s\n' '[CloudInit]' 'keyRepository = \"http://virthost/keys/authorized_keys.\"' \
             'netmask = \"255.255.255.0\"' 'gateway = \"10.0.3.1\"' >> node.cfg");
}

/// Waits until a machine has booted and takes SSH connections.
fn wait_for_boot(host: &VirtHost, machine: &str) {
    let name = machine.split_once('_').expect("a machine's name").1;
    let ready = format!("{name} {READY}");
    let has_booted = || host.console_log(machine).contains(&ready).then_some(());
    eventually(BOOT, has_booted)
        .unwrap_or_else(|| panic!("{machine} has not booted:\n{}", host.console_log(machine)));
    // systemd starts sshd and the login on the console side by side. After a stop and a start, the log
    // has the last boot's login, too.
    let sshd =
        || (host.try_sh(&format!("ssh-keyscan -T 20 -t ed25519 {name} | grep .")).status == 0).then_some(());
    eventually(BOOT, sshd).unwrap_or_else(|| panic!("{machine} has no sshd:\n{}", host.console_log(machine)));
}

/// The fields of a machine of the image.
fn machine(name: &str, size: u32) -> String {
    format!("vmImage=cloud&vmMemory=512&vmPartition={size}&vmHostname={name}")
}

#[test]
fn a_cloud_image_lives_and_leaves_nothing() {
    scenario("cloud", |host| {
        add_image(host);
        let before = host.inventory();
        let id = host.deploy("alice", &machine("vm3", 3));
        host.wait_for("alice", &id, "deployed", 300);
        wait_for_boot(host, "alice_vm3");
        host.lets_in_only("alice", "vm3");
        let told = host.ssh(
            "alice",
            "vm3",
            "cloud-init status --wait > /dev/null; hostname; ip -4 -o addr show dev eth0 | cut -d' ' -f7; \
             df --output=size -BM / | tail -n 1; cat /proc/swaps; sudo -u alice sudo -n id -un; \
             cloud-init query instance_id; echo kept > /kept; sync",
        );
        let told = told.expect("alice gets in");
        let lines: Vec<&str> = told.lines().map(str::trim).collect();
        assert_eq!(lines[..2], ["vm3", "10.0.3.23/24"], "{told}");
        let size: u32 = lines[2].trim_end_matches('M').parse().expect("a size");
        assert!(size > 2700, "the root file system has not grown: {told}");
        assert!(told.contains("/dev/vdb"), "{told}");
        assert_eq!(lines[lines.len() - 2..], ["root", &id], "{told}");

        // Stopped, it keeps its disk; started, it is as it was.
        host.carry_out("alice", Order::Stop, &id, "stopped");
        host.carry_out("alice", Order::Start, &id, "deployed");
        wait_for_boot(host, "alice_vm3");
        assert_eq!(host.ssh("alice", "vm3", "cat /kept").as_deref(), Some("kept\n"));
        host.lets_in_only("alice", "vm3");

        host.terminate("alice", &id);
        host.must_be_as(&before);
    });
}

/// The disk is saved before cloud-init has touched it, so that only one boot is waited for.
#[test]
fn a_cloud_image_lives_on_as_a_saved_one() {
    scenario("cloud-saved", |host| {
        add_image(host);
        let before = host.inventory();
        let id = host.deployed("bob", &machine("vm3", 2));
        host.carry_out("bob", Order::Stop, &id, "stopped");
        host.order("bob", Order::Save, &format!("id={id}&name=base"));
        let saved = host.wait_for("bob", &id, "stopped", 600);
        assert_eq!(saved["reason"], Value::Null);
        assert!(host.sh("ls /var/lib/vgrid/images").contains("bob_base.raw.zst\n"));
        host.terminate("bob", &id);
        let second = host.deployed("bob", "savedImage=base&vmMemory=512&vmPartition=3&vmHostname=vm4");
        wait_for_boot(host, "bob_vm4");
        assert_eq!(host.ssh("bob", "vm4", "hostname").as_deref(), Some("vm4\n"));
        host.lets_in_only("bob", "vm4");
        host.terminate("bob", &second);
        host.delete_image("bob", "base");
        host.must_be_as(&before);
    });
}

/// Needs no guest, so it takes seconds.
#[test]
fn a_cloud_image_that_cannot_be_used_is_refused() {
    scenario("refused", |host| {
        add_image(host);
        let before = host.inventory();
        let ends = |user: &str, fields: &str, words: &str| {
            let id = host.deploy(user, fields);
            let machine = host.wait_for(user, &id, "failed", 60);
            let reason = machine["reason"].as_str().unwrap_or_default().to_owned();
            assert!(reason.contains(words), "{reason}");
            host.terminate(user, &id);
            host.must_be_as(&before);
        };
        ends("alice", &machine("vm3", 1), "a disk of 1.4 GiB, which does not fit into 1.0 GiB");
        ends("admin", &machine("vm3", 2), "There is no public key of yours");
        // The host says so, too, before anybody deploys it.
        let check = "vgrid-check 2>&1 | grep -A1 'cloud.qcow2'";
        host.sh(&format!("qemu-img rebase -u -f qcow2 -F raw -b /etc/shadow {IMAGE}"));
        ends("alice", &machine("vm3", 2), "backing file");
        assert!(host.sh(check).contains("a backing file"), "{}", host.sh(check));
    });
}
