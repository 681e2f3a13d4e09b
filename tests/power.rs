//! Stop, start and reboot: the owner shuts a machine down and starts it again. It keeps its disk,
//! its name and its slot on its host, whatever goes wrong.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vgrid::model::fault::Fault;
use vgrid::model::size::Amount;
use vgrid::model::stage::{Order, Percent, Stage};
use vgrid::model::wire::News;

use crate::support::http::Answer;
use crate::support::node::Conduct;
use crate::support::page::hidden_field;
use crate::support::portal::{DEPLOY_JSON, Portal, Setup, state_of, with_query};
use crate::support::{at_once, eventually};

const ORDERS: [Order; 3] = [Order::Stop, Order::Start, Order::Reboot];

/// The state that an order requires, and the state while it is carried out.
fn around(order: Order) -> (&'static str, &'static str) {
    match order {
        Order::Stop => ("deployed", "stopping"),
        Order::Start => ("stopped", "starting"),
        Order::Reboot => ("deployed", "rebooting"),
        Order::Deploy | Order::Terminate | Order::Save | Order::Resize => {
            panic!("{order} is not a power order")
        }
    }
}

fn progress(stage: Stage) -> News {
    News::Progress { stage, percent: None, place: None }
}

fn failed(detail: &str) -> News {
    News::Failed { fault: Fault::StartFailed { detail: detail.to_owned() } }
}

/// A machine in the state that an order requires.
#[track_caller]
fn ready(portal: &Portal, order: Order) -> String {
    let id = portal.deployed("alice");
    if order == Order::Start {
        portal.carry_out("alice", Order::Stop, &id);
    }
    id
}

fn page(portal: &Portal, path: &str) -> String {
    portal.get("alice", path).send().expect(200).text()
}

/// Whether a page offers an order about the machine, as a link or a form.
fn offers(page: &str, order: Order, id: &str) -> bool {
    page.contains(&format!("href=\"{order}?id={id}\"")) || page.contains(&format!("action=\"{order}\""))
}

#[test]
fn a_machine_is_stopped_started_and_rebooted() {
    let portal = Setup::one_host(20).start();
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
        let sent = portal.nodes.orders(order.as_str()).pop().expect("an order to the node");
        assert!(sent.signed);
        let number = sent.json()["number"].as_u64().expect("a number");
        assert!(number > last, "later orders have higher numbers");
        last = number;
        assert_eq!(sent.json(), json!({"id": id, "number": number, "user": "alice", "virtual_host": "vm1"}));
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
        // An impatient user can repeat the order, or terminate the machine.
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
    let history = portal.history("alice", &id);
    for what in ["stop ordered", "stopped", "start ordered", "started", "reboot ordered", "rebooted"] {
        assert_eq!(history.matches(&format!("\"what\":\"{what}\"")).count(), 1, "{what} in {history}");
    }
    portal.assert_no_panic();
}

#[test]
fn a_stopped_machine_keeps_its_name_and_its_slot() {
    let portal = Setup { hosts: vec![("localhost", 1)], ..Setup::default() }.start();
    let id = ready(&portal, Order::Start);

    portal.post("bob", "deploy", &DEPLOY_JSON).send().expect(409).says("full");
    portal.reconfigure("common.cfg", |text| text.replace("\"localhost\" = 1", "\"localhost\" = 2"));
    let named = [&DEPLOY_JSON[..], &[("vmHostname", "vm1")]].concat();
    portal.post("bob", "deploy", &named).send().expect(409).says("vm1 is taken");
    // It can be terminated while stopped.
    portal.carry_out("alice", Order::Terminate, &id);
    assert_eq!(portal.state("alice", &id), "notDeployed");
    portal.post("bob", "deploy", &named).send().expect(202);
}

#[test]
fn an_order_already_fulfilled_succeeds_without_reaching_the_node() {
    let portal = Setup::one_host(20).start();
    let id = portal.deployed("alice");
    let sent = |order: Order| portal.nodes.orders(order.as_str()).len();
    assert_eq!(state_of(&portal.order("alice", Order::Start, &id).expect(202).json()), "deployed");
    assert_eq!(sent(Order::Start), 0);
    portal.carry_out("alice", Order::Stop, &id);
    assert_eq!(state_of(&portal.order("alice", Order::Stop, &id).expect(202).json()), "stopped");
    assert_eq!(sent(Order::Stop), 1);
    // A browser is redirected to its page, as always.
    let path = format!("stop?id={id}&format=html");
    let answer = portal.get("alice", &path).send().expect(303);
    assert_eq!(answer.header("location"), Some(format!("show?id={id}").as_str()));
    // An order in progress is sent again, in case the node has lost it.
    for _ in 0..2 {
        assert_eq!(state_of(&portal.order("alice", Order::Start, &id).expect(202).json()), "starting");
    }
    assert_eq!(sent(Order::Start), 2);
    let history = portal.history("alice", &id);
    assert_eq!(history.matches("start ordered").count(), 2, "{history}");
}

#[test]
fn an_impossible_order_is_refused_with_a_sentence() {
    let portal = Setup::one_host(20).start();
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
    portal.carry_out("alice", Order::Terminate, &gone);
    let (stopping, starting, rebooting) =
        (ordered(Order::Stop), ordered(Order::Start), ordered(Order::Reboot));
    let expired = running();
    portal
        .database()
        .execute("UPDATE vm SET state = 'expired' WHERE id = ?1", [&expired])
        .expect("an expired lease");

    let received = portal.nodes.received().len();
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
            let message = refused.error_message();
            assert!(message.contains(words) && message.ends_with('.'), "{order} while {before}: {message}");
            let form = portal.post("alice", order.as_str(), &[("id", id), ("format", "html")]);
            form.send().expect(409).says("Not possible right now").says(words);
            portal.get("alice", &format!("{order}?id={id}&format=text")).send().expect(409).says(words);
            assert_eq!(portal.state("alice", id), before, "after {order}");
            // The question page gives the same reason, and no form.
            let ask = portal.get("alice", &format!("{order}?id={id}")).header("Accept", "text/html");
            let answer = ask.send().expect(200).says(words);
            assert!(!answer.text().contains("<form"), "{answer}");
        }
    }
    assert_eq!(portal.nodes.received().len(), received, "a node was contacted");
    portal.assert_no_panic();
}

#[test]
fn only_the_owner_and_administrators_may_give_orders() {
    let portal = Setup::one_host(20).start();
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
                let path = with_query(program, &fields);
                portal.get("bob", &path).send().expect(403).says("belongs to somebody else");
                let like_a_browser = portal.get("bob", &path).header("Accept", "text/html").send();
                like_a_browser.expect(if form == "html" { 403 } else { 400 });
            }
        }
        assert_eq!(portal.state("alice", &id), before);
        assert_eq!(portal.nodes.received().len(), orders, "a node was contacted");
        let fields = [("vmHostname", name.as_str()), ("format", "json")];
        let answer = portal.post("admin", order.as_str(), &fields).send().expect(202).json();
        assert_eq!(state_of(&answer), during);
        let sent = portal.nodes.orders(order.as_str()).pop().expect("an order to the node");
        assert_eq!(sent.json()["user"], "alice", "the machine stays alice's");
        let history = portal.history("alice", &id);
        assert!(history.contains("\"who\":\"admin\""), "{history}");
        // There is no force: the field is unknown here.
        let forced = [("id", id.as_str()), ("force", "1"), ("format", "json")];
        portal.post("admin", order.as_str(), &forced).send().expect(400).says("force");
    }
}

#[test]
fn a_browser_must_confirm_and_needs_its_token() {
    let portal = Setup::one_host(20).start();
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
        let token = hidden_field(&asked, "token");
        let send = |fields: &[(&str, &str)]| portal.post("alice", program, fields).like_a_browser().send();
        for wrong in ["", "x", &"0".repeat(32)] {
            send(&[("id", &id), ("token", wrong)]).expect(403).says("too old, or not from this portal");
        }
        for (header, value) in
            [("Sec-Fetch-Site", "cross-site"), ("Origin", "null"), ("Referer", "http://evil.example/")]
        {
            let ask = portal.post("alice", program, &[("id", &id), ("token", &token)]).header(header, value);
            ask.send().expect(403).says("another site");
            // A link in a mail leads to the question, as webmail requires.
            let ask = portal.get("alice", &format!("{program}?id={id}")).header(header, value);
            ask.send().expect(200).says(&format!("action=\"{program}\""));
        }
        // HEAD requests, and images loaded by other sites, are not orders.
        let head = portal.get("alice", &format!("{program}?id={id}&format=json")).method("HEAD");
        head.send().expect(200);
        let image = portal.get("alice", &format!("{program}?id={id}&format=json"));
        image.header("Accept", "image/*,*/*;q=0.5").header("Accept-Language", "en").send().expect(400);
        assert_eq!(portal.state("alice", &id), before);
        assert_eq!(portal.nodes.received().len(), orders, "a node was contacted");

        let answer = send(&[("id", &id), ("token", &token)]).expect(303);
        assert_eq!(answer.header("location"), Some(format!("show?id={id}").as_str()));
        assert_eq!(portal.state("alice", &id), during);
        question().says("already in progress").says("again</button>");
    }
    // The form on a stopped machine's page starts it without a question, with the same token.
    let id = ready(&portal, Order::Start);
    let shown = page(&portal, &format!("show?id={id}"));
    let token = hidden_field(&shown, "token");
    let fields = [("id", id.as_str()), ("token", token.as_str())];
    portal.post("alice", "start", &fields).like_a_browser().send().expect(303);
    assert_eq!(portal.state("alice", &id), "starting");
    portal.assert_no_panic();
}

/// Asserts that a failed order leaves the machine as it was, with the reason on its page, and that
/// it works once the node does.
#[track_caller]
fn assert_order_fails(portal: &Portal, order: Order, id: &str, status: u16, words: &str) {
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
    // A form is answered with the machine's page, which shows the reason.
    let form = portal.post("alice", order.as_str(), &[("id", id), ("format", "html")]).send().expect(303);
    assert_eq!(form.header("location"), Some(format!("show?id={id}").as_str()));

    portal.nodes.conduct(Conduct::Accept);
    let answer = portal.order("alice", order, id).expect(202).json();
    assert_eq!((state_of(&answer), &answer["machine"]["reason"]), (during, &Value::Null));
    let after = if order == Order::Stop { "stopped" } else { "deployed" };
    portal.report(id, order, 1, News::Done).expect(200);
    assert_eq!(portal.state("alice", id), after);
    if order == Order::Stop {
        portal.carry_out("alice", Order::Start, id);
    } else if order == Order::Start {
        portal.carry_out("alice", Order::Stop, id);
    }
}

#[test]
fn a_failed_order_leaves_the_machine_as_it_was() {
    let portal = Setup::one_host(20).start();
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
            assert_order_fails(&portal, order, &id, status, words);
        }
        portal.carry_out("alice", Order::Terminate, &id);
    }
    portal.assert_no_panic();
}

#[test]
fn an_unreachable_node_leaves_the_machine_as_it_was() {
    let mut portal = Setup { hosts: vec![("localhost", 20)], node_timeout: 1, ..Setup::default() }.start();
    let ids = ORDERS.map(|order| ready(&portal, order));
    for (order, id) in ORDERS.iter().zip(&ids) {
        portal.nodes.conduct(Conduct::Hang);
        assert_order_fails(&portal, *order, id, 502, "did not answer within 1 s");
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
fn a_late_report_corrects_an_order_taken_for_failed() {
    let portal = Setup::one_host(20).start();
    for (order, word, after, has_reason) in [
        (Order::Stop, News::Done, "stopped", false),
        (Order::Reboot, News::Done, "deployed", false),
        (Order::Reboot, failed("it hung"), "stopped", true),
        (Order::Start, News::Done, "deployed", false),
    ] {
        let id = ready(&portal, order);
        portal.nodes.conduct(Conduct::Close);
        portal.order("alice", order, &id).expect(502);
        portal.nodes.conduct(Conduct::Accept);
        assert_eq!(portal.state("alice", &id), around(order).0);
        portal.report(&id, order, 1, progress(order.stages()[0])).expect(200);
        assert_eq!(portal.state("alice", &id), around(order).0, "progress says nothing about the outcome");
        let verdict = portal.report(&id, order, 2, word).expect(200).json();
        assert_eq!(verdict["verdict"], "continue");
        let shown = portal.show("alice", &id);
        assert_eq!(state_of(&shown), after, "{order}");
        assert_eq!(shown["machine"]["reason"].is_string(), has_reason, "{order}: {shown}");
        portal.order("alice", Order::Terminate, &id).expect(202);
        // It is too late once something else was ordered.
        portal.report(&id, order, 3, News::Done).expect(200);
        assert_eq!(portal.state("alice", &id), "terminating");
        portal.report(&id, Order::Terminate, 1, News::Done).expect(200);
    }
}

#[test]
fn a_failure_on_the_host_is_shown_with_the_machine() {
    let portal = Setup::one_host(20).start();
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
        portal.carry_out("alice", offered, &id);
        assert_eq!(portal.show("alice", &id)["machine"]["reason"], Value::Null, "after {offered}");
        portal.carry_out("alice", Order::Terminate, &id);
    }
}

#[test]
fn a_queued_deploy_shows_its_position() {
    let portal = Setup::one_host(20).start();
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

/// Sends orders concurrently. Returns the statuses.
fn send_at_once(portal: &Portal, orders: &[(&str, Order)], id: &str) -> Vec<u16> {
    at_once(orders.len(), |n| {
        let (user, order) = orders[n];
        portal.order(user, order, id).status
    })
}

#[test]
fn concurrent_stops_all_succeed() {
    let portal = Setup::one_host(20).start();
    let id = portal.deployed("alice");
    let orders: Vec<_> = (0..20).map(|n| (["alice", "admin"][n % 2], Order::Stop)).collect();
    assert_eq!(send_at_once(&portal, &orders, &id), [202; 20]);
    assert_eq!(portal.state("alice", &id), "stopping");
    for n in 1..=2 {
        portal.report(&id, Order::Stop, n, News::Done).expect(200);
        assert_eq!(portal.state("alice", &id), "stopped");
    }
    let history = portal.history("alice", &id);
    assert_eq!(history.matches("\"what\":\"stopped\"").count(), 1, "{history}");
}

#[test]
fn of_two_conflicting_orders_at_once_one_wins() {
    let portal = Setup::one_host(20).start();
    let id = portal.deployed("alice");
    let statuses = send_at_once(&portal, &[("alice", Order::Stop), ("admin", Order::Reboot)], &id);
    let mut sorted = statuses.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, [202, 409], "{statuses:?}");
    let (winner, loser) =
        if statuses[0] == 202 { (Order::Stop, Order::Reboot) } else { (Order::Reboot, Order::Stop) };
    assert_eq!(portal.state("alice", &id), around(winner).1);
    assert_eq!(portal.nodes.orders(winner.as_str()).len(), 1);
    assert!(portal.nodes.orders(loser.as_str()).is_empty());
}

#[test]
fn a_terminate_beats_a_concurrent_stop() {
    let portal = Setup::one_host(20).start();
    for _ in 0..5 {
        let id = portal.deployed("alice");
        let statuses = send_at_once(&portal, &[("alice", Order::Stop), ("admin", Order::Terminate)], &id);
        assert!(statuses[1] == 202 && matches!(statuses[0], 202 | 409), "{statuses:?}");
        assert_eq!(portal.state("alice", &id), "terminating");
        // Reports on the stop that had begun change nothing.
        for news in [progress(Stage::Shutdown), News::Done, failed("x")] {
            portal.report(&id, Order::Stop, 5, news).expect(200);
            assert_eq!(portal.state("alice", &id), "terminating");
        }
        portal.report(&id, Order::Terminate, 1, News::Done).expect(200);
        assert_eq!(portal.state("alice", &id), "notDeployed");
    }
}

/// Stops a machine whose node hangs, and does something once the node has the order. Returns the
/// answer to the stop.
#[track_caller]
fn stop_that_hangs(portal: &Portal, id: &str, meanwhile: impl FnOnce()) -> Answer {
    portal.nodes.conduct(Conduct::Hang);
    std::thread::scope(|scope| {
        let stop = scope.spawn(|| portal.order("alice", Order::Stop, id));
        let sent = || (portal.nodes.orders("stop").len() == 1).then_some(());
        assert!(eventually(Duration::from_secs(10), sent).is_some(), "the node got no order");
        meanwhile();
        stop.join().expect("an answer")
    })
}

#[test]
fn a_hanging_stop_does_not_undo_a_terminate() {
    let portal = Setup::one_host(20).start();
    let id = portal.deployed("alice");
    let answer = stop_that_hangs(&portal, &id, || {
        portal.nodes.conduct(Conduct::Accept);
        portal.order("admin", Order::Terminate, &id).expect(202);
    });
    let answer = answer.expect(502).json();
    assert_eq!(state_of(&answer), "terminating", "{answer}");
    let shown = portal.show("alice", &id);
    assert_eq!((state_of(&shown), &shown["machine"]["reason"]), ("terminating", &Value::Null));
}

#[test]
fn a_report_before_the_answer_confirms_the_order() {
    let portal = Setup::one_host(20).start();
    let id = portal.deployed("alice");
    let answer = stop_that_hangs(&portal, &id, || {
        portal.report(&id, Order::Stop, 1, progress(Stage::Shutdown)).expect(200);
    });
    let answer = answer.expect(202).json();
    assert_eq!((state_of(&answer), &answer["machine"]["reason"]), ("stopping", &Value::Null));
    portal.report(&id, Order::Stop, 2, News::Done).expect(200);
    assert_eq!(portal.state("alice", &id), "stopped");
}
