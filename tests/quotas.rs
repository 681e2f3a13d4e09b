//! What a person may have at a time.

use std::sync::Barrier;

use serde_json::Value;

use crate::pages::well_made;
use crate::support::http::Answer;
use crate::support::portal::{Portal, Setup, id_of};
use vgrid::model::stage::Order;
use vgrid::model::wire::News;

const DEPLOY: [(&str, &str); 4] =
    [("vmImage", "tiny"), ("vmMemory", "128"), ("vmPartition", "1"), ("format", "json")];

fn portal(quotas: &str) -> Portal {
    let more_server = format!("[Quotas]\n{quotas}\n");
    Setup { hosts: vec![("localhost", 500)], names: 200, more_server, ..Setup::default() }.start()
}

#[track_caller]
fn message(answer: &Answer) -> String {
    answer.json()["error"]["message"].as_str().expect("a sentence").to_owned()
}

/// What `list` and the form say that somebody has, which must be the same.
#[track_caller]
fn quota(portal: &Portal, user: &str) -> Value {
    let listed = portal.list(user)["quota"].clone();
    let form = portal.get(user, "deploy?format=json").send().expect(200).json();
    assert_eq!(listed, form["quota"]);
    listed
}

#[test]
fn who_has_all_that_they_may_have_gets_no_more() {
    let portal = portal("machines = 2");
    let first = portal.deploy("alice", &[]);
    portal.deploy("alice", &[]);
    let refused = portal.post("alice", "deploy", &DEPLOY).send().expect(409);
    let message = message(&refused);
    assert_eq!(
        message,
        "You have 2 machines, and your limit is 2. Terminate one, or ask an administrator for more."
    );
    // Also when it is wanted as a copy of another, by a GET, as text, and by whoever administers the portal.
    let path = "deploy?vmImage=tiny&vmMemory=128&vmPartition=1&format=text";
    portal.get("alice", path).send().expect(409).says("your limit is 2");
    portal.get("alice", &format!("{path}&like={first}")).send().expect(409).says("your limit is 2");
    portal.deploy("admin", &[]);
    portal.deploy("admin", &[]);
    portal.post("admin", "deploy", &DEPLOY).send().expect(409);
    assert_eq!(portal.list("alice")["machines"].as_array().map(Vec::len), Some(2));
    assert_eq!(portal.nodes.orders("deploy").len(), 4, "orders to the node");
    // Bob's own count.
    portal.deploy("bob", &[]);
    // The form that comes back says why.
    let token = portal.get("alice", "deploy").send().expect(200).says("You have 2 of 2 machines").text();
    let token =
        token.split("name=\"token\" value=\"").nth(1).and_then(|r| r.split('"').next()).expect("a token");
    let fields = [&DEPLOY[..3], &[("token", token)]].concat();
    let page = portal.post("alice", "deploy", &fields).like_a_browser().send().expect(409);
    well_made(&page);
    page.says("Terminate one, or ask an administrator");
    portal.get("alice", "list").send().expect(200).says("You have 2 of 2 machines");
    // Gone is gone, and no sooner.
    portal.order("alice", Order::Terminate, &first).expect(202);
    portal.post("alice", "deploy", &DEPLOY).send().expect(409);
    portal.report(&first, Order::Terminate, 1, News::Done).expect(200);
    portal.deploy("alice", &[]);
    portal.assert_no_panic();
}

#[test]
fn memory_and_disk_count_together() {
    let portal = portal("memory = 1024\ndisk = 10");
    portal.deploy("alice", &[("vmMemory", "512"), ("vmPartition", "4")]);
    let seen = quota(&portal, "alice");
    assert_eq!(seen["text"], "You have 1 machine, 512 of 1024 MiB of memory, 4 of 10 GiB of disk.");
    assert_eq!(
        (seen["memory_mib"]["used"].as_u64(), seen["memory_mib"]["limit"].as_u64()),
        (Some(512), Some(1024))
    );
    assert!(seen["machines"]["limit"].is_null());
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
    portal.post("alice", "deploy", &DEPLOY).send().expect(409);
    let line = portal.get("alice", "list?format=text").send().expect(200).text();
    assert!(line.lines().any(|line| line == "# quota\t2\t-\t1024\t1024\t10\t10"), "{line}");
}

#[test]
fn what_is_stopped_or_failed_counts_until_it_is_gone() {
    let portal = portal("machines = 2\nmemory = 256");
    let stopped = portal.deployed("alice");
    portal.order("alice", Order::Stop, &stopped).expect(202);
    portal.report(&stopped, Order::Stop, 1, News::Done).expect(200);
    let failed = portal.deploy("alice", &[]);
    let fault =
        vgrid::model::fault::Fault::HostSilent { host: "localhost".parse().expect("a host"), seconds: 2 };
    portal.report(&failed, Order::Deploy, 1, News::Failed { fault }).expect(200);
    portal.post("alice", "deploy", &DEPLOY).send().expect(409).says("your limit is 2");
    // What was stopped has its memory still: to start it needs no room in the quota, whatever that is by now.
    portal.reconfigure("server.cfg", |text| text.replace("machines = 2", "machines = 1"));
    portal.order("alice", Order::Start, &stopped).expect(202);
    portal.post("alice", "deploy", &DEPLOY).send().expect(409).says("your limit is 1");
}

#[test]
fn single_users_have_their_own() {
    let portal = Setup {
        users: vec!["alice", "bob", "admin", "jo doe"],
        more_server: "[Quotas]\nmachines = 1\n[Quotas.users]\nbob = { machines = 2 }\nalice = {}\n\"jo_doe\" = { disk = 1 }\n"
            .to_owned(),
        ..Setup::default()
    }
    .start();
    portal.deploy("admin", &[]);
    portal.post("admin", "deploy", &DEPLOY).send().expect(409).says("your limit is 1");
    portal.deploy("bob", &[]);
    portal.deploy("bob", &[]);
    portal.post("bob", "deploy", &DEPLOY).send().expect(409).says("your limit is 2");
    for _ in 0..2 {
        portal.deploy("alice", &[]);
    }
    assert_eq!(quota(&portal, "alice")["limited"], false);
    let page = portal.get("alice", "list").send().expect(200).text();
    assert!(!page.contains("You have"), "{page}");
    // Named as pages show them.
    portal.deploy("jo doe", &[]);
    portal.post("jo doe", "deploy", &DEPLOY).send().expect(409).says("1 GiB");
}

/// Of many at once who want the last of somebody's quota, exactly one gets it.
fn the_last(quotas: &str, words: &str) {
    let portal = portal(quotas);
    portal.deploy("alice", &[]);
    let many = 40;
    let start = Barrier::new(many);
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..many)
            .map(|_| {
                let (ask, start) = (portal.post("alice", "deploy", &DEPLOY), &start);
                scope.spawn(move || {
                    start.wait();
                    ask.send()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("an answer")).collect()
    });
    let (taken, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 202);
    assert_eq!(taken.len(), 1, "accepted");
    for answer in refused {
        let answer = answer.expect(409);
        assert!(message(&answer).contains(words), "{answer}");
    }
    assert_eq!(portal.list("alice")["machines"].as_array().map(Vec::len), Some(2));
    assert_eq!(portal.nodes.orders("deploy").len(), 2, "orders to the node");
    id_of(&taken[0].json());
    portal.assert_no_panic();
}

#[test]
fn the_last_machine_of_a_quota_is_given_once() {
    the_last("machines = 2", "your limit is 2");
}

#[test]
fn the_last_memory_of_a_quota_is_given_once() {
    the_last("memory = 300", "your limit is 300 MiB");
}

#[test]
fn a_quota_that_means_nothing_is_named() {
    let portal = Portal::start();
    for (quota, words) in [
        ("machines = -1", "server.cfg"),
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
