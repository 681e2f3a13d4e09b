//! A message between server and nodes counts once, on the host it is for, and on behalf of the
//! registry that the host obeys. Real node programs under Apache; what the orders do is tested on
//! the emulated host.

use std::fs;

use serde_json::{Value, json};
use vgrid::model::names::RegistryId;
use vgrid::model::sign::{Key, REGISTRY_HEADER, Recipient, SIGNATURE_HEADER, SignedAnswer};

use crate::support::at_once;
use crate::support::http::{Answer, Ask};
use crate::support::portal::{Portal, STATUS};
use crate::support::signed::{Seal, recipient};

/// Everything that takes orders. The tests send a body that is not an order, so a 400 means that
/// the message was accepted.
const ORDERS: [&str; 10] =
    ["deploy", "terminate", "stop", "start", "reboot", "save", "resize", "snapshot", "image", "discard"];

fn path(program: &str) -> String {
    format!("/cgi-bin/node/{program}")
}

/// A signed message whose body is not an order.
fn message_to(portal: &Portal, seal: &Seal<'_>, program: &str) -> Ask {
    portal.sealed(seal, &path(program), json!({"no": "order"}).to_string().into_bytes())
}

#[test]
fn a_replayed_message_is_refused() {
    let portal = Portal::start();
    for program in ORDERS {
        let message = message_to(&portal, &portal.seal(&portal.key), program);
        message.clone().send().expect(400);
        for _ in 0..2 {
            message.clone().send().expect(409).says("came before");
        }
        // The same order signed again is another message.
        message_to(&portal, &portal.seal(&portal.key), program).send().expect(400);
    }
    // A question may be repeated: it changes nothing.
    let question = portal.signed_get(&path("info"), &portal.key);
    let first = question.clone().send().status;
    assert_eq!(question.send().status, first);
    assert_ne!(first, 409);
    portal.assert_no_panic();
}

#[test]
fn of_concurrent_copies_of_a_message_one_is_accepted() {
    let portal = Portal::start();
    let message = message_to(&portal, &portal.seal(&portal.key), "reboot");
    let statuses = at_once(12, |_| message.send().status);
    assert_eq!(statuses.iter().filter(|status| **status == 400).count(), 1, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 409).count(), 11, "{statuses:?}");
}

#[test]
fn a_message_for_another_host_is_refused() {
    let portal = Portal::start();
    for program in ORDERS {
        let usual = portal.seal(&portal.key);
        for other in ["node7", "node7.example.org"] {
            let seal = Seal { to: Some(Recipient::Node(other.parse().expect("a host"))), ..usual.clone() };
            message_to(&portal, &seal, program).send().expect(403).says(&format!("is for node {other}"));
        }
        let seal = Seal { to: Some(Recipient::Server), ..usual.clone() };
        message_to(&portal, &seal, program).send().expect(403).says("is for server");
        message_to(&portal, &usual, program).send().expect(400);
    }
    let seal = Seal { to: Some(recipient(&path("info"))), ..portal.seal(&portal.key) };
    portal.sealed(&seal, STATUS, b"{}".to_vec()).send().expect(403).says("this is the server");
}

#[test]
fn a_node_obeys_the_first_registry_that_it_meets_and_no_other() {
    let portal = Portal::start();
    let file = portal.path("var/node/registry");
    let usual = portal.seal(&portal.key);
    message_to(&portal, &Seal { registry: None, ..usual.clone() }, "stop")
        .send()
        .expect(403)
        .says("no registry");
    // A message with another key leaves no mark.
    let other_key = Key::new(&"k".repeat(64)).expect("a key");
    message_to(&portal, &Seal { key: &other_key, ..usual.clone() }, "stop").send().expect(403);
    assert!(!file.exists());

    message_to(&portal, &usual, "stop").send().expect(400);
    let known = || fs::read_to_string(&file).expect("the registry that it obeys");
    assert_eq!(known().trim(), portal.registry.to_string());
    let other = RegistryId::generate();
    for program in ORDERS {
        let seal = Seal { registry: Some(other), ..portal.seal(&portal.key) };
        let refused = message_to(&portal, &seal, program).send().expect(403);
        // The error names both registries and both remedies.
        for words in [&portal.registry.to_string(), &other.to_string(), "vgrid-registry restore", "remove /"]
        {
            assert!(refused.text().contains(words), "{words}: {refused}");
        }
    }
    assert_eq!(known().trim(), portal.registry.to_string());
    // An unreadable file does not count as none.
    fs::write(&file, "half").expect("the file");
    message_to(&portal, &usual, "stop").send().expect(500);
    assert_eq!(known(), "half");
    fs::remove_file(&file).expect("the file");
    message_to(&portal, &Seal { registry: Some(other), ..usual }, "stop").send().expect(400);
    assert_eq!(known().trim(), other.to_string());
    portal.assert_no_panic();
}

/// Whether an answer is signed as the answer to this request.
fn is_signed_for(answer: &Answer, key: &Key, request: &str) -> bool {
    let registry = answer.header(&REGISTRY_HEADER.to_lowercase()).map(|id| id.parse().expect("an identity"));
    let signature = answer.header(&SIGNATURE_HEADER.to_lowercase()).unwrap_or_default();
    SignedAnswer { request, status: answer.status, registry, body: &answer.body }.is_signed_by(key, signature)
}

#[test]
fn answers_are_signed_for_their_request_alone() {
    let portal = Portal::start();
    let id = portal.deploy("alice", &[]);
    let report: Value = json!({"id": id, "order": "deploy", "number": 1, "sequence": 1,
        "news": {"event": "progress", "stage": "volumes", "percent": null}, "host": null});
    for (to, body, status) in [
        (STATUS.to_owned(), report.to_string(), 200),
        (STATUS.to_owned(), "{}".to_owned(), 400),
        (path("stop"), "{}".to_owned(), 400),
    ] {
        let headers = portal.seal(&portal.key).headers("POST", &to, body.as_bytes());
        let request = &headers.last().expect("a signature").1;
        let ask =
            headers.iter().fold(portal.ask("POST", &to).body(body.into_bytes()), |ask, (name, value)| {
                ask.header(name, value.as_str())
            });
        let answer = ask.send().expect(status);
        assert!(is_signed_for(&answer, &portal.key, request), "{to}: {answer}");
        assert!(
            !is_signed_for(&answer, &portal.key, &"0".repeat(64)),
            "{to}: it is signed for another request too"
        );
    }
    // Unauthenticated callers get no signature.
    let other_key = Key::new(&"k".repeat(64)).expect("a key");
    let refused = portal.signed(STATUS, report.to_string().into_bytes(), &other_key).send().expect(403);
    assert_eq!(refused.header(&SIGNATURE_HEADER.to_lowercase()), None);
}
