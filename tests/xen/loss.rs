//! No disk is lost by what a host is told: by somebody who answers in the server's place, or by a server that has lost its
//! registry and knows none of the machines.

use std::collections::BTreeMap;

use vgrid::model::stage::Order;

use super::healing::{TINY, id};
use super::host::{Host, project, scenario};
use super::reports::wait_for_workers;

const REGISTRY: &str = "/var/lib/vgrid/registry.sqlite";

/// What must not be lost, machine by machine: the volumes as LVM knows them, and that there is a record.
fn disks(host: &Host) -> (String, String) {
    (
        host.sh("lvs --noheadings -o lv_name,lv_uuid,lv_tags vg1 | sort"),
        host.sh("ls /var/lib/vgrid/node/jobs/*.json | sort"),
    )
}

fn order(host: &Host, order: Order, name: &str) {
    let more = if order == Order::Save { "&name=kept" } else { "" };
    let (status, text) = host.ask("alice", order.as_str(), &format!("format=json&vmHostname={name}{more}"));
    assert_eq!(status, 202, "{order} of {name}: {text}");
}

/// One machine for each order that leaves its disk.
const MACHINES: [(&str, Order); 4] =
    [("vm1", Order::Stop), ("vm2", Order::Reboot), ("vm3", Order::Save), ("vm4", Order::Start)];

fn deploy_all(host: &Host) -> BTreeMap<&'static str, String> {
    let mut ids = BTreeMap::new();
    for (name, _) in MACHINES {
        let (status, answer) = host.deploy("alice", &format!("{TINY}&vmHostname={name}"));
        assert_eq!(status, 202, "{answer}");
        ids.insert(name, id(&answer["machine"]).to_owned());
    }
    for id in ids.values() {
        host.wait_for("alice", id, "deployed", 900);
    }
    // Of what runs no disk is saved, and nothing is started.
    for name in ["vm3", "vm4"] {
        order(host, Order::Stop, name);
        host.wait_for("alice", &ids[name], "stopped", 600);
    }
    ids
}

fn must_be_as_ordered(host: &Host) {
    host.heal("after the lies");
    for (name, order) in MACHINES {
        let expected = if matches!(order, Order::Stop | Order::Save) { "stopped" } else { "deployed" };
        let machine = host.named(name).expect("it is there");
        assert_eq!(machine["state"], expected, "{name}: {machine}\n{}", host.log());
    }
}

#[test]
fn no_disk_is_lost_to_a_liar_or_to_a_server_that_lost_its_registry() {
    scenario("loss", |host| {
        let before = host.inventory();
        let ids = deploy_all(host);
        let kept = disks(host);

        // Somebody answers in the server's place, and says that all of it is to be removed.
        host.put(&project().join("tests/xen/liar.pl"), "/root/liar.pl");
        host.sh("setsid perl /root/liar.pl > /dev/null 2>&1 & echo $! > /root/liar; \
                 sed -i '/^serverHostname/a serverURL = \"http://xenhost:8099\"' /etc/vgrid/node.cfg");
        for (name, order) in MACHINES {
            self::order(host, order, name);
        }
        wait_for_workers(host);
        for order in MACHINES.map(|(_, order)| order) {
            let told = format!("\"order\":\"{order}\"");
            assert!(host.sh("cat /root/lies").contains(&told), "nobody asked the liar about {order}");
        }
        assert_eq!(disks(host), kept, "{}", host.log());
        host.sh("kill $(cat /root/liar); rm /root/liar /root/liar.pl /root/lies; \
                 sed -i '/^serverURL/d' /etc/vgrid/node.cfg");
        must_be_as_ordered(host);

        // The server loses its registry while orders are under way, and gets an empty one.
        order(host, Order::Start, "vm1");
        host.wait_for("alice", &ids["vm1"], "deployed", 600);
        order(host, Order::Stop, "vm1");
        order(host, Order::Reboot, "vm2");
        host.sh(&format!(
            "install -d -m 700 -o www-data -g www-data /root/lost && mv {REGISTRY}* /root/lost/ && \
             runuser -u www-data -- vgrid-registry init"
        ));
        wait_for_workers(host);
        assert_eq!(disks(host), kept, "{}", host.log());
        // Nor does the node take orders from it. Everybody is told why, and what to do.
        let said = host.upkeep();
        assert!(said.contains("obeys the registry"), "{said}");
        assert!(host.log().contains("obeys the registry"), "{}", host.log());
        let (status, page) = host.ask("admin", "admin", "format=json");
        assert!(status == 200 && page.contains("obeys the registry"), "{page}");
        let check = host.try_sh("vgrid-check");
        assert!(check.status != 0 && check.out.contains("vgrid-registry restore"), "{}", check.out);
        let (status, answer) = host.deploy("alice", &format!("{TINY}&vmHostname=vm5"));
        assert_ne!(status, 202, "{answer}");
        assert_eq!(disks(host), kept, "{}", host.log());

        host.sh(&format!("rm {REGISTRY}*; mv /root/lost/* /var/lib/vgrid/ && rmdir /root/lost"));
        host.heal("with the registry back");
        assert_eq!(disks(host), kept, "{}", host.log());
        for (name, state) in
            [("vm1", "stopped"), ("vm2", "deployed"), ("vm3", "stopped"), ("vm4", "deployed")]
        {
            assert_eq!(host.named(name).expect("it is there")["state"], state, "{name}\n{}", host.log());
        }

        let (status, text) = host.ask("alice", "images", "format=json&do=delete&name=kept");
        assert_eq!(status, 202, "{text}");
        for id in ids.values() {
            host.terminate("alice", id);
        }
        host.must_be_as(&before);
    });
}
