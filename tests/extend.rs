//! Leases, as users set them.

use serde_json::Value;
use vgrid::model::stage::Order;
use vgrid::model::wire::News;

use crate::support::portal::{Portal, Setup, state_of};

const DAY: i64 = 86_400;

/// The days left of a machine's lease, rounded; `None` for no end.
#[track_caller]
fn days_left(portal: &Portal, id: &str) -> Option<i64> {
    match &portal.show("alice", id)["machine"]["expires"] {
        Value::Null => None,
        expires => {
            let end: jiff::Timestamp = expires["iso"].as_str().expect("a time").parse().expect("a time");
            Some((end.as_second() - portal.now().unix() + DAY / 2) / DAY)
        }
    }
}

#[test]
fn a_script_extends_a_lease() {
    let portal = Setup::one_host(20).start();
    let id = portal.deployed("alice");
    assert_eq!(days_left(&portal, &id), Some(7));
    portal.get("alice", &format!("extend?id={id}&expiryTime=30d&format=json")).send().expect(202);
    assert_eq!(days_left(&portal, &id), Some(30));
    // A shorter lease must be confirmed.
    portal
        .get("alice", &format!("extend?id={id}&expiryTime=1d&format=json"))
        .send()
        .expect(409)
        .says("shorter")
        .says("confirm=1");
    assert_eq!(days_left(&portal, &id), Some(30));
    portal.get("alice", "extend?vmHostname=vm1&expiryTime=1d&confirm=1&format=json").send().expect(202);
    assert_eq!(days_left(&portal, &id), Some(1));
    portal
        .get("alice", &format!("extend?id={id}&expiryTime=91d&format=json"))
        .send()
        .expect(400)
        .says("At most 90d");
    portal
        .get("alice", &format!("extend?id={id}&expiryTime=never&format=json"))
        .send()
        .expect(400)
        .says("administrator");
    for bad in ["x", "7", "-1d", "%00", "%ff", "1d%0ax"] {
        portal.get("alice", &format!("extend?id={id}&expiryTime={bad}&format=json")).send().expect(400);
    }
    portal.get("alice", &format!("extend?id={id}&confirm=perhaps&format=json")).send().expect(400);
    portal.get("bob", &format!("extend?id={id}&expiryTime=30d&format=json")).send().expect(403);
    assert_eq!(days_left(&portal, &id), Some(1));
    portal.get("admin", &format!("extend?id={id}&expiryTime=300d&format=json")).send().expect(202);
    assert_eq!(days_left(&portal, &id), Some(300));
    portal.get("admin", &format!("extend?id={id}&expiryTime=never&format=json")).send().expect(202);
    assert_eq!(days_left(&portal, &id), None);
    let line = portal.get("alice", "list?format=text").send().expect(200).text();
    assert!(line.contains("\tnever\t"), "{line}");
    let page = portal.get("alice", &format!("show?id={id}")).header("Accept", "text/html").send().expect(200);
    page.says("never").says(&format!("extend?id={id}"));
    let history = portal.history("alice", &id);
    assert_eq!(history.matches("lease set").count(), 4, "{history}");
    portal.assert_no_panic();
}

#[test]
fn opening_a_link_changes_nothing() {
    let portal = Setup::one_host(20).start();
    let id = portal.deployed("alice");
    for path in [format!("extend?id={id}"), format!("extend?id={id}&expiryTime=30d&confirm=1&protect=1")] {
        let page = portal.get("alice", &path).header("Accept", "text/html").send().expect(200);
        page.says("New lease").says("action=\"extend\"");
        assert_eq!(days_left(&portal, &id), Some(7));
        assert_eq!(portal.show("alice", &id)["machine"]["protected"], false);
    }
    // The form without its token.
    let form = [("id", id.as_str()), ("expiryTime", "30d")];
    portal.post("alice", "extend", &form).header("Accept", "text/html").send().expect(403);
    assert_eq!(days_left(&portal, &id), Some(7));
}

#[test]
fn an_expired_machine_comes_back() {
    let portal = Setup::one_host(20).start();
    let expired = |wanted: &str| {
        let id = portal.deployed("alice");
        portal
            .database()
            .execute(
                "UPDATE vm SET state = 'expired', expires = 1000, deletion = 2000, wanted = ?2 WHERE id = ?1",
                (&id, wanted),
            )
            .expect("an expired machine");
        id
    };
    let id = expired("running");
    portal.order("alice", Order::Start, &id).expect(409).says("Extend its lease");
    let answer = portal.get("alice", &format!("extend?id={id}&expiryTime=5d&format=json")).send().expect(202);
    assert_eq!(state_of(&answer.json()), "starting");
    assert_eq!(portal.nodes.orders("start").len(), 1);
    portal.report(&id, Order::Start, 3, News::Done).expect(200);
    let shown = portal.show("alice", &id);
    assert_eq!((state_of(&shown), &shown["machine"]["deletion"]), ("deployed", &Value::Null));
    // A machine that its owner had stopped stays stopped.
    let id = expired("stopped");
    let answer = portal.get("alice", &format!("extend?id={id}&expiryTime=5d&format=json")).send().expect(202);
    assert_eq!(state_of(&answer.json()), "stopped");
    assert_eq!(portal.nodes.orders("start").len(), 1);
}
