//! What the portal does by itself: the real programs with a fake clock.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use vgrid::model::stage::{Order, Percent, Stage};
use vgrid::model::wire::{Job, News, NodeInfo, PoolFill};

use crate::support::apache::web_user;
use crate::support::eventually;
use crate::support::node::{Conduct, nothing, with_machines};
use crate::support::portal::{DEPLOY_JSON, Portal, Setup, id_of, peak_of, thousand_hosts};
use crate::support::smtp::{Conduct as Server, Mail, Sink};

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

fn portal(more_server: &str) -> Portal {
    Setup { clock: true, more_server: more_server.to_owned(), ..Setup::one_host(20) }.start()
}

/// Makes the only host report these machines as running.
fn runs(portal: &Portal, machines: &[(&str, &str)]) {
    portal.nodes.has(Ipv4Addr::LOCALHOST, with_machines(machines));
}

/// What happened to a machine.
fn events(portal: &Portal, id: &str) -> Vec<String> {
    let shown = portal.show("alice", id);
    let events = shown["history"].as_array().expect("a history");
    events.iter().map(|event| event["what"].as_str().expect("what").to_owned()).collect()
}

/// How often something happened.
fn count(events: &[String], what: &str) -> usize {
    events.iter().filter(|event| *event == what).count()
}

/// A running machine of alice's with that lease.
fn leased(portal: &Portal, lease: &str) -> String {
    let id = portal.deployed_with("alice", &[("expiryTime", lease)]);
    runs(portal, &[(&id, "alice_vm1")]);
    id
}

/// Kills a run of upkeep after that many milliseconds.
fn kill_upkeep(portal: &Portal, after: u64) {
    let mut child = portal.start_upkeep(&[]);
    std::thread::sleep(Duration::from_millis(after));
    let _ = child.kill();
    let _ = child.wait();
}

/// Lets hours pass, with upkeep in each. The host carries out orders at once.
fn live(portal: &Portal, id: &str, hours: i64) {
    for _ in 0..hours {
        portal.pass(HOUR);
        portal.upkeep(&[]);
        obey(portal, id);
    }
}

/// Makes the host carry out the order that a machine waits for.
fn obey(portal: &Portal, id: &str) {
    let order = match portal.state("alice", id).as_str() {
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
fn a_lease_goes_through_notices_expiry_grace_period_and_deletion() {
    let portal = portal("[Leases]\ngrace = '2d'");
    let id = leased(&portal, "4d");
    portal.upkeep(&[]);
    live(&portal, &id, 4 * 24 - 1);
    assert_eq!(portal.state("alice", &id), "deployed");
    assert_eq!(count(&events(&portal, &id), "owner not told"), 3);
    live(&portal, &id, 2);
    assert_eq!(portal.state("alice", &id), "expired");
    live(&portal, &id, 1);
    let shown = portal.show("alice", &id);
    assert!(shown["machine"]["deletion"]["iso"].is_string(), "{shown}");
    assert_eq!(count(&events(&portal, &id), "owner not told"), 4);
    // The owner was notified an hour after the end.
    live(&portal, &id, 2 * 24 - 2);
    assert_eq!(portal.state("alice", &id), "expired");
    live(&portal, &id, 2);
    assert_eq!(portal.state("alice", &id), "notDeployed");
    portal.assert_no_panic();
}

#[test]
fn an_extension_in_time_brings_the_machine_back() {
    let portal = portal("[Leases]\ngrace = '2d'");
    let id = leased(&portal, "1d");
    live(&portal, &id, 30);
    assert_eq!(portal.state("alice", &id), "expired");
    portal.get("alice", &format!("extend?id={id}&expiryTime=10d&format=json")).send().expect(202);
    obey(&portal, &id);
    live(&portal, &id, 5 * 24);
    assert_eq!(portal.state("alice", &id), "deployed");
    // Extended while it is being stopped for its lease: it is started again.
    let end = portal.now().unix() - HOUR;
    let expire = "UPDATE vm SET expires = ?1, lease = '1h'";
    portal.database().execute(expire, [end]).expect("an expired lease");
    portal.pass(60);
    portal.upkeep(&[]);
    assert_eq!(portal.state("alice", &id), "stopping");
    portal.get("alice", &format!("extend?id={id}&expiryTime=10d&format=json")).send().expect(202);
    let answer = portal.report(&id, Order::Stop, 5, News::Done).expect(200).json();
    assert_eq!(answer["next"]["order"], "start");
    // The answer was lost, so the report is repeated.
    let answer = portal.report(&id, Order::Stop, 5, News::Done).expect(200).json();
    assert_eq!(answer["next"]["order"], "start");
    portal.report(&id, Order::Start, 7, News::Done).expect(200);
    assert_eq!(portal.state("alice", &id), "deployed");
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
    assert_eq!(portal.state("alice", &id), "deployed", "first the owner is notified");
    assert_eq!(count(&events(&portal, &id), "owner not told"), 1);
    live(&portal, &id, 5);
    assert_eq!(portal.state("alice", &id), "expired");
    // The clock jumps a year ahead, again and again.
    for _ in 0..10 {
        portal.pass(365 * DAY);
        portal.upkeep(&[]);
        assert_eq!(portal.state("alice", &id), "expired");
    }
    // It jumps back: the lease is not over, and the machine is started again.
    portal.set_clock(0);
    portal.upkeep(&[]);
    assert_eq!(portal.state("alice", &id), "starting");
    obey(&portal, &id);
    assert_eq!(portal.state("alice", &id), "deployed");
    live(&portal, &id, 3);
    assert_eq!(portal.state("alice", &id), "deployed");
}

#[test]
fn daylight_saving_changes_neither_lease_nor_grace_period() {
    let portal = portal("[Leases]\ngrace = '2d'");
    // In summer; then twelve hours before the clocks of New York go forward (2027-03-14 07:00 UTC)
    // and back (2027-11-07 06:00 UTC), so that the lease or the grace period spans the change.
    let leases = [1_814_421_600, 1_805_007_600 - 12 * HOUR, 1_825_567_200 - 12 * HOUR].map(|begin| {
        portal.set_clock(begin - vgrid::system::clock::now().unix());
        let id = leased(&portal, "1d");
        portal.upkeep(&[]);
        let hours_until = |end: &str| {
            (1..100).find(|_| {
                live(&portal, &id, 1);
                portal.state("alice", &id) == end
            })
        };
        (hours_until("expired"), hours_until("notDeployed"))
    });
    // The grace period begins when the owner is notified, an hour after the machine was stopped.
    assert_eq!(leases, [(Some(24), Some(49)); 3]);
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
        let output = portal.upkeep(&["--dry-run"]);
        assert!(
            output.contains("tell its owner that its lease ends") && output.contains("would be done"),
            "{output}"
        );
    }
    assert_eq!(portal.show("alice", &id), before);
    assert_eq!(portal.upkeep(&["--quiet"]), "");
    assert_ne!(portal.show("alice", &id), before);
}

#[test]
fn only_one_upkeep_runs_at_a_time() {
    let portal = Setup { clock: true, node_timeout: 5, ..Setup::default() }.start();
    portal.deployed("alice");
    portal.nodes.conduct(Conduct::Hang);
    let first = portal.start_upkeep(&[]);
    // It holds its lock when it queries hosts.
    let queries = eventually(Duration::from_secs(20), || {
        portal.nodes.received().iter().any(|received| received.program() == "info").then_some(())
    });
    assert!(queries.is_some());
    let text = portal.upkeep(&["--dry-run"]);
    assert!(text.contains("Another vgrid-upkeep is at work"), "{text}");
    let output = first.wait_with_output().expect("an exit status");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && text.contains("0 of 2 hosts answered"), "{text}");
    portal.nodes.conduct(Conduct::Accept);
    assert!(portal.upkeep(&[]).contains("2 of 2 hosts answered"));
}

#[test]
fn root_is_told_to_run_it_as_the_web_server() {
    if web_user().is_none() {
        return;
    }
    let portal = portal("");
    portal.deployed("alice");
    let output = std::process::Command::new(portal.installed("/usr/bin/vgrid-upkeep"))
        .env_clear()
        .env("VGRID_CONFIG_DIR", portal.path("etc"))
        .output()
        .expect("vgrid-upkeep can be started");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && errors.contains("sudo -u www-data vgrid-upkeep"), "{errors}");
    assert!(
        !portal.path("var/registry.upkeep.lock").exists(),
        "a lock of root's that www-data could not take"
    );
}

/// A machine in transition, with an order that the node has accepted.
fn in_transition(portal: &Portal, order: Order) -> String {
    let id = portal.deploy("alice", &[]);
    if order == Order::Deploy {
        return id;
    }
    portal.report(&id, Order::Deploy, 9, News::Done).expect(200);
    if order == Order::Start {
        portal.carry_out("alice", Order::Stop, &id);
    }
    portal.order("alice", order, &id).expect(202);
    id
}

/// The `info` of a host that has the machine and no work in progress.
fn idle(id: &str, running: bool) -> NodeInfo {
    let mut info = with_machines(&[(id, "alice_vm1")]);
    if !running {
        info.domains.clear();
        info.jobs[0].stopped = true;
    }
    info
}

#[test]
fn no_machine_stays_in_transition_forever() {
    let orders = [Order::Deploy, Order::Stop, Order::Start, Order::Reboot, Order::Terminate];
    // The host never answers again.
    for order in orders {
        let portal = portal("");
        let id = in_transition(&portal, order);
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
            Order::Start | Order::Save | Order::Resize => "stopped",
        };
        assert_eq!((&machine["state"], &machine["moving"]), (&expected.into(), &false.into()), "{order}");
        assert!(machine["reason"].as_str().is_some_and(|why| why.contains("localhost")), "{machine}");
    }
}

#[test]
fn a_lost_order_is_sent_again() {
    for order in [Order::Stop, Order::Start, Order::Reboot, Order::Terminate] {
        let portal = portal("");
        let id = in_transition(&portal, order);
        portal.nodes.has(Ipv4Addr::LOCALHOST, idle(&id, order != Order::Start));
        portal.upkeep(&[]);
        assert_eq!(portal.nodes.orders(order.as_str()).len(), 1, "it may still arrive");
        portal.pass(5 * 60);
        portal.upkeep(&[]);
        let orders = portal.nodes.orders(order.as_str());
        assert_eq!(orders.len(), 2, "{order}");
        assert_eq!(orders[0].json(), orders[1].json());
        portal.report(&id, order, 1, News::Done).expect(200);
        assert_eq!(portal.show("alice", &id)["machine"]["moving"], false);
    }
}

#[test]
fn a_machine_that_its_host_forgot_is_marked() {
    let portal = portal("");
    let deploying = in_transition(&portal, Order::Deploy);
    let leaving = in_transition(&portal, Order::Terminate);
    let running = portal.deployed("alice");
    portal.pass(5 * 60);
    portal.upkeep(&[]);
    let machine = portal.show("alice", &deploying)["machine"].clone();
    assert_eq!(machine["state"], "failed");
    assert!(machine["reason"].as_str().is_some_and(|why| why.contains("interrupted")), "{machine}");
    // Nothing of it is left, so the host is not asked.
    portal.get("alice", &format!("terminate?id={deploying}&format=json")).send().expect(202);
    assert_eq!(portal.state("alice", &deploying), "notDeployed");
    assert_eq!(portal.state("alice", &leaving), "notDeployed");
    let machine = portal.show("alice", &running)["machine"].clone();
    assert_eq!(machine["state"], "deployed");
    assert!(machine["reason"].as_str().is_some_and(|why| why.contains("no machine alice_vm3")), "{machine}");
    // It is recorded once, and cleared when the machine is back.
    portal.pass(5 * 60);
    portal.upkeep(&[]);
    assert_eq!(count(&events(&portal, &running), "missing"), 1);
    runs(&portal, &[(&running, "alice_vm3")]);
    portal.upkeep(&[]);
    assert_eq!(portal.show("alice", &running)["machine"]["reason"], Value::Null);
}

#[test]
fn changes_made_on_a_host_are_noticed() {
    let portal = portal("");
    let id = portal.deployed("alice");
    portal.pass(5 * 60);
    portal.nodes.has(Ipv4Addr::LOCALHOST, idle(&id, false));
    portal.upkeep(&[]);
    assert_eq!(portal.state("alice", &id), "stopped");
    portal.pass(5 * 60);
    runs(&portal, &[(&id, "alice_vm1")]);
    portal.upkeep(&[]);
    assert_eq!(portal.state("alice", &id), "deployed");
    // A machine that was forgotten by force but still exists is removed.
    portal.get("admin", &format!("terminate?id={id}&force=1&format=json")).send().expect(202);
    assert_eq!(portal.state("alice", &id), "notDeployed");
    portal.upkeep(&[]);
    let orders = portal.nodes.orders("terminate");
    assert_eq!(orders.len(), 1);
    assert_eq!(orders[0].json()["id"], id.as_str());
    // An orphan is not.
    let mut info = with_machines(&[("01936f5e-8c3e-7a37-a6b3-1f3c1f7c9f01", "carol_vm9")]);
    info.jobs.push(Job { stage: Some(Stage::Unpack), ..info.jobs[0].clone() });
    portal.nodes.has(Ipv4Addr::LOCALHOST, info);
    let output = portal.upkeep(&[]);
    assert!(output.contains("domain carol_vm9"), "{output}");
    assert!(!portal.upkeep(&[]).contains("carol_vm9"), "reported once");
    assert_eq!(portal.nodes.orders("terminate").len(), 1);
}

#[test]
fn a_killed_upkeep_does_no_harm() {
    let portal = portal("[Leases]\ngrace = '1d'");
    let id = leased(&portal, "5h");
    for hour in 0..40 {
        portal.pass(HOUR);
        // Longer and longer, until it finishes before it is killed.
        for pause in [0, 2, 5, 10, 20, 30 + hour % 7 * 5] {
            kill_upkeep(&portal, pause);
        }
        portal.upkeep(&[]);
        obey(&portal, &id);
    }
    assert_eq!(portal.state("alice", &id), "notDeployed");
    let events = events(&portal, &id);
    assert_eq!(count(&events, "owner not told"), 2, "{events:?}");
    for once in ["lease ended", "terminated"] {
        assert_eq!(count(&events, once), 1, "{events:?}");
    }
}

#[test]
fn upkeep_copes_with_a_thousand_hosts_some_of_them_dead() {
    let portal = thousand_hosts();
    let mut child = portal.start_upkeep(&[]);
    let mut peak = 0;
    let mut pages = 0;
    let status = loop {
        peak = peak.max(peak_of(child.id()).unwrap_or_default());
        if let Some(status) = child.try_wait().expect("an exit status") {
            break status;
        }
        // Pages are served all the while.
        portal.get("alice", "list").send().expect(200);
        pages += 1;
    };
    let output = child.wait_with_output().expect("an exit status").stdout;
    let output = String::from_utf8_lossy(&output);
    assert!(status.success() && output.contains("900 of 1000 hosts answered"), "{output}");
    assert!(output.contains("\n0 things done about machines"), "{output}");
    assert!(peak < 100 << 10, "it took {peak} KiB");
    assert!(pages > 5, "{pages} pages");
}

/// A portal that mails to this sink.
fn with_mail(sink: &Sink, more: &str) -> Portal {
    portal(&format!(
        "[Mail]\ntransport = 'smtp'\nserver = '127.0.0.1:{}'\nsender = 'vgrid@example.org'\n\
         domain = 'example.org'\nportalURL = 'https://portal.example.org/cgi-bin/user'\n{more}",
        sink.port
    ))
}

/// The subjects of a recipient's mail in order of arrival. A mail delivered twice, because upkeep
/// was killed before it had recorded the first time, counts once: mail systems recognize it by its
/// `Message-ID`.
fn subjects(sink: &Sink, recipient: &str) -> Vec<String> {
    let mut known = BTreeSet::new();
    let accepted = sink.accepted();
    let theirs = accepted.iter().filter(|mail| mail.recipients.iter().any(|to| to == recipient));
    theirs
        .map(|mail| Mail::read(&mail.text))
        .filter(|mail| known.insert(mail.header("message-id").to_owned()))
        .map(|mail| mail.header("subject").to_owned())
        .collect()
}

#[test]
fn an_owner_gets_each_notice_once_however_often_upkeep_is_killed() {
    let sink = Sink::start();
    let portal = with_mail(&sink, "[Leases]\ngrace = '1d'");
    let id = leased(&portal, "5h");
    for hour in 0..60 {
        portal.pass(HOUR);
        // A mail that a killed run had claimed is retried after twenty minutes, so in some hours no
        // run is killed.
        let pauses: &[u64] = if hour % 3 == 0 { &[0, 2, 5, 10, 20, 40] } else { &[] };
        for pause in pauses {
            kill_upkeep(&portal, *pause);
        }
        portal.upkeep(&[]);
        obey(&portal, &id);
    }
    assert_eq!(portal.state("alice", &id), "notDeployed");
    let got = subjects(&sink, "alice@example.org");
    assert_eq!(got.len(), 3, "{got:#?}");
    for (subject, word) in got.iter().zip(["ends", "ended", "deleted"]) {
        assert!(subject.contains(word) && subject.contains("vm1"), "{got:#?}");
    }
}

#[test]
fn nothing_is_deleted_until_its_owner_was_notified() {
    let sink = Sink::start();
    let portal = with_mail(&sink, "[Leases]\ngrace = '1d'");
    let id = leased(&portal, "1h");
    sink.conduct(Server::RefuseContent("451 4.3.0 not now"));
    live(&portal, &id, 3 * 24);
    assert_eq!(portal.state("alice", &id), "expired");
    assert_eq!(sink.accepted().len(), 0);
    sink.conduct(Server::Accept);
    live(&portal, &id, 23);
    assert_eq!(subjects(&sink, "alice@example.org").len(), 1);
    assert_eq!(portal.state("alice", &id), "expired", "the full grace period");
    live(&portal, &id, 4);
    assert_eq!(portal.state("alice", &id), "notDeployed");
    assert_eq!(subjects(&sink, "alice@example.org").len(), 2);
}

#[test]
fn administrators_are_mailed_silent_hosts_and_orphans_once() {
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
fn administrators_are_mailed_when_a_thin_pool_fills_up() {
    let sink = Sink::start();
    let portal = with_mail(&sink, "");
    let percent = |n: u64| Percent::of(n, 100);
    for (data, metadata, mails) in
        [(79, 10, 0), (80, 10, 1), (81, 10, 1), (76, 10, 1), (20, 10, 1), (20, 85, 2), (20, 85, 2)]
    {
        let mut info = with_machines(&[]);
        info.host.pool = Some(PoolFill { data: percent(data), metadata: percent(metadata) });
        portal.nodes.has(Ipv4Addr::LOCALHOST, info);
        portal.upkeep(&[]);
        let got = subjects(&sink, "admin@example.org");
        assert_eq!(got.len(), mails, "{data} {metadata}: {got:?}");
        assert!(got.iter().all(|subject| subject.contains("thin pool of the host localhost")), "{got:?}");
    }
    let answer = portal.get("admin", "admin").like_a_browser().send().expect(200);
    answer.says("20% of data and 85% of metadata");
}

#[test]
fn a_silent_machine_is_reported_once_and_removed_only_if_configured() {
    let sink = Sink::start();
    let portal = with_mail(&sink, "[Upkeep]\nping = true\nsilentRuns = 2\nterminateSilentRuns = 4");
    // One answers, because the address is local; the other belongs to a network that does not exist
    // (RFC 5737).
    let names = ["127.0.0.11", "192.0.2.77"];
    portal.reconfigure("common.cfg", |text| {
        format!("{text}\n\"{}\" = \"\"\n\"{}\" = \"\"\n", names[0], names[1])
    });
    let ids = names.map(|name| portal.deployed_with("alice", &[("vmHostname", name)]));
    let machines: Vec<(String, String)> =
        ids.iter().zip(names).map(|(id, name)| (id.clone(), format!("alice_{name}"))).collect();
    let machines: Vec<(&str, &str)> = machines.iter().map(|(id, name)| (&**id, &**name)).collect();
    runs(&portal, &machines);
    let mut mails = Vec::new();
    for _ in 0..4 {
        portal.pass(HOUR);
        portal.upkeep(&[]);
        mails.push(subjects(&sink, "alice@example.org").len());
    }
    assert_eq!(mails, [0, 1, 1, 2]);
    assert!(subjects(&sink, "alice@example.org").iter().all(|subject| subject.contains(names[1])));
    assert_eq!(portal.state("alice", &ids[0]), "deployed");
    assert_eq!(portal.state("alice", &ids[1]), "terminating");
}

/// How long users and upkeep compete: a minute, or the seconds in `VGRID_LOAD_SECONDS`.
fn load_time() -> Duration {
    let seconds = std::env::var("VGRID_LOAD_SECONDS").ok();
    Duration::from_secs(seconds.map_or(60, |text| text.parse().expect("a number of seconds")))
}

/// What one user does over and over: deploy a machine, extend its lease, and terminate it.
fn busy_life(portal: &Portal, user: &str, goes_on: impl Fn() -> bool, lives: &AtomicUsize) {
    while goes_on() {
        let answer = portal.post(user, "deploy", &DEPLOY_JSON).send();
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
        assert_eq!(portal.state("admin", &id), "notDeployed");
        lives.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn two_upkeeps_and_fifty_users_at_once_lose_no_update() {
    const LIVES: usize = 20;
    let users = ["alice", "bob", "admin"];
    let portal = Setup { hosts: vec![("localhost", 60)], names: 60, ..Setup::default() }.start();
    let (began, least, lives) = (Instant::now(), load_time(), AtomicUsize::new(0));
    // On a slow machine, until there was enough to go wrong.
    let goes_on = || {
        let (time, few) = (began.elapsed(), lives.load(Ordering::SeqCst) <= LIVES);
        time < least || (few && time < Duration::from_secs(60))
    };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while goes_on() {
                    portal.upkeep(&["--quiet"]);
                }
            });
        }
        for n in 0..50 {
            let (portal, goes_on, lives) = (&portal, &goes_on, &lives);
            scope.spawn(move || busy_life(portal, users[n % 3], goes_on, lives));
        }
    });
    let lives = lives.into_inner();
    assert!(lives > LIVES, "{lives}");
    println!("{lives} lives");
    assert!(portal.list("admin")["machines"].as_array().expect("machines").is_empty());
    let registry = portal.database();
    let check: String = registry.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("a check");
    assert_eq!(check, "ok");
    let gone: u32 = registry
        .query_row("SELECT count(*) FROM vm WHERE state = 'notDeployed'", [], |row| row.get(0))
        .expect("a count");
    assert_eq!(usize::try_from(gone), Ok(lives));
    portal.assert_no_panic();
}
