//! Stop, start and reboot: a machine is shut down and started again by its owner, and keeps its disk, its name
//! and its place on its host, whatever goes wrong.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vgrid::model::fault::Fault;
use vgrid::model::size::Amount;
use vgrid::model::stage::{Order, Percent, Stage};
use vgrid::model::wire::News;

use crate::support::node::Conduct;
use crate::support::portal::{Portal, Setup, state_of};

const ORDERS: [Order; 3] = [Order::Stop, Order::Start, Order::Reboot];

/// The state that an order is for, and the state while it is carried out.
fn around(order: Order) -> (&'static str, &'static str) {
    match order {
        Order::Stop => ("deployed", "stopping"),
        Order::Start => ("stopped", "starting"),
        Order::Reboot => ("deployed", "rebooting"),
        Order::Deploy | Order::Terminate | Order::Save => panic!("{order} is no such order"),
    }
}

fn progress(stage: Stage) -> News {
    News::Progress { stage, percent: None, place: None }
}

fn failed(detail: &str) -> News {
    News::Failed { fault: Fault::StartFailed { detail: detail.to_owned() } }
}

/// A portal all of whose machines are on the host from whose address the tests report.
fn one_host() -> Portal {
    Setup { hosts: vec![("localhost", 20)], names: 20, ..Setup::default() }.start()
}

/// A machine in the state that an order is for.
#[track_caller]
fn ready(portal: &Portal, order: Order) -> String {
    let id = portal.deployed("alice");
    if order == Order::Start {
        carry_out(portal, Order::Stop, &id);
    }
    id
}

/// Gives an order and has the node carry it out.
#[track_caller]
fn carry_out(portal: &Portal, order: Order, id: &str) {
    portal.order("alice", order, id).expect(202);
    portal.report(id, order, 9, News::Done).expect(200);
}

#[track_caller]
fn state(portal: &Portal, id: &str) -> String {
    state_of(&portal.show("alice", id)).to_owned()
}

fn page(portal: &Portal, path: &str) -> String {
    portal.get("alice", path).send().expect(200).text()
}

/// What a page links to as an order about the machine, by GET or with a form.
fn offers(page: &str, order: Order, id: &str) -> bool {
    page.contains(&format!("href=\"{order}?id={id}\"")) || page.contains(&format!("action=\"{order}\""))
}

#[test]
fn a_machine_is_stopped_started_and_rebooted() {
    let portal = one_host();
    let id = portal.deployed("alice");
    let offered = |id: &str| {
        let text = page(&portal, &format!("show?id={id}"));
        let offered = ORDERS.into_iter().chain([Order::Terminate]);
        offered.filter(|order| offers(&text, *order, id)).collect::<Vec<_>>()
    };
    assert_eq!(offered(&id), [Order::Stop, Order::Reboot, Order::Terminate]);
    let mut last = 0;
    for (order, during, after) in [
        (Order::Stop, "stopping", "stopped"),
        (Order::Start, "starting", "deployed"),
        (Order::Reboot, "rebooting", "deployed"),
    ] {
        let answer = portal.order("alice", order, &id).expect(202).json();
        assert_eq!(state_of(&answer), during);
        assert_eq!((&answer["machine"]["moving"], &answer["error"]), (&json!(true), &Value::Null));
        let told = portal.nodes.orders(order.as_str()).pop().expect("an order to the node");
        assert!(told.signed);
        let number = told.json()["number"].as_u64().expect("a number");
        assert!(number > last, "later orders have higher numbers");
        last = number;
        assert_eq!(told.json(), json!({"id": id, "number": number, "user": "alice", "virtual_host": "vm1"}));
        assert_eq!(portal.show("alice", &id)["machine"]["stage"], "waiting for the host");
        for (n, stage) in (1..).zip(order.stages()) {
            portal.report(&id, order, n, progress(*stage)).expect(200);
            let shown = portal.show("alice", &id);
            assert_eq!((state_of(&shown), &shown["machine"]["stage"]), (during, &json!(stage.to_string())));
            let stages = shown["stages"].as_array().expect("stages").clone();
            assert_eq!(stages.len(), order.stages().len(), "{stages:?}");
            assert_eq!(stages.iter().filter(|s| s["status"] == "now").count(), 1, "{stages:?}");
            for path in [format!("show?id={id}"), "list".to_owned()] {
                let text = page(&portal, &path);
                assert!(text.contains(&stage.to_string()) && text.contains("data-moving"), "{text}");
                assert!(text.contains(&format!("class=\"s {during}\"")), "{text}");
            }
            let line = page(&portal, "list?format=text");
            assert!(line.contains(&format!("\t{during}\t")) && line.contains(&stage.to_string()), "{line}");
        }
        // Whoever thinks that it takes too long can give the order again, or give the machine up.
        assert_eq!(offered(&id), [order, Order::Terminate]);
        portal.report(&id, order, 8, News::Done).expect(200);
        let shown = portal.show("alice", &id)["machine"].clone();
        assert_eq!((&shown["state"], &shown["moving"]), (&json!(after), &json!(false)));
        assert_eq!((&shown["stage"], &shown["reason"]), (&Value::Null, &Value::Null));
        let expected: &[Order] = if after == "stopped" {
            &[Order::Start, Order::Terminate]
        } else {
            &[Order::Stop, Order::Reboot, Order::Terminate]
        };
        assert_eq!(offered(&id), expected);
        let text = page(&portal, &format!("show?id={id}"));
        assert_eq!(text.contains("ssh root@vm1"), after == "deployed", "{text}");
        assert!(!text.contains("http-equiv=\"refresh\""), "{text}");
    }
    let history = portal.show("alice", &id)["history"].to_string();
    for what in ["stop ordered", "stopped", "start ordered", "started", "reboot ordered", "rebooted"] {
        assert_eq!(history.matches(&format!("\"what\":\"{what}\"")).count(), 1, "{what} in {history}");
    }
    portal.assert_no_panic();
}

#[test]
fn a_stopped_machine_keeps_its_name_and_its_place() {
    let portal = Setup { hosts: vec![("localhost", 1)], ..Setup::default() }.start();
    let id = ready(&portal, Order::Start);
    let fields = [("vmImage", "tiny"), ("vmMemory", "128"), ("vmPartition", "1"), ("format", "json")];
    portal.post("bob", "deploy", &fields).send().expect(409).says("full");
    portal.reconfigure("common.cfg", |text| text.replace("\"localhost\" = 1", "\"localhost\" = 2"));
    let named = [&fields[..], &[("vmHostname", "vm1")]].concat();
    portal.post("bob", "deploy", &named).send().expect(409).says("vm1 is taken");
    // It can be terminated as it is.
    carry_out(&portal, Order::Terminate, &id);
    assert_eq!(state(&portal, &id), "notDeployed");
    portal.post("bob", "deploy", &named).send().expect(202);
}

#[test]
fn what_is_so_already_is_no_error_and_no_order() {
    let portal = one_host();
    let id = portal.deployed("alice");
    let told = |order: Order| portal.nodes.orders(order.as_str()).len();
    assert_eq!(state_of(&portal.order("alice", Order::Start, &id).expect(202).json()), "deployed");
    assert_eq!(told(Order::Start), 0);
    carry_out(&portal, Order::Stop, &id);
    assert_eq!(state_of(&portal.order("alice", Order::Stop, &id).expect(202).json()), "stopped");
    assert_eq!(told(Order::Stop), 1);
    // People are sent to its page, as ever.
    let path = format!("stop?id={id}&format=html");
    let answer = portal.get("alice", &path).send().expect(303);
    assert_eq!(answer.header("location"), Some(format!("show?id={id}").as_str()));
    // One that is under way goes to the node again, for a node that has lost it.
    for _ in 0..2 {
        assert_eq!(state_of(&portal.order("alice", Order::Start, &id).expect(202).json()), "starting");
    }
    assert_eq!(told(Order::Start), 2);
    let history = portal.show("alice", &id)["history"].to_string();
    assert_eq!(history.matches("start ordered").count(), 2, "{history}");
}

#[test]
fn what_cannot_be_done_now_is_told_in_a_sentence() {
    let portal = one_host();
    let running = || portal.deployed("alice");
    let ordered = |order: Order| {
        let id = ready(&portal, order);
        portal.order("alice", order, &id).expect(202);
        id
    };
    let stopped = ready(&portal, Order::Start);
    let deploying = portal.deploy("alice", &[]);
    let failed_one = portal.deploy("alice", &[]);
    portal.report(&failed_one, Order::Deploy, 1, failed("x")).expect(200);
    let terminating = running();
    portal.order("alice", Order::Terminate, &terminating).expect(202);
    let gone = running();
    carry_out(&portal, Order::Terminate, &gone);
    let (stopping, starting, rebooting) =
        (ordered(Order::Stop), ordered(Order::Start), ordered(Order::Reboot));
    let expired = running();
    let registry = rusqlite::Connection::open(portal.path("var/registry.sqlite")).expect("the registry");
    registry
        .execute("UPDATE vm SET state = 'expired' WHERE id = ?1", [&expired])
        .expect("a lease that ended");
    drop(registry);

    let told = portal.nodes.received().len();
    let all = &ORDERS[..];
    let cases: [(&str, &str, &[Order], &str); 9] = [
        (&deploying, "deploying", all, "being deployed"),
        (&stopped, "stopped", &[Order::Reboot], "Start it instead"),
        (&stopping, "stopping", &[Order::Start, Order::Reboot], "being stopped"),
        (&starting, "starting", &[Order::Stop, Order::Reboot], "being started"),
        (&rebooting, "rebooting", &[Order::Stop, Order::Start], "being rebooted"),
        (&expired, "expired", all, "lease"),
        (&terminating, "terminating", all, "being removed"),
        (&failed_one, "failed", all, "has failed"),
        (&gone, "notDeployed", all, "is gone"),
    ];
    for (id, before, orders, words) in cases {
        for &order in orders {
            let refused = portal.order("alice", order, id).expect(409);
            let message = refused.json()["error"]["message"].as_str().unwrap_or_default().to_owned();
            assert!(message.contains(words) && message.ends_with('.'), "{order} while {before}: {message}");
            let form = portal.post("alice", order.as_str(), &[("id", id), ("format", "html")]);
            form.send().expect(409).says("Not possible right now").says(words);
            portal.get("alice", &format!("{order}?id={id}&format=text")).send().expect(409).says(words);
            assert_eq!(state(&portal, id), before, "after {order}");
            // Who only looks is told the same, and not asked.
            let ask = portal.get("alice", &format!("{order}?id={id}")).header("Accept", "text/html");
            let answer = ask.send().expect(200).says(words);
            assert!(!answer.text().contains("<form"), "{answer}");
        }
    }
    assert_eq!(portal.nodes.received().len(), told, "a node was told something");
    portal.assert_no_panic();
}

#[test]
fn only_its_owner_and_administrators_may() {
    let portal = one_host();
    for order in ORDERS {
        let (before, during) = around(order);
        let id = ready(&portal, order);
        let orders = portal.nodes.received().len();
        let name = portal.show("alice", &id)["machine"]["virtual_host"].as_str().expect("a name").to_owned();
        for field in [("id", id.as_str()), ("vmHostname", name.as_str())] {
            for form in ["html", "json", "text"] {
                let fields = [field, ("format", form)];
                let program = order.as_str();
                let posted = portal.post("bob", program, &fields).send();
                posted.expect(403).says("belongs to somebody else");
                let path = crate::support::portal::with_query(program, &fields);
                portal.get("bob", &path).send().expect(403).says("belongs to somebody else");
                let like_a_browser = portal.get("bob", &path).header("Accept", "text/html").send();
                like_a_browser.expect(if form == "html" { 403 } else { 400 });
            }
        }
        assert_eq!(state(&portal, &id), before);
        assert_eq!(portal.nodes.received().len(), orders, "a node was told something");
        let fields = [("vmHostname", name.as_str()), ("format", "json")];
        let answer = portal.post("admin", order.as_str(), &fields).send().expect(202).json();
        assert_eq!(state_of(&answer), during);
        let told = portal.nodes.orders(order.as_str()).pop().expect("an order to the node");
        assert_eq!(told.json()["user"], "alice", "the machine stays alice's");
        let history = portal.show("alice", &id)["history"].to_string();
        assert!(history.contains("\"who\":\"admin\""), "{history}");
        // Nobody else can force anything: the field is not known here.
        let forced = [("id", id.as_str()), ("force", "1"), ("format", "json")];
        portal.post("admin", order.as_str(), &forced).send().expect(400).says("force");
    }
}

#[test]
fn a_browser_is_asked_first_and_needs_its_token() {
    let portal = one_host();
    for order in ORDERS {
        let (before, during) = around(order);
        let id = ready(&portal, order);
        let orders = portal.nodes.received().len();
        let program = order.as_str();
        let question = || {
            let ask = portal.get("alice", &format!("{program}?id={id}")).header("Accept", "text/html");
            ask.header("Sec-Fetch-Site", "same-origin").send().expect(200)
        };
        let asked = question().says(&format!("action=\"{program}\"")).text();
        let token = asked.split("name=\"token\" value=\"").nth(1).and_then(|rest| rest.split('"').next());
        let token = token.expect("a token").to_owned();
        let send = |fields: &[(&str, &str)]| portal.post("alice", program, fields).like_a_browser().send();
        for wrong in ["", "x", &"0".repeat(32)] {
            send(&[("id", &id), ("token", wrong)]).expect(403).says("too old, or not from this portal");
        }
        for (header, value) in
            [("Sec-Fetch-Site", "cross-site"), ("Origin", "null"), ("Referer", "http://evil.example/")]
        {
            let ask = portal.post("alice", program, &[("id", &id), ("token", &token)]).header(header, value);
            ask.send().expect(403).says("another site");
            // A link in a mail, as webmail has it, leads to the question.
            let ask = portal.get("alice", &format!("{program}?id={id}")).header(header, value);
            ask.send().expect(200).says(&format!("action=\"{program}\""));
        }
        // HEAD and what a page elsewhere loads as an image are no orders.
        let head = portal.get("alice", &format!("{program}?id={id}&format=json")).method("HEAD");
        head.send().expect(200);
        let image = portal.get("alice", &format!("{program}?id={id}&format=json"));
        image.header("Accept", "image/*,*/*;q=0.5").header("Accept-Language", "en").send().expect(400);
        assert_eq!(state(&portal, &id), before);
        assert_eq!(portal.nodes.received().len(), orders, "a node was told something");

        let answer = send(&[("id", &id), ("token", &token)]).expect(303);
        assert_eq!(answer.header("location"), Some(format!("show?id={id}").as_str()));
        assert_eq!(state(&portal, &id), during);
        question().says("already in progress").says("again</button>");
    }
    // The form on a stopped machine's page starts it without a question, with the same token.
    let id = ready(&portal, Order::Start);
    let shown = page(&portal, &format!("show?id={id}"));
    let token = shown.split("name=\"token\" value=\"").nth(1).and_then(|rest| rest.split('"').next());
    let fields = [("id", id.as_str()), ("token", token.expect("a token"))];
    portal.post("alice", "start", &fields).like_a_browser().send().expect(303);
    assert_eq!(state(&portal, &id), "starting");
    portal.assert_no_panic();
}

/// A node that can't be used: the machine is what it was, its page says what went wrong, and once the node is well
/// again the same order works.
#[track_caller]
fn spoilt(portal: &Portal, order: Order, id: &str, status: u16, words: &str) {
    let (before, during) = around(order);
    let began = Instant::now();
    let answer = portal.order("alice", order, id).expect(status).json();
    assert!(began.elapsed() < Duration::from_secs(10), "the user waited for {:?}", began.elapsed());
    assert_eq!(state_of(&answer), before, "{order}: {answer}");
    assert!(answer["error"]["message"].as_str().is_some_and(|m| m.contains(words)), "{order}: {answer}");
    let shown = portal.show("alice", id);
    assert_eq!(state_of(&shown), before);
    assert!(shown["machine"]["reason"].as_str().is_some_and(|m| m.contains(words)), "{order}: {shown}");
    for path in [format!("show?id={id}"), "list".to_owned()] {
        let text = page(portal, &path);
        assert!(text.contains(words), "{order}: {text}");
    }
    let text = page(portal, &format!("show?id={id}"));
    assert!(offers(&text, order, id), "{order} can't be tried again: {text}");
    let line = page(portal, "list?format=text");
    assert!(line.lines().any(|l| l.starts_with(id) && l.contains(words)), "{line}");
    // A form is answered with the machine's page, where the reason is.
    let form = portal.post("alice", order.as_str(), &[("id", id), ("format", "html")]).send().expect(303);
    assert_eq!(form.header("location"), Some(format!("show?id={id}").as_str()));

    portal.nodes.conduct(Conduct::Accept);
    let answer = portal.order("alice", order, id).expect(202).json();
    assert_eq!((state_of(&answer), &answer["machine"]["reason"]), (during, &Value::Null));
    let after = if order == Order::Stop { "stopped" } else { "deployed" };
    portal.report(id, order, 1, News::Done).expect(200);
    assert_eq!(state(portal, id), after);
    if order == Order::Stop {
        carry_out(portal, Order::Start, id);
    } else if order == Order::Start {
        carry_out(portal, Order::Stop, id);
    }
}

#[test]
fn a_node_that_spoils_an_order_leaves_the_machine_as_it_was() {
    let portal = one_host();
    let no_memory = Fault::NotEnoughMemory { needed: Amount::from_mib(128), free: Amount::from_mib(7) };
    let missing = Fault::MachineMissing { machine: "alice_vm1".parse().expect("a name") };
    for order in ORDERS {
        let id = ready(&portal, order);
        for (conduct, status, words) in [
            (Conduct::Close, 502, "makes no sense"),
            (Conduct::Garbage, 502, "makes no sense"),
            (Conduct::CutOff, 502, "makes no sense"),
            (Conduct::Say(202, "{}".to_owned()), 502, "makes no sense"),
            (Conduct::Say(500, "<html>Oh</html>".to_owned()), 502, "HTTP 500"),
            (Conduct::Say(404, "<html>None</html>".to_owned()), 502, "HTTP 404"),
            (
                Conduct::Say(
                    503,
                    json!({"error": {"message": "This machine is being worked on."}}).to_string(),
                ),
                503,
                "being worked on",
            ),
            (Conduct::Refuse(no_memory.clone()), 409, "only 7 MiB of memory free"),
            (Conduct::Refuse(missing.clone()), 409, "no machine alice_vm1"),
        ] {
            portal.nodes.conduct(conduct);
            spoilt(&portal, order, &id, status, words);
        }
        carry_out(&portal, Order::Terminate, &id);
    }
    portal.assert_no_panic();
}

#[test]
fn a_node_that_is_down_or_hangs() {
    let mut portal = Setup { hosts: vec![("localhost", 20)], node_timeout: 1, ..Setup::default() }.start();
    let ids = ORDERS.map(|order| ready(&portal, order));
    for (order, id) in ORDERS.iter().zip(&ids) {
        portal.nodes.conduct(Conduct::Hang);
        spoilt(&portal, *order, id, 502, "did not answer within 1 s");
    }
    portal.nodes.shut_down();
    for (order, id) in ORDERS.into_iter().zip(&ids) {
        let answer = portal.order("alice", order, id).expect(502).json();
        assert_eq!(state_of(&answer), around(order).0);
        assert!(answer.to_string().contains("can't be reached"), "{answer}");
    }
    portal.assert_no_panic();
}

#[test]
fn a_node_that_took_an_order_and_did_not_say_so_is_believed_later() {
    let portal = one_host();
    for (order, word, after, is_wrong) in [
        (Order::Stop, News::Done, "stopped", false),
        (Order::Reboot, News::Done, "deployed", false),
        (Order::Reboot, failed("it hung"), "stopped", true),
        (Order::Start, News::Done, "deployed", false),
    ] {
        let id = ready(&portal, order);
        portal.nodes.conduct(Conduct::Close);
        portal.order("alice", order, &id).expect(502);
        portal.nodes.conduct(Conduct::Accept);
        assert_eq!(state(&portal, &id), around(order).0);
        portal.report(&id, order, 1, progress(order.stages()[0])).expect(200);
        assert_eq!(state(&portal, &id), around(order).0, "progress says nothing of the end");
        let verdict = portal.report(&id, order, 2, word).expect(200).json();
        assert_eq!(verdict["verdict"], "continue");
        let shown = portal.show("alice", &id);
        assert_eq!(state_of(&shown), after, "{order}");
        assert_eq!(shown["machine"]["reason"].is_string(), is_wrong, "{order}: {shown}");
        portal.order("alice", Order::Terminate, &id).expect(202);
        // Now that something else was ordered it is too late.
        portal.report(&id, order, 3, News::Done).expect(200);
        assert_eq!(state(&portal, &id), "terminating");
        portal.report(&id, Order::Terminate, 1, News::Done).expect(200);
    }
}

#[test]
fn what_fails_at_the_host_is_shown_with_the_machine() {
    let portal = one_host();
    for (order, after, offered) in [
        (Order::Stop, "deployed", Order::Stop),
        (Order::Start, "stopped", Order::Start),
        (Order::Reboot, "stopped", Order::Start),
    ] {
        let id = ready(&portal, order);
        portal.order("alice", order, &id).expect(202);
        portal.report(&id, order, 1, progress(order.stages()[0])).expect(200);
        portal.report(&id, order, 2, failed("<b>xl</b> said no")).expect(200);
        let shown = portal.show("alice", &id);
        assert_eq!((state_of(&shown), &shown["stages"]), (after, &json!([])), "{order}");
        assert!(shown["machine"]["reason"].as_str().is_some_and(|r| r.contains("said no")), "{shown}");
        let text = page(&portal, &format!("show?id={id}"));
        assert!(
            text.contains("&lt;b&gt;xl&lt;&#x2F;b&gt; said no") || text.contains("&lt;b&gt;xl"),
            "{text}"
        );
        assert!(offers(&text, offered, &id) && offers(&text, Order::Terminate, &id), "{order}: {text}");
        assert!(page(&portal, "list").contains("said no"));
        carry_out(&portal, offered, &id);
        assert_eq!(portal.show("alice", &id)["machine"]["reason"], Value::Null, "after {offered}");
        carry_out(&portal, Order::Terminate, &id);
    }
}

#[test]
fn a_deploy_that_waits_for_others_shows_its_place() {
    let portal = one_host();
    let id = portal.deploy("alice", &[]);
    let waits = |n: u32, place| {
        let news = News::Progress { stage: Stage::Accepted, percent: None, place };
        portal.report(&id, Order::Deploy, n, news).expect(200);
        portal.show("alice", &id)["machine"].clone()
    };
    for (n, place) in [(1, 3), (2, 2), (3, 1)] {
        let words = format!("waiting for its turn, number {place} in the queue of its host");
        let machine = waits(n, Some(place));
        assert_eq!((&machine["place"], &machine["stage"]), (&json!(place), &json!(words)));
        assert_eq!(portal.list("alice")["machines"][0]["place"], place);
        for path in [format!("show?id={id}"), "list".to_owned(), "list?format=text".to_owned()] {
            let text = page(&portal, &path);
            assert!(text.contains(&words), "{path}: {text}");
        }
    }
    let history = portal.show("alice", &id)["history"].as_array().expect("a history").len();
    let machine = waits(4, None);
    assert_eq!((&machine["place"], &machine["stage"]), (&Value::Null, &json!("accepted by the host")));
    assert_eq!(portal.show("alice", &id)["history"].as_array().map(Vec::len), Some(history));
    waits(5, Some(0));
    waits(6, Some(u32::MAX));
    let volumes =
        News::Progress { stage: Stage::Volumes, percent: Percent::try_from(5).ok(), place: Some(2) };
    portal.report(&id, Order::Deploy, 7, volumes).expect(200);
    let machine = portal.show("alice", &id)["machine"].clone();
    assert_eq!((&machine["place"], &machine["stage"]), (&Value::Null, &json!("making the volumes")));
    portal.assert_no_panic();
}

/// Sends orders all at once and gives back the statuses.
fn at_once(portal: &Portal, orders: &[(&str, Order)], id: &str) -> Vec<u16> {
    let start = Barrier::new(orders.len());
    std::thread::scope(|scope| {
        let threads: Vec<_> = orders
            .iter()
            .map(|(user, order)| {
                let ask = portal.post(user, order.as_str(), &[("id", id), ("format", "json")]);
                let start = &start;
                scope.spawn(move || {
                    start.wait();
                    ask.send().status
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("an answer")).collect()
    })
}

#[test]
fn many_who_stop_a_machine_at_once_stop_it() {
    let portal = one_host();
    let id = portal.deployed("alice");
    let orders: Vec<_> = (0..20).map(|n| (["alice", "admin"][n % 2], Order::Stop)).collect();
    assert_eq!(at_once(&portal, &orders, &id), [202; 20]);
    assert_eq!(state(&portal, &id), "stopping");
    for n in 1..=2 {
        portal.report(&id, Order::Stop, n, News::Done).expect(200);
        assert_eq!(state(&portal, &id), "stopped");
    }
    let history = portal.show("alice", &id)["history"].to_string();
    assert_eq!(history.matches("\"what\":\"stopped\"").count(), 1, "{history}");
}

#[test]
fn of_opposite_orders_at_once_one_counts() {
    let portal = one_host();
    let id = portal.deployed("alice");
    let statuses = at_once(&portal, &[("alice", Order::Stop), ("admin", Order::Reboot)], &id);
    let mut sorted = statuses.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, [202, 409], "{statuses:?}");
    let (winner, loser) =
        if statuses[0] == 202 { (Order::Stop, Order::Reboot) } else { (Order::Reboot, Order::Stop) };
    assert_eq!(state(&portal, &id), around(winner).1);
    assert_eq!(portal.nodes.orders(winner.as_str()).len(), 1);
    assert!(portal.nodes.orders(loser.as_str()).is_empty());
}

#[test]
fn a_stop_and_a_terminate_at_once_terminate() {
    let portal = one_host();
    for _ in 0..5 {
        let id = portal.deployed("alice");
        let statuses = at_once(&portal, &[("alice", Order::Stop), ("admin", Order::Terminate)], &id);
        assert!(statuses[1] == 202 && matches!(statuses[0], 202 | 409), "{statuses:?}");
        assert_eq!(state(&portal, &id), "terminating");
        // What the node says of the stop it had begun changes nothing.
        for news in [progress(Stage::Shutdown), News::Done, failed("x")] {
            portal.report(&id, Order::Stop, 5, news).expect(200);
            assert_eq!(state(&portal, &id), "terminating");
        }
        portal.report(&id, Order::Terminate, 1, News::Done).expect(200);
        assert_eq!(state(&portal, &id), "notDeployed");
    }
}

#[test]
fn a_stop_that_hangs_does_not_undo_a_terminate() {
    let portal = one_host();
    let id = portal.deployed("alice");
    portal.nodes.conduct(Conduct::Hang);
    std::thread::scope(|scope| {
        let stop = scope.spawn(|| portal.order("alice", Order::Stop, &id));
        let told = || (portal.nodes.orders("stop").len() == 1).then_some(());
        assert!(crate::support::eventually(Duration::from_secs(10), told).is_some(), "the node was not told");
        portal.nodes.conduct(Conduct::Accept);
        portal.order("admin", Order::Terminate, &id).expect(202);
        let answer = stop.join().expect("an answer").expect(502).json();
        assert_eq!(state_of(&answer), "terminating", "{answer}");
    });
    let shown = portal.show("alice", &id);
    assert_eq!((state_of(&shown), &shown["machine"]["reason"]), ("terminating", &Value::Null));
}

#[test]
fn a_host_that_reports_before_it_answers_has_the_order() {
    let portal = one_host();
    let id = portal.deployed("alice");
    portal.nodes.conduct(Conduct::Hang);
    std::thread::scope(|scope| {
        let stop = scope.spawn(|| portal.order("alice", Order::Stop, &id));
        let told = || (portal.nodes.orders("stop").len() == 1).then_some(());
        assert!(crate::support::eventually(Duration::from_secs(10), told).is_some(), "the node was not told");
        portal.report(&id, Order::Stop, 1, progress(Stage::Shutdown)).expect(200);
        let answer = stop.join().expect("an answer").expect(202).json();
        assert_eq!((state_of(&answer), &answer["machine"]["reason"]), ("stopping", &Value::Null));
    });
    portal.report(&id, Order::Stop, 2, News::Done).expect(200);
    assert_eq!(state(&portal, &id), "stopped");
}
