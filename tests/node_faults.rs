//! Nodes that are down, hang, talk nonsense or refuse: the user hears of it in time and is never
//! stuck.

use std::time::{Duration, Instant};

use crate::support::http::Answer;
use crate::support::node::Conduct;
use crate::support::portal::{DEPLOY_JSON, Portal, Setup, id_of, state_of};
use vgrid::model::fault::Fault;
use vgrid::model::names::ImageTag;
use vgrid::model::stage::Order;
use vgrid::model::wire::News;

/// Deploys a machine: the answer, and how long it took.
fn deploy(portal: &Portal) -> (Answer, Duration) {
    let began = Instant::now();
    let answer = portal.post("alice", "deploy", &DEPLOY_JSON).send();
    (answer, began.elapsed())
}

/// Asserts that a deploy fails on time, for this reason, and leaves a way out.
#[track_caller]
fn assert_deploy_fails(portal: &Portal, words: &str) {
    assert_deploy_fails_with(portal, 502, words);
}

/// The same with this status.
#[track_caller]
fn assert_deploy_fails_with(portal: &Portal, status: u16, words: &str) {
    let (answer, time) = deploy(portal);
    let answer = answer.expect(status).json();
    assert!(time < Duration::from_secs(10), "the user waited for {time:?}");
    let id = id_of(&answer);
    assert_eq!(state_of(&answer), "failed");
    assert!(
        answer["error"]["message"].as_str().is_some_and(|m| m.contains(words)),
        "no {words:?} in {answer}"
    );
    let shown = portal.show("alice", &id);
    assert_eq!(state_of(&shown), "failed");
    assert!(
        shown["machine"]["reason"].as_str().is_some_and(|m| m.contains(words)),
        "no {words:?} in {shown}"
    );
    let page = portal.get("alice", &format!("show?id={id}")).send().expect(200).text();
    assert!(page.contains("Deploy again") && page.contains("Terminate"), "no way out: {page}");

    // While the node is like this, terminating may fail, but never with an error of our own.
    let fields = [("id", id.as_str()), ("format", "json")];
    let began = Instant::now();
    let gone = portal.post("alice", "terminate", &fields).send();
    assert!(began.elapsed() < Duration::from_secs(10), "the user waited for {:?}", began.elapsed());
    match gone.status {
        // The deploy never reached the node.
        202 => assert_eq!(state_of(&gone.json()), "notDeployed"),
        502 => {
            assert_eq!(state_of(&gone.json()), "failed");
            let forced = portal.post("alice", "terminate", &[&fields[..], &[("force", "1")]].concat()).send();
            assert_eq!(state_of(&forced.expect(202).json()), "notDeployed", "its owner is stuck");
        }
        _ => panic!("{gone}"),
    }
    assert_eq!(portal.machine_count("alice"), 0, "slot and name are free");
    portal.assert_no_panic();
}

#[test]
fn a_node_that_is_down_fails_the_deploy() {
    let mut portal = Portal::start();
    portal.nodes.shut_down();
    assert_deploy_fails(&portal, "can't be reached");
}

#[test]
fn a_node_without_an_address_fails_the_deploy() {
    let portal = Setup { hosts: vec![("no-such-host.invalid", 3)], ..Setup::default() }.start();
    assert_deploy_fails(&portal, "can't be reached");
}

#[test]
fn a_node_that_hangs_fails_the_deploy() {
    // With the default time limit.
    let portal = Setup { node_timeout: 7, ..Setup::default() }.start();
    portal.nodes.conduct(Conduct::Hang);
    assert_deploy_fails(&portal, "did not answer within 7 s");
}

#[test]
fn a_node_that_closes_the_connection_fails_the_deploy() {
    let portal = Portal::start();
    portal.nodes.conduct(Conduct::Close);
    assert_deploy_fails(&portal, "makes no sense");
}

#[test]
fn a_node_that_talks_nonsense_fails_the_deploy() {
    let portal = Portal::start();
    let endless = "x".repeat(6 << 20);
    for conduct in [
        Conduct::Garbage,
        Conduct::CutOff,
        Conduct::Say(200, "<html>It works!</html>".to_owned()),
        Conduct::Say(202, "{}".to_owned()),
        Conduct::Say(202, "\u{fffd}\0".to_owned()),
        Conduct::Say(202, format!("{{\"id\":\"{}\"}}", vgrid::model::names::VmId::generate())),
        Conduct::Say(202, endless),
    ] {
        let shown = format!("{conduct:.80?}");
        portal.nodes.conduct(conduct);
        println!("{shown}");
        assert_deploy_fails(&portal, "makes no sense");
    }
}

#[test]
fn a_refusal_without_a_fault_fails_the_deploy() {
    let portal = Portal::start();
    for (status, body, words) in [
        (500, "<html>Internal Server Error</html>", "HTTP 500"),
        (403, "{\"error\":{\"message\":\"Refused: the signature is wrong.\"}}", "the signature is wrong"),
        (404, "<html>Not Found</html>", "HTTP 404"),
        (302, "", "HTTP 302"),
        (503, "<script>alert(1)</script>", "HTTP 503"),
    ] {
        portal.nodes.conduct(Conduct::Say(status, body.to_owned()));
        assert_deploy_fails(&portal, words);
    }
}

#[test]
fn a_refusal_with_a_fault_shows_its_reason() {
    let portal = Portal::start();
    let tag: ImageTag = "tiny".parse().expect("a tag");
    portal.nodes.conduct(Conduct::Refuse(Fault::ImageMissing { tag }));
    assert_deploy_fails_with(&portal, 409, "is missing on this host");
    portal
        .nodes
        .conduct(Conduct::Refuse(Fault::ToolstackMissing { detail: "<b>xl</b>\u{1b}[31m".to_owned() }));
    let (answer, _) = deploy(&portal);
    let id = id_of(&answer.expect(502).json());
    let page = portal.get("alice", &format!("show?id={id}")).send().expect(200).text();
    assert!(page.contains("&lt;b&gt;xl") && !page.contains('\u{1b}'), "{page}");
}

#[test]
fn a_node_without_room_says_how_much_is_free() {
    let portal = Portal::start();
    let needed = vgrid::model::size::Amount::from_mib(128);
    let fault = Fault::NotEnoughSpace { needed, free: vgrid::model::size::Amount::from_mib(5) };
    portal.nodes.conduct(Conduct::Refuse(fault));
    assert_deploy_fails_with(&portal, 409, "only 5 MiB of disk space free");
}

#[test]
fn pages_render_at_once_while_a_node_hangs() {
    let portal = Setup { node_timeout: 7, ..Setup::default() }.start();
    let id = portal.deployed("alice");
    portal.nodes.conduct(Conduct::Hang);
    std::thread::scope(|scope| {
        let (deploys, console, terminate) = (
            scope.spawn(|| deploy(&portal)),
            scope.spawn(|| portal.get("alice", &format!("console?id={id}&format=json")).send()),
            scope.spawn(|| portal.post("alice", "terminate", &[("id", &id), ("format", "json")]).send()),
        );
        std::thread::sleep(Duration::from_millis(700));
        let began = Instant::now();
        for page in
            ["list".to_owned(), "deploy".to_owned(), format!("show?id={id}"), "list?format=json".to_owned()]
        {
            portal.get("alice", &page).send().expect(200);
            portal.get("admin", &page).send().expect(200);
        }
        let time = began.elapsed();
        // Eight pages, each by a debug build on a busy machine. A page that waited for the node or
        // the registry would take seven seconds.
        assert!(time < Duration::from_secs(4), "eight pages took {time:?}");
        let states = portal.list("alice")["machines"].to_string();
        assert!(states.contains("\"deploying\"") && states.contains("\"terminating\""), "{states}");
        deploys.join().expect("an answer").0.expect(502);
        console.join().expect("an answer").expect(502).says("did not answer within 7 s");
        terminate.join().expect("an answer").expect(502);
    });
    assert_eq!(portal.state("alice", &id), "failed");
}

#[test]
fn the_console_says_why_it_is_empty() {
    let mut portal = Portal::start();
    let id = portal.deploy("alice", &[]);
    let console =
        |portal: &Portal, form: &str| portal.get("alice", &format!("console?id={id}&format={form}")).send();
    console(&portal, "text").expect(200).says("Linux version 6.1");
    console(&portal, "html").expect(200).says("Only the last part is shown");
    portal.nodes.conduct(Conduct::Say(200, "{\"text\":\"<script>\\u0000\",\"truncated\":false}".to_owned()));
    console(&portal, "html").expect(200).says("&lt;script&gt;");
    portal.nodes.conduct(Conduct::Garbage);
    console(&portal, "json").expect(502).says("makes no sense");
    portal.nodes.shut_down();
    console(&portal, "html").expect(200).says("reached");
    console(&portal, "text").expect(502).says("reached");
    portal.assert_no_panic();
}

#[test]
fn an_abandoned_deploy_can_be_retried() {
    let portal = Portal::start();
    portal.nodes.conduct(Conduct::Close);
    let id = id_of(&deploy(&portal).0.expect(502).json());
    portal.nodes.conduct(Conduct::Accept);
    // The form is prefilled from the failed machine.
    let form = portal.get("alice", &format!("deploy?like={id}")).send().expect(200).text();
    assert!(form.contains("value=\"128\""), "{form}");
    let second = portal.deploy("alice", &[]);
    assert_eq!(portal.state("alice", &second), "deploying");
    // The node got the order after all and reports it, and is told to undo it.
    let verdict = portal.report(&id, Order::Deploy, 1, News::Done).expect(200).json();
    assert_eq!(verdict["verdict"], "abandon");
    assert_eq!(portal.state("alice", &id), "failed");
    let answer = portal.order("alice", Order::Terminate, &id).expect(202).json();
    assert_eq!(state_of(&answer), "terminating");
    portal.report(&id, Order::Terminate, 1, News::Done).expect(200);
    assert_eq!(portal.state("alice", &id), "notDeployed");
}
