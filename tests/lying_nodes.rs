//! A node that says more than it can have. What it says is bounded where it enters, and the others wait for nobody.

use std::sync::atomic::{AtomicBool, Ordering};

use vgrid::model::bounds::ENTRIES;
use vgrid::model::size::Amount;
use vgrid::model::wire::{Domain, NodeInfo, Volume};

use crate::support::node::{address, nothing};
use crate::support::portal::{Portal, Setup};

fn domains(many: usize, name: impl Fn(usize) -> String) -> NodeInfo {
    let mut info = nothing();
    let domain = |n| {
        let (memory, state) = (Amount::from_mib(64), "-b----".to_owned());
        Domain { name: name(n), id: u32::try_from(n).expect("a number"), memory, state }
    };
    info.domains = (0..many).map(domain).collect();
    info
}

/// What a page may have at most, in bytes.
const PAGE: usize = 400_000;

#[test]
fn invented_domains_lock_nobody_out() {
    let portal =
        Setup { hosts: vec![("localhost", 100), ("127.0.0.2", 4)], names: 100, ..Setup::default() }.start();
    portal.deploy("alice", &[]);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let deploys = scope.spawn(|| {
            let deploy = "deploy?vmImage=tiny&vmMemory=128&vmPartition=1&physicalHost=localhost&format=json";
            let mut statuses = Vec::new();
            while !over.load(Ordering::Relaxed) {
                statuses.push(portal.get("bob", deploy).send().status);
            }
            statuses
        });
        // As many as are not believed, and as many as just are; each time others.
        for (many, run) in [(45_000, 1), (45_000, 2), (ENTRIES, 3), (ENTRIES, 4)] {
            portal.nodes.has(address(2), domains(many, |n| format!("lie{run}-{n}")));
            portal.upkeep(&[]);
            for format in ["html", "json", "text"] {
                let page = portal.get("admin", &format!("admin?format={format}")).send().expect(200);
                assert!(page.body.len() < PAGE, "{many}: {format} has {} bytes", page.body.len());
            }
        }
        over.store(true, Ordering::Relaxed);
        let statuses = deploys.join().expect("deploys");
        assert!(
            !statuses.is_empty() && statuses.iter().all(|status| matches!(status, 202 | 409)),
            "{statuses:?}"
        );
        assert_eq!(statuses[0], 202);
    });
    let page = portal.get("admin", "admin").send().expect(200);
    page.says("lie4-0").says("And 150 more on 127.0.0.2.");
}

/// Upkeep says of the node at 127.0.0.2 that nothing of what it says counts, and its machine is as it was.
fn is_not_believed(portal: &Portal, id: &str, what: &str, info: NodeInfo) {
    portal.nodes.has(address(1), info);
    let said = portal.upkeep(&[]);
    assert!(said.contains("makes no sense") && said.contains(what), "{what}: {said}");
    let machine = portal.show("alice", id)["machine"].clone();
    assert_eq!(
        (&machine["state"], machine["reason"].is_null()),
        (&"deployed".into(), true),
        "{what}: {machine}"
    );
}

#[test]
fn what_says_too_much_is_not_believed_at_all() {
    let portal = Setup { clock: true, hosts: vec![("localhost", 4)], ..Setup::default() }.start();
    let id = portal.deployed("alice");
    // So much later its machine would count as missing, if an empty answer was what is left of these.
    portal.pass(600);
    is_not_believed(&portal, &id, "more than 10000 entries", domains(ENTRIES + 1, |n| format!("x{n}")));
    is_not_believed(&portal, &id, "longer than 255", domains(1, |_| "x".repeat(256)));
    let volume = Volume { name: "y".repeat(300), size: Amount::from_mib(1), machine: None, open: false };
    is_not_believed(&portal, &id, "longer than 255", NodeInfo { volumes: vec![volume], ..nothing() });
    let mut info = nothing();
    info.host.version = "0".repeat(1_000_000);
    is_not_believed(&portal, &id, "longer than 255", info);
    portal.assert_no_panic();
}
