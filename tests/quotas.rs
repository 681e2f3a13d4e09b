//! Quotas for machines, memory, processors and disk.

use serde_json::Value;

use crate::support::at_once;
use crate::support::page::{assert_well_formed, token};
use crate::support::portal::{DEPLOY, DEPLOY_JSON, Portal, Setup, id_of};
use vgrid::model::stage::Order;
use vgrid::model::wire::News;

fn portal(quotas: &str) -> Portal {
    let more_server = format!("[Quotas]\n{quotas}\n");
    Setup { hosts: vec![("localhost", 500)], names: 200, more_server, ..Setup::default() }.start()
}

/// A user's quota, which `list` and the form must show alike.
#[track_caller]
fn quota(portal: &Portal, user: &str) -> Value {
    let listed = portal.list(user)["quota"].clone();
    let form = portal.get(user, "deploy?format=json").send().expect(200).json();
    assert_eq!(listed, form["quota"]);
    listed
}

#[test]
fn a_user_at_the_limit_gets_no_more_machines() {
    let portal = portal("machines = 2");
    let first = portal.deploy("alice", &[]);
    portal.deploy("alice", &[]);
    let refused = portal.post("alice", "deploy", &DEPLOY_JSON).send().expect(409);
    assert_eq!(
        refused.error_message(),
        "You have 2 machines, and your limit is 2. Terminate one, or ask an administrator for more."
    );
    // Also for a copy of another machine, by GET, as text, and for administrators.
    let path = "deploy?vmImage=tiny&vmMemory=128&vmPartition=1&format=text";
    portal.get("alice", path).send().expect(409).says("your limit is 2");
    portal.get("alice", &format!("{path}&like={first}")).send().expect(409).says("your limit is 2");
    portal.deploy("admin", &[]);
    portal.deploy("admin", &[]);
    portal.post("admin", "deploy", &DEPLOY_JSON).send().expect(409);
    assert_eq!(portal.machine_count("alice"), 2);
    assert_eq!(portal.nodes.orders("deploy").len(), 4, "orders to the node");
    // Bob has a count of his own.
    portal.deploy("bob", &[]);
    // The form that comes back says why.
    let form = portal.get("alice", "deploy").send().expect(200).says("You have 2 of 2 machines");
    let token = token(&form);
    let fields = [&DEPLOY[..], &[("token", token.as_str())]].concat();
    let page = portal.post("alice", "deploy", &fields).like_a_browser().send().expect(409);
    assert_well_formed(&page);
    page.says("Terminate one, or ask an administrator");
    portal.get("alice", "list").send().expect(200).says("You have 2 of 2 machines");
    // A machine counts until it is gone.
    portal.order("alice", Order::Terminate, &first).expect(202);
    portal.post("alice", "deploy", &DEPLOY_JSON).send().expect(409);
    portal.report(&first, Order::Terminate, 1, News::Done).expect(200);
    portal.deploy("alice", &[]);
    portal.assert_no_panic();
}

#[test]
fn memory_and_disk_are_limited_in_total() {
    let portal = portal("memory = 1024\ndisk = 10");
    portal.deploy("alice", &[("vmMemory", "512"), ("vmPartition", "4")]);
    let shown = quota(&portal, "alice");
    assert_eq!(shown["text"], "You have 1 machine, 512 of 1024 MiB of memory, 4 of 10 GiB of disk.");
    assert_eq!(
        (shown["memory_mib"]["used"].as_u64(), shown["memory_mib"]["limit"].as_u64()),
        (Some(512), Some(1024))
    );
    assert!(shown["machines"]["limit"].is_null());
    for (memory, disk, fields) in [
        ("513", "1", &["vmMemory"][..]),
        ("128", "7", &["vmPartition"]),
        ("4194304", "65536", &["vmMemory", "vmPartition"]),
    ] {
        let asked = [("vmImage", "tiny"), ("vmMemory", memory), ("vmPartition", disk), ("format", "json")];
        let json = portal.post("alice", "deploy", &asked).send().expect(409).json();
        let faults: Vec<_> = json["error"]["fields"].as_object().expect("faults").keys().cloned().collect();
        assert_eq!(faults, fields, "{json}");
        assert!(json.to_string().contains("are left"), "{json}");
    }
    portal.deploy("alice", &[("vmMemory", "512"), ("vmPartition", "6")]);
    portal.post("alice", "deploy", &DEPLOY_JSON).send().expect(409);
    let line = portal.get("alice", "list?format=text").send().expect(200).text();
    assert!(line.lines().any(|line| line == "# quota\t2\t-\t1024\t1024\t10\t10\t2\t-"), "{line}");
}

#[test]
fn processors_are_limited_in_total() {
    let portal = portal("cpus = 4");
    let first = portal.deploy("alice", &[("vmCPUs", "3")]);
    let shown = quota(&portal, "alice");
    assert_eq!(shown["text"], "You have 1 machine, 128 MiB of memory, 1 GiB of disk, 3 of 4 processors.");
    assert_eq!(
        (shown["cpus"]["used"].as_u64(), shown["cpus"]["limit"].as_u64(), &shown["limited"]),
        (Some(3), Some(4), &Value::Bool(true))
    );
    let ask =
        |cpus: &str| portal.post("alice", "deploy", &[&DEPLOY_JSON[..], &[("vmCPUs", cpus)]].concat()).send();
    let refused = ask("2").expect(409);
    assert_eq!(
        refused.field_error("vmCPUs"),
        "Your machines have 3 processors together, and your limit is 4: 1 is left. Ask for fewer, terminate a \
         machine, or ask an administrator for more."
    );
    // A machine for which nobody asked for processors has one.
    portal.deploy("alice", &[]);
    ask("1").expect(409).says("0 are left. Terminate a machine");
    let line = portal.get("alice", "list?format=text").send().expect(200).text();
    assert!(line.lines().any(|line| line == "# quota\t2\t-\t256\t-\t2\t-\t4\t4"), "{line}");
    portal.deploy("bob", &[("vmCPUs", "4")]);
    // They count until the machine is gone.
    portal.order("alice", Order::Terminate, &first).expect(202);
    ask("1").expect(409);
    portal.report(&first, Order::Terminate, 1, News::Done).expect(200);
    portal.deploy("alice", &[("vmCPUs", "3")]);
    portal.assert_no_panic();
}

#[test]
fn stopped_and_failed_machines_count_until_they_are_gone() {
    let portal = portal("machines = 2\nmemory = 256");
    let stopped = portal.deployed("alice");
    portal.carry_out("alice", Order::Stop, &stopped);
    let failed = portal.deploy("alice", &[]);
    let fault =
        vgrid::model::fault::Fault::HostSilent { host: "localhost".parse().expect("a host"), seconds: 2 };
    portal.report(&failed, Order::Deploy, 1, News::Failed { fault }).expect(200);
    portal.post("alice", "deploy", &DEPLOY_JSON).send().expect(409).says("your limit is 2");
    // A stopped machine still counts its memory, so it can be started whatever the quota is by now.
    portal.reconfigure("server.cfg", |text| text.replace("machines = 2", "machines = 1"));
    portal.order("alice", Order::Start, &stopped).expect(202);
    portal.post("alice", "deploy", &DEPLOY_JSON).send().expect(409).says("your limit is 1");
}

#[test]
fn users_can_have_quotas_of_their_own() {
    let portal = Setup {
        users: vec!["alice", "bob", "admin", "jo doe"],
        more_server: "[Quotas]\nmachines = 1\n[Quotas.users]\nbob = { machines = 2 }\nalice = {}\n\"jo_doe\" = { disk = 1 }\n"
            .to_owned(),
        ..Setup::default()
    }
    .start();
    portal.deploy("admin", &[]);
    portal.post("admin", "deploy", &DEPLOY_JSON).send().expect(409).says("your limit is 1");
    portal.deploy("bob", &[]);
    portal.deploy("bob", &[]);
    portal.post("bob", "deploy", &DEPLOY_JSON).send().expect(409).says("your limit is 2");
    for _ in 0..2 {
        portal.deploy("alice", &[]);
    }
    assert_eq!(quota(&portal, "alice")["limited"], false);
    let page = portal.get("alice", "list").send().expect(200).text();
    assert!(!page.contains("You have"), "{page}");
    // Users are named as pages show them.
    portal.deploy("jo doe", &[]);
    portal.post("jo doe", "deploy", &DEPLOY_JSON).send().expect(409).says("1 GiB");
}

/// Asserts that of many concurrent deploys exactly one gets the last of a quota.
fn last_is_given_once(quotas: &str, words: &str) {
    let portal = portal(quotas);
    portal.deploy("alice", &[]);
    let answers = at_once(40, |_| portal.post("alice", "deploy", &DEPLOY_JSON).send());
    let (taken, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 202);
    assert_eq!(taken.len(), 1, "accepted");
    for answer in refused {
        let answer = answer.expect(409);
        assert!(answer.error_message().contains(words), "{answer}");
    }
    assert_eq!(portal.machine_count("alice"), 2);
    assert_eq!(portal.nodes.orders("deploy").len(), 2, "orders to the node");
    id_of(&taken[0].json());
    portal.assert_no_panic();
}

#[test]
fn the_last_machine_of_a_quota_is_given_once() {
    last_is_given_once("machines = 2", "your limit is 2");
}

#[test]
fn the_last_memory_of_a_quota_is_given_once() {
    last_is_given_once("memory = 300", "your limit is 300 MiB");
}

#[test]
fn the_last_processor_of_a_quota_is_given_once() {
    last_is_given_once("cpus = 2", "your limit is 2");
}

#[test]
fn an_invalid_quota_is_named() {
    let portal = Portal::start();
    for (quota, words) in [
        ("machines = -1", "server.cfg"),
        ("cpus = \"2\"", "server.cfg"),
        ("machine = 1", "did you mean `machines`?"),
        ("[Quotas.users]\n\"a/b\" = { machines = 1 }", "[Quotas.users] a/b: must not contain"),
        ("[Quotas.users]\nbob = 3", "server.cfg"),
    ] {
        let dir = tempfile::tempdir().expect("a folder");
        let text = std::fs::read_to_string(portal.path("etc/server.cfg")).expect("server.cfg");
        std::fs::write(dir.path().join("server.cfg"), format!("{text}\n[Quotas]\n{quota}\n"))
            .expect("server.cfg");
        let error = vgrid::config::Server::load(dir.path()).expect_err(quota).to_string();
        assert!(error.contains(words), "{error}");
    }
}
