//! Two hosts and one server on a network of their own: `xenhost` is server and node, `xenhost2`
//! only a node.

use vgrid::model::sign::Key;
use vgrid::model::stage::{Order, OrderNumber};
use vgrid::model::wire::{News, NodeInfo, Report};

use super::host::{Host, TINY, scenario_of_two};
use super::signed::{INFO, Message, STATUS, recipient};
use crate::support::portal::id_of;
use crate::support::signed::Seal;
use crate::support::visited::Visited as _;

/// Addresses on the hosts' own network: the server's, the other host's, and an unused one.
const SERVER: &str = "10.0.3.1";
const OTHER: &str = "10.0.3.2";
const NOBODY: &str = "10.0.3.9";

/// Turns two copies of one state into a server with a node, and a second node.
fn set_up(server: &Host, other: &Host) {
    for (host, address) in [(server, SERVER), (other, OTHER)] {
        let last = address.rsplit('.').next().expect("a number");
        host.sh(&format!(
            "sed -i '/ xenhost$/d' /etc/hosts && printf '{SERVER} xenhost\\n{OTHER} xenhost2\\n' >> /etc/hosts && \
             sed -i 's/^xenhost = .*/xenhost = 2\\nxenhost2 = 4/' /etc/vgrid/common.cfg && \
             ip link set eth1 address 52:54:00:00:03:0{last} && ip address add {address}/24 dev eth1 && \
             ip link set eth1 up"
        ));
    }
    other.sh("hostname xenhost2 && echo xenhost2 > /etc/hostname && a2disconf -q vgrid-server && \
              systemctl reload apache2 && \
              rm -r /usr/lib/vgrid/cgi-bin/{user,internal} /etc/vgrid/server.cfg /var/lib/vgrid/registry*");
    assert_eq!(other.sh("ls /usr/lib/vgrid/cgi-bin"), "node\n");
    server.sh("ping -q -c 1 -W 10 xenhost2");
    assert_eq!(server.sh("cat /etc/vgrid/key"), other.sh("cat /etc/vgrid/key"), "they share a key");
}

/// Asserts that the log has a refusal from that address for that reason.
fn must_have_logged(host: &Host, from: &str, why: &str) {
    let log = host.log();
    let matches = |line: &str| {
        line.contains("event=request.refused")
            && line.contains(&format!("from=\"{from}\""))
            && line.contains(why)
    };
    assert!(log.lines().any(matches), "no line about {from}: {why}\n{log}");
}

const NO_ADDRESS: &str = "is not its address";
const NO_SIGNATURE: &str = "the signature is wrong";

/// A node obeys only the server.
fn a_node_refuses_others(server: &Host, other: &Host, key: &Key, wrong: &Key) {
    let registry = server.registry();
    let ask =
        |host: &Host, to, key, from| host.send(&Message { to, path: INFO, body: "", key, registry, from });
    let (status, text) = ask(server, "xenhost2", Some(key), SERVER);
    assert_eq!(status, 200, "{text}");
    let info: NodeInfo = serde_json::from_str(&text).expect("node info");
    assert!(info.domains.iter().any(|domain| domain.name == "alice_vm2"), "{info:?}");

    // From outside, through the forwarded port, with a correct signature.
    let agent: ureq::Agent =
        ureq::Agent::config_builder().http_status_as_error(false).proxy(None).build().into();
    let to = Some(recipient("xenhost2", INFO));
    let seal = Seal { key, to, registry: Some(registry), time: vgrid::system::clock::now() };
    let request = seal
        .headers("GET", INFO, b"")
        .into_iter()
        .fold(agent.get(format!("{}{INFO}", other.portal)), |request, (name, value)| {
            request.header(name, value)
        });
    assert_eq!(request.call().expect("an answer").status().as_u16(), 403);
    must_have_logged(other, "10.0.2.2", NO_ADDRESS);
    // From another address on the server's own interface.
    server.sh(&format!("ip address add {NOBODY}/24 dev eth1"));
    assert_eq!(ask(server, "xenhost2", Some(key), NOBODY).0, 403);
    must_have_logged(other, NOBODY, NO_ADDRESS);
    // From another node, and from the node itself.
    assert_eq!(ask(other, "xenhost", Some(key), OTHER).0, 403);
    must_have_logged(server, OTHER, NO_ADDRESS);
    assert_eq!(ask(other, "xenhost2", Some(key), OTHER).0, 403);
    // From the right address, with a wrong signature and with none.
    assert_eq!(ask(server, "xenhost2", Some(wrong), SERVER).0, 403);
    must_have_logged(other, SERVER, NO_SIGNATURE);
    assert_eq!(ask(server, "xenhost2", None, SERVER).0, 403);
    must_have_logged(other, SERVER, "not signed");
}

/// The server accepts reports on a machine only from that machine's host.
fn the_server_refuses_others(server: &Host, other: &Host, key: &Key, wrong: &Key, id: &str) {
    let report = Report {
        id: id.parse().expect("an id"),
        sequence: 1000,
        order: Order::Terminate,
        number: OrderNumber::default().next(u64::MAX),
        news: News::Done,
        host: None,
    };
    let body = serde_json::to_string(&report).expect("JSON");
    let registry = server.registry();
    let send = |host: &Host, key, from| {
        host.send(&Message { to: "xenhost", path: STATUS, body: &body, key: Some(key), registry, from })
    };
    let (status, text) = send(server, key, SERVER);
    assert!(status == 403 && text.contains("xenhost2"), "{status} {text}");
    must_have_logged(server, SERVER, NO_ADDRESS);
    other.sh("ip address add 10.0.3.8/24 dev eth1");
    assert_eq!(send(other, key, "10.0.3.8").0, 403);
    must_have_logged(server, "10.0.3.8", NO_ADDRESS);
    assert_eq!(send(other, wrong, OTHER).0, 403);
    must_have_logged(server, OTHER, NO_SIGNATURE);
    // A report from the right host is accepted. A machine that is reported gone without an order to
    // remove it stays as it is.
    let (status, text) = send(other, key, OTHER);
    assert_eq!(status, 200, "{text}");
    assert_eq!(server.machine("alice", id)["state"], "deployed");
}

#[test]
fn machines_spread_over_two_hosts_that_obey_only_their_server() {
    scenario_of_two("two", |server, other| {
        set_up(server, other);
        let before = [server.inventory(), other.inventory()];
        // By the share of slots in use: 0/2 and 0/4, then 1/2 and 0/4, then 1/2 and 1/4.
        let machines: Vec<(String, String)> = (0..3)
            .map(|_| {
                let id = server.deploy("alice", TINY);
                // One after the other: two emulated hosts that start machines at once are too slow
                // for libxl's time limits.
                let machine = server.wait_for("alice", &id, "deployed", 300);
                (id, machine["physical_host"].as_str().expect("a host").to_owned())
            })
            .collect();
        let hosts: Vec<&str> = machines.iter().map(|(_, host)| host.as_str()).collect();
        assert_eq!(hosts, ["xenhost", "xenhost2", "xenhost2"]);
        let running = |host: &Host| host.sh("xl list | awk '/alice/ {print $1}' | sort");
        assert_eq!(
            (running(server), running(other)),
            ("alice_vm1\n".into(), "alice_vm2\nalice_vm3\n".into())
        );
        let console = server.console("alice", &machines[1].0);
        assert!(console.contains("vgrid_username=alice"), "{console}");

        let key = server.key();
        let wrong = Key::new("a key of thirty-two characters, or more").expect("a key");
        a_node_refuses_others(server, other, &key, &wrong);
        the_server_refuses_others(server, other, &key, &wrong, &machines[1].0);

        for (id, _) in &machines {
            server.terminate("alice", id);
        }
        server.must_be_as(&before[0]);
        other.must_be_as(&before[1]);

        // A host that is down is reported as such.
        other.cut_power();
        let (_, answer) = server.try_deploy("alice", &format!("{TINY}&physicalHost=xenhost2"));
        let id = id_of(&answer);
        let machine = server.wait_for("alice", &id, "failed", 120);
        let reason = machine["reason"].as_str().expect("a reason");
        // Which message it is depends on whether the server's kernel still has the other host's
        // Ethernet address cached.
        let words = ["xenhost2 can't be reached", "xenhost2 did not answer"];
        assert!(words.iter().any(|words| reason.contains(words)), "{reason}");
        // A host that did not answer may have taken the order, so the owner has the entry removed
        // by force.
        server.order("alice", Order::Terminate, &format!("force=1&id={id}"));
        assert_eq!(server.machine("alice", &id)["state"], "notDeployed");
    });
}
