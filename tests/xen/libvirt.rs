//! A Xen host whose machines libvirt controls, and machines that follow their host from one toolstack
//! to the other and back.

use serde_json::Value;
use vgrid::model::stage::Order;

use super::check::{must_break, run_checks};
use super::host::{Build, Host, TINY, scenario_on};
use super::keys::{Machine, make_keys};
use crate::support::checks::{Case, case};
use crate::support::visited::Visited as _;

/// As INSTALL.md says. On a host that has machines of xl's, they keep running.
const START_LIBVIRT: &str = "\
    systemctl disable -q xendomains 2> /dev/null; \
    install -d /run/systemd/system/xendomains.service.d; \
    printf '[Service]\\nExecStop=\\n' > /run/systemd/system/xendomains.service.d/vgrid.conf; \
    for unit in libvirtd.socket libvirtd-ro.socket; do \
        install -d /etc/systemd/system/$unit.d; \
        printf '[Socket]\\nSocketMode=0600\\nSocketGroup=root\\n' > /etc/systemd/system/$unit.d/vgrid.conf; \
    done; \
    install -d /etc/systemd/system/libvirt-guests.service.d; \
    printf '[Unit]\\nAfter=libvirtd.service xen.service\\n' > /etc/systemd/system/libvirt-guests.service.d/vgrid.conf; \
    systemctl daemon-reload; \
    systemctl stop -q libvirtd 2> /dev/null; \
    systemctl restart libvirtd.socket libvirtd-ro.socket && \
    systemctl -q enable --now libvirtd libvirt-guests && \
    install -d -o root -g root -m 711 /var/lib/vgrid-machines";

const USE_LIBVIRT: &str = "\
    sed -i -e '/^\\[General\\]/a toolstack = \"libvirt\"' -e 's/xen-xvda/xen.xml/' /etc/vgrid/node.cfg";

const USE_XL: &str = "\
    sed -i -e '/^toolstack/d' -e 's/xen.xml/xen-xvda/' /etc/vgrid/node.cfg";

const END_LIBVIRT: &str = "\
    systemctl -q disable --now libvirtd libvirtd.socket libvirtd-ro.socket libvirtd-admin.socket libvirt-guests && \
    systemctl -q enable xendomains 2> /dev/null && systemctl start xendomains";

/// What can be broken on such a host, besides what can be on any.
pub const CASES: [Case; 4] = [
    Case {
        skips: &["templates for the toolstack"],
        ..case("toolstack", "mv /usr/bin/virsh /root/", "mv /root/virsh /usr/bin/")
    },
    case("one toolstack", "systemctl -q enable xendomains", "systemctl -q disable xendomains"),
    case(
        "one toolstack",
        "echo '# vGrid machine 019dd5a3-2f3a-7c11-9d9b-0123456789ab - made and removed by vGrid' > /etc/xen/auto/eve_vm8.cfg",
        "rm /etc/xen/auto/eve_vm8.cfg",
    ),
    case(
        "boot loader of Xen's machines",
        "mv /usr/lib/grub/x86_64-xen /root/",
        "mv /root/x86_64-xen /usr/lib/grub/",
    ),
];

/// What libvirt and vGrid keep of libvirt's machines.
fn of_libvirt_on_disk(host: &Host) -> String {
    host.sh("find /var/lib/vgrid-machines /etc/libvirt/libxl /run/vgrid-* ! -path '/etc/*' -o ! -type d 2> /dev/null | sort")
}

/// What libvirt says of a machine.
fn told(host: &Host, command: &str, name: &str) -> String {
    host.sh(&format!("virsh -q -c xen:///system {command} {name}"))
}

/// The machines that libvirt knows, each with its state.
fn of_libvirt(host: &Host) -> Vec<String> {
    let list = host.sh("virsh -q -c xen:///system list --all --name");
    let names = list.split_whitespace().filter(|name| *name != "Domain-0");
    let mut all: Vec<String> =
        names.map(|name| format!("{name} {}", told(host, "domstate", name).trim())).collect();
    all.sort();
    all
}

/// The files that xl's machines have, and the machines that run.
fn of_xl(host: &Host) -> (String, String) {
    (host.sh("ls -A /etc/xen/auto"), host.sh("xl list | awk 'NR > 2 {print $1}' | sort"))
}

fn settled(host: &Host, what: &str) {
    let (failed, skipped, messages) = run_checks(host);
    assert!(failed.is_empty() && skipped.is_empty(), "{what}: vgrid-check fails:\n{messages}");
}

fn left_over(host: &Host, by: &str, names: &[&str]) {
    let (failed, _, messages) = run_checks(host);
    assert!(failed.contains("one toolstack"), "{failed:?}\n{messages}");
    let list = format!("{by} has {}: {}", names.len(), names.join(", "));
    assert!(messages.contains(&list), "{list:?} is missing from {messages}");
}

#[test]
fn a_machine_lives_through_libvirt() {
    scenario_on(Build::Libvirt, "libvirt", |host| {
        host.sh(&format!("{START_LIBVIRT} && {USE_LIBVIRT} && sudo -u www-data vgrid-upkeep"));
        settled(host, "after the installation");
        must_break(host, &CASES);
        make_keys(host);
        let (before, left) = (host.inventory(), of_libvirt_on_disk(host));

        // Only its owner gets in.
        let mut machine = Machine::deploy(host, "alice", "vm1", "debian");
        let console = machine.booted();
        machine.lets_in(&["alice"], &console);
        assert!(console.contains("vgrid_username=alice"), "{console}");
        let console = host.console("alice", &machine.id);
        assert!(console.contains("vgrid_username=alice"), "{console}");
        let line = machine.ssh("alice", "cat /proc/cmdline").expect("alice gets in");
        let words =
            "root=/dev/xvda1 ro vgrid_username=alice ip=10.0.2.21::10.0.2.2:255.255.255.0:vm1:eth0:off";
        assert!(line.contains(words), "{line}");
        let swap = machine.ssh("alice", "echo kept > /kept; sync; cat /proc/swaps").expect("alice gets in");
        assert!(swap.contains("/dev/xvda2"), "{swap}");

        // It is libvirt's, by its id, and starts with the host.
        let id = machine.id.clone();
        assert_eq!(told(host, "domuuid", "alice_vm1").trim(), id);
        assert!(told(host, "dominfo", "alice_vm1").contains("Autostart:      enable"));
        assert_eq!(of_xl(host), (String::new(), "alice_vm1\n".to_owned()));

        host.carry_out("alice", Order::Stop, &id, "stopped");
        assert_eq!(of_libvirt(host), ["alice_vm1 shut off"]);
        assert_eq!(of_xl(host).1, "", "its domain is still there");
        assert!(told(host, "dominfo", "alice_vm1").contains("Autostart:      disable"));
        let log = "/var/log/xen/console/guest-alice_vm1.log";
        assert!(host.sh(&format!("tail -n 3 {log}")).contains("reboot: "), "it was forced off");
        host.carry_out("alice", Order::Start, &id, "deployed");
        let console = machine.booted();
        machine.lets_in(&["alice"], &console);
        assert_eq!(machine.ssh("alice", "cat /kept").as_deref(), Some("kept\n"));
        assert!(told(host, "dominfo", "alice_vm1").contains("Autostart:      enable"));
        host.carry_out("alice", Order::Reboot, &id, "deployed");
        let console = machine.booted();
        machine.lets_in(&["alice"], &console);
        // From the inside, too.
        machine.ssh("alice", "(sleep 1; reboot) > /dev/null 2>&1 &").expect("alice gets in");
        machine.boots += 1;
        machine.booted();

        // Saved, it becomes an image, and the image a machine.
        host.carry_out("alice", Order::Stop, &id, "stopped");
        host.order("alice", Order::Save, &format!("id={id}&name=base"));
        let saved = host.wait_for("alice", &id, "stopped", 900);
        assert_eq!(saved["reason"], Value::Null);
        host.terminate("alice", &id);
        let second = Machine::saved(host, "alice", "vm2", "base");
        let console = second.booted();
        assert_eq!(second.ssh("alice", "cat /kept; hostname").as_deref(), Some("kept\nvm2\n"));
        second.lets_in(&["alice"], &console);
        host.terminate("alice", &second.id);
        host.delete_image("alice", "base");

        // Of what goes wrong, people get to know why.
        host.sh(
            "cp -p /etc/vgrid/vmtmpl/xen.xml /root/; sed -i s/xenbr0/nosuchbr/ /etc/vgrid/vmtmpl/xen.xml",
        );
        let failed = host.deploy("alice", &format!("{TINY}&vmHostname=vm3"));
        let machine = host.wait_for("alice", &failed, "failed", 900);
        let reason = machine["reason"].as_str().expect("a reason");
        assert!(reason.contains("the network bridge nosuchbr is missing on this host"), "{reason}");
        host.terminate("alice", &failed);
        host.sh("mv /root/xen.xml /etc/vgrid/vmtmpl/");
        host.must_be_as(&before);
        assert_eq!(of_libvirt_on_disk(host), left);
    });
}

#[test]
fn disks_may_be_files() {
    scenario_on(Build::Libvirt, "libvirt-files", |host| {
        host.sh(&format!(
            "{START_LIBVIRT} && {USE_LIBVIRT} && sed -i '/^toolstack/a storage = \"files\"' /etc/vgrid/node.cfg && \
             sudo -u www-data vgrid-upkeep"
        ));
        settled(host, "after the installation");
        let (before, left) = (host.inventory(), of_libvirt_on_disk(host));
        let id = host.deployed("alice", &format!("{TINY}&vmHostname=vm3"));
        host.must_answer_ping("vm3");
        let disks = told(host, "domblklist", "alice_vm3");
        for disk in ["root.raw", "swap.raw"] {
            assert!(disks.contains(&format!("/var/lib/vgrid-machines/{id}/{disk}")), "{disks}");
        }
        let swap = host.sh("grep -a SWAP: /var/log/xen/console/guest-alice_vm3.log");
        assert!(swap.contains("SWAP: /dev/xvda2"), "{swap}");
        host.carry_out("alice", Order::Stop, &id, "stopped");
        host.order("alice", Order::Save, &format!("id={id}&name=base"));
        let saved = host.wait_for("alice", &id, "stopped", 900);
        assert_eq!(saved["reason"], Value::Null);
        host.carry_out("alice", Order::Start, &id, "deployed");
        host.must_answer_ping("vm3");
        host.terminate("alice", &id);
        host.delete_image("alice", "base");
        host.must_be_as(&before);
        assert_eq!(of_libvirt_on_disk(host), left);
    });
}

#[test]
fn machines_follow_their_host_from_xl_to_libvirt() {
    scenario_on(Build::Libvirt, "to-libvirt", |host| {
        host.sh("sudo -u www-data vgrid-upkeep");
        let (failed, _, messages) = run_checks(host);
        assert_eq!(failed.into_iter().collect::<Vec<_>>(), ["one toolstack"], "{messages}");
        assert!(messages.contains("systemd stops xendomains"), "{messages}");
        host.sh(END_LIBVIRT);
        settled(host, "with xl");
        let before = host.inventory();
        let tiny = |name: &str| host.deployed("alice", &format!("{TINY}&vmHostname={name}"));
        let [one, two, three, four] = ["vm1", "vm2", "vm3", "vm4"].map(tiny);
        host.carry_out("alice", Order::Stop, &two, "stopped");
        let running = "alice_vm1\nalice_vm3\nalice_vm4\n";
        assert_eq!(of_xl(host).1, running);

        // Nothing ends when libvirt takes over, and all is known to be there.
        host.sh(&format!("{START_LIBVIRT} && {USE_LIBVIRT}"));
        assert_eq!(of_xl(host).1, running);
        assert_eq!(of_libvirt(host), Vec::<String>::new());
        left_over(host, "xl", &["alice_vm1", "alice_vm2", "alice_vm3", "alice_vm4"]);
        host.sh("sudo -u www-data vgrid-upkeep");
        assert_eq!(host.machine("alice", &one)["state"], "deployed");

        host.carry_out("alice", Order::Reboot, &one, "deployed");
        host.must_answer_ping("vm1");
        host.carry_out("alice", Order::Start, &two, "deployed");
        host.must_answer_ping("vm2");
        host.carry_out("alice", Order::Stop, &three, "stopped");
        host.terminate("alice", &four);
        assert_eq!(of_libvirt(host), ["alice_vm1 running", "alice_vm2 running", "alice_vm3 shut off"]);
        assert_eq!(of_xl(host), (String::new(), "alice_vm1\nalice_vm2\n".to_owned()));
        settled(host, "with libvirt");

        // What ran comes back with the host, and what had been stopped does not. libvirt starts the
        // machines of a host that still boots, and on an emulated one, the second takes longer than
        // the 40 s that libxl gives a disk.
        host.carry_out("alice", Order::Stop, &two, "stopped");
        host.reboot();
        host.must_answer_ping("vm1");
        assert_eq!(of_libvirt(host), ["alice_vm1 running", "alice_vm2 shut off", "alice_vm3 shut off"]);
        let console = host.console("alice", &one);
        assert!(console.contains("GUEST HALT"), "the guest was not shut down cleanly:\n{console}");

        for id in [one, two, three] {
            host.terminate("alice", &id);
        }
        host.sh(USE_XL);
        host.must_be_as(&before);
    });
}

#[test]
fn machines_follow_their_host_from_libvirt_to_xl() {
    scenario_on(Build::Libvirt, "to-xl", |host| {
        host.sh(&format!("{START_LIBVIRT} && sudo -u www-data vgrid-upkeep"));
        let before = host.inventory();
        host.sh(USE_LIBVIRT);
        let tiny = |name: &str| host.deployed("alice", &format!("{TINY}&vmHostname={name}"));
        let [one, two, three, four] = ["vm1", "vm2", "vm3", "vm4"].map(tiny);
        host.carry_out("alice", Order::Stop, &three, "stopped");

        // Nothing ends when xl takes over, and all is known to be there.
        host.sh(USE_XL);
        left_over(host, "libvirt", &["alice_vm1", "alice_vm2", "alice_vm3", "alice_vm4"]);
        host.sh("sudo -u www-data vgrid-upkeep");
        host.carry_out("alice", Order::Stop, &one, "stopped");
        host.carry_out("alice", Order::Reboot, &two, "deployed");
        host.must_answer_ping("vm2");
        // As if its move had been interrupted, when it had both definitions.
        host.sh(&format!(
            "cd /etc/xen/auto && sed -e s/{one}/{three}/ -e s/vm1/vm3/g -e s/10.0.2.21/10.0.2.23/ .alice_vm1.cfg.stopped \
             > .alice_vm3.cfg.stopped"
        ));
        host.carry_out("alice", Order::Start, &three, "deployed");
        host.must_answer_ping("vm3");
        assert_eq!(of_libvirt(host), ["alice_vm4 running"]);
        let (files, running) = of_xl(host);
        assert_eq!(files, ".alice_vm1.cfg.stopped\nalice_vm2.cfg\nalice_vm3.cfg\n");
        assert_eq!(running, "alice_vm2\nalice_vm3\nalice_vm4\n");
        // No disk is touched of a machine that only the other toolstack knows.
        host.must_answer_ping("vm4");
        host.terminate("alice", &four);
        assert_eq!(of_libvirt(host), Vec::<String>::new());
        assert_eq!(host.sh("find /var/lib/vgrid-machines /etc/libvirt/libxl -type f"), "");

        host.sh(END_LIBVIRT);
        settled(host, "with xl again");
        assert_eq!(of_xl(host).1, "alice_vm2\nalice_vm3\n");
        for id in [one, two, three] {
            host.terminate("alice", &id);
        }
        host.must_be_as(&before);
    });
}
