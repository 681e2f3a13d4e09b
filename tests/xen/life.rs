//! A machine's life, from nothing back to nothing.

use std::process::Command;

use super::host::{PASSWORD, TINY, scenario};
use crate::support::at_once;
use crate::support::portal::id_of;
use crate::support::visited::Visited as _;

/// People will copy the script from the README, so it is run word for word.
#[test]
fn the_script_in_the_readme_works() {
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
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success(),
            "{stdout}\n{}\n{}",
            String::from_utf8_lossy(&output.stderr),
            host.log()
        );
        assert!(stdout.contains("vgrid_username=alice"), "{stdout}");
        host.must_be_as(&before);
    });
}

#[test]
fn a_machine_runs_from_its_own_volumes_and_leaves_nothing() {
    scenario("life", |host| {
        let before = host.inventory();
        let id = host.deploy("alice", &format!("{TINY}&vmHostname=vm3&vmName=my+first"));
        let machine = host.wait_for("alice", &id, "deployed", 900);
        assert_eq!(
            (machine["virtual_host"].as_str(), machine["label"].as_str()),
            (Some("vm3"), Some("my first"))
        );
        // The ping that checks whether its address is free got no answer. That is no failure.
        let pings = host.sh("journalctl -q --no-pager -o cat -t vgrid | grep /ping");
        assert!(pings.contains("event=exec.done ") && !pings.contains("exec.failed"), "{pings}");
        // It runs from volumes that carry its id, and answers at the address of its name.
        assert!(host.sh("xl list alice_vm3").contains("alice_vm3"));
        let volumes = host.sh("lvs --noheadings -o lv_name,lv_tags vg1");
        assert!(volumes.contains("xen-root-alice_vm3") && volumes.contains(&id), "{volumes}");
        host.must_answer_ping("vm3");
        let console = host.console("alice", &id);
        assert!(console.contains("vgrid_username=alice"), "{console}");
        // The toolstack starts it from here after a reboot of the host.
        assert!(host.sh("cat /etc/xen/auto/alice_vm3.cfg").contains(&id));

        let (status, sentence) = host.ask("bob", "terminate", &format!("format=text&id={id}"));
        assert_eq!(status, 403, "{sentence}");
        assert!(sentence.len() > 20, "{sentence:?} is no sentence");
        host.terminate("admin", &id);
        host.must_be_as(&before);
    });
}

#[test]
fn the_other_template_boots() {
    scenario("sda", |host| {
        let before = host.inventory();
        host.sh("cp -p /etc/vgrid/node.cfg /root/; sed -i 's/xen-xvda/xen-sda/' /etc/vgrid/node.cfg");
        let id = host.deployed("alice", TINY);
        host.must_answer_ping(host.machine("alice", &id)["virtual_host"].as_str().expect("a name"));
        host.terminate("alice", &id);
        host.sh("mv /root/node.cfg /etc/vgrid/");
        host.must_be_as(&before);
    });
}

#[test]
fn thirty_deploys_at_once_fill_room_for_five() {
    scenario("thirty", |host| {
        let before = host.inventory();
        let answers = at_once(30, |_| host.try_deploy("alice", TINY));
        let (accepted, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|(status, _)| *status == 202);
        assert_eq!((accepted.len(), refused.len()), (5, 25), "{answers:?}");
        for (status, answer) in refused {
            assert_eq!(*status, 409, "{answer}");
            assert!(answer["error"]["message"].as_str().is_some_and(|m| m.len() > 20), "{answer}");
        }
        let ids: Vec<String> = accepted.iter().map(|(_, answer)| id_of(answer)).collect();
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
