//! The tests themselves: nothing that a test starts outlives it, and nothing that it creates is
//! left behind.

use std::time::Duration;

use crate::support::apache::{Kind, programs_of};
use crate::support::eventually;
use crate::support::node::Conduct;
use crate::support::portal::{Portal, Setup, password};
use crate::support::stage::Stage;

/// Drops a portal in mid-request: a CGI program waits for a node, and a client for the program.
fn drop_in_mid_request(kind: Kind) {
    let portal = Setup { kind, node_timeout: 30, ..Setup::default() }.start();
    portal.nodes.conduct(Conduct::Hang);
    let dir = portal.dir.path().to_owned();
    let deploy = portal
        .ask("GET", "/cgi-bin/user/deploy?vmImage=tiny&vmMemory=128&vmPartition=1&format=json")
        .by("alice", &password("alice"));
    let client = std::thread::spawn(move || std::panic::catch_unwind(|| deploy.send()));
    let waiting = || portal.nodes.received().len() == 1;
    assert!(eventually(Duration::from_secs(10), || waiting().then_some(())).is_some());
    assert!(!programs_of(&dir).is_empty(), "no program found, so this test shows nothing");
    // As when a test fails: its portal is dropped while the thread unwinds.
    let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let _portal: Portal = portal;
        std::panic::resume_unwind(Box::new("a failing test"));
    }));
    assert!(failed.is_err());
    // The client may or may not get an answer.
    let _ = client.join();
    assert_eq!(programs_of(&dir), Vec::new(), "still running");
    assert!(!dir.exists(), "still there: {}", dir.display());
}

#[test]
fn a_portal_leaves_nothing_behind() {
    std::thread::scope(|scope| {
        for kind in [Kind::Event, Kind::Prefork] {
            scope.spawn(move || drop_in_mid_request(kind));
        }
    });
}

#[test]
fn all_portals_share_one_installation() {
    let (one, other) = (Stage::shared(), Stage::shared());
    assert_eq!(one.path("/usr"), other.path("/usr"));
}
