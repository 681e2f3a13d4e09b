//! Snapshots of machines' disks: who may ask for them, what is refused, and what the portal knows of
//! them, whatever becomes of the order.

use std::net::Ipv4Addr;

use serde_json::Value;
use vgrid::model::fault::Fault;
use vgrid::model::lease::Moment;
use vgrid::model::size::Amount;
use vgrid::model::stage::Order;
use vgrid::model::wire::{News, NodeInfo, Snapshot, SnapshotOrder, SnapshotVerb, Volume};

use crate::support::http::Answer;
use crate::support::node::{Conduct, with_machines};
use crate::support::page::{assert_well_formed, token};
use crate::support::portal::{Portal, Setup, with_query};

const CAN: fn(&mut NodeInfo) = |info| info.host.snapshots = true;

fn portal_with(more_server: &str) -> Portal {
    let more_server = more_server.to_owned();
    Setup { hosts: vec![("localhost", 20)], clock: true, more_server, ..Setup::default() }.start()
}

/// A portal that knows that its host can take snapshots, and a machine.
fn with_machine(more_server: &str) -> (Portal, String) {
    let portal = portal_with(more_server);
    let id = portal.deployed("alice");
    host_has(&portal, &id, CAN);
    (portal, id)
}

/// Has upkeep hear from the host.
fn host_has(portal: &Portal, id: &str, also: impl Fn(&mut NodeInfo)) {
    let name = portal.show("alice", id)["machine"]["virtual_host"].as_str().expect("a name").to_owned();
    let mut info = with_machines(&[(id, &format!("alice_{name}"))]);
    also(&mut info);
    portal.nodes.has(Ipv4Addr::LOCALHOST, info);
    portal.upkeep(&[]);
}

fn act(portal: &Portal, user: &str, id: &str, act: &str, name: &str) -> Answer {
    portal.post(user, "snapshots", &[("id", id), ("do", act), ("name", name), ("format", "json")]).send()
}

fn names(json: &Value) -> Vec<&str> {
    let all = json["snapshots"].as_array().expect("a list");
    all.iter().map(|snapshot| snapshot["name"].as_str().expect("a name")).collect()
}

fn known(portal: &Portal, id: &str) -> Vec<String> {
    let answer = portal.get("alice", &with_query("snapshots", &[("id", id), ("format", "json")]));
    names(&answer.send().expect(200).json()).into_iter().map(str::to_owned).collect()
}

fn history(portal: &Portal, id: &str) -> Vec<String> {
    let shown = portal.show("alice", id);
    let all = shown["history"].as_array().expect("a list");
    all.iter().map(|event| event["what"].as_str().expect("words").to_owned()).collect()
}

fn orders(portal: &Portal) -> Vec<SnapshotOrder> {
    let received = portal.nodes.received();
    let orders = received.into_iter().filter(|received| received.program() == "snapshot");
    orders.map(|received| serde_json::from_slice(&received.body).expect("an order")).collect()
}

/// A snapshot among the volumes of its host.
fn snapshot(id: &str, name: &str) -> Volume {
    Volume {
        name: format!("{id}/{name}.snapshot"),
        size: Amount::from_mib(1024),
        machine: id.parse().ok(),
        open: false,
        snapshot: Some(Snapshot {
            name: name.parse().expect("a name"),
            taken: Moment::from_unix(1_795_000_000),
            holds: Amount::from_mib(57),
        }),
    }
}

#[test]
fn a_snapshot_is_taken_gone_back_to_and_deleted() {
    let (portal, id) = with_machine("");
    let taken = act(&portal, "alice", &id, "take", "before").expect(202).json();
    assert_eq!((names(&taken), &taken["done"]), (vec!["before"], &Value::from("taken")));
    assert_eq!(taken["machine"]["state"], "deployed", "its state is its own");
    act(&portal, "alice", &id, "roll-back", "before").expect(409).says("Stop it first");
    portal.carry_out("alice", Order::Stop, &id);
    act(&portal, "alice", &id, "roll-back", "other").expect(404).says("no snapshot called other");
    let back = act(&portal, "alice", &id, "roll-back", "before").expect(202).json();
    assert_eq!((names(&back), &back["done"]), (vec!["before"], &Value::from("gone-back")));
    assert_eq!(portal.state("alice", &id), "stopped");
    act(&portal, "admin", &id, "delete", "before").expect(202);
    assert_eq!(known(&portal, &id), Vec::<String>::new());
    let orders = orders(&portal);
    let acts: Vec<_> = orders.iter().map(|order| order.act.verb()).collect();
    assert_eq!(acts, [SnapshotVerb::Take, SnapshotVerb::RollBack, SnapshotVerb::Delete]);
    // Each is another order, and so is the next of any kind.
    portal.carry_out("alice", Order::Start, &id);
    let start = portal.nodes.received().into_iter().rev().find(|received| received.program() == "start");
    let start = start.expect("an order").json()["number"].as_i64().expect("a number");
    let mut numbers: Vec<i64> = orders.iter().map(|order| order.machine.number.get()).collect();
    numbers.push(start);
    assert!(numbers.is_sorted_by(|one, next| one < next), "{numbers:?}");
    let history = history(&portal, &id);
    for what in ["snapshot taken", "went back to snapshot", "snapshot deleted"] {
        assert!(history.iter().any(|event| event == what), "{history:?}");
    }
    portal.assert_no_panic();
}

#[test]
fn people_see_what_it_means_before_they_do_it() {
    let (portal, id) = with_machine("");
    let browse = |query: &[(&str, &str)]| {
        let all = [&[("id", id.as_str())], query].concat();
        let answer = portal.get("alice", &with_query("snapshots", &all)).like_a_browser().send().expect(200);
        assert_well_formed(&answer);
        answer
    };
    let page = browse(&[]).says("power cut");
    let token = token(&page);
    let form = |more: &[(&str, &str)]| {
        let fields = [&[("id", id.as_str()), ("token", token.as_str())], more].concat();
        portal.post("alice", "snapshots", &fields).like_a_browser().send()
    };
    form(&[("do", "take"), ("name", "One")]).expect(400).says("Must not contain");
    let done = form(&[("do", "take"), ("name", "one")]).expect(303);
    assert_eq!(done.header("location"), Some(format!("snapshots?id={id}").as_str()));
    form(&[("do", "take"), ("name", "one")]).expect(409).says("of that name already");
    browse(&[]).says("Holds up to");
    browse(&[("do", "roll-back"), ("name", "one")]).says("Stop it first");
    browse(&[("do", "delete"), ("name", "one")]).says("not go back to it any more");
    portal.carry_out("alice", Order::Stop, &id);
    browse(&[("do", "roll-back"), ("name", "one")]).says("Everything written to it since is lost");
    let back = form(&[("do", "roll-back"), ("name", "one")]).expect(303);
    assert_eq!(back.header("location"), Some(format!("show?id={id}").as_str()));
    assert_eq!(orders(&portal).len(), 2, "looking does nothing");
    let show = portal.get("alice", &format!("show?id={id}")).like_a_browser().send().expect(200);
    show.says("Snapshots (1)");
    portal.assert_no_panic();
}

#[test]
fn others_are_refused_and_a_quota_holds() {
    let (portal, id) = with_machine("[Quotas]\nsnapshots = 1\n[Quotas.users]\n\"bob\" = { snapshots = 9 }");
    act(&portal, "bob", &id, "take", "x").expect(403);
    act(&portal, "alice", &id, "take", "one").expect(202);
    act(&portal, "alice", &id, "take", "two").expect(409).says("the limit is 1. Delete one");
    // Whoever takes it, it is the owner's.
    act(&portal, "admin", &id, "take", "two").expect(409).says("The machines of alice have 1 snapshot,");
    act(&portal, "alice", &id, "delete", "one").expect(202);
    act(&portal, "alice", &id, "take", "two").expect(202);
    // A machine that is gone counts no more.
    portal.carry_out("alice", Order::Terminate, &id);
    let other = portal.deployed("alice");
    act(&portal, "alice", &other, "take", "one").expect(202);
    for (field, value) in [("do", "thaw"), ("name", ""), ("name", "a_b"), ("name", &"x".repeat(25))] {
        let mut fields = vec![("id", other.as_str()), ("do", "take"), ("name", "x"), ("format", "json")];
        fields.retain(|(name, _)| *name != field);
        fields.push((field, value));
        portal.post("alice", "snapshots", &fields).send().expect(400);
    }
    portal.assert_no_panic();
}

#[test]
fn an_order_that_nobody_confirmed_is_not_taken_for_done() {
    let (portal, id) = with_machine("");
    for (conduct, status, event) in [
        (Conduct::Close, 502, Some("snapshot taken, perhaps")),
        (Conduct::Garbage, 502, Some("snapshot taken, perhaps")),
        (
            Conduct::Say(200, "{\"snapshots\":[{\"name\":\"../x\"}]}".to_owned()),
            502,
            Some("snapshot taken, perhaps"),
        ),
        (Conduct::Say(503, "{\"error\":{\"message\":\"Busy.\"}}".to_owned()), 503, None),
    ] {
        let before = history(&portal, &id).len();
        portal.nodes.conduct(conduct.clone());
        let answer = act(&portal, "alice", &id, "take", "one");
        answer.expect(status).says("The snapshot one was not taken");
        let after = history(&portal, &id);
        assert_eq!(after.len() - before, usize::from(event.is_some()), "{conduct:?}: {after:?}");
        assert!(event.is_none() || after.last().map(String::as_str) == event, "{conduct:?}: {after:?}");
        assert_eq!(known(&portal, &id), Vec::<String>::new());
    }
    // The host has it after all, and says so to upkeep.
    portal.nodes.conduct(Conduct::Accept);
    host_has(&portal, &id, |info| info.volumes.push(snapshot(&id, "one")));
    assert_eq!(known(&portal, &id), ["one"]);
    // What it could not list stays as it is known.
    host_has(&portal, &id, |info| info.unknown.push(vgrid::model::wire::Part::Volumes));
    assert_eq!(known(&portal, &id), ["one"]);
    host_has(&portal, &id, |_| {});
    assert_eq!(known(&portal, &id), Vec::<String>::new());
    portal.assert_no_panic();
}

#[test]
fn a_stopped_machine_goes_back_to_its_image() {
    let (portal, id) = with_machine("");
    let as_new = |user: &str| {
        let fields = [("id", id.as_str()), ("do", "as-new"), ("format", "json")];
        portal.post(user, "snapshots", &fields).send()
    };
    let browse = |query: &[(&str, &str)]| {
        let all = [&[("id", id.as_str())], query].concat();
        let answer = portal.get("alice", &with_query("snapshots", &all)).like_a_browser().send().expect(200);
        assert_well_formed(&answer);
        answer
    };
    let button = "&amp;do=as-new";
    // While it runs, nobody is led there, and nothing is ordered.
    let page = browse(&[]).says("only a stopped one can go back to its image. Stop it first");
    assert!(!page.text().contains(button), "{page}");
    browse(&[("do", "as-new")]).says("Stop it first");
    as_new("alice").expect(409).says("Stop it first");
    portal.carry_out("alice", Order::Stop, &id);
    act(&portal, "alice", &id, "take", "before").expect(202);
    let mut info = with_machines(&[]);
    info.volumes.push(snapshot(&id, "before"));
    portal.nodes.has(Ipv4Addr::LOCALHOST, info);
    as_new("bob").expect(403);
    let foreign = portal.get("bob", &with_query("snapshots", &[("id", &id), ("do", "as-new")]));
    foreign.like_a_browser().send().expect(403);
    // Whoever names a snapshot may mean that one.
    act(&portal, "alice", &id, "as-new", "before").expect(400).says("not to a snapshot");
    browse(&[]).says(button);
    let page = browse(&[("do", "as-new")]).says("written to it since the machine was deployed is lost");
    let page = page.says("take a snapshot").says("image <b>tiny</b>");
    assert_eq!(orders(&portal).len(), 1, "looking does nothing");
    let fields = [("id", id.as_str()), ("do", "as-new"), ("token", &token(&page))];
    let done = portal.post("alice", "snapshots", &fields).like_a_browser().send().expect(303);
    assert_eq!(done.header("location"), Some(format!("show?id={id}").as_str()));

    let done = as_new("admin").expect(202).json();
    assert_eq!((names(&done), &done["done"]), (vec!["before"], &Value::from("as-new")));
    assert_eq!(known(&portal, &id), ["before"], "its snapshots stay");
    assert_eq!(portal.state("alice", &id), "stopped");
    let text =
        portal.get("alice", &with_query("snapshots", &[("id", &id), ("do", "as-new"), ("format", "text")]));
    assert!(text.send().expect(202).text().starts_with("before\t"));
    let orders = orders(&portal).split_off(1);
    assert!(orders.iter().all(|order| order.act.verb() == SnapshotVerb::AsNew && order.act.name().is_none()));
    assert!(orders.is_sorted_by(|one, next| one.machine.number < next.machine.number), "{orders:?}");
    let went_back =
        || history(&portal, &id).into_iter().filter(|event| event == "went back to its image").count();
    assert_eq!(went_back(), 3);
    let events = portal.show("alice", &id)["history"].to_string();
    assert!(events.contains(r#""detail":"tiny""#), "{events}");

    // The host says why it does not.
    let tag = "tiny".parse().expect("a tag");
    portal.nodes.conduct(Conduct::RefuseTo("snapshot", Fault::ImageNotPrepared { tag }));
    let refused = as_new("alice").expect(409);
    refused.says("did not go back to its image. This host keeps no prepared disk").says("quarter of an hour");
    portal.nodes.conduct(Conduct::Close);
    as_new("alice").expect(502).says("did not go back to its image, as far as is known");
    assert_eq!(
        (went_back(), history(&portal, &id).pop()),
        (3, Some("went back to its image, perhaps".into()))
    );
    portal.assert_no_panic();
}

#[test]
fn a_machine_that_is_not_of_its_image_does_not_go_back_to_it() {
    let (portal, id) = with_machine("[Quotas]\nmachines = 9");
    act(&portal, "alice", &id, "take", "one").expect(202);
    let from = format!("{id}/one");
    let fields =
        [("fromSnapshot", from.as_str()), ("vmMemory", "128"), ("vmPartition", "2"), ("format", "json")];
    let copy = portal.post("alice", "deploy", &fields).send().expect(202).json();
    let copy = copy["machine"]["id"].as_str().expect("an id").to_owned();
    portal.report(&copy, Order::Deploy, 9, News::Done).expect(200);
    portal.carry_out("alice", Order::Stop, &copy);
    act(&portal, "alice", &id, "take", "two").expect(202);
    let page = portal.get("alice", &with_query("snapshots", &[("id", &copy)])).like_a_browser();
    let page = page.send().expect(200).says("made from a snapshot of another machine");
    assert_well_formed(&page.says(&format!("href=\"deploy?like={copy}\"")));
    let json = portal.get("alice", &with_query("snapshots", &[("id", &copy), ("format", "json")]));
    let json = json.send().expect(200).json();
    assert!(json["obstacle"].is_null() && json["as_new_obstacle"].is_string(), "{json}");
    let fields = [("id", copy.as_str()), ("do", "as-new"), ("format", "json")];
    portal.post("alice", "snapshots", &fields).send().expect(409).says("Deploy another one from that");
    assert_eq!(orders(&portal).len(), 2, "its host is not asked");
}

#[test]
fn where_there_can_be_none_people_are_told_what_to_do_instead() {
    let portal = portal_with("");
    let id = portal.deployed("alice");
    let page = with_query("snapshots", &[("id", &id)]);
    let answer = portal.get("alice", &page).like_a_browser().send().expect(200);
    let answer = answer.says("take snapshots. Stop the machine and save its disk as an image");
    answer.says("Deploy a new machine like this one instead");
    let show = portal.get("alice", &format!("show?id={id}")).like_a_browser().send().expect(200);
    assert!(!show.text().contains("Snapshots"), "{show}");
}

#[test]
fn a_copy_is_deployed_where_its_snapshot_is() {
    let portal = portal_with("[Quotas]\nmachines = 3");
    let id = portal.deployed("alice");
    host_has(&portal, &id, CAN);
    act(&portal, "alice", &id, "take", "one").expect(202);
    let deploy = |user: &str, more: &[(&str, &str)]| {
        let fields = [&[("vmMemory", "128"), ("vmPartition", "2"), ("format", "json")], more].concat();
        portal.post(user, "deploy", &fields).send()
    };
    let from = format!("{id}/one");
    // By the machine's id, or by its name; on the machine's host, as what the machine is.
    let copy = deploy("alice", &[("fromSnapshot", &from)]).expect(202).json();
    assert_eq!(copy["machine"]["from_snapshot"], from);
    assert_eq!(
        (&copy["machine"]["image"], &copy["machine"]["physical_host"]),
        (&"tiny".into(), &"localhost".into())
    );
    let order = portal.nodes.received().into_iter().rev().find(|received| received.program() == "deploy");
    let order = order.expect("an order").json();
    assert_eq!(order["snapshot"], serde_json::json!({ "machine": id, "name": "one" }));
    assert_eq!(order["image"], "tiny");
    let name = portal.show("alice", &id)["machine"]["virtual_host"].as_str().expect("a name").to_owned();
    deploy("alice", &[("fromSnapshot", &format!("{name}/one"))]).expect(202);
    // Within the quota of machines.
    deploy("alice", &[("fromSnapshot", &from)]).expect(409).says("your limit is 3");
    portal.carry_out("alice", Order::Terminate, copy["machine"]["id"].as_str().expect("an id"));

    for (user, more, status, words) in [
        ("bob", vec![("fromSnapshot", from.as_str())], 400, "You have no machine with a snapshot"),
        // An administrator's machines are an administrator's.
        ("admin", vec![("fromSnapshot", from.as_str())], 400, "You have no machine with a snapshot"),
        ("alice", vec![("fromSnapshot", "vm1")], 400, "machine/name"),
        (
            "alice",
            vec![("fromSnapshot", from.as_str()), ("vmImage", "tiny")],
            400,
            "takes the place of an image",
        ),
        (
            "alice",
            vec![("fromSnapshot", from.as_str()), ("savedImage", "x")],
            400,
            "takes the place of an image",
        ),
    ] {
        deploy(user, &more).expect(status).says(words);
    }
    let other = format!("{id}/other");
    deploy("alice", &[("fromSnapshot", &other)]).expect(400).says("You have no machine with a snapshot");

    // The form has it as a choice, and keeps it when something else is wrong.
    let form = portal.get("alice", &with_query("deploy", &[("fromSnapshot", &from)]));
    let form = form.like_a_browser().send().expect(200).says(&format!("value=\"snapshot:{from}\""));
    let form = form.says("name=\"physicalHost\"").says("<option value=\"localhost\" selected>");
    assert_well_formed(&form);
    let choice = format!("snapshot:{from}");
    let fields = [("token", token(&form)), ("vmImage", choice), ("vmMemory", "x".to_owned())];
    let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let again = portal.post("alice", "deploy", &fields).like_a_browser().send().expect(400);
    again.says(&format!("value=\"snapshot:{from}\" required checked"));
    // Somebody else's is no choice.
    let form = portal.get("bob", &with_query("deploy", &[("fromSnapshot", &from)])).like_a_browser();
    assert!(!form.send().expect(200).text().contains(&from));
    portal.assert_no_panic();
}

#[test]
fn who_saves_a_disk_is_told_that_a_snapshot_may_do() {
    let (portal, id) = with_machine("");
    portal.carry_out("alice", Order::Stop, &id);
    let page = || {
        let answer =
            portal.get("alice", &with_query("save", &[("id", &id)])).like_a_browser().send().expect(200);
        assert_well_formed(&answer);
        answer.text().contains("Take a snapshot")
    };
    assert!(!page(), "as far as is known, this host takes none");
    host_has(&portal, &id, CAN);
    assert!(page());
    portal.assert_no_panic();
}
