//! Saved images: a machine's disk becomes an image, its owner lists, renames, shares and deletes
//! it, and those who may deploy machines from it.

use serde_json::{Value, json};
use vgrid::model::fault::Fault;
use vgrid::model::stage::{Order, Percent, Stage};
use vgrid::model::wire::News;

use crate::support::http::Answer;
use crate::support::node::Conduct;
use crate::support::page::hidden_field;
use crate::support::portal::{Portal, Setup, state_of, with_query};

const SAVED: News = News::Saved { bytes: 700 << 20 };

fn failed() -> News {
    News::Failed { fault: Fault::SaveFailed { detail: "tar said no".to_owned() } }
}

/// A portal whose machines are on the host that the tests report from, unless they ask for the
/// other.
fn portal() -> Portal {
    Setup { hosts: vec![("localhost", 20), ("127.0.0.2", 4)], names: 20, ..Setup::default() }.start()
}

/// A running machine of alice's with that disk size.
#[track_caller]
fn running(portal: &Portal, disk: &str) -> String {
    portal.deployed_with("alice", &[("physicalHost", "localhost"), ("vmPartition", disk)])
}

/// A stopped one.
#[track_caller]
fn stopped(portal: &Portal, disk: &str) -> String {
    let id = running(portal, disk);
    portal.carry_out("alice", Order::Stop, &id);
    id
}

/// Orders a machine's disk to be saved, as a script does.
fn save(portal: &Portal, user: &str, id: &str, name: &str) -> Answer {
    portal.post(user, "save", &[("id", id), ("name", name), ("format", "json")]).send()
}

/// Makes an image of a machine with that disk size.
#[track_caller]
fn image(portal: &Portal, name: &str, disk: &str) {
    let id = stopped(portal, disk);
    save(portal, "alice", &id, name).expect(202);
    assert_eq!(next(&portal.report(&id, Order::Save, 9, SAVED)), Value::Null);
    assert_eq!(portal.state("alice", &id), "stopped");
}

/// The next order in the answer to a report.
#[track_caller]
fn next(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{answer}");
    answer.json()["next"]["order"].clone()
}

/// The images that a user sees, by the names that they have for them.
#[track_caller]
fn images(portal: &Portal, user: &str) -> Vec<String> {
    let json = portal.get(user, "images?format=json").send().expect(200).json();
    let images = json["images"].as_array().expect("images");
    images.iter().map(|image| image["id"].as_str().expect("a name").to_owned()).collect()
}

/// Acts on an image, as a script does.
fn act(portal: &Portal, user: &str, what: &str, name: &str, more: &[(&str, &str)]) -> Answer {
    let fields = [&[("do", what), ("name", name), ("format", "json")], more].concat();
    portal.post(user, "images", &fields).send()
}

fn browse(portal: &Portal, user: &str, path: &str) -> String {
    let ask = portal.get(user, path).header("Accept", "text/html").header("Sec-Fetch-Site", "same-origin");
    ask.send().expect(200).text()
}

#[test]
fn the_disk_of_a_stopped_machine_is_saved() {
    let portal = portal();
    let id = stopped(&portal, "3");
    let page = browse(&portal, "alice", &format!("show?id={id}"));
    assert!(page.contains(&format!("href=\"save?id={id}\"")), "{page}");
    let asked = browse(&portal, "alice", &format!("save?id={id}"));
    assert!(asked.contains("Save vm1 as an image?") && asked.contains("value=\"vm1\""), "{asked}");

    let answer = save(&portal, "alice", &id, "web-1.0").expect(202).json();
    assert_eq!((state_of(&answer), &answer["machine"]["saving_as"]), ("saving", &json!("web-1.0")));
    let order = portal.nodes.orders("save").pop().expect("an order to the node");
    assert!(order.signed);
    let number = order.json()["machine"]["number"].as_u64().expect("a number");
    let machine = json!({"id": id, "number": number, "user": "alice", "virtual_host": "vm1"});
    assert_eq!(order.json(), json!({"machine": machine, "name": "web-1.0"}));
    let percent = Percent::try_from(40).ok();
    let news = News::Progress { stage: Stage::Pack, percent, place: None };
    assert_eq!(next(&portal.report(&id, Order::Save, 1, news)), Value::Null);
    for path in [format!("show?id={id}"), "list".to_owned()] {
        let page = browse(&portal, "alice", &path);
        for part in ["class=\"s saving\"", "data-moving", "saving the disk as an image", "value=\"40\""] {
            assert!(page.contains(part), "no {part} in {page}");
        }
    }
    // An impatient user can repeat the order, but give no other.
    let page = browse(&portal, "alice", &format!("save?id={id}"));
    assert!(page.contains("already in progress") && page.contains("value=\"web-1.0\""), "{page}");
    save(&portal, "alice", &id, "web-1.0").expect(202);
    save(&portal, "alice", &id, "other").expect(409).says("being saved as the image web-1.0");
    portal.order("alice", Order::Start, &id).expect(409).says("being saved as an image");
    assert_eq!(images(&portal, "alice"), [""; 0]);

    assert_eq!(next(&portal.report(&id, Order::Save, 2, SAVED)), Value::Null);
    let shown = portal.show("alice", &id);
    assert_eq!((state_of(&shown), &shown["machine"]["saving_as"]), ("stopped", &Value::Null));
    let history = shown["history"].to_string();
    assert!(history.contains("as the image web-1.0"), "{history}");
    let json = portal.get("alice", "images?format=json").send().expect(200).json();
    let image = &json["images"][0];
    for (key, value) in [
        ("id", json!("web-1.0")),
        ("owner", json!("alice")),
        ("own", json!(true)),
        ("host", json!("localhost")),
        ("base", json!("tiny")),
        ("bytes", json!(700 << 20)),
        ("size", json!("700 MiB")),
        ("disk_gib", json!(3)),
        ("shared", json!(false)),
        ("obstacle", Value::Null),
    ] {
        assert_eq!(image[key], value, "{key} of {json}");
    }
    let line = portal.get("alice", "images?format=text").send().expect(200).text();
    let columns: Vec<&str> = line.trim_end().split('\t').collect();
    let size = (700 << 20).to_string();
    assert_eq!(columns[..6], ["web-1.0", "alice", "localhost", "tiny", &size, "3"], "{line}");
    assert_eq!((columns.len(), columns[7]), (8, "private"));
    let page = browse(&portal, "alice", "images");
    for part in ["web-1.0", "700 MiB", "deploy?savedImage=web-1.0", "do=rename", "do=delete", "do=share"] {
        assert!(page.contains(part), "no {part} in {page}");
    }
    portal.assert_no_panic();
}

#[test]
fn an_expired_machine_can_be_saved_and_stays_expired() {
    let portal = portal();
    let id = stopped(&portal, "1");
    let expire =
        "UPDATE vm SET state = 'expired', expires = 1000, deletion = 99999999999, wanted = 'running'";
    portal.database().execute(expire, []).expect("an expired lease");
    for word in [SAVED, failed()] {
        let name = if word == SAVED { "one" } else { "two" };
        save(&portal, "alice", &id, name).expect(202);
        assert_eq!(next(&portal.report(&id, Order::Save, 1, word)), Value::Null);
        assert_eq!(portal.state("alice", &id), "expired");
    }
    portal.nodes.conduct(Conduct::Close);
    save(&portal, "alice", &id, "two").expect(502);
    assert_eq!(portal.state("alice", &id), "expired");
    assert_eq!(images(&portal, "alice"), ["one"]);
}

#[test]
fn a_running_machine_is_saved_and_terminated() {
    let portal = portal();
    let id = running(&portal, "2");
    let asked = browse(&portal, "alice", &format!("terminate?id={id}"));
    assert!(asked.contains("name=\"saveAs\"") && asked.contains("Save as image and terminate"), "{asked}");
    save(&portal, "alice", &id, "new").expect(409).says("Stop it first");
    portal.get("alice", &format!("terminate?id={id}&saveAs=&format=json")).send().expect(400);
    portal.get("alice", &format!("terminate?id={id}&saveAs=x&force=1")).send().expect(400).says("not both");
    assert_eq!(portal.state("alice", &id), "deployed");

    let path = format!("terminate?id={id}&saveAs=new&format=json");
    let answer = portal.get("alice", &path).send().expect(202).json();
    assert_eq!(state_of(&answer), "saving");
    assert_eq!(portal.nodes.orders("save").len(), 1);
    assert_eq!(next(&portal.report(&id, Order::Save, 2, SAVED)), "terminate");
    assert_eq!(portal.state("alice", &id), "terminating");
    // A node that lost the answer repeats its report and gets the same answer.
    assert_eq!(next(&portal.report(&id, Order::Save, 2, SAVED)), "terminate");
    assert!(portal.nodes.orders("terminate").is_empty(), "the order was also sent");
    assert_eq!(next(&portal.report(&id, Order::Terminate, 1, News::Done)), Value::Null);
    assert_eq!(portal.state("alice", &id), "notDeployed");
    assert_eq!(images(&portal, "alice"), ["new"]);
    // A repeated order reports that the machine is gone.
    let again = portal.get("alice", &path).send().expect(202).json();
    assert_eq!(state_of(&again), "notDeployed");
    portal.assert_no_panic();
}

#[test]
fn a_failed_save_loses_no_machine() {
    let portal = portal();
    // The host fails to save: the machine is started again, with the reason on its page.
    let id = running(&portal, "1");
    let terminate = |id: &str| {
        portal.post("alice", "terminate", &[("id", id), ("saveAs", "new"), ("format", "json")]).send()
    };
    terminate(&id).expect(202);
    assert_eq!(next(&portal.report(&id, Order::Save, 3, failed())), "start");
    portal.report(&id, Order::Start, 2, News::Done).expect(200);
    let shown = portal.show("alice", &id);
    assert_eq!(state_of(&shown), "deployed");
    assert!(shown["machine"]["reason"].as_str().is_some_and(|r| r.contains("tar said no")), "{shown}");
    assert!(browse(&portal, "alice", &format!("show?id={id}")).contains("tar said no"));
    // The host does not even accept the order.
    let stopped = stopped(&portal, "1");
    for (conduct, status, words) in [
        (Conduct::Refuse(Fault::NoRoomForImage), 409, "does not fit"),
        (Conduct::Close, 502, "makes no sense"),
        (Conduct::Say(404, "<html>None</html>".to_owned()), 502, "HTTP 404"),
    ] {
        portal.nodes.conduct(conduct);
        let answer = terminate(&id).expect(status).says(words).json();
        assert_eq!(state_of(&answer), "deployed", "{answer}");
        portal.nodes.conduct(Conduct::Refuse(Fault::NoRoomForImage));
        let answer = save(&portal, "alice", &stopped, "other").expect(409).json();
        assert_eq!(state_of(&answer), "stopped", "{answer}");
    }
    assert!(portal.nodes.orders("terminate").is_empty());
    assert_eq!(images(&portal, "alice"), [""; 0]);
    // The node did get the order, and only its answer was lost: there is an image, and still a
    // machine.
    portal.nodes.conduct(Conduct::Close);
    terminate(&id).expect(502);
    portal.nodes.conduct(Conduct::Accept);
    assert_eq!(next(&portal.report(&id, Order::Save, 2, SAVED)), "start");
    assert_eq!(
        (portal.state("alice", &id).as_str(), images(&portal, "alice")),
        ("starting", vec!["new".to_owned()])
    );
    portal.assert_no_panic();
}

#[test]
fn a_protected_machine_is_not_terminated() {
    let portal = portal();
    let id = running(&portal, "1");
    portal.database().execute("UPDATE vm SET protected = 1", []).expect("protection");
    for user in ["alice", "admin"] {
        portal.order(user, Order::Terminate, &id).expect(409).says(&format!("user/extend?id={id}"));
        let fields = [("id", id.as_str()), ("saveAs", "new"), ("format", "json")];
        portal.post(user, "terminate", &fields).send().expect(409).says("protected");
        let page = browse(&portal, user, &format!("terminate?id={id}"));
        assert!(page.contains("protected") && page.contains(&format!("extend?id={id}")), "{page}");
        assert_eq!(page.contains("name=\"force\""), user == "admin", "{page}");
    }
    assert_eq!(portal.state("alice", &id), "deployed");
    let force = [("id", id.as_str()), ("force", "1"), ("format", "json")];
    portal.post("alice", "terminate", &force).send().expect(403);
    portal.post("admin", "terminate", &force).send().expect(202);
    assert_eq!(portal.state("alice", &id), "notDeployed");
}

#[test]
fn the_name_of_an_image_must_be_valid_and_unique() {
    let portal = portal();
    image(&portal, "taken", "1");
    let (first, second) = (stopped(&portal, "1"), stopped(&portal, "1"));
    save(&portal, "alice", &first, "busy").expect(202);
    for (name, status) in [
        ("taken", 409),
        ("busy", 409),
        ("", 400),
        ("Web", 400),
        ("-a", 400),
        ("a_b", 400),
        ("../x", 400),
        ("a/b", 400),
        ("é", 400),
        ("a\nb", 400),
        ("a b", 400),
        (&"x".repeat(41), 400),
    ] {
        for (program, field) in [("save", "name"), ("terminate", "saveAs")] {
            let fields = [("id", second.as_str()), (field, name)];
            let answer = portal.post("alice", program, &[&fields[..], &[("format", "json")]].concat()).send();
            let sentence = answer.expect(status).field_error(field);
            assert!(sentence.ends_with('.'), "{program} {name:?}: {sentence}");
            // A browser gets the form back, with what was typed and what is wrong.
            let page = portal.post("alice", program, &fields).send().expect(status).text();
            assert!(page.contains(&format!("id=\"{field}-fault\"")), "{program} {name:?}: {page}");
        }
    }
    assert_eq!(portal.state("alice", &second), "stopped");
    // The form proposes a free name.
    portal.report(&first, Order::Save, 9, SAVED).expect(200);
    let page = browse(&portal, "alice", &format!("save?id={second}"));
    assert!(page.contains("value=\"vm3\""), "{page}");
    save(&portal, "alice", &second, "vm3").expect(202);
    portal.report(&second, Order::Save, 9, SAVED).expect(200);
    let page = browse(&portal, "alice", &format!("save?id={second}"));
    assert!(page.contains("value=\"vm3-2\""), "{page}");
    portal.assert_no_panic();
}

#[test]
fn an_image_is_private_until_it_is_shared() {
    let portal = portal();
    let id = stopped(&portal, "1");
    save(&portal, "bob", &id, "x").expect(403).says("belongs to somebody else");
    // An administrator may save it, but the image belongs to alice.
    save(&portal, "admin", &id, "web").expect(202);
    portal.report(&id, Order::Save, 1, SAVED).expect(200);
    assert_eq!(images(&portal, "alice"), ["web"]);
    assert_eq!((images(&portal, "bob"), images(&portal, "admin")), (vec![], vec![]));
    portal.get("bob", "images?scope=all&format=json").send().expect(403);
    let all = portal.get("admin", "images?scope=all&format=json").send().expect(200).json();
    assert_eq!((&all["images"][0]["id"], &all["scope"]), (&json!("alice/web"), &json!("all")));

    let deploy = |user: &str, image: &str| {
        let fields = [("savedImage", image), ("vmMemory", "128"), ("vmPartition", "1"), ("format", "json")];
        portal.post(user, "deploy", &fields).send()
    };
    for what in ["delete", "rename", "share", "unshare"] {
        let more: &[(&str, &str)] = if what == "rename" { &[("newName", "y")] } else { &[] };
        act(&portal, "bob", what, "web", more).expect(404);
        act(&portal, "bob", what, "web", &[more, &[("owner", "alice")]].concat()).expect(404);
        portal
            .get("bob", &format!("images?do={what}&name=web&owner=alice"))
            .method("HEAD")
            .send()
            .expect(404);
    }
    for image in ["web", "alice/web"] {
        let missing = deploy("bob", image).expect(400).field_error("savedImage");
        let unknown = deploy("bob", "alice/nothing").expect(400).field_error("savedImage");
        assert_eq!(missing, unknown.replace("alice/nothing", image), "the error reveals which images exist");
    }
    let form = portal.get("bob", "deploy?savedImage=alice/web").header("Accept", "text/html").send();
    assert!(!form.expect(200).text().contains("saved:alice"), "the form shows the image");
    assert!(portal.nodes.orders("image").is_empty());

    let shared = act(&portal, "alice", "share", "web", &[]).expect(202).json();
    assert_eq!((&shared["done"], &shared["image"]["shared"]), (&json!("shared"), &json!(true)));
    assert_eq!(images(&portal, "bob"), ["alice/web"]);
    let page = browse(&portal, "bob", "images");
    assert!(
        page.contains("deploy?savedImage=alice/web") || page.contains("savedImage=alice&#x2F;web"),
        "{page}"
    );
    assert!(!page.contains("do=delete"), "{page}");
    act(&portal, "bob", "delete", "web", &[("owner", "alice")]).expect(403).says("somebody else");
    let answer = deploy("bob", "alice/web").expect(202).json();
    assert_eq!(answer["machine"]["saved_image"], "alice/web");
    act(&portal, "alice", "unshare", "web", &[]).expect(202);
    assert_eq!(images(&portal, "bob"), [""; 0]);
    deploy("bob", "alice/web").expect(400);
    // An administrator may rename it.
    act(&portal, "admin", "rename", "web", &[("owner", "alice"), ("newName", "old")]).expect(409);
    portal.report(answer["machine"]["id"].as_str().expect("an id"), Order::Deploy, 1, News::Done).expect(200);
    act(&portal, "admin", "rename", "web", &[("owner", "alice"), ("newName", "old")]).expect(202);
    assert_eq!(images(&portal, "alice"), ["old"]);
    portal.assert_no_panic();
}

#[test]
fn an_image_is_renamed_and_deleted_on_its_host_first() {
    let mut portal = portal();
    image(&portal, "one", "1");
    image(&portal, "two", "1");
    let taken = act(&portal, "alice", "rename", "one", &[("newName", "two")]).expect(409);
    assert!(taken.field_error("newName").contains("two already"), "{taken}");
    act(&portal, "alice", "rename", "one", &[]).expect(400).field_error("newName");
    act(&portal, "alice", "delete", "one", &[("newName", "x")]).expect(400);
    act(&portal, "alice", "delete", "none", &[]).expect(404).says("no saved image called none");
    assert!(portal.nodes.orders("image").is_empty(), "a node was contacted");

    let answer = act(&portal, "alice", "rename", "one", &[("newName", "three")]).expect(202).json();
    assert_eq!((&answer["done"], &answer["image"]["id"]), (&json!("renamed"), &json!("three")));
    let order = portal.nodes.orders("image").pop().expect("an order to the node");
    assert!(order.signed);
    let named = json!({"owner": "alice", "name": "one"});
    assert_eq!(order.json(), json!({"image": named, "act": {"rename": "three"}}));
    assert_eq!(images(&portal, "alice").len(), 2);

    // While a machine is being deployed from it, it is neither renamed nor deleted.
    let id = portal.deploy("alice", &[("vmImage", ""), ("savedImage", "three")]);
    for (what, more) in [("delete", None), ("rename", Some(("newName", "four")))] {
        let refused = act(&portal, "alice", what, "three", more.as_slice()).expect(409);
        refused.says("is being made from this image");
    }
    portal.report(&id, Order::Deploy, 1, News::Done).expect(200);
    act(&portal, "alice", "rename", "three", &[("newName", "four")]).expect(202);
    assert_eq!(portal.show("alice", &id)["machine"]["saved_image"], "alice/four");

    // A browser must confirm, and is sent back to the list.
    let page = browse(&portal, "alice", "images?name=four&do=delete");
    assert!(page.contains("Delete four?") && page.contains("This cannot be undone"), "{page}");
    let token = hidden_field(&page, "token");
    let fields = [("do", "delete"), ("name", "four")];
    portal.post("alice", "images", &fields).like_a_browser().send().expect(403);
    assert_eq!(images(&portal, "alice").len(), 2);
    let with_token = [&fields[..], &[("token", token.as_str())]].concat();
    let done = portal.post("alice", "images", &with_token).like_a_browser().send().expect(303);
    assert_eq!(done.header("location"), Some("images"));
    assert_eq!(images(&portal, "alice"), ["two"]);

    // If the host does not answer, nothing changes and the action can be repeated.
    for (conduct, words) in [(Conduct::Close, "makes no sense"), (Conduct::Hang, "did not answer")] {
        portal.nodes.conduct(conduct);
        act(&portal, "alice", "delete", "two", &[]).expect(502).says("was not deleted").says(words);
        act(&portal, "alice", "rename", "two", &[("newName", "six")]).expect(502).says("was not renamed");
    }
    portal.nodes.conduct(Conduct::Refuse(Fault::SavedImageMissing { name: "two".parse().expect("a name") }));
    act(&portal, "alice", "rename", "two", &[("newName", "six")])
        .expect(409)
        .says("not on this host any more");
    assert_eq!(images(&portal, "alice"), ["two"]);
    portal.nodes.conduct(Conduct::Accept);
    let line = portal.get("alice", "images?do=delete&name=two&format=text").send().expect(202).text();
    assert!(line.starts_with("two\talice\tlocalhost\t"), "{line}");
    assert_eq!(images(&portal, "alice"), [""; 0]);
    image(&portal, "five", "1");
    portal.nodes.shut_down();
    act(&portal, "alice", "delete", "five", &[]).expect(502).says("can't be reached");
    assert_eq!(images(&portal, "alice"), ["five"]);
    portal.assert_no_panic();
}

#[test]
fn a_saved_image_is_deployed_on_its_own_host() {
    let portal = portal();
    image(&portal, "web", "3");
    // The other host has more free slots but lacks the image.
    let form = browse(&portal, "alice", "deploy?savedImage=web");
    for part in ["value=\"saved:web\" required checked", "value=\"3\"", "value=\"localhost\" selected"] {
        assert!(form.contains(part), "no {part} in {form}");
    }
    let lines = portal.get("alice", "deploy?format=text").send().expect(200).text();
    assert!(lines.contains("saved\tweb\tlocalhost\ttiny\t3\n"), "{lines}");
    let deploy = |more: &[(&str, &str)]| {
        let mut fields =
            vec![("savedImage", "web"), ("vmMemory", "128"), ("vmPartition", "4"), ("format", "json")];
        fields.retain(|(name, _)| more.iter().all(|(known, _)| known != name));
        fields.extend_from_slice(more);
        portal.post("alice", "deploy", &fields).send()
    };
    for (field, value, words) in [
        ("vmPartition", "2", "at least"),
        ("physicalHost", "127.0.0.2", "on the host localhost only"),
        ("vmImage", "debian-12", "goes back to the image tiny"),
        ("vmImage", "saved:web", "one image"),
    ] {
        let refused = deploy(&[(field, value)]).expect(400);
        let field = if value == "saved:web" { "savedImage" } else { field };
        assert!(refused.field_error(field).contains(words), "{refused}");
    }
    assert_eq!(portal.nodes.orders("deploy").len(), 1, "only the machine that was saved");

    let answer = deploy(&[("vmImage", "tiny")]).expect(202).json();
    let machine = &answer["machine"];
    assert_eq!((&machine["physical_host"], &machine["image"]), (&json!("localhost"), &json!("tiny")));
    assert_eq!(machine["saved_image"], "alice/web");
    let order = portal.nodes.orders("deploy").pop().expect("an order to the node");
    assert_eq!(order.at.to_string(), "127.0.0.1");
    assert_eq!(order.json()["saved"], json!({"owner": "alice", "name": "web"}));
    assert_eq!(order.json()["image"], "tiny");
    let id = machine["id"].as_str().expect("an id");
    let shown = browse(&portal, "alice", &format!("show?id={id}"));
    assert!(shown.contains("alice/web") || shown.contains("alice&#x2F;web"), "{shown}");
    // A form prefilled from that machine selects the same image.
    let form = browse(&portal, "alice", &format!("deploy?like={id}"));
    assert!(form.contains("value=\"saved:web\" required checked"), "{form}");
    // As the form sends it.
    let fields = [("vmImage", "saved:web"), ("vmMemory", "128"), ("vmPartition", "3"), ("format", "json")];
    let answer = portal.post("alice", "deploy", &fields).send().expect(202).json();
    assert_eq!(answer["machine"]["saved_image"], "alice/web");

    portal.reconfigure("common.cfg", |text| text.replace("\"localhost\" = 20", "\"localhost\" = 2"));
    let full = deploy(&[]).expect(409);
    assert!(
        full.json()["error"]["message"].as_str().is_some_and(|m| m.contains("that host is full")),
        "{full}"
    );
    let off = |text: &str| text.replace("\"localhost\" = 2", "\"localhost\" = 0");
    portal.reconfigure("common.cfg", off);
    assert!(deploy(&[]).expect(409).field_error("savedImage").contains("takes no machines at present"));
    portal.reconfigure("common.cfg", |text| {
        text.replace("\"localhost\" = 0", "\"localhost\" = 20").replace("tiny", "other")
    });
    assert!(deploy(&[]).expect(409).field_error("savedImage").contains("not offered any more"));
    let listed = portal.get("alice", "images?format=json").send().expect(200).json();
    assert!(listed["images"][0]["obstacle"].is_string(), "{listed}");
    for path in ["images", "deploy", "deploy?savedImage=web"] {
        assert!(browse(&portal, "alice", path).contains("not offered any more"), "{path}");
    }
    portal.assert_no_panic();
}

#[test]
fn no_image_request_is_a_server_error() {
    let portal = portal();
    image(&portal, "web", "1");
    let values = ["", "x", "web", "../x", "a/b", "a\0b", "é", "\u{202E}", "alice", "bob", &"x".repeat(3000)];
    for what in ["", "delete", "rename", "share", "unshare", "burn", "Delete"] {
        for field in ["name", "owner", "newName", "scope", "format", "id"] {
            for value in values {
                // This would be a valid request.
                if value == "web" && field == "name" || value == "alice" && field == "owner" {
                    continue;
                }
                let fields = [("do", what), (field, value)];
                for answer in [
                    portal.post("alice", "images", &fields).send(),
                    portal.get("alice", &with_query("images", &fields)).header("Accept", "text/html").send(),
                ] {
                    assert!(answer.status < 500, "{what} {field}={value:.20?}: {answer}");
                }
            }
        }
    }
    assert_eq!(images(&portal, "alice"), ["web"]);
    assert!(portal.nodes.orders("image").is_empty(), "a node was contacted");
    for value in values.into_iter().chain(["bob/", "/web", "bob/web", "web/web"]) {
        if value == "web" || value.is_empty() {
            continue;
        }
        let fields = [("savedImage", value), ("vmMemory", "128"), ("vmPartition", "1"), ("vmImage", "tiny")];
        let answer =
            portal.post("alice", "deploy", &[&fields[..], &[("format", "json")]].concat()).send().expect(400);
        let sentence = answer.field_error("savedImage");
        assert!(sentence.ends_with('.') && sentence.chars().count() < 300, "{value:.20?}: {sentence}");
        let page = portal.post("alice", "deploy", &fields).send().expect(400);
        page.says("id=\"savedImage-fault\"");
        let form =
            portal.get("alice", &with_query("deploy", &fields[..1])).header("Accept", "text/html").send();
        assert!(form.status < 500, "{value:.20?}: {form}");
    }
    assert_eq!(portal.nodes.orders("deploy").len(), 1, "a node was contacted");
    portal.assert_no_panic();
}
