//! A machine's life, from nothing back to nothing.

use std::process::Command;

use super::host::{PASSWORD, scenario};

const TINY: &str = "vmImage=tiny&vmMemory=96&vmPartition=1";

/// The script of the README, word for word, is what people will copy.
#[test]
fn the_script_of_the_readme_does_what_it_says() {
    scenario("script", |host| {
        let before = host.inventory();
        let readme =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).expect("a README");
        let script = readme
            .split("```sh\n")
            .find(|block| block.starts_with("#!/bin/sh"))
            .and_then(|block| block.split("```").next())
            .expect("the README has a script");
        let output = Command::new("sh")
            .args(["-c", script, "vgrid-example", &host.portal, "alice", PASSWORD])
            .output()
            .expect("sh runs");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success(),
            "{said}\n{}\n{}",
            String::from_utf8_lossy(&output.stderr),
            host.log()
        );
        assert!(said.contains("vgrid_username=alice"), "{said}");
        host.must_be_as(&before);
    });
}

#[test]
fn a_machine_runs_from_its_own_volumes_and_leaves_nothing() {
    scenario("life", |host| {
        let before = host.inventory();
        let (status, machine) = host.deploy("alice", &format!("{TINY}&vmHostname=vm3&vmName=my+first"));
        assert_eq!(status, 202, "{machine}");
        let id = machine["machine"]["id"].as_str().expect("an id").to_owned();
        let machine = host.wait_for("alice", &id, "deployed", 900);
        assert_eq!(
            (machine["virtual_host"].as_str(), machine["label"].as_str()),
            (Some("vm3"), Some("my first"))
        );
        // That nobody answered at its address was as it should be, and no failure.
        let pings = host.sh("journalctl -q --no-pager -o cat -t vgrid | grep /ping");
        assert!(pings.contains("event=exec.done ") && !pings.contains("exec.failed"), "{pings}");
        // It runs, from volumes that carry its id, and it answers at the address of its name.
        assert!(host.sh("xl list alice_vm3").contains("alice_vm3"));
        let volumes = host.sh("lvs --noheadings -o lv_name,lv_tags vg1");
        assert!(volumes.contains("xen-root-alice_vm3") && volumes.contains(&id), "{volumes}");
        host.sh("for i in $(seq 30); do ping -q -c 1 -W 2 vm3 && exit; sleep 1; done; exit 1");
        let (status, console) = host.ask("alice", "console", &format!("format=text&id={id}"));
        assert_eq!(status, 200);
        assert!(console.contains("vgrid_username=alice"), "{console}");
        // Where the toolstack starts it again after a reboot.
        assert!(host.sh("cat /etc/xen/auto/alice_vm3.cfg").contains(&id));

        let (status, sentence) = host.ask("bob", "terminate", &format!("format=text&id={id}"));
        assert_eq!(status, 403, "{sentence}");
        assert!(sentence.len() > 20, "{sentence:?} is no sentence");
        host.terminate("admin", &id);
        host.must_be_as(&before);
    });
}

#[test]
fn the_other_template_boots_too() {
    scenario("sda", |host| {
        let before = host.inventory();
        host.sh("cp -p /etc/vgrid/node.cfg /root/; sed -i 's/xen-xvda/xen-sda/' /etc/vgrid/node.cfg");
        let (status, machine) = host.deploy("alice", TINY);
        assert_eq!(status, 202, "{machine}");
        let id = machine["machine"]["id"].as_str().expect("an id").to_owned();
        let name =
            host.wait_for("alice", &id, "deployed", 900)["virtual_host"].as_str().expect("a name").to_owned();
        host.sh(&format!("for i in $(seq 30); do ping -q -c 1 -W 2 {name} && exit; sleep 1; done; exit 1"));
        host.terminate("alice", &id);
        host.sh("mv /root/node.cfg /etc/vgrid/");
        host.must_be_as(&before);
    });
}

#[test]
fn thirty_at_once_where_there_is_room_for_five() {
    scenario("thirty", |host| {
        let before = host.inventory();
        let answers: Vec<(u16, serde_json::Value)> = std::thread::scope(|scope| {
            let calls: Vec<_> = (0..30).map(|_| scope.spawn(|| host.deploy("alice", TINY))).collect();
            calls.into_iter().map(|call| call.join().expect("an answer")).collect()
        });
        let (accepted, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|(status, _)| *status == 202);
        assert_eq!((accepted.len(), refused.len()), (5, 25), "{answers:?}");
        for (status, answer) in refused {
            assert_eq!(*status, 409, "{answer}");
            assert!(answer["error"]["message"].as_str().is_some_and(|m| m.len() > 20), "{answer}");
        }
        let ids: Vec<&str> =
            accepted.iter().map(|(_, a)| a["machine"]["id"].as_str().expect("an id")).collect();
        for id in &ids {
            host.wait_for("alice", id, "deployed", 900);
        }
        assert_eq!(host.sh("xl list | grep -c alice_").trim(), "5");
        for id in &ids {
            host.terminate("alice", id);
        }
        host.must_be_as(&before);
    });
}
