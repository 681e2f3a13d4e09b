//! Many who want the same thing at the same time.

use std::sync::Barrier;

use serde_json::Value;

use crate::support::http::Answer;
use crate::support::node::Conduct;
use crate::support::portal::{Portal, Setup, id_of};
use vgrid::model::fault::Fault;
use vgrid::model::size::Amount;
use vgrid::model::stage::Order;
use vgrid::model::wire::News;

/// Sends the same order as often as told, all at once.
fn at_once(portal: &Portal, many: usize, fields: &[(&str, &str)]) -> Vec<Answer> {
    let start = Barrier::new(many);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..many)
            .map(|n| {
                let user = ["alice", "bob", "admin"][n % 3];
                let ask = portal.post(user, "deploy", fields);
                let start = &start;
                scope.spawn(move || {
                    start.wait();
                    ask.send()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("an answer")).collect()
    })
}

/// Checks that exactly so many were accepted and all others refused with these words.
#[track_caller]
fn accepted(answers: &[Answer], many: usize, words: &str) -> Vec<String> {
    let mut ids = Vec::new();
    for answer in answers {
        match answer.status {
            202 => ids.push(id_of(&answer.json())),
            409 => {
                let message = answer.json()["error"]["message"].as_str().unwrap_or_default().to_owned();
                assert!(message.contains(words), "{answer}");
            }
            _ => panic!("neither accepted nor refused: {answer}"),
        }
    }
    assert_eq!(ids.len(), many, "accepted");
    ids
}

fn live(portal: &Portal) -> Vec<Value> {
    portal.list("admin")["machines"].as_array().expect("machines").clone()
}

const DEPLOY: [(&str, &str); 4] =
    [("vmImage", "tiny"), ("vmMemory", "128"), ("vmPartition", "1"), ("format", "json")];

/// Of a hundred who want the last slot or the same name, one gets it; the node hears of that one alone.
fn of_a_hundred_one(setup: Setup, more: &[(&str, &str)], words: &str) {
    let portal = setup.start();
    let fields = [&DEPLOY[..], more].concat();
    let ids = accepted(&at_once(&portal, 100, &fields), 1, words);
    let machines = live(&portal);
    assert_eq!(machines.len(), 1, "{machines:?}");
    assert_eq!(machines[0]["id"], ids[0].as_str());
    let orders = portal.nodes.orders("deploy");
    assert_eq!(orders.len(), 1, "orders to the node");
    assert_eq!(orders[0].json()["id"], ids[0].as_str());
    // And what was taken is free again afterwards, once.
    portal.post("admin", "terminate", &[("id", &ids[0]), ("format", "json")]).send().expect(202);
    portal.report(&ids[0], Order::Terminate, 1, News::Done).expect(200);
    assert!(live(&portal).is_empty());
    accepted(&at_once(&portal, 10, &fields), 1, words);
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
fn as_many_as_there_is_room_for_and_no_two_alike() {
    let hosts = vec![("localhost", 7), ("127.0.0.2", 4)];
    let portal = Setup { hosts, names: 50, ..Setup::default() }.start();
    accepted(&at_once(&portal, 40, &DEPLOY), 11, "full");
    let machines = live(&portal);
    let mut names: Vec<_> = machines.iter().map(|m| m["virtual_host"].to_string()).collect();
    names.sort();
    names.dedup();
    assert_eq!((machines.len(), names.len()), (11, 11));
    for (host, maximum) in [("localhost", 7), ("127.0.0.2", 4)] {
        assert_eq!(machines.iter().filter(|m| m["physical_host"] == host).count(), maximum, "{host}");
    }
    assert_eq!(portal.nodes.orders("deploy").len(), 11);
}

#[test]
fn a_host_without_memory_refuses_and_nothing_is_half_done() {
    let portal = Setup { hosts: vec![("localhost", 50)], names: 50, ..Setup::default() }.start();
    let fault = Fault::NotEnoughMemory { needed: Amount::from_mib(128), free: Amount::from_mib(60) };
    portal.nodes.conduct(Conduct::Refuse(fault));
    let answers = at_once(&portal, 20, &DEPLOY);
    accepted(&answers, 0, "only 60 MiB of memory free");
    let machines = live(&portal);
    assert!(machines.len() == 20 && machines.iter().all(|m| m["state"] == "failed"), "{machines:?}");
    for machine in machines {
        let id = machine["id"].as_str().expect("an id");
        portal.post("admin", "terminate", &[("id", id), ("format", "json")]).send().expect(202);
    }
    assert!(live(&portal).is_empty());
}

#[test]
fn one_machine_is_terminated_once_however_many_ask() {
    let portal = Portal::start();
    let id = portal.deploy("alice", &[]);
    portal.report(&id, Order::Deploy, 1, News::Done).expect(200);
    let start = Barrier::new(20);
    std::thread::scope(|scope| {
        for n in 0..20 {
            let user = ["alice", "admin"][n % 2];
            let ask = portal.post(user, "terminate", &[("id", &id), ("format", "json")]);
            let start = &start;
            scope.spawn(move || {
                start.wait();
                ask.send().expect(202);
            });
        }
    });
    portal.report(&id, Order::Terminate, 1, News::Done).expect(200);
    assert_eq!(portal.show("alice", &id)["machine"]["state"], "notDeployed");
    assert!(portal.nodes.orders("terminate").iter().all(|order| order.json()["id"] == id.as_str()));
}
