//! Node reports that are lost, repeated, or delayed until something else has happened, for each
//! order.

use std::time::{Duration, Instant};

use vgrid::model::stage::Order;

use super::healing::id;
use super::host::{Host, TINY, project, quote, scenario};
use crate::support::healing::Healing as _;
use crate::support::visited::Visited as _;

/// Machine names, by what happens to their reports; see reports.sh.
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
        // This is two orders: the answer to the report on the first carries the second.
        Order::Terminate => format!("vmHostname={name}&saveAs=last-of-{name}"),
        _ => format!("vmHostname={name}"),
    };
    host.order("alice", order, &fields);
}

fn state(host: &Host, name: &str) -> String {
    host.named(name)
        .map_or("gone".to_owned(), |machine| machine["state"].as_str().expect("a state").to_owned())
}

/// The state while an order is carried out, and the state that it leads to.
fn states(order: Order) -> (&'static str, &'static str) {
    match order {
        Order::Deploy => ("deploying", "deployed"),
        Order::Stop => ("stopping", "stopped"),
        Order::Start => ("starting", "deployed"),
        Order::Reboot => ("rebooting", "deployed"),
        Order::Save => ("saving", "stopped"),
        Order::Resize => ("resizing", "stopped"),
        Order::Terminate => ("saving", "gone"),
    }
}

/// Waits until no worker is left. A worker retries a report that must arrive for a minute.
pub fn wait_for_workers(host: &Host) {
    let end = Instant::now() + Duration::from_secs(300);
    while host.try_sh("pgrep -a vgrid-worker").status == 0 {
        assert!(Instant::now() < end, "{}\n{}", host.sh("pgrep -a vgrid-worker"), host.log());
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// Sends the delayed reports in order. Returns the portal's answers.
fn send_kept(host: &Host) -> Vec<String> {
    let send = "cd /srv/reports/late; for report in $(ls -tr | grep -v environment); do \
                (. ./$report.environment; /srv/reports/status < $report) | tr -d '\\r\\n'; echo; \
                rm $report $report.environment; done";
    let answers = host.sh(&format!("runuser -u www-data -- dash -c {}", quote(send)));
    answers.lines().map(str::to_owned).collect()
}

#[test]
fn every_order_survives_lost_repeated_and_late_reports() {
    scenario("reports", |host| {
        let before = host.inventory();
        host.sh("install -d -o www-data -g www-data /srv/reports /srv/reports/kept /srv/reports/late");
        host.put(&project().join("tests/xen/reports.sh"), "/srv/reports/reports.sh");
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
            // Reports on the previous order arrive after this one was given.
            let answers = send_kept(host);
            assert_eq!(answers.is_empty(), order == Order::Deploy, "{order}: {answers:?}");
            for answer in answers {
                assert!(answer.contains("Status: 200") && answer.contains("verdict"), "{order}: {answer}");
            }
            assert_eq!(state(host, LATE), meanwhile, "late reports changed the state");
            wait_for_workers(host);
            assert_eq!(state(host, TWICE), end, "{order}\n{}", host.log());
            for name in [LOST, LATE] {
                assert_eq!(state(host, name), meanwhile, "{order} of {name}\n{}", host.log());
            }
            // The answer that ordered the removal after the save was lost.
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
            host.delete_image("alice", &image);
        }
        assert_eq!(host.machines().iter().map(id).collect::<Vec<_>>(), Vec::<&str>::new());
        host.sh(&format!("cp -p /srv/reports/status {PROGRAM}; rm -r /srv/reports"));
        host.must_be_as(&before);
    });
}
