//! Other sizes for a stopped machine: who may ask for them, what is refused, and which sizes a machine
//! has, whatever becomes of the order.

use std::net::Ipv4Addr;

use serde_json::{Value, json};
use vgrid::model::fault::Fault;
use vgrid::model::size::{Amount, Cpus};
use vgrid::model::stage::{Order, Percent, Stage};
use vgrid::model::wire::{Accepted, DeployOrder, HostFacts, News, NodeInfo};

use crate::support::http::Answer;
use crate::support::node::{Conduct, facts, with_machines};
use crate::support::page::{assert_well_formed, token};
use crate::support::portal::{Portal, Setup, state_of, with_query};

/// A machine's sizes: memory (MiB), processors, disk (GiB).
type Triple = (u64, u64, u64);

const SMALL: Triple = (128, 1, 1);

fn portal_with(more_server: &str) -> Portal {
    let more_server = more_server.to_owned();
    Setup { hosts: vec![("localhost", 20)], clock: true, more_server, ..Setup::default() }.start()
}

fn portal() -> Portal {
    portal_with("")
}

#[track_caller]
fn stopped(portal: &Portal) -> String {
    let id = portal.deployed("alice");
    portal.carry_out("alice", Order::Stop, &id);
    id
}

/// Asks for other sizes, as a script does.
fn resize(portal: &Portal, user: &str, id: &str, sizes: &[(&str, &str)]) -> Answer {
    portal.post(user, "resize", &[&[("id", id), ("format", "json")], sizes].concat()).send()
}

#[track_caller]
fn sizes(portal: &Portal, id: &str) -> Triple {
    let machine = portal.show("alice", id)["machine"].clone();
    let size = |name: &str| machine[name].as_u64().expect("a size");
    (size("memory_mib"), size("vmCPUs"), size("disk_gib"))
}

/// What a user's machines use, as their quota counts it.
#[track_caller]
fn used(portal: &Portal) -> Triple {
    let quota = portal.list("alice")["quota"].clone();
    let used = |name: &str| quota[name]["used"].as_u64().expect("a number");
    (used("memory_mib"), used("cpus"), used("disk_gib"))
}

fn browse(portal: &Portal, user: &str, path: &str) -> Answer {
    portal.get(user, path).like_a_browser().send().expect(200)
}

fn failed() -> News {
    News::Failed { fault: Fault::ResizeFailed { detail: "the work was interrupted".to_owned() } }
}

#[test]
fn a_stopped_machine_gets_other_sizes() {
    let portal = portal();
    let id = stopped(&portal);
    let page = browse(&portal, "alice", &format!("show?id={id}")).text();
    assert!(page.contains(&format!("href=\"resize?id={id}\"")), "{page}");
    let asked = browse(&portal, "alice", &format!("resize?id={id}"));
    assert_well_formed(&asked);
    for words in [
        "localhost has 2.9 GiB of memory and 50.0 GiB of disk space free",
        "room for up to 3000 MiB",
        "room for up to 51 GiB",
        "can’t become smaller than 1 GiB",
        "<code>xfs_growfs /</code>",
        "name=\"vmMemory\"",
    ] {
        assert!(asked.text().contains(words), "no {words} in {asked}");
    }

    let answer = resize(&portal, "alice", &id, &[("vmMemory", "256"), ("vmCPUs", "2"), ("vmPartition", "3")]);
    let answer = answer.expect(202).json();
    let change = "memory from 128 MiB to 256 MiB, processors from 1 to 2, disk from 1 GiB to 3 GiB";
    assert_eq!((state_of(&answer), &answer["machine"]["resizing"]), ("resizing", &json!(change)));
    let order = portal.nodes.orders("resize").pop().expect("an order to the node");
    assert!(order.signed);
    let number = order.json()["machine"]["number"].as_u64().expect("a number");
    let machine = json!({"id": id, "number": number, "user": "alice", "virtual_host": "vm1"});
    let ordered = json!({"memory": 256, "cpus": 2, "disk": 3});
    assert_eq!(order.json(), json!({"machine": machine, "sizes": ordered}));
    // Until its host says so, it has the old ones, and both count.
    assert_eq!((sizes(&portal, &id), used(&portal)), (SMALL, (256, 2, 3)));
    let percent = Percent::try_from(40).ok();
    portal
        .report(&id, Order::Resize, 1, News::Progress { stage: Stage::Configure, percent: None, place: None })
        .expect(200);
    portal
        .report(&id, Order::Resize, 2, News::Progress { stage: Stage::Grow, percent, place: None })
        .expect(200);
    for path in [format!("show?id={id}"), "list".to_owned()] {
        let page = browse(&portal, "alice", &path).text();
        for part in ["class=\"s resizing\"", "data-moving", "enlarging the disk", "value=\"40\""] {
            assert!(page.contains(part), "no {part} in {page}");
        }
    }
    // An impatient user can repeat the order, but give no other.
    let page = browse(&portal, "alice", &format!("resize?id={id}"));
    assert_well_formed(&page);
    let page = page.text();
    assert!(
        page.contains("already in progress") && page.contains("name=\"vmPartition\" value=\"3\""),
        "{page}"
    );
    resize(&portal, "alice", &id, &[("vmMemory", "256"), ("vmCPUs", "2"), ("vmPartition", "3")]).expect(202);
    let again = portal.nodes.orders("resize").pop().expect("an order to the node");
    assert_eq!(again.json(), order.json());
    resize(&portal, "alice", &id, &[("vmMemory", "512")]).expect(409).says("are being changed");
    portal.order("alice", Order::Start, &id).expect(409).says("given other sizes");
    let save = [("id", id.as_str()), ("name", "new"), ("format", "json")];
    portal.post("alice", "save", &save).send().expect(409).says("given other sizes");

    portal.report(&id, Order::Resize, 3, News::Done).expect(200);
    let shown = portal.show("alice", &id);
    assert_eq!((state_of(&shown), &shown["machine"]["reason"]), ("stopped", &Value::Null));
    assert_eq!(shown["machine"].get("resizing"), None);
    assert_eq!((sizes(&portal, &id), used(&portal)), ((256, 2, 3), (256, 2, 3)));
    let history = portal.history("alice", &id);
    for what in ["resize ordered", "resized"] {
        assert!(history.contains(&format!("\"what\":\"{what}\"")), "{what} in {history}");
    }
    assert!(history.contains(change), "{history}");
    // What is absent or empty stays, and less memory is always to be had.
    let answer = resize(&portal, "alice", &id, &[("vmMemory", "64"), ("vmCPUs", ""), ("vmPartition", "")]);
    assert_eq!(state_of(&answer.expect(202).json()), "resizing");
    let order = portal.nodes.orders("resize").pop().expect("an order to the node");
    assert_eq!(order.json()["sizes"], json!({"memory": 64, "cpus": 2, "disk": 3}));
    portal.report(&id, Order::Resize, 1, News::Done).expect(200);
    assert_eq!((portal.state("alice", &id).as_str(), sizes(&portal, &id)), ("stopped", (64, 2, 3)));
    portal.carry_out("alice", Order::Start, &id);
    assert_eq!((portal.state("alice", &id).as_str(), sizes(&portal, &id)), ("deployed", (64, 2, 3)));
    portal.assert_no_panic();
}

#[test]
fn a_form_without_scripts_and_a_script_without_forms_do_the_same() {
    let portal = portal();
    let id = stopped(&portal);
    // A script that names no size is told what there is.
    for ask in [
        portal.get("alice", &with_query("resize", &[("id", &id), ("format", "text")])),
        portal.post("alice", "resize", &[("vmHostname", "vm1"), ("format", "text")]),
    ] {
        let text = ask.send().expect(200).text();
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].starts_with(&format!("{id}\tstopped\tvm1\t")), "{text}");
        assert_eq!(lines[1..], ["# most\t3000\t-\t51", "# quota\t1\t-\t128\t-\t1\t-\t1\t-"]);
    }
    let told = portal.get("alice", &format!("resize?id={id}&format=json")).send().expect(200).json();
    assert_eq!(told["most"], json!({"memory_mib": 3000, "vmCPUs": null, "disk_gib": 51}));
    assert_eq!(told["host"]["memory_free"], "2.9 GiB");
    assert!(portal.nodes.orders("resize").is_empty());
    // A browser shows the form, with the values of its link.
    let page = browse(&portal, "alice", &format!("resize?id={id}&vmMemory=200"));
    assert!(page.text().contains("value=\"200\""), "{page}");
    assert!(portal.nodes.orders("resize").is_empty());
    let token = token(&page);
    let fields = [("id", id.as_str()), ("vmMemory", "200"), ("vmCPUs", "1"), ("vmPartition", "1")];
    portal.post("alice", "resize", &fields).like_a_browser().send().expect(403);
    let fields = [&fields[..], &[("token", &token)]].concat();
    let sent = portal.post("alice", "resize", &fields).like_a_browser().send().expect(303);
    assert_eq!(sent.header("location"), Some(format!("show?id={id}").as_str()));
    portal.report(&id, Order::Resize, 1, News::Done).expect(200);
    assert_eq!(sizes(&portal, &id), (200, 1, 1));
    // wget, by GET and by name.
    let text =
        portal.get("alice", "resize?vmHostname=vm1&vmPartition=2&format=text").send().expect(202).text();
    assert!(text.starts_with(&format!("{id}\tresizing\t")), "{text}");
    portal.report(&id, Order::Resize, 1, News::Done).expect(200);
    assert_eq!(sizes(&portal, &id), (200, 1, 2));
    // It has them already, so its host is not told.
    let orders = portal.nodes.orders("resize").len();
    let answer = resize(&portal, "alice", &id, &[("vmPartition", "2"), ("vmMemory", "200")]);
    assert_eq!(state_of(&answer.expect(202).json()), "stopped");
    assert_eq!(portal.nodes.orders("resize").len(), orders);
    portal.assert_no_panic();
}

#[test]
fn only_a_stopped_machine_of_ones_own_gets_other_sizes() {
    let portal = portal();
    let id = portal.deployed("alice");
    let more = [("vmMemory", "256")];
    resize(&portal, "bob", &id, &more).expect(403);
    portal.get("bob", &format!("resize?id={id}")).send().expect(403);
    resize(&portal, "alice", &id, &more).expect(409).says("Stop it first.");
    let page = browse(&portal, "alice", &format!("resize?id={id}")).text();
    assert!(page.contains("Stop it first.") && !page.contains("name=\"vmMemory\""), "{page}");
    let page = browse(&portal, "alice", &format!("show?id={id}")).text();
    assert!(!page.contains("resize?id="), "{page}");
    for (order, words) in [
        (Order::Reboot, "being rebooted"),
        (Order::Stop, "being stopped"),
        (Order::Start, "being started"),
        (Order::Terminate, "being removed"),
    ] {
        portal.order("alice", order, &id).expect(202);
        resize(&portal, "alice", &id, &more).expect(409).says(words);
        portal.report(&id, order, 1, News::Done).expect(200);
        if order == Order::Stop {
            resize(&portal, "bob", &id, &more).expect(403);
        }
    }
    resize(&portal, "alice", &id, &more).expect(409).says("gone");
    assert!(portal.nodes.orders("resize").is_empty());
    // An administrator may.
    let other = stopped(&portal);
    resize(&portal, "admin", &other, &more).expect(202);
    portal.report(&other, Order::Resize, 1, News::Done).expect(200);
    assert_eq!(sizes(&portal, &other), (256, 1, 1));
    portal.assert_no_panic();
}

#[test]
fn what_is_not_to_be_had_is_refused_beforehand() {
    let portal = portal();
    let id = stopped(&portal);
    let host = HostFacts {
        memory_free: Amount::from_mib(500),
        disk_free: Amount::from_mib(5 * 1024),
        max_cpus: Cpus::new(3).ok(),
        ..facts()
    };
    let body = serde_json::to_string(&Accepted { id: id.parse().expect("an id"), host }).expect("JSON");
    // Its host says with the next answer what it has.
    portal.nodes.conduct(Conduct::Say(202, body));
    resize(&portal, "alice", &id, &[("vmPartition", "2")]).expect(202);
    portal.nodes.conduct(Conduct::Accept);
    let news = vgrid::model::wire::Report {
        id: id.parse().expect("an id"),
        order: Order::Resize,
        number: crate::support::portal::last_order_number(),
        sequence: 1,
        news: News::Done,
        host: None,
    };
    let body = serde_json::to_vec(&news).expect("JSON");
    portal.signed(crate::support::portal::STATUS, body, &portal.key).send().expect(200);
    let orders = portal.nodes.orders("resize").len();
    for (field, value, status, words) in [
        ("vmMemory", "501", 409, "The host localhost has only 500 MiB of memory free."),
        ("vmCPUs", "4", 409, "The host localhost gives a machine at most 3 processors."),
        (
            "vmPartition",
            "8",
            409,
            "has only 5.0 GiB of disk space free, and the disk would need 6.0 GiB more",
        ),
        ("vmPartition", "1", 400, "deploy another machine with a smaller disk, copy what you need"),
        ("vmPartition", "0", 400, "from 1 to 65536 GiB"),
        ("vmPartition", "2.5", 400, "not a whole number"),
        ("vmMemory", "15", 400, "from 16 to"),
        ("vmMemory", "lots", 400, "not a whole number"),
        ("vmCPUs", "65", 400, "from 1 to 64"),
    ] {
        let refused = resize(&portal, "alice", &id, &[(field, value)]).expect(status);
        assert!(refused.field_error(field).contains(words), "{field} {value}: {refused}");
        // People get the form again, with what they typed.
        let token = token(&browse(&portal, "alice", &format!("resize?id={id}")));
        let form = [("id", id.as_str()), (field, value), ("token", &token)];
        let page = portal.post("alice", "resize", &form).like_a_browser().send().expect(status);
        assert_well_formed(&page);
        let page = page.says(words).text();
        assert!(page.contains(&format!("value=\"{value}\"")) && page.contains("aria-invalid"), "{page}");
    }
    let refused = resize(&portal, "alice", &id, &[("vmMemory", "501"), ("vmCPUs", "4")]).expect(409).json();
    assert_eq!(refused["error"]["fields"].as_object().map(serde_json::Map::len), Some(2), "{refused}");
    let bad = [("disk", "5")];
    resize(&portal, "alice", &id, &bad).expect(400);
    assert_eq!(portal.nodes.orders("resize").len(), orders, "its host was told nothing");
    assert_eq!((portal.state("alice", &id).as_str(), sizes(&portal, &id)), ("stopped", (128, 1, 2)));
    // All that is there is to be had.
    resize(&portal, "alice", &id, &[("vmMemory", "500"), ("vmCPUs", "3"), ("vmPartition", "7")]).expect(202);
    portal.assert_no_panic();
}

#[test]
fn quotas_hold() {
    let portal = portal_with("[Quotas]\nmemory = 1000\ncpus = 5\ndisk = 10\n");
    let id = stopped(&portal);
    portal.deploy("alice", &[("vmMemory", "500"), ("vmCPUs", "2"), ("vmPartition", "4")]);
    let told = portal.get("alice", &format!("resize?id={id}&format=json")).send().expect(200).json();
    assert_eq!(told["most"], json!({"memory_mib": 500, "vmCPUs": 3, "disk_gib": 6}));
    let page = browse(&portal, "alice", &format!("resize?id={id}")).text();
    assert!(page.contains("628 of 1000 MiB of memory") && page.contains("room for up to 500 MiB"), "{page}");
    for (field, value, words) in [
        (
            "vmMemory",
            "501",
            "have 500 MiB of memory together, and the limit is 1000 MiB: 500 MiB are left for",
        ),
        ("vmCPUs", "4", "have 2 processors together, and the limit is 5: 3 are left for this one"),
        (
            "vmPartition",
            "7",
            "have 4 GiB of disk together, and the limit is 10 GiB: 6 GiB are left for this one",
        ),
    ] {
        // Also if an administrator asks: they are the owner's machines.
        for user in ["alice", "admin"] {
            let refused = resize(&portal, user, &id, &[(field, value)]).expect(409);
            assert!(refused.field_error(field).contains(words), "{user} {field}: {refused}");
        }
    }
    resize(&portal, "alice", &id, &[("vmMemory", "500"), ("vmCPUs", "3"), ("vmPartition", "6")]).expect(202);
    // What is coming counts from now on.
    assert_eq!(used(&portal), (1000, 5, 10));
    let deploy = [("vmMemory", "16"), ("vmImage", "tiny"), ("vmPartition", "1"), ("format", "json")];
    portal.post("alice", "deploy", &deploy).send().expect(409).says("0 MiB are left");
    portal.report(&id, Order::Resize, 1, failed()).expect(200);
    assert_eq!(used(&portal), (628, 3, 5));
    // A quota that was lowered meanwhile takes nothing away.
    portal.reconfigure("server.cfg", |text| text.replace("memory = 1000", "memory = 100"));
    resize(&portal, "alice", &id, &[("vmMemory", "64"), ("vmCPUs", "3")]).expect(202);
    portal.report(&id, Order::Resize, 1, News::Done).expect(200);
    assert_eq!(sizes(&portal, &id), (64, 3, 1));
    resize(&portal, "alice", &id, &[("vmMemory", "65")]).expect(409);
    portal.assert_no_panic();
}

#[test]
fn a_host_that_refuses_or_fails_leaves_the_machine_as_it_was() {
    let portal = portal();
    let id = stopped(&portal);
    let larger = [("vmMemory", "256"), ("vmPartition", "3")];
    let full = Fault::NotEnoughSpace { needed: Amount::from_mib(2048), free: Amount::from_mib(1024) };
    let runs = Fault::MachineRuns { machine: "alice_vm1".parse().expect("a name") };
    for (conduct, status, words) in [
        (Conduct::Refuse(full), 409, "only 1.0 GiB of disk space free"),
        (Conduct::Refuse(runs), 409, "alice_vm1 runs on its host. Stop it"),
        (
            Conduct::Refuse(Fault::DiskTooSmall { size: Amount::from_mib(4096) }),
            409,
            "has 4.0 GiB on its host",
        ),
        (Conduct::Close, 502, "localhost"),
        (Conduct::Hang, 502, "did not answer within 2 s"),
        (Conduct::Say(404, "no such program".to_owned()), 502, "refused the order"),
    ] {
        portal.nodes.conduct(conduct);
        let answer = resize(&portal, "alice", &id, &larger).expect(status).says(words).json();
        assert_eq!(state_of(&answer), "stopped");
        let machine = portal.show("alice", &id)["machine"].clone();
        assert!(machine["reason"].as_str().is_some_and(|reason| reason.contains(words)), "{machine}");
        assert_eq!(sizes(&portal, &id), SMALL);
    }
    portal.nodes.conduct(Conduct::Accept);
    resize(&portal, "alice", &id, &larger).expect(202);
    portal.report(&id, Order::Resize, 7, failed()).expect(200);
    let machine = portal.show("alice", &id)["machine"].clone();
    assert_eq!(machine["state"], "stopped");
    assert!(machine["reason"].as_str().is_some_and(|why| why.contains("It is as it was")), "{machine}");
    assert_eq!((sizes(&portal, &id), used(&portal)), (SMALL, SMALL));
    // It is stopped, and may be started or removed, also while its sizes are changed.
    portal.carry_out("alice", Order::Start, &id);
    portal.carry_out("alice", Order::Stop, &id);
    resize(&portal, "alice", &id, &larger).expect(202);
    portal.order("alice", Order::Terminate, &id).expect(202);
    portal.report(&id, Order::Resize, 9, News::Done).expect(200);
    assert_eq!(portal.state("alice", &id), "terminating");
    portal.report(&id, Order::Terminate, 1, News::Done).expect(200);
    assert_eq!((portal.state("alice", &id).as_str(), used(&portal)), ("notDeployed", (0, 0, 0)));
    portal.assert_no_panic();
}

/// The `info` of a host that has the machine, stopped, with these sizes.
fn on_its_host(id: &str, sizes: Triple, work: Option<Order>) -> NodeInfo {
    let (memory, cpus, disk) = sizes;
    let mut info = with_machines(&[(id, "alice_vm1")]);
    info.domains.clear();
    let order = json!({
        "id": id, "number": 1, "user": "alice", "physical_host": "localhost", "virtual_host": "vm1", "image": "tiny",
        "memory": memory, "cpus": cpus, "disk": disk,
    });
    let order: DeployOrder = serde_json::from_value(order).expect("an order");
    info.jobs[0].stopped = true;
    info.jobs[0].work = work;
    info.jobs[0].order = Some(order);
    info
}

#[test]
fn a_report_that_comes_late_or_never_is_made_up_for() {
    let larger = [("vmMemory", "256"), ("vmPartition", "3")];
    // Only the answer to the order was lost.
    let portal = portal();
    let id = stopped(&portal);
    for (news, reason, has) in [(failed(), true, SMALL), (News::Done, false, (256, 1, 3))] {
        portal.nodes.conduct(Conduct::Close);
        resize(&portal, "alice", &id, &larger).expect(502);
        portal.nodes.conduct(Conduct::Accept);
        assert_eq!((sizes(&portal, &id), used(&portal)), (SMALL, (256, 1, 3)), "it may still happen");
        for _ in 0..2 {
            portal.report(&id, Order::Resize, 2, news.clone()).expect(200);
            let machine = portal.show("alice", &id)["machine"].clone();
            assert_eq!((&machine["state"], machine["reason"].is_string()), (&json!("stopped"), reason));
            assert_eq!((sizes(&portal, &id), used(&portal)), (has, has));
        }
    }
    // The order itself was lost: it is sent again.
    resize(&portal, "alice", &id, &[("vmMemory", "300")]).expect(202);
    portal.nodes.has(Ipv4Addr::LOCALHOST, on_its_host(&id, (256, 1, 3), None));
    portal.pass(5 * 60);
    portal.upkeep(&[]);
    let orders = portal.nodes.orders("resize");
    let [.., first, second] = &orders[..] else { panic!("{orders:?}") };
    assert_eq!(first.json(), second.json());
    portal.report(&id, Order::Resize, 1, News::Done).expect(200);
    assert_eq!(sizes(&portal, &id), (300, 1, 3));
    // Its host is silent for so long that the order is given up. Then upkeep asks what it has.
    for (has, changed) in [((300, 1, 3), false), ((400, 2, 4), true)] {
        resize(&portal, "alice", &id, &[("vmMemory", "400"), ("vmCPUs", "2"), ("vmPartition", "4")])
            .expect(202);
        portal.nodes.has(Ipv4Addr::LOCALHOST, on_its_host(&id, (300, 1, 3), Some(Order::Resize)));
        portal.pass(40 * 60);
        portal.upkeep(&[]);
        let machine = portal.show("alice", &id)["machine"].clone();
        assert_eq!(machine["state"], "stopped");
        assert!(machine["reason"].as_str().is_some_and(|why| why.contains("order to resize")), "{machine}");
        assert_eq!((sizes(&portal, &id), used(&portal)), ((300, 1, 3), (400, 2, 4)));
        portal.nodes.has(Ipv4Addr::LOCALHOST, on_its_host(&id, has, None));
        portal.pass(5 * 60);
        portal.upkeep(&[]);
        assert_eq!((sizes(&portal, &id), used(&portal)), (has, has));
        let found = portal.history("alice", &id).contains("\"what\":\"found resized\"");
        assert_eq!(found, changed);
    }
    let started = portal.upkeep(&[]);
    assert_eq!(portal.state("alice", &id), "stopped", "{started}");
    portal.assert_no_panic();
}
