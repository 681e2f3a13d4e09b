//! No disk is lost to a wrong message: from an impostor that answers in place of the server, or
//! from a server that lost its registry and knows no machines.

use std::collections::BTreeMap;

use vgrid::model::stage::Order;

use super::host::{Host, TINY, project, scenario};
use super::reports::wait_for_workers;
use crate::support::healing::Healing as _;
use crate::support::visited::Visited as _;

const REGISTRY: &str = "/var/lib/vgrid/registry.sqlite";

/// What must not be lost: the volumes as LVM lists them, and the records.
fn disks(host: &Host) -> (String, String) {
    (
        host.sh("lvs --noheadings -o lv_name,lv_uuid,lv_tags vg1 | sort"),
        host.sh("ls /var/lib/vgrid/node/jobs/*.json | sort"),
    )
}

fn give(host: &Host, order: Order, name: &str) {
    let more = if order == Order::Save { "&name=kept" } else { "" };
    host.order("alice", order, &format!("vmHostname={name}{more}"));
}

/// One machine for each order that does not remove the disk.
const MACHINES: [(&str, Order); 4] =
    [("vm1", Order::Stop), ("vm2", Order::Reboot), ("vm3", Order::Save), ("vm4", Order::Start)];

fn deploy_all(host: &Host) -> BTreeMap<&'static str, String> {
    let mut ids = BTreeMap::new();
    for (name, _) in MACHINES {
        ids.insert(name, host.deploy("alice", &format!("{TINY}&vmHostname={name}")));
    }
    for id in ids.values() {
        host.wait_for("alice", id, "deployed", 900);
    }
    // A machine must be stopped before it can be saved or started.
    for name in ["vm3", "vm4"] {
        give(host, Order::Stop, name);
        host.wait_for("alice", &ids[name], "stopped", 600);
    }
    ids
}

fn must_be_as_ordered(host: &Host) {
    host.heal("after the impostor");
    for (name, order) in MACHINES {
        let expected = if matches!(order, Order::Stop | Order::Save) { "stopped" } else { "deployed" };
        let machine = host.named(name).expect("the machine");
        assert_eq!(machine["state"], expected, "{name}: {machine}\n{}", host.log());
    }
}

#[test]
fn no_disk_is_lost_to_an_impostor_or_a_server_that_lost_its_registry() {
    scenario("loss", |host| {
        let before = host.inventory();
        let ids = deploy_all(host);
        let kept = disks(host);

        // An impostor answers in place of the server, and demands that everything be removed.
        host.put(&project().join("tests/xen/liar.pl"), "/root/liar.pl");
        host.sh("setsid perl /root/liar.pl > /dev/null 2>&1 & echo $! > /root/liar; \
                 sed -i '/^serverHostname/a serverURL = \"http://xenhost:8099\"' /etc/vgrid/node.cfg");
        for (name, order) in MACHINES {
            give(host, order, name);
        }
        wait_for_workers(host);
        for order in MACHINES.map(|(_, order)| order) {
            let reported = format!("\"order\":\"{order}\"");
            assert!(host.sh("cat /root/lies").contains(&reported), "the impostor got no report on {order}");
        }
        assert_eq!(disks(host), kept, "{}", host.log());
        host.sh("kill $(cat /root/liar); rm /root/liar /root/liar.pl /root/lies; \
                 sed -i '/^serverURL/d' /etc/vgrid/node.cfg");
        must_be_as_ordered(host);

        // The server loses its registry while orders are in progress, and gets an empty one.
        give(host, Order::Start, "vm1");
        host.wait_for("alice", &ids["vm1"], "deployed", 600);
        give(host, Order::Stop, "vm1");
        give(host, Order::Reboot, "vm2");
        host.sh(&format!(
            "install -d -m 700 -o www-data -g www-data /root/lost && mv {REGISTRY}* /root/lost/ && \
             runuser -u www-data -- vgrid-registry init"
        ));
        wait_for_workers(host);
        assert_eq!(disks(host), kept, "{}", host.log());
        // The node takes no orders from it either. Everyone sees why, and what to do.
        let summary = host.upkeep();
        assert!(summary.contains("obeys the registry"), "{summary}");
        assert!(host.log().contains("obeys the registry"), "{}", host.log());
        let (status, page) = host.ask("admin", "admin", "format=json");
        assert!(status == 200 && page.contains("obeys the registry"), "{page}");
        let check = host.try_sh("vgrid-check");
        assert!(check.status != 0 && check.out.contains("vgrid-registry restore"), "{}", check.out);
        let (status, answer) = host.try_deploy("alice", &format!("{TINY}&vmHostname=vm5"));
        assert_ne!(status, 202, "{answer}");
        assert_eq!(disks(host), kept, "{}", host.log());

        host.sh(&format!("rm {REGISTRY}*; mv /root/lost/* /var/lib/vgrid/ && rmdir /root/lost"));
        host.heal("with the registry back");
        assert_eq!(disks(host), kept, "{}", host.log());
        for (name, state) in
            [("vm1", "stopped"), ("vm2", "deployed"), ("vm3", "stopped"), ("vm4", "deployed")]
        {
            assert_eq!(host.named(name).expect("the machine")["state"], state, "{name}\n{}", host.log());
        }

        host.delete_image("alice", "kept");
        for id in ids.values() {
            host.terminate("alice", id);
        }
        host.must_be_as(&before);
    });
}
