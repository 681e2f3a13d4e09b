//! What users automate: with Debian's wget and nothing else.

use std::process::{Command, Output};

use crate::support::portal::{Portal, password};
use vgrid::model::stage::Order;
use vgrid::model::wire::News;

fn wget(portal: &Portal, more: &[&str], path: &str) -> Output {
    Command::new("/usr/bin/wget")
        .current_dir(portal.dir.path())
        .args(["-q", "-O", "-", "--tries=1", "--timeout=30", "--no-config", "--no-hsts"])
        .args(["--user=alice", &format!("--password={}", password("alice"))])
        .args(more)
        .arg(format!("http://{}/cgi-bin/user/{path}", portal.apache.address))
        .env_clear()
        .output()
        .expect("wget can be started")
}

/// The output of a successful command.
#[track_caller]
fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).expect("text")
}

#[test]
fn a_machine_s_whole_life_works_by_get() {
    let portal = Portal::start();
    let line =
        text(&wget(&portal, &[], "deploy?vmImage=tiny&vmMemory=128&vmPartition=1&expiryTime=2h&format=text"));
    let columns: Vec<&str> = line.trim_end().split('\t').collect();
    let (id, state) = (columns[0], columns[1]);
    assert_eq!(state, "deploying", "{line}");
    let state = || {
        let list = text(&wget(&portal, &["--auth-no-challenge"], "list?format=text"));
        let row = list.lines().find(|line| line.starts_with(id)).map(str::to_owned);
        row.and_then(|row| row.split('\t').nth(1).map(str::to_owned))
    };
    assert_eq!(state().as_deref(), Some("deploying"));
    portal.report(id, Order::Deploy, 1, News::Done).expect(200);
    assert_eq!(state().as_deref(), Some("deployed"));
    assert!(text(&wget(&portal, &[], &format!("console?id={id}&format=text"))).contains("Linux version"));
    for (order, during, after) in [
        (Order::Stop, "stopping", "stopped"),
        (Order::Start, "starting", "deployed"),
        (Order::Reboot, "rebooting", "deployed"),
    ] {
        let line = text(&wget(&portal, &[], &format!("{order}?vmHostname=vm1&format=text")));
        assert!(line.starts_with(&format!("{id}\t{during}\tvm1\t")), "{line}");
        portal.report(id, order, 1, News::Done).expect(200);
        assert_eq!(state().as_deref(), Some(after));
    }
    text(&wget(&portal, &[], &format!("terminate?id={id}&format=text")));
    assert_eq!(state().as_deref(), Some("terminating"));
    portal.report(id, Order::Terminate, 1, News::Done).expect(200);
    assert_eq!(state(), None);
}

#[test]
fn forms_can_be_posted_and_json_read() {
    let portal = Portal::start();
    let form = "--post-data=vmImage=tiny&vmMemory=128&vmPartition=1&vmName=by+wget";
    let json = text(&wget(&portal, &[form, "--header=Accept: application/json"], "deploy"));
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["machine"]["label"], "by wget");
    // As a page: wget follows the redirect to the machine's page.
    let page = text(&wget(&portal, &[form], "deploy"));
    assert!(page.contains("<h1>vm2"), "{page}");
}

#[test]
fn a_refusal_reaches_a_script_as_status_and_sentence() {
    let portal = Portal::start();
    for (path, code) in
        [("deploy?vmImage=nothing&vmMemory=128&vmPartition=1&format=text", 8), ("show?id=x&format=text", 8)]
    {
        let quiet = wget(&portal, &[], path);
        assert_eq!(quiet.status.code(), Some(code), "{quiet:?}");
        let shown = wget(&portal, &["--content-on-error"], path);
        assert_eq!(shown.status.code(), Some(code), "{shown:?}");
        assert!(String::from_utf8_lossy(&shown.stdout).contains('.'), "{shown:?}");
    }
    let unknown = wget(&portal, &["--password=wrong"], "list");
    assert_eq!(unknown.status.code(), Some(6), "{unknown:?}");
}

#[test]
fn testing_an_address_changes_nothing() {
    let portal = Portal::start();
    wget(&portal, &["--spider"], "deploy?vmImage=tiny&vmMemory=128&vmPartition=1&format=text");
    assert_eq!(portal.list("alice")["total"], 0, "wget --spider deployed a machine");
}
