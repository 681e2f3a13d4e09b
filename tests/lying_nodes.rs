//! A node whose `info` is larger than it can be. It is bounded where it enters, and delays no one.

use std::sync::atomic::{AtomicBool, Ordering};

use vgrid::model::bounds::ENTRIES;
use vgrid::model::names::DomainNumber;
use vgrid::model::size::Amount;
use vgrid::model::wire::{Domain, NodeInfo, Volume};

use crate::support::node::{address, nothing};
use crate::support::portal::{Portal, Setup};

fn domains(many: usize, name: impl Fn(usize) -> String) -> NodeInfo {
    let mut info = nothing();
    let domain = |n| {
        let (memory, state) = (Amount::from_mib(64), "running".to_owned());
        Domain { name: name(n), id: DomainNumber::new(u32::try_from(n).expect("a number")), memory, state }
    };
    info.domains = (0..many).map(domain).collect();
    info
}

/// The most bytes that a page may have.
const PAGE: usize = 400_000;

#[test]
fn invented_domains_lock_nobody_out() {
    let portal =
        Setup { hosts: vec![("localhost", 100), ("127.0.0.2", 4)], names: 100, ..Setup::default() }.start();
    portal.deploy("alice", &[]);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let deploys = scope.spawn(|| {
            let deploy = "deploy?vmImage=tiny&vmMemory=128&vmPartition=1&physicalHost=localhost&format=json";
            let mut statuses = Vec::new();
            while !done.load(Ordering::Relaxed) {
                statuses.push(portal.get("bob", deploy).send().status);
            }
            statuses
        });
        // More than are accepted, and exactly as many; each time others.
        for (many, run) in [(45_000, 1), (45_000, 2), (ENTRIES, 3), (ENTRIES, 4)] {
            portal.nodes.has(address(2), domains(many, |n| format!("lie{run}-{n}")));
            portal.upkeep(&[]);
            for format in ["html", "json", "text"] {
                let page = portal.get("admin", &format!("admin?format={format}")).send().expect(200);
                assert!(page.body.len() < PAGE, "{many}: {format} has {} bytes", page.body.len());
            }
        }
        done.store(true, Ordering::Relaxed);
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

/// Asserts that upkeep discards all that the node says, and that its machine stays as it was.
fn assert_discarded(portal: &Portal, id: &str, what: &str, info: NodeInfo) {
    portal.nodes.has(address(1), info);
    let output = portal.upkeep(&[]);
    assert!(output.contains("makes no sense") && output.contains(what), "{what}: {output}");
    let machine = portal.show("alice", id)["machine"].clone();
    assert_eq!(
        (&machine["state"], machine["reason"].is_null()),
        (&"deployed".into(), true),
        "{what}: {machine}"
    );
}

#[test]
fn oversized_node_info_is_discarded_as_a_whole() {
    let portal = Setup { clock: true, hosts: vec![("localhost", 4)], ..Setup::default() }.start();
    let id = portal.deployed("alice");
    // By now its machine would count as missing, if the answers below were taken as empty.
    portal.pass(600);
    assert_discarded(&portal, &id, "more than 10000 entries", domains(ENTRIES + 1, |n| format!("x{n}")));
    assert_discarded(&portal, &id, "longer than 255", domains(1, |_| "x".repeat(256)));
    let volume = Volume {
        name: "y".repeat(300),
        size: Amount::from_mib(1),
        machine: None,
        open: false,
        snapshot: None,
    };
    assert_discarded(&portal, &id, "longer than 255", NodeInfo { volumes: vec![volume], ..nothing() });
    let mut info = nothing();
    info.host.version = "0".repeat(1_000_000);
    assert_discarded(&portal, &id, "longer than 255", info);
    portal.assert_no_panic();
}
