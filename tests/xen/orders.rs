//! Stop, start and reboot, and deploys that wait in the queue.

use serde_json::Value;
use vgrid::model::stage::Order;

use super::host::{Host, TINY, project, scenario};
use crate::support::at_once;
use crate::support::visited::Visited as _;

/// Deploys a machine with that name and waits until it runs. Returns its id.
fn deployed(host: &Host, name: &str) -> String {
    host.deployed("alice", &format!("{TINY}&vmHostname={name}"))
}

fn domain(host: &Host, name: &str) -> Option<u32> {
    host.try_sh(&format!("xl domid {name} 2>/dev/null")).out.trim().parse().ok()
}

#[test]
fn a_machine_is_stopped_started_and_rebooted_and_keeps_its_disk() {
    scenario("orders", |host| {
        let before = host.inventory();
        let id = deployed(host, "vm1");
        let first = domain(host, "alice_vm1").expect("a running domain");

        host.carry_out("alice", Order::Stop, &id, "stopped");
        assert_eq!(domain(host, "alice_vm1"), None);
        // The toolstack would not start it with the host, and its disk is kept.
        assert_eq!(host.sh("ls /etc/xen/auto"), "");
        assert!(host.sh("lvs --noheadings -o lv_name vg1").contains("xen-root-alice_vm1"));
        let log = host.log();
        assert!(!log.contains("stop.forced") && !log.contains("stop.not-asked"), "{log}");
        // Its file system is clean, and what is written there survives the restart.
        let root = "/dev/vg1/xen-root-alice_vm1";
        assert!(!host.sh(&format!("dumpe2fs -h {root} 2>/dev/null")).contains("needs_recovery"));
        host.sh(&format!("mount {root} /mnt && echo mine > /mnt/kept && umount /mnt"));
        // A second stop changes nothing; impossible orders are refused with a sentence.
        host.carry_out("alice", Order::Stop, &id, "stopped");
        let (status, sentence) = host.ask("alice", "reboot", &format!("format=text&id={id}"));
        assert_eq!(status, 409, "{sentence}");
        let (status, sentence) = host.ask("bob", "start", &format!("format=text&id={id}"));
        assert_eq!(status, 403, "{sentence}");

        host.carry_out("alice", Order::Start, &id, "deployed");
        let second = domain(host, "alice_vm1").expect("a running domain");
        assert!(second > first);
        host.must_answer_ping("vm1");
        assert_eq!(host.sh("ls /etc/xen/auto").trim(), "alice_vm1.cfg");

        host.carry_out("alice", Order::Reboot, &id, "deployed");
        assert!(domain(host, "alice_vm1").expect("a running domain") > second);
        let console = host.console("alice", &id);
        assert!(console.contains("vgrid_username=alice"), "{console}");

        host.carry_out("alice", Order::Stop, &id, "stopped");
        assert_eq!(host.sh(&format!("mount -o ro {root} /mnt && cat /mnt/kept && umount /mnt")), "mine\n");
        host.terminate("alice", &id);
        host.must_be_as(&before);
    });
}

#[test]
fn a_template_that_restarts_on_poweroff_shuts_down_cleanly() {
    scenario("restarts", |host| {
        let template = "/etc/vgrid/vmtmpl/xen-xvda";
        host.sh(&format!(r#"sed -i 's/^on_poweroff.*/on_poweroff = "restart"/' {template}"#));
        let before = host.inventory();
        let id = deployed(host, "vm1");
        host.carry_out("alice", Order::Stop, &id, "stopped");
        assert_eq!(domain(host, "alice_vm1"), None);
        let console = host.sh("cat /var/log/xen/console/guest-alice_vm1.log");
        assert!(console.contains("Emergency Sync") && console.contains("Emergency Remount"), "{console}");
        let root = "/dev/vg1/xen-root-alice_vm1";
        assert!(!host.sh(&format!("dumpe2fs -h {root} 2>/dev/null")).contains("needs_recovery"));
        // It stays down.
        host.sh("sleep 10");
        assert_eq!(domain(host, "alice_vm1"), None);
        host.terminate("alice", &id);
        host.must_be_as(&before);
    });
}

#[test]
fn an_unresponsive_guest_is_forced_off() {
    scenario("forced", |host| {
        host.sh("sed -i '/^imageDirectory/i shutdownTimeout = 5' /etc/vgrid/node.cfg");
        let before = host.inventory();
        let id = deployed(host, "vm1");
        // A paused guest reacts to nothing.
        host.sh("xl pause alice_vm1");
        let machine = host.carry_out("alice", Order::Stop, &id, "stopped");
        assert_eq!(machine["reason"], Value::Null);
        assert_eq!(domain(host, "alice_vm1"), None);
        // Without enough memory it cannot start, and says so. It stays stopped, and nothing is
        // lost.
        host.sh("sed -i 's/ \"memory\": 96/ \"memory\": 96000/' /var/lib/vgrid/node/jobs/*.json");
        let (status, text) = host.ask("alice", "start", &format!("format=json&id={id}"));
        assert_eq!(status, 409, "{text}");
        assert!(text.contains("memory free"), "{text}");
        assert_eq!(host.machine("alice", &id)["state"], "stopped");
        host.terminate("alice", &id);
        host.must_be_as(&before);
    });
}

#[test]
fn a_boot_loader_that_loses_the_owner_is_noticed() {
    scenario("loader", |host| {
        let before = host.inventory();
        // A known bug of old pygrub versions: the word None replaces what the configuration adds.
        let loader = "/usr/lib/vgrid/old-pygrub";
        host.sh(&format!(
            "cp -p /etc/vgrid/vmtmpl/xen-xvda /root/; \
             sed -i 's,^bootloader.*,bootloader = \"{loader}\",' /etc/vgrid/vmtmpl/xen-xvda; \
             printf '%s\\n' '#!/usr/bin/python3' 'import os, re, sys' \
               'args = [re.sub(r\"vgrid_username=.*\", \"None\", a) for a in sys.argv[1:]]' \
               'os.execv(\"/usr/lib/xen-4.17/bin/pygrub\", [\"pygrub\"] + args)' > {loader}; chmod 755 {loader}"
        ));
        let id = host.deploy("alice", &format!("{TINY}&vmHostname=vm1"));
        let failed = host.wait_for("alice", &id, "failed", 900);
        let reason = failed["reason"].as_str().unwrap_or_default();
        assert!(reason.contains("None") && reason.contains("boot loader"), "{reason}");
        host.terminate("alice", &id);
        host.sh(&format!("mv /root/xen-xvda /etc/vgrid/vmtmpl/; rm {loader}"));
        host.must_be_as(&before);
    });
}

#[test]
fn twelve_deploys_take_turns_three_at_a_time() {
    scenario("twelve", |host| {
        // Room for twelve: slots, names and disk space.
        host.sh("truncate -s 4G /root/more.img && vgextend -qq vg1 $(losetup -f --show /root/more.img); \
             sed -i 's/^xenhost = .*/xenhost = 12/' /etc/vgrid/common.cfg; \
             for n in 9 10 11 12; do echo \"vm$n = \\\"\\\"\" >> /etc/vgrid/common.cfg; \
             grep -qw vm$n /etc/hosts || echo \"10.0.2.$((20 + n)) vm$n\" >> /etc/hosts; done");
        let before = host.inventory();
        let ids = at_once(12, |_| host.deploy("alice", TINY));
        // The list shows the queue: positions from 1, each once.
        let mut most = 0;
        for _ in 0..200 {
            let list = host.get_json("alice", "list", "");
            let machines = list["machines"].as_array().expect("machines");
            let places: Vec<u64> = machines.iter().filter_map(|machine| machine["place"].as_u64()).collect();
            most = most.max(places.iter().copied().max().unwrap_or_default());
            if most >= 6 {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(500));
        }
        assert!(most >= 6, "the longest queue seen was {most}");
        for id in &ids {
            host.wait_for("alice", id, "deployed", 900);
        }
        assert_eq!(host.sh("xl list | grep -c alice_").trim(), "12");
        // How many ran at a time, by the log: from the first volume to the end.
        let (mut now, mut peak) = (0, 0);
        for line in host.sh("journalctl -q --no-pager -o cat -t vgrid").lines() {
            let says = |word: &str| line.split_whitespace().any(|part| part == word);
            if says("event=stage.begun") && says("stage=\"volumes\"") {
                now += 1;
                peak = peak.max(now);
            } else if says("event=order.done") && says("order=\"deploy\"") {
                now -= 1;
            }
        }
        assert_eq!((now, peak), (0, 3));
        // All at once, which takes a third of the time.
        for id in &ids {
            host.order("alice", Order::Terminate, &format!("id={id}"));
        }
        for id in &ids {
            host.wait_for("alice", id, "notDeployed", 900);
        }
        host.must_be_as(&before);
    });
}

/// xm no longer exists. A stand-in that behaves as documented runs real machines.
#[test]
fn a_host_with_xm_makes_stops_starts_and_removes_machines() {
    scenario("xm", |host| {
        host.put(&project().join("tests/data/xm"), "/usr/sbin/xm");
        host.sh("chmod 755 /usr/sbin/xm; sed -i '/^imageDirectory/i toolstack = \"xm\"' /etc/vgrid/node.cfg");
        let before = host.inventory();
        let id = deployed(host, "vm1");
        host.must_answer_ping("vm1");
        host.carry_out("alice", Order::Stop, &id, "stopped");
        assert_eq!(domain(host, "alice_vm1"), None);
        host.carry_out("alice", Order::Start, &id, "deployed");
        assert!(domain(host, "alice_vm1").is_some());
        host.terminate("alice", &id);
        // A template that is not valid Python is refused with the offending line.
        host.sh("echo 'memory 128' >> /etc/vgrid/vmtmpl/xen-xvda");
        let id = host.deploy("alice", &format!("{TINY}&vmHostname=vm1"));
        let failed = host.wait_for("alice", &id, "failed", 900);
        let reason = failed["reason"].as_str().unwrap_or_default();
        assert!(reason.contains("template xen-xvda") && reason.contains("line "), "{reason}");
        host.terminate("alice", &id);
        host.must_be_as(&before);
    });
}
