//! Reports of a node that are lost, come twice, or come when something else has happened, with each order.

use std::time::{Duration, Instant};

use vgrid::model::stage::Order;

use super::healing::{TINY, id};
use super::host::{Host, quote, scenario};

/// What becomes of its reports, by the machine's name; see reports.sh.
const TWICE: &str = "vm1";
const UNANSWERED: &str = "vm2";
const LOST: &str = "vm3";
const LATE: &str = "vm4";
const ALL: [&str; 4] = [TWICE, UNANSWERED, LOST, LATE];

const PROGRAM: &str = "/usr/lib/vgrid/cgi-bin/internal/status";

fn give(host: &Host, order: Order, name: &str) {
    let fields = match order {
        Order::Deploy => format!("{TINY}&vmHostname={name}"),
        Order::Save => format!("vmHostname={name}&name=of-{name}"),
        // Two orders: the second is in the answer to what is reported of the first.
        Order::Terminate => format!("vmHostname={name}&saveAs=last-of-{name}"),
        _ => format!("vmHostname={name}"),
    };
    let (status, text) = host.ask("alice", order.as_str(), &format!("format=json&{fields}"));
    assert_eq!(status, 202, "{order} of {name}: {text}");
}

fn state(host: &Host, name: &str) -> String {
    host.named(name)
        .map_or("gone".to_owned(), |machine| machine["state"].as_str().expect("a state").to_owned())
}

/// The state while an order is carried out, and the one that it leads to.
fn states(order: Order) -> (&'static str, &'static str) {
    match order {
        Order::Deploy => ("deploying", "deployed"),
        Order::Stop => ("stopping", "stopped"),
        Order::Start => ("starting", "deployed"),
        Order::Reboot => ("rebooting", "deployed"),
        Order::Save => ("saving", "stopped"),
        Order::Terminate => ("saving", "gone"),
    }
}

/// Waits until nobody works on any machine: a report that must arrive is tried for a minute.
pub fn wait_for_workers(host: &Host) {
    let end = Instant::now() + Duration::from_secs(300);
    while host.try_sh("pgrep -a vgrid-worker").status == 0 {
        assert!(Instant::now() < end, "{}\n{}", host.sh("pgrep -a vgrid-worker"), host.log());
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// Sends the reports that were kept and put aside, as they came; returns what the portal answers to each.
fn send_kept(host: &Host) -> Vec<String> {
    let send = "cd /srv/reports/late; for report in $(ls -tr | grep -v environment); do \
                (. ./$report.environment; /srv/reports/status < $report) | tr -d '\\r\\n'; echo; \
                rm $report $report.environment; done";
    let said = host.sh(&format!("runuser -u www-data -- dash -c {}", quote(send)));
    said.lines().map(str::to_owned).collect()
}

#[test]
fn reports_lost_twice_and_late_with_each_order() {
    scenario("reports", |host| {
        let before = host.inventory();
        host.sh("install -d -o www-data -g www-data /srv/reports /srv/reports/kept /srv/reports/late");
        host.put(&super::host::project().join("tests/xen/reports.sh"), "/srv/reports/reports.sh");
        host.sh(&format!(
            "mv {PROGRAM} /srv/reports/status; install -m 755 /srv/reports/reports.sh {PROGRAM}"
        ));
        for order in [Order::Deploy, Order::Stop, Order::Save, Order::Start, Order::Reboot, Order::Terminate]
        {
            let (meanwhile, end) = states(order);
            host.sh("cd /srv/reports; rm -f open; find kept -type f -exec mv -t late {} +");
            for name in ALL {
                give(host, order, name);
            }
            // What was kept of the order before comes after this one was given.
            let answers = send_kept(host);
            assert_eq!(answers.is_empty(), order == Order::Deploy, "{order}: {answers:?}");
            for answer in answers {
                assert!(answer.contains("Status: 200") && answer.contains("verdict"), "{order}: {answer}");
            }
            assert_eq!(state(host, LATE), meanwhile, "late reports changed it");
            wait_for_workers(host);
            assert_eq!(state(host, TWICE), end, "{order}\n{}", host.log());
            for name in [LOST, LATE] {
                assert_eq!(state(host, name), meanwhile, "{order} of {name}\n{}", host.log());
            }
            // The removal that follows from saving was ordered in the answer, which nobody saw.
            let known = if order == Order::Terminate { "terminating" } else { end };
            assert_eq!(state(host, UNANSWERED), known, "{order}\n{}", host.log());

            host.sh("touch /srv/reports/open");
            host.heal(&order.to_string());
            for name in ALL {
                let machine = host.named(name);
                let reason = machine.as_ref().map(|machine| machine["reason"].clone());
                assert_eq!(state(host, name), end, "{order} of {name}: {machine:?}");
                assert!(reason.is_none_or(|reason| reason.is_null()), "{order} of {name}: {machine:?}");
            }
            eprintln!("{order}: {end}");
        }
        let (_, text) = host.ask("alice", "images", "format=json");
        for image in ALL.iter().flat_map(|name| [format!("of-{name}"), format!("last-of-{name}")]) {
            assert!(text.contains(&format!("\"{image}\"")), "{image}: {text}");
            let (status, text) = host.ask("alice", "images", &format!("format=json&do=delete&name={image}"));
            assert_eq!(status, 202, "{text}");
        }
        assert_eq!(host.machines().iter().map(id).collect::<Vec<_>>(), Vec::<&str>::new());
        host.sh(&format!("cp -p /srv/reports/status {PROGRAM}; rm -r /srv/reports"));
        host.must_be_as(&before);
    });
}
