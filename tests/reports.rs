//! Reports from nodes, including late, repeated, forged and meaningless ones.

use serde_json::{Value, json};
use vgrid::model::fault::Fault;
use vgrid::model::names::{RegistryId, VmId};
use vgrid::model::sign::{
    Key, NONCE_HEADER, Nonce, RECIPIENT_HEADER, REGISTRY_HEADER, REQUEST_HEADER, SIGNATURE_HEADER,
    TIME_HEADER,
};
use vgrid::model::stage::{Order, Percent, Stage};
use vgrid::model::wire::News;

use crate::support::http::{Answer, Ask};
use crate::support::portal::{Portal, STATUS, state_of};
use crate::support::signed::{Seal, recipient};

fn progress(stage: Stage, percent: u8) -> News {
    News::Progress { stage, percent: Percent::try_from(percent).ok(), place: None }
}

/// A report that a deploy is done.
fn done(id: &str) -> Value {
    json!({
        "id": id, "order": "deploy", "number": u64::MAX >> 11, "sequence": 1, "news": {"event": "done"},
        "host": null,
    })
}

#[track_caller]
fn verdict(answer: Answer) -> String {
    answer.expect(200).json()["verdict"].as_str().expect("a verdict").to_owned()
}

#[test]
fn a_deploy_shows_each_of_its_stages() {
    let portal = Portal::start();
    let id = portal.deploy("alice", &[]);
    let machine = |portal: &Portal| portal.show("alice", &id)["machine"].clone();
    assert_eq!(machine(&portal)["moving"], true);
    for (n, stage) in (1..).zip(Order::Deploy.stages().iter().copied()) {
        assert_eq!(verdict(portal.report(&id, Order::Deploy, n, progress(stage, 40))), "continue");
        let shown = machine(&portal);
        assert_eq!(shown["stage"], stage.to_string().as_str(), "{shown}");
        assert_eq!(shown["percent"], 40, "{shown}");
        let page = portal.get("alice", &format!("show?id={id}")).send().expect(200).text();
        assert!(page.contains("data-moving") && page.contains("value=\"40\""), "{page}");
        assert!(page.contains("http-equiv=\"refresh\""), "no refresh without JavaScript: {page}");
        let line = portal.get("alice", "list?format=text").send().expect(200).text();
        assert!(line.contains(&format!("{stage}, 40 %")), "{line}");
    }
    portal.report(&id, Order::Deploy, 20, News::Done).expect(200);
    let shown = machine(&portal);
    assert_eq!(
        (&shown["state"], &shown["moving"], &shown["stage"]),
        (&json!("deployed"), &json!(false), &Value::Null)
    );
    let page = portal.get("alice", &format!("show?id={id}")).send().expect(200).text();
    assert!(!page.contains("http-equiv=\"refresh\"") && page.contains("ssh root@vm1"), "{page}");
    let history = portal.show("alice", &id)["history"].as_array().expect("a history").clone();
    assert!(history.len() >= Order::Deploy.stages().len() + 2, "{history:?}");
    assert!(history.iter().any(|e| e["who"] == "host localhost" && e["from"] == "127.0.0.1"), "{history:?}");
}

#[test]
fn a_failed_deploy_says_why_and_can_be_removed() {
    let portal = Portal::start();
    let id = portal.deploy("alice", &[("physicalHost", "localhost")]);
    portal.report(&id, Order::Deploy, 1, progress(Stage::Unpack, 70)).expect(200);
    let fault =
        Fault::ImageCorrupt { tag: "tiny".parse().expect("a tag"), detail: "unexpected end".to_owned() };
    portal.report(&id, Order::Deploy, 2, News::Failed { fault }).expect(200);
    let shown = portal.show("alice", &id);
    assert_eq!(state_of(&shown), "failed");
    assert!(
        shown["machine"]["reason"].as_str().is_some_and(|r| r.contains("damaged (unexpected end)")),
        "{shown}"
    );
    // Nothing of it is left on the node, so the node is not asked.
    let answer = portal.order("alice", Order::Terminate, &id).expect(202).json();
    assert_eq!(state_of(&answer), "notDeployed");
    assert!(portal.nodes.orders("terminate").is_empty());
}

#[test]
fn late_and_repeated_reports_change_nothing() {
    let portal = Portal::start();
    let id = portal.deploy("alice", &[]);
    portal.report(&id, Order::Deploy, 5, progress(Stage::Unpack, 60)).expect(200);
    for (n, news) in [(4, progress(Stage::Volumes, 1)), (0, progress(Stage::Accepted, 0))] {
        assert_eq!(verdict(portal.report(&id, Order::Deploy, n, news)), "continue");
        assert_eq!(portal.show("alice", &id)["machine"]["percent"], 60);
    }
    for _ in 0..3 {
        assert_eq!(verdict(portal.report(&id, Order::Deploy, 6, News::Done)), "continue");
    }
    let fault = Fault::Interrupted { stage: None };
    assert_eq!(verdict(portal.report(&id, Order::Deploy, 7, News::Failed { fault })), "continue");
    assert_eq!(portal.state("alice", &id), "deployed");
    let deployed = portal.history("alice", &id).matches("\"deployed\"").count();
    assert_eq!(deployed, 1, "in its history");
    portal.order("alice", Order::Terminate, &id).expect(202);
    assert_eq!(verdict(portal.report(&id, Order::Deploy, 8, News::Done)), "continue");
    assert_eq!(portal.state("alice", &id), "terminating");
    for _ in 0..2 {
        assert_eq!(verdict(portal.report(&id, Order::Terminate, 1, News::Done)), "continue");
        assert_eq!(portal.state("alice", &id), "notDeployed");
    }
    // A removed machine stays removed: a node that reports it as running must remove it.
    assert_eq!(verdict(portal.report(&id, Order::Deploy, 9, News::Done)), "abandon");
    assert_eq!(verdict(portal.report(&id, Order::Deploy, 9, progress(Stage::Start, 0))), "abandon");
    // Its name has been given to another machine, and stays there.
    let next = portal.deploy("bob", &[]);
    assert_eq!(verdict(portal.report(&id, Order::Terminate, 10, News::Done)), "continue");
    assert_eq!(portal.state("bob", &next), "deploying");
}

#[test]
fn a_report_before_the_answer_to_the_order_counts() {
    let portal = Portal::start();
    let id = portal.deployed("alice");
    portal.order("alice", Order::Terminate, &id).expect(202);
    let fault = Fault::RemovalFailed { detail: "xen-root-alice_vm1 is in use".to_owned() };
    portal.report(&id, Order::Terminate, 1, News::Failed { fault }).expect(200);
    let shown = portal.show("alice", &id);
    assert_eq!(state_of(&shown), "failed");
    assert!(shown["machine"]["reason"].as_str().is_some_and(|r| r.contains("is in use")), "{shown}");
    // The owner can repeat the order, but cannot have a machine forgotten that has run.
    portal.post("alice", "terminate", &[("id", &id), ("force", "1"), ("format", "json")]).send().expect(403);
    let again = portal.order("alice", Order::Terminate, &id).expect(202).json();
    assert_eq!(state_of(&again), "terminating");
    let forced = portal.post("admin", "terminate", &[("id", &id), ("force", "1"), ("format", "json")]).send();
    assert_eq!(state_of(&forced.expect(202).json()), "notDeployed");
}

#[test]
fn an_unknown_machine_is_kept() {
    let portal = Portal::start();
    let unknown = VmId::generate().to_string();
    for news in [News::Done, progress(Stage::Unpack, 3)] {
        assert_eq!(verdict(portal.report(&unknown, Order::Deploy, 1, news)), "unknown");
    }
    // An administrator had it removed as an orphan: the report is accepted and need not be
    // repeated.
    let fault = Fault::RemovalFailed { detail: "in use".to_owned() };
    for news in [progress(Stage::Remove, 0), News::Failed { fault }, News::Done] {
        assert_eq!(verdict(portal.report(&unknown, Order::Terminate, 1, news)), "unknown");
    }
}

#[test]
fn only_the_machine_s_own_host_may_report() {
    let portal = Portal::start();
    // A machine on 127.0.0.2; the test's reports come from 127.0.0.1.
    let id = portal.deploy("alice", &[("physicalHost", "127.0.0.2")]);
    let refused = portal.report(&id, Order::Deploy, 1, News::Done).expect(403);
    assert!(refused.text().contains("is on 127.0.0.2, and 127.0.0.1 is not its address"), "{refused}");
    // Claiming the address in a header does not help.
    let report = done(&id);
    for header in ["X-Forwarded-For", "Remote-Addr", "X-Cgi-Remote-Addr", "X-Real-Ip", "Forwarded"] {
        let ask = portal.signed(STATUS, report.to_string().into_bytes(), &portal.key);
        ask.header(header, "127.0.0.2").send().expect(403);
    }
    assert_eq!(portal.state("alice", &id), "deploying");
    assert!(
        portal.list("alice")["hosts"][1]["version"].is_string(),
        "what the host said when it accepted the order"
    );
}

#[test]
fn a_report_that_is_not_signed_exactly_right_is_refused() {
    let portal = Portal::start();
    let id = portal.deploy("alice", &[]);
    let body = done(&id).to_string().into_bytes();
    let plain = || portal.ask("POST", STATUS).header("Content-Type", "application/json").body(body.clone());
    let other = Key::new(&"k".repeat(64)).expect("a key");
    let usual = portal.seal(&portal.key);
    let later = |seconds| Seal { time: usual.time.plus_seconds(seconds), ..usual.clone() };
    let send = |ask: Ask, headers: &[(&'static str, String)]| {
        headers.iter().fold(ask, |ask, (name, value)| ask.header(name, value.as_str()))
    };
    let with = |headers: &[(&'static str, String)]| send(plain(), headers);
    let valid = usual.headers("POST", STATUS, &body);
    // The valid headers with one changed or, if `to` is `None`, without it.
    let but = |name: &str, to: Option<&str>| {
        let kept = valid.iter().filter(|(known, _)| *known != name || to.is_some());
        let changed: Vec<_> = kept
            .map(|(known, value)| {
                let changed = to.filter(|_| *known == name).map_or_else(|| value.clone(), str::to_owned);
                (*known, changed)
            })
            .collect();
        with(&changed)
    };
    let signature = valid.last().expect("a signature").1.clone();
    let registry = Seal { registry: Some(RegistryId::generate()), ..usual.clone() };
    let mut refused = vec![
        plain(),
        but(SIGNATURE_HEADER, Some(&signature[..63])),
        but(TIME_HEADER, Some("99999999999999999999")),
        but(TIME_HEADER, Some("-9223372036854775808")),
        but(TIME_HEADER, Some(&(usual.time.unix() + 1).to_string())),
        but(NONCE_HEADER, Some(Nonce::generate().as_str())),
        but(RECIPIENT_HEADER, Some("node localhost")),
        but(SIGNATURE_HEADER, Some(&"f".repeat(64))),
        but(SIGNATURE_HEADER, Some(&"é".repeat(32))),
        with(&valid).header(REGISTRY_HEADER, RegistryId::generate().to_string()),
        with(&usual.headers("GET", STATUS, &body)),
        with(&usual.headers("POST", "/cgi-bin/node/deploy", &body)),
        with(
            &Seal { to: Some(recipient("/cgi-bin/node/info")), ..usual.clone() }
                .headers("POST", STATUS, &body),
        ),
        with(&Seal { key: &other, ..usual.clone() }.headers("POST", STATUS, &body)),
        with(&later(-400).headers("POST", STATUS, &body)),
        with(&later(400).headers("POST", STATUS, &body)),
        with(&valid).header(SIGNATURE_HEADER, signature.as_str()),
        with(&valid).header(TIME_HEADER, "1"),
    ];
    for name in [SIGNATURE_HEADER, TIME_HEADER, NONCE_HEADER, RECIPIENT_HEADER] {
        refused.extend([None, Some(""), Some("zz"), Some("é")].map(|to| but(name, to)));
    }
    for ask in refused {
        let answer = ask.send();
        assert!(matches!(answer.status, 400 | 403), "{ask:?}: {answer}");
    }
    // The same signature for another body or another query.
    let mut changed = body.clone();
    changed[10] ^= 1;
    send(plain().body(changed), &valid).send().expect(403);
    send(portal.ask("POST", &format!("{STATUS}?x=y")).body(body.clone()), &valid).send().expect(403);
    // From a node that obeys another registry.
    with(&registry.headers("POST", STATUS, &body)).send().expect(409).says("Nothing is changed on the host");
    assert_eq!(portal.state("alice", &id), "deploying");
    with(&valid).send().expect(200);
    assert_eq!(portal.state("alice", &id), "deployed");
    portal.assert_no_panic();
}

#[test]
fn only_a_signed_message_chooses_its_request_id() {
    let portal = Portal::start();
    let id = |answer: Answer| answer.json()["error"]["request"].as_str().expect("an id").to_owned();
    let other = Key::new(&"k".repeat(64)).expect("a key");
    // `Portal::signed` names the request `test`.
    assert_eq!(id(portal.signed(STATUS, b"no report".to_vec(), &portal.key).send().expect(400)), "test");
    let forged = portal.signed(STATUS, b"no report".to_vec(), &other).send().expect(403);
    assert_ne!(id(forged), "test", "with another's key");
    let bare = portal.ask("POST", STATUS).header(REQUEST_HEADER, "test").body(b"{}".to_vec());
    assert_ne!(id(bare.send().expect(403)), "test", "without a signature");
    let node = portal.signed("/cgi-bin/node/deploy", b"no order".to_vec(), &other).send().expect(403);
    assert_ne!(id(node), "test", "at a node");
    for query in ["list?page=x&format=json", "list?scope=all&format=json"] {
        let user = portal.get("alice", query).header(REQUEST_HEADER, "test").send();
        assert_ne!(id(user), "test", "by a user: {query}");
    }
    if let Some(log) = portal.own_log() {
        assert_eq!(log.matches(" request=test ").count(), 1, "{log}");
    }
}

#[test]
fn a_signed_message_that_is_no_report_is_refused_with_a_sentence() {
    let portal = Portal::start();
    let id = portal.deploy("alice", &[]);
    let report = |change: &dyn Fn(&mut Value)| {
        let mut report = done(&id);
        change(&mut report);
        report.to_string().into_bytes()
    };
    let bodies: Vec<Vec<u8>> = vec![
        Vec::new(),
        b"null".to_vec(),
        b"[]".to_vec(),
        b"{".to_vec(),
        b"\xff\xfe".to_vec(),
        vec![0; 100],
        b"[".repeat(60_000),
        b"id=x&sequence=1".to_vec(),
        report(&|r| r["id"] = json!("x")),
        report(&|r| r["id"] = json!("../../etc/passwd")),
        report(&|r| r["id"] = json!(id.to_uppercase())),
        report(&|r| r["id"] = Value::Null),
        report(&|r| r["sequence"] = json!(-1)),
        report(&|r| r["sequence"] = json!(4_294_967_296_u64)),
        report(&|r| r["sequence"] = json!("1")),
        report(&|r| r["order"] = json!("explode")),
        report(&|r| drop(r.as_object_mut().and_then(|o| o.remove("order")))),
        report(&|r| r["news"] = json!({"event": "exploded"})),
        report(&|r| r["news"] = json!({"event": "deployed"})),
        report(&|r| r["news"] = json!({"event": "progress", "stage": "accepted", "place": -1})),
        report(&|r| r["news"] = json!({"event": "progress", "stage": "lunch", "percent": 1})),
        report(&|r| r["news"] = json!({"event": "progress", "stage": "unpack", "percent": 101})),
        report(&|r| r["news"] = json!({"event": "progress", "stage": "unpack", "percent": -1})),
        report(&|r| r["news"] = json!({"event": "failed", "fault": {"code": "bad-mood"}})),
        report(&|r| r["host"] = json!({"memory_free": -5})),
        report(&|r| drop(r.as_object_mut().and_then(|o| o.remove("news")))),
    ];
    for body in bodies {
        let shown = String::from_utf8_lossy(&body[..body.len().min(90)]).into_owned();
        let answer = portal.signed(STATUS, body, &portal.key).send();
        assert_eq!(answer.status, 400, "{shown}: {answer}");
        assert!(answer.error_message().contains("not a report"), "{shown}: {answer}");
    }
    portal.signed(STATUS, vec![b' '; 70_000], &portal.key).send().expect(413);
    assert_eq!(portal.state("alice", &id), "deploying");
    portal.assert_no_panic();
}

#[test]
fn text_from_a_node_never_becomes_markup_or_a_second_line() {
    let portal = Portal::start();
    let id = portal.deploy("alice", &[]);
    let fault = Fault::StartFailed { detail: "<img src=x>\n\tsecond\u{1b}[2J line".to_owned() };
    portal.report(&id, Order::Deploy, 1, News::Failed { fault }).expect(200);
    for page in ["list".to_owned(), format!("show?id={id}")] {
        let text = portal.get("alice", &page).send().expect(200).text();
        assert!(!text.contains("<img src=x>") && !text.contains('\u{1b}'), "{text}");
        let lines =
            portal.get("alice", &format!("{page}{}format=text", if page.contains('?') { '&' } else { '?' }));
        for line in lines.send().expect(200).text().lines() {
            assert!(!line.starts_with("second") && !line.contains('\u{1b}'), "{line}");
        }
    }
    let line = portal.get("alice", "list?format=text").send().expect(200).text();
    assert_eq!(line.lines().next().map(|l| l.split('\t').count()), Some(12), "{line}");
}
