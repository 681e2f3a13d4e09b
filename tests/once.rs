//! One order is one machine, however often it is sent: by a double click, by the back button, or by
//! a script that got no answer.

use serde_json::Value;
use vgrid::model::fault::Fault;
use vgrid::model::stage::Order;
use vgrid::model::wire::News;

use crate::support::at_once;
use crate::support::browser::Browser;
use crate::support::http::Answer;
use crate::support::portal::{DEPLOY, DEPLOY_JSON, Portal, Setup, id_of, password, state_of, with_query};

/// How many send the same form, or the same order of a script, at once.
const CLICKS: usize = 12;
const TRIES: usize = 8;

/// The hidden fields of the form on a page.
#[track_caller]
fn hidden(page: &Answer) -> Vec<(String, String)> {
    let text = page.text();
    let inputs = text.split("<input type=\"hidden\" name=\"").skip(1);
    let fields: Vec<_> = inputs
        .map(|rest| {
            let (name, rest) = rest.split_once("\" value=\"").expect("a value");
            (name.to_owned(), rest.split('"').next().expect("a value").to_owned())
        })
        .collect();
    assert!(!fields.is_empty(), "no form on {page}");
    fields
}

/// The form that a user gets, filled in.
fn filled_in(portal: &Portal, user: &str) -> Vec<(String, String)> {
    let mut fields = hidden(&portal.get(user, "deploy").send().expect(200));
    fields.extend(DEPLOY.map(|(name, value)| (name.to_owned(), value.to_owned())));
    fields
}

fn send(portal: &Portal, user: &str, fields: &[(String, String)]) -> Answer {
    let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (&**name, &**value)).collect();
    portal.post(user, "deploy", &fields).like_a_browser().send()
}

#[test]
fn a_form_sent_many_times_at_once_is_one_order() {
    let portal = Setup::one_host(50).start();
    let fields = filled_in(&portal, "alice");
    let mut pages = at_once(CLICKS, |_| {
        let answer = send(&portal, "alice", &fields).expect(303);
        answer.header("location").expect("a page to go to").to_owned()
    });
    pages.sort();
    pages.dedup();
    assert_eq!(pages.len(), 1, "{pages:?}");
    assert_eq!(portal.machine_count("alice"), 1);
    assert_eq!(portal.nodes.orders("deploy").len(), 1, "the host got more than one order");
    // The machine has the id that was in the form.
    let id = pages[0].strip_prefix("show?id=").expect("a machine's page");
    assert!(fields.iter().any(|(_, value)| value.starts_with(id)), "{fields:?}");
    portal.assert_no_panic();
}

#[test]
fn the_back_button_orders_nothing_twice() {
    let portal = Setup::one_host(50).start();
    let fields = filled_in(&portal, "alice");
    let first = send(&portal, "alice", &fields).expect(303);
    let page = first.header("location").expect("a page to go to").to_owned();
    let id = page.strip_prefix("show?id=").expect("a machine's page").to_owned();
    // Also when it already runs, and when it is gone.
    portal.report(&id, Order::Deploy, 9, News::Done).expect(200);
    assert_eq!(send(&portal, "alice", &fields).expect(303).header("location"), Some(page.as_str()));
    portal.carry_out("alice", Order::Terminate, &id);
    assert_eq!(send(&portal, "alice", &fields).expect(303).header("location"), Some(page.as_str()));
    assert_eq!(portal.machine_count("alice"), 0);
    assert_eq!(portal.nodes.orders("deploy").len(), 1);
    // Sent with other values, the portal asks whether another machine is meant. The form that asks
    // is good for one.
    let mut other = fields.clone();
    for (name, value) in &mut other {
        if name == "vmMemory" {
            "256".clone_into(value);
        }
    }
    let asked = send(&portal, "alice", &other).expect(409);
    asked.clone().says("already been sent").says(&page).says("value=\"256\"");
    assert_eq!(portal.machine_count("alice"), 0);
    let mut again = hidden(&asked);
    again.extend(other.into_iter().filter(|(name, _)| name.starts_with("vm")));
    let second = send(&portal, "alice", &again).expect(303);
    assert_ne!(second.header("location"), Some(page.as_str()));
    assert_eq!(portal.machine_count("alice"), 1);
}

#[test]
fn a_repeated_order_with_other_processors_is_refused() {
    let portal = Setup::one_host(50).start();
    let order = |more: &[(&str, &str)]| {
        let fields = [&DEPLOY_JSON[..], &[("requestId", "one")], more].concat();
        portal.post("alice", "deploy", &fields).send()
    };
    let id = id_of(&order(&[("vmCPUs", "2")]).expect(202).json());
    assert_eq!(id_of(&order(&[("vmCPUs", "2")]).expect(202).json()), id);
    for other in [&[][..], &[("vmCPUs", "1")], &[("vmCPUs", "3")]] {
        order(other).expect(409).says("was given before");
    }
    assert_eq!(portal.nodes.orders("deploy").len(), 1);
}

#[test]
fn two_forms_are_two_machines() {
    let portal = Setup::one_host(50).start();
    let (one, other) = (filled_in(&portal, "alice"), filled_in(&portal, "alice"));
    assert_ne!(one, other);
    send(&portal, "alice", &one).expect(303);
    send(&portal, "alice", &other).expect(303);
    assert_eq!(portal.machine_count("alice"), 2);
}

#[test]
fn a_declined_form_can_be_sent_again() {
    let portal = Setup { hosts: vec![("localhost", 1)], names: 5, ..Setup::default() }.start();
    let id = portal.deployed("bob");
    let fields = filled_in(&portal, "alice");
    send(&portal, "alice", &fields).expect(409).says("full");
    portal.carry_out("bob", Order::Terminate, &id);
    send(&portal, "alice", &fields).expect(303);
    assert_eq!(portal.machine_count("alice"), 1);
}

#[test]
fn nobody_chooses_a_machine_s_id() {
    let portal = Setup { clock: true, hosts: vec![("localhost", 50)], names: 50, ..Setup::default() }.start();
    let bobs = filled_in(&portal, "bob");
    let machine = |fields: &[(String, String)]| {
        fields.iter().find(|(name, _)| name == "machine").expect("an id in the form").1.clone()
    };
    let (id, proof) = {
        let whole = machine(&bobs);
        let (id, proof) = whole.split_once('.').expect("an id and its proof");
        (id.to_owned(), proof.to_owned())
    };
    let fresh = vgrid::model::names::VmId::generate().to_string();
    let bad = [
        machine(&bobs),
        id.clone(),
        format!("{id}."),
        format!("{fresh}.{proof}"),
        format!("{fresh}.{}", "0".repeat(32)),
        "x.y".to_owned(),
        "é".to_owned(),
        "x".repeat(3000),
    ];
    for given in bad {
        let mut fields = filled_in(&portal, "alice");
        fields
            .iter_mut()
            .filter(|(name, _)| name == "machine")
            .for_each(|(_, value)| value.clone_from(&given));
        let answer = send(&portal, "alice", &fields);
        assert_eq!(answer.status, 403, "{given:.60}: {answer}");
        answer.says("too old, or not from this portal");
    }
    assert_eq!(portal.machine_count("alice"), 0);
    // Bob's form still works.
    send(&portal, "bob", &bobs).expect(303);
    // An old form expires too, although a script needs no token that would expire.
    let old = filled_in(&portal, "alice");
    portal.pass(3 * 86_400);
    let fields: Vec<(&str, &str)> = old.iter().map(|(name, value)| (&**name, &**value)).collect();
    portal.post("alice", "deploy", &fields).send().expect(403).says("too old");
    assert_eq!(portal.machine_count("alice"), 0);
}

#[test]
fn a_request_id_stands_for_one_order() {
    let portal = Setup::one_host(50).start();
    let fields = [&DEPLOY[..], &[("requestId", "nightly_2026-11-26.a"), ("format", "json")]].concat();
    let mut ids = at_once(TRIES, |n| {
        let ask = if n % 2 == 0 {
            portal.get("alice", &with_query("deploy", &fields))
        } else {
            portal.post("alice", "deploy", &fields)
        };
        id_of(&ask.send().expect(202).json())
    });
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 1, "{ids:?}");
    assert_eq!(portal.nodes.orders("deploy").len(), 1);
    // Request ids belong to their user: the same id of another user is another order.
    portal.post("bob", "deploy", &fields).send().expect(202);
    assert_eq!((portal.machine_count("alice"), portal.machine_count("bob")), (1, 1));
    // With other values it is not a repetition, and so an error.
    let mut other = fields.clone();
    other[1].1 = "256";
    let refused = portal.post("alice", "deploy", &other).send().expect(409).says(&ids[0]).json();
    assert!(refused["error"]["fields"]["requestId"].is_string(), "{refused}");
    for bad in ["a b", "a/b", "é", "a;b", &"x".repeat(65)] {
        let wrong = [&DEPLOY[..], &[("requestId", bad), ("format", "json")]].concat();
        portal.post("alice", "deploy", &wrong).send().expect(400).says("requestId");
    }
    // Without a request id, or with an empty one, each request is an order.
    let empty = [&DEPLOY[..], &[("requestId", ""), ("format", "json")]].concat();
    portal.post("alice", "deploy", &empty).send().expect(202);
    portal.post("alice", "deploy", &empty).send().expect(202);
    assert_eq!(portal.machine_count("alice"), 3);
}

#[test]
fn a_repeated_order_returns_the_outcome_of_the_first() {
    let portal = Setup::one_host(50).start();
    let fields = [&DEPLOY[..], &[("requestId", "a"), ("format", "json")]].concat();
    let id = id_of(&portal.post("alice", "deploy", &fields).send().expect(202).json());
    portal.report(&id, Order::Deploy, 1, News::Failed { fault: Fault::PrivilegeRefused }).expect(200);
    let repeated = portal.post("alice", "deploy", &fields).send();
    let answer: Value = repeated.json();
    assert!(repeated.status >= 400 && state_of(&answer) == "failed", "{repeated}");
    assert_eq!(id_of(&answer), id);
    assert_eq!(portal.machine_count("alice"), 1);
}

#[test]
fn a_double_click_in_a_browser_makes_one_machine() {
    let portal = Setup::one_host(50).start();
    let browser = Browser::start();
    let address = portal.apache.address;
    browser.open(&format!("http://alice:{}@{address}/cgi-bin/user/list", password("alice")));
    browser.open(&format!("http://{address}/cgi-bin/user/deploy"));
    browser.click("input[name=vmImage][value=tiny]");
    browser.run("const form = document.querySelector('form'); form.submit(); form.submit(); form.submit()");
    browser.wait("document.querySelector('#machine .s.deploying')");
    let page = browser.url();
    browser.run("history.back()");
    browser.wait("document.querySelector('form[action=deploy] button')");
    browser.click("form[action=deploy] button");
    browser.wait("document.querySelector('#machine .s.deploying')");
    assert_eq!(browser.url(), page);
    assert_eq!(portal.machine_count("alice"), 1);
    portal.assert_no_panic();
}
