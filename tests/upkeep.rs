//! What the portal does by itself, through the real programs, with a clock that is set.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use serde_json::Value;
use vgrid::model::stage::{Order, Stage};
use vgrid::model::wire::{Job, News, NodeInfo};

use crate::support::apache::web_user;
use crate::support::node::{Conduct, nothing, with_machines};
use crate::support::portal::{Portal, Setup, id_of, peak_of, state_of, thousand_hosts};
use crate::support::smtp::{Conduct as Server, Mail, Sink};

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

fn portal(more_server: &str) -> Portal {
    Setup {
        hosts: vec![("localhost", 20)],
        names: 20,
        clock: true,
        more_server: more_server.to_owned(),
        ..Setup::default()
    }
    .start()
}

/// The one host has these machines, which run.
fn runs(portal: &Portal, machines: &[(&str, &str)]) {
    portal.nodes.has(Ipv4Addr::LOCALHOST, with_machines(machines));
}

#[track_caller]
fn state(portal: &Portal, id: &str) -> String {
    state_of(&portal.show("alice", id)).to_owned()
}

fn history(portal: &Portal, id: &str) -> Vec<String> {
    let shown = portal.show("alice", id);
    let events = shown["history"].as_array().expect("a history");
    events.iter().map(|event| event["what"].as_str().expect("what").to_owned()).collect()
}

/// Lets time go on by `hours`, with upkeep every hour; the host does at once what it is told.
fn live(portal: &Portal, id: &str, hours: i64) {
    for _ in 0..hours {
        portal.pass(HOUR);
        portal.upkeep(&[]);
        obey(portal, id);
    }
}

/// The host carries out the order that a machine waits for.
fn obey(portal: &Portal, id: &str) {
    let order = match state(portal, id).as_str() {
        "stopping" => Order::Stop,
        "starting" => Order::Start,
        "terminating" => Order::Terminate,
        _ => return,
    };
    portal.report(id, order, 5, News::Done).expect(200);
    let mut info = with_machines(&[(id, "alice_vm1")]);
    match order {
        Order::Terminate => info = nothing(),
        Order::Stop => {
            info.domains.clear();
            info.jobs[0].stopped = true;
        }
        _ => {}
    }
    portal.nodes.has(Ipv4Addr::LOCALHOST, info);
}

#[test]
fn a_lease_runs_through_its_notices_its_end_its_grace_and_its_deletion() {
    let portal = portal("[Leases]\ngrace = '2d'");
    let id = portal.deploy("alice", &[("expiryTime", "4d")]);
    portal.report(&id, Order::Deploy, 9, News::Done).expect(200);
    runs(&portal, &[(&id, "alice_vm1")]);
    portal.upkeep(&[]);
    live(&portal, &id, 4 * 24 - 1);
    assert_eq!(state(&portal, &id), "deployed");
    assert_eq!(history(&portal, &id).iter().filter(|what| *what == "owner not told").count(), 3);
    live(&portal, &id, 2);
    assert_eq!(state(&portal, &id), "expired");
    live(&portal, &id, 1);
    let shown = portal.show("alice", &id);
    assert!(shown["machine"]["deletion"]["iso"].is_string(), "{shown}");
    assert_eq!(history(&portal, &id).iter().filter(|what| *what == "owner not told").count(), 4);
    // It was told an hour after the end.
    live(&portal, &id, 2 * 24 - 2);
    assert_eq!(state(&portal, &id), "expired");
    live(&portal, &id, 2);
    assert_eq!(state(&portal, &id), "notDeployed");
    portal.assert_no_panic();
}

#[test]
fn an_extension_in_time_brings_everything_back() {
    let portal = portal("[Leases]\ngrace = '2d'");
    let id = portal.deploy("alice", &[("expiryTime", "1d")]);
    portal.report(&id, Order::Deploy, 9, News::Done).expect(200);
    runs(&portal, &[(&id, "alice_vm1")]);
    live(&portal, &id, 30);
    assert_eq!(state(&portal, &id), "expired");
    portal.get("alice", &format!("extend?id={id}&expiryTime=10d&format=json")).send().expect(202);
    obey(&portal, &id);
    live(&portal, &id, 5 * 24);
    assert_eq!(state(&portal, &id), "deployed");
    // Extended while it is being stopped for its lease: it is started again.
    let registry = rusqlite::Connection::open(portal.path("var/registry.sqlite")).expect("the registry");
    let end = portal.now().unix() - HOUR;
    registry.execute("UPDATE vm SET expires = ?1, lease = '1h'", [end]).expect("a lease that is over");
    portal.pass(60);
    portal.upkeep(&[]);
    assert_eq!(state(&portal, &id), "stopping");
    portal.get("alice", &format!("extend?id={id}&expiryTime=10d&format=json")).send().expect(202);
    let answer = portal.report(&id, Order::Stop, 5, News::Done).expect(200).json();
    assert_eq!(answer["next"]["order"], "start");
    // Its answer was lost: it is told once more.
    let answer = portal.report(&id, Order::Stop, 5, News::Done).expect(200).json();
    assert_eq!(answer["next"]["order"], "start");
    portal.report(&id, Order::Start, 7, News::Done).expect(200);
    assert_eq!(state(&portal, &id), "deployed");
}

#[test]
fn a_portal_that_was_off_or_had_a_wrong_clock_deletes_nothing_unannounced() {
    let portal = portal("[Leases]\ngrace = '2d'");
    let id = portal.deployed("alice");
    runs(&portal, &[(&id, "alice_vm1")]);
    portal.upkeep(&[]);
    // Off for sixty days.
    portal.pass(60 * DAY);
    portal.upkeep(&[]);
    assert_eq!(state(&portal, &id), "deployed", "told first");
    assert_eq!(history(&portal, &id).iter().filter(|what| *what == "owner not told").count(), 1);
    live(&portal, &id, 5);
    assert_eq!(state(&portal, &id), "expired");
    // A year ahead, again and again.
    for _ in 0..10 {
        portal.pass(365 * DAY);
        portal.upkeep(&[]);
        assert_eq!(state(&portal, &id), "expired");
    }
    // And back: the lease is not over, and the machine is started again.
    portal.set_clock(0);
    portal.upkeep(&[]);
    assert_eq!(state(&portal, &id), "starting");
    obey(&portal, &id);
    assert_eq!(state(&portal, &id), "deployed");
    live(&portal, &id, 3);
    assert_eq!(state(&portal, &id), "deployed");
}

#[test]
fn daylight_saving_makes_no_lease_and_no_grace_shorter_or_longer() {
    let portal = portal("[Leases]\ngrace = '2d'");
    // In summer; then twelve hours before the clocks of New York go forward (2027-03-14 07:00 UTC) and back (2027-11-07
    // 06:00 UTC), so that the lease or the grace goes through it.
    let lives = [1_814_421_600, 1_805_007_600 - 12 * HOUR, 1_825_567_200 - 12 * HOUR].map(|begin| {
        portal.set_clock(begin - vgrid::system::clock::now().unix());
        let id = portal.deploy("alice", &[("expiryTime", "1d")]);
        portal.report(&id, Order::Deploy, 9, News::Done).expect(200);
        runs(&portal, &[(&id, "alice_vm1")]);
        portal.upkeep(&[]);
        let hours_until = |end: &str| {
            (1..100).find(|_| {
                live(&portal, &id, 1);
                state(&portal, &id) == end
            })
        };
        (hours_until("expired"), hours_until("notDeployed"))
    });
    // The grace begins when its owner is told, which is an hour after it was stopped.
    assert_eq!(lives, [(Some(24), Some(49)); 3]);
}

#[test]
fn a_dry_run_says_what_it_would_do_and_does_nothing() {
    let portal = portal("");
    let id = portal.deployed("alice");
    runs(&portal, &[(&id, "alice_vm1")]);
    portal.upkeep(&[]);
    portal.pass(8 * DAY);
    let before = portal.show("alice", &id);
    for _ in 0..2 {
        let said = portal.upkeep(&["--dry-run"]);
        assert!(
            said.contains("tell its owner that its lease ends") && said.contains("would be done"),
            "{said}"
        );
    }
    assert_eq!(portal.show("alice", &id), before);
    assert_eq!(portal.upkeep(&["--quiet"]), "");
    assert_ne!(portal.show("alice", &id), before);
}

#[test]
fn one_upkeep_at_a_time() {
    let portal = Setup { clock: true, node_timeout: 5, ..Setup::default() }.start();
    portal.deployed("alice");
    portal.nodes.conduct(Conduct::Hang);
    let first = portal.start_upkeep(&[]);
    // It has its lock when it asks hosts.
    let asks = crate::support::eventually(Duration::from_secs(20), || {
        portal.nodes.received().iter().any(|received| received.program() == "info").then_some(())
    });
    assert!(asks.is_some());
    let said = portal.upkeep(&["--dry-run"]);
    assert!(said.contains("Another vgrid-upkeep is at work"), "{said}");
    let ended = first.wait_with_output().expect("its end");
    let said = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert!(ended.status.success() && said.contains("0 of 2 hosts answered"), "{said}");
    portal.nodes.conduct(Conduct::Accept);
    assert!(portal.upkeep(&[]).contains("2 of 2 hosts answered"));
}

#[test]
fn root_is_told_whose_work_it_is() {
    if web_user().is_none() {
        return;
    }
    let portal = portal("");
    portal.deployed("alice");
    let ended = std::process::Command::new(portal.installed("/usr/bin/vgrid-upkeep"))
        .env_clear()
        .env("VGRID_CONFIG_DIR", portal.path("etc"))
        .output()
        .expect("vgrid-upkeep can be started");
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(ended.status.code() == Some(1) && said.contains("sudo -u www-data vgrid-upkeep"), "{said}");
    assert!(
        !portal.path("var/registry.upkeep.lock").exists(),
        "root's, where www-data must be able to take it"
    );
}

/// A machine on its way, with an order that the node was told.
fn on_its_way(portal: &Portal, order: Order) -> String {
    let id = portal.deploy("alice", &[]);
    if order == Order::Deploy {
        return id;
    }
    portal.report(&id, Order::Deploy, 9, News::Done).expect(200);
    if order == Order::Start {
        portal.order("alice", Order::Stop, &id).expect(202);
        portal.report(&id, Order::Stop, 9, News::Done).expect(200);
    }
    portal.order("alice", order, &id).expect(202);
    id
}

/// What the host says of a machine that it knows, and does nothing about.
fn idle(id: &str, running: bool) -> NodeInfo {
    let mut info = with_machines(&[(id, "alice_vm1")]);
    if !running {
        info.domains.clear();
        info.jobs[0].stopped = true;
    }
    info
}

#[test]
fn no_machine_stays_on_its_way_for_ever() {
    let orders = [Order::Deploy, Order::Stop, Order::Start, Order::Reboot, Order::Terminate];
    // The host never answers again.
    for order in orders {
        let portal = portal("");
        let id = on_its_way(&portal, order);
        portal.nodes.conduct(Conduct::Close);
        portal.pass(20 * 60);
        portal.upkeep(&[]);
        assert!(portal.show("alice", &id)["machine"]["moving"].as_bool().expect("moving"), "{order}");
        portal.pass(20 * 60);
        portal.upkeep(&[]);
        let machine = portal.show("alice", &id)["machine"].clone();
        let expected = match order {
            Order::Deploy | Order::Terminate => "failed",
            Order::Stop | Order::Reboot => "deployed",
            Order::Start | Order::Save => "stopped",
        };
        assert_eq!((&machine["state"], &machine["moving"]), (&expected.into(), &false.into()), "{order}");
        assert!(machine["reason"].as_str().is_some_and(|why| why.contains("localhost")), "{machine}");
    }
}

#[test]
fn a_host_that_lost_an_order_is_told_again() {
    for order in [Order::Stop, Order::Start, Order::Reboot, Order::Terminate] {
        let portal = portal("");
        let id = on_its_way(&portal, order);
        portal.nodes.has(Ipv4Addr::LOCALHOST, idle(&id, order != Order::Start));
        portal.upkeep(&[]);
        assert_eq!(portal.nodes.orders(order.as_str()).len(), 1, "it may be on its way");
        portal.pass(5 * 60);
        portal.upkeep(&[]);
        let told = portal.nodes.orders(order.as_str());
        assert_eq!(told.len(), 2, "{order}");
        assert_eq!(told[0].json(), told[1].json());
        portal.report(&id, order, 1, News::Done).expect(200);
        assert_eq!(portal.show("alice", &id)["machine"]["moving"], false);
    }
}

#[test]
fn a_host_that_forgot_a_machine_says_so() {
    let portal = portal("");
    let deploying = on_its_way(&portal, Order::Deploy);
    let leaving = on_its_way(&portal, Order::Terminate);
    let running = portal.deployed("alice");
    portal.pass(5 * 60);
    portal.upkeep(&[]);
    let machine = portal.show("alice", &deploying)["machine"].clone();
    assert_eq!(machine["state"], "failed");
    assert!(machine["reason"].as_str().is_some_and(|why| why.contains("interrupted")), "{machine}");
    // Nothing of it is there, so the host need not be asked.
    portal.get("alice", &format!("terminate?id={deploying}&format=json")).send().expect(202);
    assert_eq!(state(&portal, &deploying), "notDeployed");
    assert_eq!(state(&portal, &leaving), "notDeployed");
    let machine = portal.show("alice", &running)["machine"].clone();
    assert_eq!(machine["state"], "deployed");
    assert!(machine["reason"].as_str().is_some_and(|why| why.contains("no machine alice_vm3")), "{machine}");
    // It is noted once, and taken back when it is there again.
    portal.pass(5 * 60);
    portal.upkeep(&[]);
    assert_eq!(history(&portal, &running).iter().filter(|what| *what == "missing").count(), 1);
    runs(&portal, &[(&running, "alice_vm3")]);
    portal.upkeep(&[]);
    assert_eq!(portal.show("alice", &running)["machine"]["reason"], Value::Null);
}

#[test]
fn what_a_host_did_while_nobody_looked_is_seen() {
    let portal = portal("");
    let id = portal.deployed("alice");
    portal.pass(5 * 60);
    portal.nodes.has(Ipv4Addr::LOCALHOST, idle(&id, false));
    portal.upkeep(&[]);
    assert_eq!(state(&portal, &id), "stopped");
    portal.pass(5 * 60);
    runs(&portal, &[(&id, "alice_vm1")]);
    portal.upkeep(&[]);
    assert_eq!(state(&portal, &id), "deployed");
    // What was forgotten by force, and is there, is removed.
    portal.get("admin", &format!("terminate?id={id}&force=1&format=json")).send().expect(202);
    assert_eq!(state(&portal, &id), "notDeployed");
    portal.upkeep(&[]);
    let told = portal.nodes.orders("terminate");
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].json()["id"], id.as_str());
    // A stranger's is not.
    let mut info = with_machines(&[("01936f5e-8c3e-7a37-a6b3-1f3c1f7c9f01", "carol_vm9")]);
    info.jobs.push(Job { stage: Some(Stage::Unpack), ..info.jobs[0].clone() });
    portal.nodes.has(Ipv4Addr::LOCALHOST, info);
    let said = portal.upkeep(&[]);
    assert!(said.contains("domain carol_vm9"), "{said}");
    assert!(!portal.upkeep(&[]).contains("carol_vm9"), "told once");
    assert_eq!(portal.nodes.orders("terminate").len(), 1);
}

#[test]
fn an_upkeep_that_is_killed_anywhere_is_as_good_as_none() {
    let portal = portal("[Leases]\ngrace = '1d'");
    let id = portal.deploy("alice", &[("expiryTime", "5h")]);
    portal.report(&id, Order::Deploy, 9, News::Done).expect(200);
    runs(&portal, &[(&id, "alice_vm1")]);
    for hour in 0..40 {
        portal.pass(HOUR);
        // Longer and longer, until it is no longer killed before its end.
        for pause in [0, 2, 5, 10, 20, 30 + hour % 7 * 5] {
            let mut child = portal.start_upkeep(&[]);
            std::thread::sleep(Duration::from_millis(u64::try_from(pause).expect("a pause")));
            let _ = child.kill();
            let _ = child.wait();
        }
        portal.upkeep(&[]);
        obey(&portal, &id);
    }
    assert_eq!(state(&portal, &id), "notDeployed");
    let told = history(&portal, &id);
    assert_eq!(told.iter().filter(|what| *what == "owner not told").count(), 2, "{told:?}");
    for once in ["lease ended", "terminated"] {
        assert_eq!(told.iter().filter(|what| *what == once).count(), 1, "{told:?}");
    }
}

#[test]
fn a_thousand_hosts_some_of_them_dead() {
    let portal = thousand_hosts();
    let mut child = portal.start_upkeep(&[]);
    let mut peak = 0;
    let mut pages = 0;
    let status = loop {
        peak = peak.max(peak_of(child.id()).unwrap_or_default());
        if let Some(status) = child.try_wait().expect("its end") {
            break status;
        }
        // Pages are there all the while.
        portal.get("alice", "list").send().expect(200);
        pages += 1;
    };
    let said = child.wait_with_output().expect("what it said").stdout;
    let said = String::from_utf8_lossy(&said);
    assert!(status.success() && said.contains("900 of 1000 hosts answered"), "{said}");
    assert!(said.contains("\n0 things done about machines"), "{said}");
    assert!(peak < 100 << 10, "it took {peak} KiB");
    assert!(pages > 5, "{pages} pages");
}

/// A portal with mail to this sink.
fn with_mail(sink: &Sink, more: &str) -> Portal {
    portal(&format!(
        "[Mail]\ntransport = 'smtp'\nserver = '127.0.0.1:{}'\nsender = 'vgrid@example.org'\n\
         domain = 'example.org'\nportalURL = 'https://portal.example.org/cgi-bin/user'\n{more}",
        sink.port
    ))
}

/// The subjects of what somebody got, in the order in which it arrived. One that was handed over twice, because upkeep was
/// killed before it had noted the first time, counts once, as mail systems do by its `Message-ID`.
fn subjects(sink: &Sink, whom: &str) -> Vec<String> {
    let mut known = BTreeSet::new();
    let taken = sink.taken();
    let theirs = taken.iter().filter(|mail| mail.recipients.iter().any(|to| to == whom));
    theirs
        .map(|mail| Mail::read(&mail.text))
        .filter(|mail| known.insert(mail.header("message-id").to_owned()))
        .map(|mail| mail.header("subject").to_owned())
        .collect()
}

#[test]
fn an_owner_is_told_everything_once_however_often_upkeep_is_killed() {
    let sink = Sink::start();
    let portal = with_mail(&sink, "[Leases]\ngrace = '1d'");
    let id = portal.deploy("alice", &[("expiryTime", "5h")]);
    portal.report(&id, Order::Deploy, 9, News::Done).expect(200);
    runs(&portal, &[(&id, "alice_vm1")]);
    for hour in 0..60 {
        portal.pass(HOUR);
        // A mail that a killed run was about to send is tried again after twenty minutes: in some hours nobody is killed.
        let pauses: &[u64] = if hour % 3 == 0 { &[0, 2, 5, 10, 20, 40] } else { &[] };
        for pause in pauses {
            let mut child = portal.start_upkeep(&[]);
            std::thread::sleep(Duration::from_millis(*pause));
            let _ = child.kill();
            let _ = child.wait();
        }
        portal.upkeep(&[]);
        obey(&portal, &id);
    }
    assert_eq!(state(&portal, &id), "notDeployed");
    let got = subjects(&sink, "alice@example.org");
    assert_eq!(got.len(), 3, "{got:#?}");
    for (subject, word) in got.iter().zip(["ends", "ended", "deleted"]) {
        assert!(subject.contains(word) && subject.contains("vm1"), "{got:#?}");
    }
}

#[test]
fn nothing_is_deleted_while_its_owner_could_not_be_told() {
    let sink = Sink::start();
    let portal = with_mail(&sink, "[Leases]\ngrace = '1d'");
    let id = portal.deploy("alice", &[("expiryTime", "1h")]);
    portal.report(&id, Order::Deploy, 9, News::Done).expect(200);
    runs(&portal, &[(&id, "alice_vm1")]);
    sink.conduct(Server::RefuseContent("451 4.3.0 not now"));
    live(&portal, &id, 3 * 24);
    assert_eq!(state(&portal, &id), "expired");
    assert_eq!(sink.taken().len(), 0);
    sink.conduct(Server::Accept);
    live(&portal, &id, 23);
    assert_eq!(subjects(&sink, "alice@example.org").len(), 1);
    assert_eq!(state(&portal, &id), "expired", "a full grace");
    live(&portal, &id, 4);
    assert_eq!(state(&portal, &id), "notDeployed");
    assert_eq!(subjects(&sink, "alice@example.org").len(), 2);
}

#[test]
fn administrators_hear_of_hosts_and_strangers_once() {
    let sink = Sink::start();
    let portal = with_mail(&sink, "[Upkeep]\nhostSilence = '2h'");
    portal.deployed("alice");
    portal.nodes.conduct(Conduct::Close);
    for _ in 0..6 {
        portal.pass(HOUR);
        portal.upkeep(&[]);
    }
    let got = subjects(&sink, "admin@example.org");
    assert_eq!(got.len(), 1, "{got:?}");
    portal.nodes.conduct(Conduct::Accept);
    portal
        .nodes
        .has(Ipv4Addr::LOCALHOST, with_machines(&[("01936f5e-8c3e-7a37-a6b3-1f3c1f7c9f01", "carol_vm9")]));
    for _ in 0..3 {
        portal.pass(HOUR);
        portal.upkeep(&[]);
    }
    let got = subjects(&sink, "admin@example.org");
    assert_eq!(got.len(), 3, "{got:?}");
    assert!(got.iter().all(|subject| subject.contains("localhost")), "{got:?}");
}

#[test]
fn a_machine_that_does_not_answer_is_told_of_once_and_removed_only_if_so_configured() {
    let sink = Sink::start();
    let portal = with_mail(&sink, "[Upkeep]\nping = true\nsilentRuns = 2\nterminateSilentRuns = 4");
    // One answers, as every address of this machine does; the other is of a network that is nowhere (RFC 5737).
    let names = ["127.0.0.11", "192.0.2.77"];
    portal.reconfigure("common.cfg", |text| {
        format!("{text}\n\"{}\" = \"\"\n\"{}\" = \"\"\n", names[0], names[1])
    });
    let ids = names.map(|name| {
        let id = portal.deploy("alice", &[("vmHostname", name)]);
        portal.report(&id, Order::Deploy, 9, News::Done).expect(200);
        id
    });
    let machines: Vec<(String, String)> =
        ids.iter().zip(names).map(|(id, name)| (id.clone(), format!("alice_{name}"))).collect();
    let machines: Vec<(&str, &str)> = machines.iter().map(|(id, name)| (&**id, &**name)).collect();
    runs(&portal, &machines);
    let mut told = Vec::new();
    for _ in 0..4 {
        portal.pass(HOUR);
        portal.upkeep(&[]);
        told.push(subjects(&sink, "alice@example.org").len());
    }
    assert_eq!(told, [0, 1, 1, 2]);
    assert!(subjects(&sink, "alice@example.org").iter().all(|subject| subject.contains(names[1])));
    assert_eq!(state(&portal, &ids[0]), "deployed");
    assert_eq!(state(&portal, &ids[1]), "terminating");
}

/// What one user does over and over again: a machine comes, is extended, and goes.
fn busy_life(portal: &Portal, user: &str, until: Instant) -> usize {
    let mut lives = 0;
    while Instant::now() < until {
        let fields = [("vmImage", "tiny"), ("vmMemory", "128"), ("vmPartition", "1"), ("format", "json")];
        let answer = portal.post(user, "deploy", &fields).send();
        if answer.status == 409 {
            // All names are taken at the moment.
            continue;
        }
        let id = id_of(&answer.expect(202).json());
        portal.report(&id, Order::Deploy, 3, News::Done).expect(200);
        for days in ["20d", "30d"] {
            let path = format!("extend?id={id}&expiryTime={days}&format=json");
            portal.get(user, &path).send().expect(202);
        }
        portal.get(user, "list").send().expect(200);
        let shown = portal.show("admin", &id);
        let history = shown["history"].as_array().expect("a history");
        let set = history.iter().filter(|event| event["what"] == "lease set").count();
        assert_eq!(set, 2, "an update was lost: {shown}");
        portal.get(user, &format!("terminate?id={id}&format=json")).send().expect(202);
        portal.report(&id, Order::Terminate, 3, News::Done).expect(200);
        assert_eq!(state_of(&portal.show("admin", &id)), "notDeployed");
        lives += 1;
    }
    lives
}

#[test]
fn two_upkeeps_and_fifty_users_at_once() {
    let users = ["alice", "bob", "admin"];
    let portal = Setup { hosts: vec![("localhost", 60)], names: 60, ..Setup::default() }.start();
    let until = Instant::now() + Duration::from_secs(60);
    let lives: usize = std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while Instant::now() < until {
                    portal.upkeep(&["--quiet"]);
                }
            });
        }
        let portal = &portal;
        let threads: Vec<_> =
            (0..50).map(|n| scope.spawn(move || busy_life(portal, users[n % 3], until))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no answer that should not be")).sum()
    });
    assert!(lives > 20, "{lives}");
    assert!(portal.list("admin")["machines"].as_array().expect("machines").is_empty());
    let registry = rusqlite::Connection::open(portal.path("var/registry.sqlite")).expect("the registry");
    let check: String = registry.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("a check");
    assert_eq!(check, "ok");
    let gone: u32 = registry
        .query_row("SELECT count(*) FROM vm WHERE state = 'notDeployed'", [], |row| row.get(0))
        .expect("a count");
    assert_eq!(usize::try_from(gone), Ok(lives));
    portal.assert_no_panic();
}
