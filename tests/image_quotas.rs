//! Quotas for saved images.

use serde_json::Value;
use vgrid::model::stage::Order;
use vgrid::model::wire::News;

use crate::support::http::Answer;
use crate::support::portal::{Portal, Setup};

fn portal(quotas: &str) -> Portal {
    Setup { more_server: format!("[Quotas]\n{quotas}\n"), ..Setup::one_host(20) }.start()
}

/// A stopped machine of alice's with that disk size.
#[track_caller]
fn stopped(portal: &Portal, disk: &str) -> String {
    let id = portal.deployed_with("alice", &[("vmPartition", disk)]);
    portal.carry_out("alice", Order::Stop, &id);
    id
}

/// Orders a machine's disk to be saved.
fn save(portal: &Portal, user: &str, id: &str, name: &str) -> Answer {
    portal.post(user, "save", &[("id", id), ("name", name), ("format", "json")]).send()
}

/// Saves a machine's disk as an image of that size.
#[track_caller]
fn saved(portal: &Portal, id: &str, name: &str, bytes: u64) {
    save(portal, "alice", id, name).expect(202);
    portal.report(id, Order::Save, 9, News::Saved { bytes }).expect(200);
}

/// Asserts a refusal with these words about a field.
#[track_caller]
fn refused(answer: Answer, field: &str, words: &str) {
    let error = answer.expect(409).field_error(field);
    assert!(error.contains(words), "no {words:?} in {error}");
}

#[test]
fn a_user_at_the_limit_saves_no_more_images() {
    let portal = portal("images = 2");
    let [first, second, third] = ["1"; 3].map(|disk| stopped(&portal, disk));
    saved(&portal, &first, "one", 5 << 20);
    // An image being saved counts, and the order can be repeated.
    save(&portal, "alice", &second, "two").expect(202);
    save(&portal, "alice", &second, "two").expect(202);
    let words = "alice has 2 saved images, and the limit is 2. Delete one";
    refused(save(&portal, "alice", &third, "three"), "name", words);
    assert_eq!(portal.nodes.orders("save").len(), 3, "orders to the node");
    // Whoever asks, and in whatever way.
    refused(save(&portal, "admin", &third, "three"), "name", words);
    let fields = [("id", third.as_str()), ("saveAs", "three"), ("format", "json")];
    refused(portal.post("alice", "terminate", &fields).send(), "saveAs", words);
    assert_eq!(portal.state("alice", &third), "stopped");
    assert!(portal.nodes.orders("terminate").is_empty());
    portal.report(&second, Order::Save, 9, News::Saved { bytes: 5 << 20 }).expect(200);
    portal.get("alice", "images").send().expect(200).says("You have 2 of 2 saved images, 0.0 GiB.");
    // Deleting an image makes room.
    let fields = [("do", "delete"), ("name", "one"), ("format", "json")];
    portal.post("alice", "images", &fields).send().expect(202);
    saved(&portal, &third, "three", 5 << 20);
    portal.assert_no_panic();
}

#[test]
fn images_count_by_size_and_unfinished_ones_by_partition() {
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
    // A user without a limit sees none.
    let json = portal.get("bob", "images?format=json").send().expect(200).json();
    assert_eq!(json["quota"], Value::Null);
}
