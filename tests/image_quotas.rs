//! What a person may have of saved images.

use serde_json::Value;
use vgrid::model::stage::Order;
use vgrid::model::wire::News;

use crate::support::http::Answer;
use crate::support::portal::{Portal, Setup, state_of};

fn portal(quotas: &str) -> Portal {
    let more_server = format!("[Quotas]\n{quotas}\n");
    Setup { hosts: vec![("localhost", 20)], names: 20, more_server, ..Setup::default() }.start()
}

/// A machine of alice's that is stopped, with that partition.
#[track_caller]
fn stopped(portal: &Portal, disk: &str) -> String {
    let id = portal.deploy("alice", &[("vmPartition", disk)]);
    portal.report(&id, Order::Deploy, 9, News::Done).expect(200);
    portal.order("alice", Order::Stop, &id).expect(202);
    portal.report(&id, Order::Stop, 9, News::Done).expect(200);
    id
}

fn save(portal: &Portal, user: &str, id: &str, name: &str) -> Answer {
    portal.post(user, "save", &[("id", id), ("name", name), ("format", "json")]).send()
}

#[track_caller]
fn saved(portal: &Portal, id: &str, name: &str, bytes: u64) {
    save(portal, "alice", id, name).expect(202);
    portal.report(id, Order::Save, 9, News::Saved { bytes }).expect(200);
}

#[track_caller]
fn refused(answer: Answer, field: &str, words: &str) {
    let json = answer.expect(409).json();
    let said = json["error"]["fields"][field].as_str().unwrap_or_default();
    assert!(said.contains(words), "no {words:?} in {json}");
}

#[test]
fn who_has_all_the_images_that_they_may_have_saves_no_more() {
    let portal = portal("images = 2");
    let [first, second, third] = ["1"; 3].map(|disk| stopped(&portal, disk));
    saved(&portal, &first, "one", 5 << 20);
    // One that is being saved counts, and can be asked for again.
    save(&portal, "alice", &second, "two").expect(202);
    save(&portal, "alice", &second, "two").expect(202);
    let words = "alice has 2 saved images, and the limit is 2. Delete one";
    refused(save(&portal, "alice", &third, "three"), "name", words);
    assert_eq!(portal.nodes.orders("save").len(), 3, "orders to the node");
    // Whoever asks, and however.
    refused(save(&portal, "admin", &third, "three"), "name", words);
    let fields = [("id", third.as_str()), ("saveAs", "three"), ("format", "json")];
    refused(portal.post("alice", "terminate", &fields).send(), "saveAs", words);
    assert_eq!(state_of(&portal.show("alice", &third)), "stopped");
    assert!(portal.nodes.orders("terminate").is_empty());
    portal.report(&second, Order::Save, 9, News::Saved { bytes: 5 << 20 }).expect(200);
    portal.get("alice", "images").send().expect(200).says("You have 2 of 2 saved images, 0.0 GiB.");
    // What is deleted makes room.
    let fields = [("do", "delete"), ("name", "one"), ("format", "json")];
    portal.post("alice", "images", &fields).send().expect(202);
    saved(&portal, &third, "three", 5 << 20);
    portal.assert_no_panic();
}

#[test]
fn images_count_by_size_and_half_made_ones_by_their_partitions() {
    let portal = portal("imageDisk = 10\n[Quotas.users]\nbob = {}");
    let [small, large, third] = ["4", "7", "1"].map(|disk| stopped(&portal, disk));
    saved(&portal, &small, "one", 3 << 30);
    save(&portal, "alice", &large, "two").expect(202);
    refused(
        save(&portal, "alice", &third, "three"),
        "name",
        "take 10.0 GiB together, and the limit is 10.0 GiB",
    );
    portal.report(&large, Order::Save, 9, News::Saved { bytes: 1 << 30 }).expect(200);
    save(&portal, "alice", &third, "three").expect(202);
    let json = portal.get("alice", "images?format=json").send().expect(200).json();
    assert_eq!(json["quota"], "You have 3 saved images, 5.0 of 10 GiB.");
    // Who has no limit is told of none.
    let json = portal.get("bob", "images?format=json").send().expect(200).json();
    assert_eq!(json["quota"], Value::Null);
}
