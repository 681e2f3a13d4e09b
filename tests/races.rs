//! Concurrent requests for the same thing.

use serde_json::Value;

use crate::support::at_once;
use crate::support::http::Answer;
use crate::support::node::Conduct;
use crate::support::portal::{DEPLOY_JSON, Portal, Setup, id_of};
use vgrid::model::fault::Fault;
use vgrid::model::size::Amount;
use vgrid::model::stage::Order;
use vgrid::model::wire::News;

/// Sends the same deploy that many times, concurrently, as different users.
fn deploy_at_once(portal: &Portal, many: usize, fields: &[(&str, &str)]) -> Vec<Answer> {
    at_once(many, |n| portal.post(["alice", "bob", "admin"][n % 3], "deploy", fields).send())
}

/// Asserts that exactly that many were accepted and all others refused with these words. Returns
/// the ids.
#[track_caller]
fn accepted(answers: &[Answer], many: usize, words: &str) -> Vec<String> {
    let mut ids = Vec::new();
    for answer in answers {
        match answer.status {
            202 => ids.push(id_of(&answer.json())),
            409 => {
                assert!(answer.error_message().contains(words), "{answer}");
            }
            _ => panic!("neither accepted nor refused: {answer}"),
        }
    }
    assert_eq!(ids.len(), many, "accepted");
    ids
}

/// All machines.
fn machines(portal: &Portal) -> Vec<Value> {
    portal.list("admin")["machines"].as_array().expect("machines").clone()
}

/// Asserts that of a hundred deploys that want the last slot or the same name one is accepted, and
/// that the node gets only that.
fn of_a_hundred_one(setup: Setup, more: &[(&str, &str)], words: &str) {
    let portal = setup.start();
    let fields = [&DEPLOY_JSON[..], more].concat();
    let ids = accepted(&deploy_at_once(&portal, 100, &fields), 1, words);
    let all = machines(&portal);
    assert_eq!(all.len(), 1, "{all:?}");
    assert_eq!(all[0]["id"], ids[0].as_str());
    let orders = portal.nodes.orders("deploy");
    assert_eq!(orders.len(), 1, "orders to the node");
    assert_eq!(orders[0].json()["id"], ids[0].as_str());
    // Afterward it is free again, once.
    portal.carry_out("admin", Order::Terminate, &ids[0]);
    assert!(machines(&portal).is_empty());
    accepted(&deploy_at_once(&portal, 10, &fields), 1, words);
    portal.assert_no_panic();
}

#[test]
fn of_a_hundred_who_want_the_last_slot_one_gets_it() {
    let setup = Setup { hosts: vec![("localhost", 1)], names: 200, ..Setup::default() };
    of_a_hundred_one(setup, &[], "full");
}

#[test]
fn of_a_hundred_who_want_the_last_name_one_gets_it() {
    let setup = Setup { hosts: vec![("localhost", 500)], names: 1, ..Setup::default() };
    of_a_hundred_one(setup, &[], "name");
}

#[test]
fn of_a_hundred_who_want_the_same_name_one_gets_it() {
    let setup = Setup { hosts: vec![("localhost", 500), ("127.0.0.2", 500)], names: 200, ..Setup::default() };
    of_a_hundred_one(setup, &[("vmHostname", "vm77")], "vm77 is taken");
}

#[test]
fn deploys_fill_every_slot_and_share_no_name() {
    let hosts = vec![("localhost", 7), ("127.0.0.2", 4)];
    let portal = Setup { hosts, names: 50, ..Setup::default() }.start();
    accepted(&deploy_at_once(&portal, 40, &DEPLOY_JSON), 11, "full");
    let all = machines(&portal);
    let mut names: Vec<_> = all.iter().map(|machine| machine["virtual_host"].to_string()).collect();
    names.sort();
    names.dedup();
    assert_eq!((all.len(), names.len()), (11, 11));
    for (host, maximum) in [("localhost", 7), ("127.0.0.2", 4)] {
        assert_eq!(all.iter().filter(|machine| machine["physical_host"] == host).count(), maximum, "{host}");
    }
    assert_eq!(portal.nodes.orders("deploy").len(), 11);
}

#[test]
fn deploys_refused_for_lack_of_memory_leave_nothing_behind() {
    let portal = Setup { hosts: vec![("localhost", 50)], names: 50, ..Setup::default() }.start();
    let fault = Fault::NotEnoughMemory { needed: Amount::from_mib(128), free: Amount::from_mib(60) };
    portal.nodes.conduct(Conduct::Refuse(fault));
    let answers = deploy_at_once(&portal, 20, &DEPLOY_JSON);
    accepted(&answers, 0, "only 60 MiB of memory free");
    let all = machines(&portal);
    assert!(all.len() == 20 && all.iter().all(|machine| machine["state"] == "failed"), "{all:?}");
    for machine in all {
        let id = machine["id"].as_str().expect("an id");
        portal.order("admin", Order::Terminate, id).expect(202);
    }
    assert!(machines(&portal).is_empty());
}

#[test]
fn one_machine_is_terminated_once_however_many_ask() {
    let portal = Portal::start();
    let id = portal.deployed("alice");
    at_once(20, |n| portal.order(["alice", "admin"][n % 2], Order::Terminate, &id).expect(202));
    portal.report(&id, Order::Terminate, 1, News::Done).expect(200);
    assert_eq!(portal.state("alice", &id), "notDeployed");
    assert!(portal.nodes.orders("terminate").iter().all(|order| order.json()["id"] == id.as_str()));
}
