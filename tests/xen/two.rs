//! Two hosts and one server: `xenhost`, server and node, and `xenhost2`, a node only, on a network of their own.

use vgrid::model::sign::Key;
use vgrid::model::stage::{Order, OrderNumber};
use vgrid::model::wire::{News, NodeInfo, Report};

use super::host::{Host, scenario_of_two};
use super::signed::{INFO, Message, STATUS, recipient};
use crate::support::signed::Seal;

/// Addresses on the hosts' own network: the server's, the other's, and one that is nobody's.
const SERVER: &str = "10.0.3.1";
const OTHER: &str = "10.0.3.2";
const NOBODY: &str = "10.0.3.9";

/// Makes of one state twice a server with a node, and a node.
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

/// That the node or the server has refused something, and its log says what came from where.
fn must_have_logged(host: &Host, from: &str, why: &str) {
    let log = host.log();
    let told = |line: &str| {
        line.contains("event=request.refused")
            && line.contains(&format!("from=\"{from}\""))
            && line.contains(why)
    };
    assert!(log.lines().any(told), "no line of {from}: {why}\n{log}");
}

const NO_ADDRESS: &str = "is not its address";
const NO_SIGNATURE: &str = "the signature is wrong";

/// A node listens to nobody but the server.
fn a_node_refuses_others(server: &Host, other: &Host, key: &Key, wrong: &Key) {
    let registry = server.registry();
    let ask =
        |host: &Host, to, key, from| host.send(&Message { to, path: INFO, body: "", key, registry, from });
    let (status, text) = ask(server, "xenhost2", Some(key), SERVER);
    assert_eq!(status, 200, "{text}");
    let info: NodeInfo = serde_json::from_str(&text).expect("what a node says");
    assert!(info.domains.iter().any(|domain| domain.name == "alice_vm2"), "{info:?}");

    // From outside, by the forwarded port, with the right signature.
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
    // From another address of the server's own card.
    server.sh(&format!("ip address add {NOBODY}/24 dev eth1"));
    assert_eq!(ask(server, "xenhost2", Some(key), NOBODY).0, 403);
    must_have_logged(other, NOBODY, NO_ADDRESS);
    // Of another node, and of the node itself.
    assert_eq!(ask(other, "xenhost", Some(key), OTHER).0, 403);
    must_have_logged(server, OTHER, NO_ADDRESS);
    assert_eq!(ask(other, "xenhost2", Some(key), OTHER).0, 403);
    // From the right address with a wrong signature, and with none.
    assert_eq!(ask(server, "xenhost2", Some(wrong), SERVER).0, 403);
    must_have_logged(other, SERVER, NO_SIGNATURE);
    assert_eq!(ask(server, "xenhost2", None, SERVER).0, 403);
    must_have_logged(other, SERVER, "not signed");
}

/// The server takes news of a machine from that machine's host only.
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
    let tell = |host: &Host, key, from| {
        host.send(&Message { to: "xenhost", path: STATUS, body: &body, key: Some(key), registry, from })
    };
    let (status, text) = tell(server, key, SERVER);
    assert!(status == 403 && text.contains("xenhost2"), "{status} {text}");
    must_have_logged(server, SERVER, NO_ADDRESS);
    other.sh("ip address add 10.0.3.8/24 dev eth1");
    assert_eq!(tell(other, key, "10.0.3.8").0, 403);
    must_have_logged(server, "10.0.3.8", NO_ADDRESS);
    assert_eq!(tell(other, wrong, OTHER).0, 403);
    must_have_logged(server, OTHER, NO_SIGNATURE);
    // The right one is taken; that a machine is gone which nobody has ordered away changes nothing.
    let (status, text) = tell(other, key, OTHER);
    assert_eq!(status, 200, "{text}");
    assert_eq!(server.machine("alice", id)["state"], "deployed");
}

#[test]
fn machines_spread_over_two_hosts_that_listen_to_their_server_only() {
    scenario_of_two("two", |server, other| {
        set_up(server, other);
        let before = [server.inventory(), other.inventory()];
        // By the share of what each may have: 0/2 and 0/4, then 1/2 and 0/4, then 1/2 and 1/4.
        let machines: Vec<(String, String)> = (0..3)
            .map(|_| {
                let (status, answer) = server.deploy("alice", "vmImage=tiny&vmMemory=96&vmPartition=1");
                assert_eq!(status, 202, "{answer}");
                let text = |key: &str| answer["machine"][key].as_str().expect("text").to_owned();
                // One after the other: two emulated hosts that both start machines are too slow for libxl's patience.
                server.wait_for("alice", &text("id"), "deployed", 300);
                (text("id"), text("physical_host"))
            })
            .collect();
        let hosts: Vec<&str> = machines.iter().map(|(_, host)| host.as_str()).collect();
        assert_eq!(hosts, ["xenhost", "xenhost2", "xenhost2"]);
        let running = |host: &Host| host.sh("xl list | awk '/alice/ {print $1}' | sort");
        assert_eq!(
            (running(server), running(other)),
            ("alice_vm1\n".into(), "alice_vm2\nalice_vm3\n".into())
        );
        let (status, console) = server.ask("alice", "console", &format!("format=text&id={}", machines[1].0));
        assert!(status == 200 && console.contains("vgrid_username=alice"), "{status} {console}");

        let key = server.key();
        let wrong = Key::new("a key of thirty-two characters, or more").expect("a key");
        a_node_refuses_others(server, other, &key, &wrong);
        the_server_refuses_others(server, other, &key, &wrong, &machines[1].0);

        for (id, _) in &machines {
            server.terminate("alice", id);
        }
        server.must_be_as(&before[0]);
        other.must_be_as(&before[1]);

        // A host that is gone is said to be.
        other.cut_power();
        let (_, answer) =
            server.deploy("alice", "vmImage=tiny&vmMemory=96&vmPartition=1&physicalHost=xenhost2");
        let id = answer["machine"]["id"].as_str().unwrap_or_else(|| panic!("no machine in {answer}"));
        let machine = server.wait_for("alice", id, "failed", 120);
        let reason = machine["reason"].as_str().expect("a reason");
        // Which of the two depends on whether the server's kernel still believes in the other's Ethernet address.
        let words = ["xenhost2 can't be reached", "xenhost2 did not answer"];
        assert!(words.iter().any(|words| reason.contains(words)), "{reason}");
        // A host that said nothing may have taken the order, so its owner has the entry removed without asking it.
        let (status, text) = server.ask("alice", "terminate", &format!("format=json&force=1&id={id}"));
        assert_eq!(status, 202, "{text}");
        assert_eq!(server.machine("alice", id)["state"], "notDeployed");
    });
}
