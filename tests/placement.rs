//! Which host a machine gets if its owner leaves that to vGrid: not the emptiest, if that is down,
//! failing or too small.

use serde_json::Value;
use vgrid::model::fault::Fault;
use vgrid::model::size::{Amount, Cpus};
use vgrid::model::stage::{Order, Stage};
use vgrid::model::wire::{ImageFile, News, NodeInfo, Report};

use crate::support::node::{Conduct, address, nothing};
use crate::support::portal::{DEPLOY_JSON, Portal, Setup};

/// A portal with one almost empty host and one that is nearly full.
fn portal() -> Portal {
    let hosts = vec![("127.0.0.2", 40), ("localhost", 2)];
    let portal = Setup { hosts, clock: true, names: 30, ..Setup::default() }.start();
    portal.deploy("alice", &[("physicalHost", "localhost")]);
    portal
}

const EMPTIEST: &str = "127.0.0.2";

/// Orders a machine of bob's: status and answer.
fn deploy(portal: &Portal, more: &[(&str, &str)]) -> (u16, Value) {
    let answer = portal.post("bob", "deploy", &[&DEPLOY_JSON[..], more].concat()).send();
    (answer.status, answer.json())
}

/// Orders a machine. Returns the host that vGrid chose.
#[track_caller]
fn host_of_the_next(portal: &Portal) -> String {
    let (status, json) = deploy(portal, &[]);
    assert_eq!(status, 202, "{json}");
    json["machine"]["physical_host"].as_str().expect("a host").to_owned()
}

#[test]
fn a_deploy_refused_by_its_host_is_retried_once_on_another() {
    for fault in [
        Fault::PrivilegeRefused,
        Fault::NotEnoughMemory { needed: Amount::from_mib(9), free: Amount::from_mib(1) },
        Fault::ImageMissing { tag: "tiny".parse().expect("a tag") },
    ] {
        let portal = portal();
        portal.nodes.conduct_at(address(2), Conduct::RefuseTo("deploy", fault.clone()));
        let (status, json) = deploy(&portal, &[]);
        assert_eq!((status, json["machine"]["physical_host"].as_str()), (202, Some("localhost")), "{json}");
        let id = json["machine"]["id"].as_str().expect("an id");
        let history = portal.history("bob", id);
        assert!(
            history.contains("moved to another host") && history.contains("It is tried on localhost instead"),
            "{history}"
        );
        portal
            .get("bob", &format!("show?id={id}"))
            .send()
            .expect(200)
            .says("It is tried on localhost instead");
        // One machine on one host; the other was asked once.
        assert_eq!(portal.nodes.orders("deploy").iter().filter(|order| order.json()["id"] == id).count(), 2);
        portal.report(id, Order::Deploy, 9, News::Done).expect(200);
        assert_eq!(portal.state("bob", id), "deployed");
    }
    // An owner who chose the host gets its refusal.
    let portal = portal();
    portal.nodes.conduct_at(address(2), Conduct::RefuseTo("deploy", Fault::PrivilegeRefused));
    let (status, json) = deploy(&portal, &[("physicalHost", EMPTIEST)]);
    assert_eq!((status, json["machine"]["physical_host"].as_str()), (502, Some(EMPTIEST)), "{json}");
    // If both refuse, it fails on the second.
    portal.nodes.conduct(Conduct::Refuse(Fault::PrivilegeRefused));
    let before = portal.nodes.orders("deploy").len();
    let (status, json) = deploy(&portal, &[]);
    assert_eq!(status, 502, "{json}");
    assert_eq!(portal.nodes.orders("deploy").len() - before, 2);
}

#[test]
fn no_other_host_is_tried_if_the_first_may_have_accepted() {
    for conduct in [Conduct::Hang, Conduct::Close, Conduct::Page("It works!".to_owned())] {
        let portal = portal();
        portal.nodes.conduct_at(address(2), conduct.clone());
        let (status, json) = deploy(&portal, &[]);
        assert_eq!(
            (status, json["machine"]["physical_host"].as_str()),
            (502, Some(EMPTIEST)),
            "{conduct:?}: {json}"
        );
        // The next machine goes elsewhere; after a while the host is tried again.
        portal.nodes.conduct_at(address(2), Conduct::Accept);
        assert_eq!(host_of_the_next(&portal), "localhost", "{conduct:?}");
        portal.pass(61);
        assert_eq!(host_of_the_next(&portal), EMPTIEST, "{conduct:?}");
    }
}

#[test]
fn a_failing_host_is_avoided_for_longer_each_time() {
    let portal = portal();
    let fault = Fault::ToolstackMissing { detail: "xl is not there".to_owned() };
    // Only the first address can report, so this host fails by its answer.
    let fails = |portal: &Portal| {
        portal.nodes.conduct_at(address(2), Conduct::RefuseTo("deploy", fault.clone()));
        let (_, json) = deploy(portal, &[("physicalHost", EMPTIEST)]);
        assert_eq!(json["machine"]["state"], "failed", "{json}");
        portal.nodes.conduct_at(address(2), Conduct::Accept);
    };
    fails(&portal);
    portal.pass(61);
    fails(&portal);
    portal.pass(61);
    assert_eq!(host_of_the_next(&portal), "localhost", "five minutes after the second");
    portal.pass(240);
    assert_eq!(host_of_the_next(&portal), EMPTIEST);
}

#[test]
fn hosts_that_are_silent_full_or_lack_the_image_are_skipped() {
    let image = |tag: &str| ImageFile { tag: tag.parse().expect("a tag"), bytes: Some(5) };
    let with_tiny = || NodeInfo { images: vec![image("tiny")], ..nothing() };
    let silent = portal();
    silent.nodes.has(address(1), with_tiny());
    silent.nodes.conduct_at(address(2), Conduct::Close);
    silent.upkeep(&[]);
    silent.nodes.conduct_at(address(2), Conduct::Accept);
    assert_eq!(host_of_the_next(&silent), "localhost");

    let other = NodeInfo { images: vec![image("debian-12")], ..nothing() };
    let missing = NodeInfo { images: vec![ImageFile { bytes: None, ..image("tiny") }], ..nothing() };
    let (mut narrow, mut small) = (with_tiny(), with_tiny());
    narrow.host.memory_free = Amount::from_mib(127);
    small.host.disk_free = Amount::from_mib(1023);
    for (info, why) in [
        (other, None),
        (missing, None),
        (narrow, Some("127.0.0.2 has only 127 MiB of memory free; localhost is full")),
        (small, Some("127.0.0.2 has only 1023 MiB of disk space free; localhost is full")),
    ] {
        let portal = portal();
        portal.nodes.has(address(2), info);
        portal.nodes.has(address(1), with_tiny());
        portal.upkeep(&[]);
        assert_eq!(host_of_the_next(&portal), "localhost", "{why:?}");
        // No other host is left. One that may have the image by now is tried; one without room is
        // named in the refusal.
        let (status, json) = deploy(&portal, &[]);
        assert_eq!(status, if why.is_some() { 409 } else { 202 }, "{json}");
        assert!(why.is_none_or(|why| json.to_string().contains(why)), "{why:?}: {json}");
    }
}

/// The `info` of a host that says what it can deploy.
fn able(tags: &[&str]) -> NodeInfo {
    let mut info = nothing();
    info.host.images = Some(tags.iter().map(|tag| tag.parse().expect("a tag")).collect());
    info
}

#[test]
fn a_host_gets_no_image_that_it_says_it_cannot_deploy() {
    let portal = portal();
    let upkeep = |other: &[&str], nearly_full: &[&str]| {
        portal.nodes.has(address(2), able(other));
        portal.nodes.has(address(1), able(nearly_full));
        portal.upkeep(&[]);
    };
    let fault = |answer: &(u16, Value), field: &str| {
        assert_eq!(answer.0, 409, "{}", answer.1);
        answer.1["error"]["fields"][field].as_str().unwrap_or_else(|| panic!("{}", answer.1)).to_owned()
    };
    // The emptiest host is skipped, and refused to those who choose it, before it is asked.
    upkeep(&["debian-12"], &["tiny", "debian-12"]);
    let before = portal.nodes.orders("deploy").len();
    let chosen = deploy(&portal, &[("physicalHost", EMPTIEST)]);
    assert_eq!(
        fault(&chosen, "physicalHost"),
        "The host 127.0.0.2 can't run the image tiny. Choose a host that can (localhost), or leave the choice to vGrid."
    );
    assert_eq!((portal.nodes.orders("deploy").len(), portal.machine_count("bob")), (before, 0));
    assert_eq!(host_of_the_next(&portal), "localhost");
    // The host that can is full now. The other is not even tried.
    upkeep(&["debian-12"], &["tiny", "debian-12"]);
    let full = fault(&deploy(&portal, &[]), "physicalHost");
    assert!(full.contains("127.0.0.2 can't run the image tiny; localhost is full"), "{full}");
    // It takes what it can.
    portal.deploy("bob", &[("vmImage", "debian-12"), ("physicalHost", EMPTIEST)]);
    // No host has it.
    upkeep(&[], &["debian-12"]);
    for more in [&[][..], &[("physicalHost", "localhost")]] {
        let none = fault(&deploy(&portal, more), "vmImage");
        assert!(none.starts_with("No host has the image tiny at present."), "{none}");
    }
    // Administrators see it.
    portal.get("admin", "admin").send().expect(200).says("Can’t run: debian-12, tiny.");
    let hosts = portal.list("admin")["hosts"].clone();
    let unable = |n: usize| hosts[n]["unable"].as_array().map_or(0, Vec::len);
    assert_eq!((unable(0), unable(1)), (2, 1), "{hosts}");
    // What a host said an hour ago no longer rules it out: it may have the image by now.
    portal.pass(3601);
    assert_eq!(host_of_the_next(&portal), EMPTIEST);
    portal.assert_no_panic();
}

#[test]
fn a_host_that_does_not_say_what_it_can_deploy_may_have_any_image() {
    let portal = portal();
    portal.nodes.has(address(1), able(&["debian-12"]));
    portal.nodes.has(address(2), nothing());
    portal.upkeep(&[]);
    let (status, json) = deploy(&portal, &[("physicalHost", EMPTIEST)]);
    assert_eq!(status, 202, "{json}");
    assert_eq!(host_of_the_next(&portal), EMPTIEST);
    // What it answers to the order still counts.
    let fault = Fault::ImageUnknown { tag: "tiny".parse().expect("a tag") };
    portal.nodes.conduct_at(address(2), Conduct::RefuseTo("deploy", fault));
    let (status, json) = deploy(&portal, &[]);
    assert!(status == 409 && json.to_string().contains("does not know the image tiny"), "{json}");
}

#[test]
fn hosts_that_give_a_machine_fewer_processors_are_skipped() {
    let portal = portal();
    let with = |most: u32| {
        let mut info = nothing();
        info.host.max_cpus = Some(Cpus::new(most).expect("a number"));
        info
    };
    portal.nodes.has(address(1), with(8));
    portal.nodes.has(address(2), with(4));
    portal.upkeep(&[]);
    let host = |cpus: &str| {
        let (status, json) = deploy(&portal, &[("vmCPUs", cpus)]);
        assert_eq!(status, 202, "{json}");
        // What the scripted node says with each answer sets no limit.
        portal.upkeep(&[]);
        json["machine"]["physical_host"].as_str().expect("a host").to_owned()
    };
    assert_eq!(host("4"), EMPTIEST);
    assert_eq!(host("5"), "localhost");
    // No host that has room gives it so many.
    let (status, json) = deploy(&portal, &[("vmCPUs", "5")]);
    let why = "127.0.0.2 gives a machine at most 4 processors; localhost is full";
    assert!(status == 409 && json.to_string().contains(why), "{json}");
    // Nor does a host that the owner chooses.
    let (status, json) = deploy(&portal, &[("vmCPUs", "5"), ("physicalHost", EMPTIEST)]);
    let said = &json["error"]["fields"]["vmCPUs"];
    assert_eq!(
        (status, said.as_str()),
        (409, Some("The host 127.0.0.2 gives a machine at most 4 processors. Ask for fewer.")),
        "{json}"
    );
    // A host that refuses for it passes the machine on.
    let portal = self::portal();
    let fault = Fault::TooManyCpus { asked: Cpus::new(5).expect("a number"), most: Cpus::default() };
    portal.nodes.conduct_at(address(2), Conduct::RefuseTo("deploy", fault));
    let (status, json) = deploy(&portal, &[("vmCPUs", "5")]);
    assert_eq!((status, json["machine"]["physical_host"].as_str()), (202, Some("localhost")), "{json}");
    // An owner who chose the host is told.
    let (status, json) = deploy(&portal, &[("vmCPUs", "5"), ("physicalHost", EMPTIEST)]);
    assert!(status == 409 && json.to_string().contains("gives a machine at most 1 processor"), "{json}");
}

#[test]
fn administrators_are_mailed_each_reason_once() {
    let mail =
        "[Mail]\ntransport = \"sendmail\"\nsendmail = \"/bin/false\"\nsender = \"vgrid@example.org\"\n";
    let hosts = vec![("127.0.0.2", 40)];
    let portal = Setup { hosts, more_server: mail.to_owned(), names: 30, ..Setup::default() }.start();
    portal.nodes.conduct(Conduct::Refuse(Fault::PrivilegeRefused));
    for _ in 0..5 {
        assert_eq!(deploy(&portal, &[]).0, 502);
    }
    let mails = || {
        let page = portal.get("admin", "admin?format=json").send().expect(200).json();
        page["mail"].as_array().expect("mail that waits").len()
    };
    assert_eq!(mails(), 1);
    // Another reason is another mail; all missing images are one reason.
    let missing = Fault::ImageMissing { tag: "tiny".parse().expect("a tag") };
    portal.nodes.conduct(Conduct::Refuse(missing));
    for _ in 0..5 {
        assert_eq!(deploy(&portal, &[]).0, 409);
    }
    assert_eq!(mails(), 2);
}

/// A portal whose emptiest host is the one that the tests report from.
fn reporting() -> Portal {
    Setup { hosts: vec![("localhost", 40), ("127.0.0.2", 9)], clock: true, names: 30, ..Setup::default() }
        .start()
}

/// A machine that vGrid placed on the emptiest host.
fn placed(portal: &Portal) -> String {
    let (status, json) = deploy(portal, &[]);
    let host = &json["machine"]["physical_host"];
    assert_eq!((status, host.as_str()), (202, Some("localhost")), "{json}");
    json["machine"]["id"].as_str().expect("an id").to_owned()
}

fn internal() -> Fault {
    Fault::Internal { request: "1".to_owned() }
}

fn progress(stage: Stage) -> News {
    News::Progress { stage, percent: None, place: None }
}

/// A machine's host and state, and how many deploys were ordered for it.
fn whereabouts(portal: &Portal, id: &str) -> (String, String, usize) {
    let machine = portal.show("bob", id)["machine"].clone();
    let text = |field: &str| machine[field].as_str().expect("a text").to_owned();
    let orders = portal.nodes.orders("deploy").iter().filter(|order| order.json()["id"] == id).count();
    (text("physical_host"), text("state"), orders)
}

fn at(host: &str, state: &str, orders: usize) -> (String, String, usize) {
    (host.to_owned(), state.to_owned(), orders)
}

#[test]
fn an_accepted_deploy_that_fails_is_retried_once_on_another_host() {
    let portal = reporting();
    let id = placed(&portal);
    let first = portal.nodes.orders("deploy")[0].json();
    portal.report(&id, Order::Deploy, 1, progress(Stage::Unpack)).expect(200);
    let verdict = portal.report(&id, Order::Deploy, 2, News::Failed { fault: internal() }).expect(200).json();
    assert_eq!(verdict["verdict"], "continue");
    assert_eq!(whereabouts(&portal, &id), at("127.0.0.2", "deploying", 2));
    assert!(portal.history("bob", &id).contains("It is tried on 127.0.0.2 instead"));
    let page = portal.get("bob", &format!("show?id={id}")).send().expect(200);
    page.says("The first host could not deploy it").says("127.0.0.2");
    // The first host missed that answer and repeats its report: nothing changes, and it is
    // satisfied.
    let again = Report {
        id: id.parse().expect("an id"),
        order: Order::Deploy,
        number: serde_json::from_value(first["number"].clone()).expect("a number"),
        sequence: 2,
        news: News::Failed { fault: internal() },
        host: None,
    };
    let again = serde_json::to_vec(&again).expect("JSON");
    portal.signed("/cgi-bin/internal/status", again, &portal.key).send().expect(200);
    assert_eq!(whereabouts(&portal, &id), at("127.0.0.2", "deploying", 2));
    // It gets no machines for a while.
    assert_eq!(host_of_the_next(&portal), "127.0.0.2");
}

#[test]
fn a_deploy_that_fails_on_two_hosts_has_failed() {
    let portal = reporting();
    let id = placed(&portal);
    portal.nodes.conduct_at(address(2), Conduct::RefuseTo("deploy", Fault::PrivilegeRefused));
    portal.report(&id, Order::Deploy, 1, News::Failed { fault: internal() }).expect(200);
    assert_eq!(whereabouts(&portal, &id), at("127.0.0.2", "failed", 2));
    let history = portal.history("bob", &id);
    assert!(history.contains("moved to another host") && history.contains("sudo refused"), "{history}");
}

#[test]
fn a_failure_that_another_host_would_share_is_final() {
    let folder = "rootfs".to_owned();
    let image = Fault::ImageNested { tag: "tiny".parse().expect("a tag"), folder };
    let start = Fault::StartFailed { detail: "no".to_owned() };
    for (stage, fault) in [(Stage::Unpack, image), (Stage::Start, start), (Stage::Start, internal())] {
        let portal = reporting();
        let id = placed(&portal);
        portal.report(&id, Order::Deploy, 1, progress(stage)).expect(200);
        portal.report(&id, Order::Deploy, 2, News::Failed { fault: fault.clone() }).expect(200);
        assert_eq!(whereabouts(&portal, &id), at("localhost", "failed", 1), "{stage} {fault}");
    }
    // Nor does a machine whose host the owner chose.
    let portal = reporting();
    let (_, json) = deploy(&portal, &[("physicalHost", "localhost")]);
    let id = json["machine"]["id"].as_str().expect("an id");
    portal.report(id, Order::Deploy, 1, News::Failed { fault: internal() }).expect(200);
    assert_eq!(whereabouts(&portal, id), at("localhost", "failed", 1));
}

#[test]
fn a_forgotten_deploy_is_retried_on_another_host() {
    let portal = reporting();
    let id = placed(&portal);
    portal.nodes.has(address(1), nothing());
    portal.nodes.has(address(2), nothing());
    portal.pass(121);
    portal.upkeep(&[]);
    assert_eq!(whereabouts(&portal, &id), at("127.0.0.2", "deploying", 2));
    portal.pass(121);
    portal.upkeep(&[]);
    assert_eq!(whereabouts(&portal, &id), at("127.0.0.2", "failed", 2), "once");
}

#[test]
fn pages_say_where_machines_are_emulated() {
    let portal = portal();
    let mut info = nothing();
    info.host.emulated = true;
    portal.nodes.has(address(1), nothing());
    portal.nodes.has(address(2), info);
    let (status, json) = deploy(&portal, &[("physicalHost", EMPTIEST)]);
    assert_eq!(status, 202, "{json}");
    let slow = json["machine"]["id"].as_str().expect("an id").to_owned();
    let (_, json) = deploy(&portal, &[("physicalHost", "localhost")]);
    let fast = json["machine"]["id"].as_str().expect("an id").to_owned();
    portal.upkeep(&[]);
    // Of a host that emulates nothing, it says nothing.
    assert_eq!(portal.show("bob", &slow)["emulated"], true);
    assert_eq!(portal.show("bob", &fast).get("emulated"), None);
    let list = portal.list("bob");
    for host in list["hosts"].as_array().expect("hosts") {
        assert_eq!(host.get("emulated").is_some(), host["name"] == EMPTIEST, "{host}");
    }
    for (page, times) in [
        (format!("show?id={slow}"), 1),
        (format!("show?id={fast}"), 0),
        ("deploy".to_owned(), 1),
        ("list".to_owned(), 1),
    ] {
        let text = portal.get("bob", &page).send().expect(200).text();
        assert_eq!(text.matches("emulated: slow").count(), times, "{page}: {text}");
    }
}
