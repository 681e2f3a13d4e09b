//! Owners who cannot be notified that their lease ends keep their disks, and administrators are
//! mailed.

use std::net::Ipv4Addr;

use vgrid::model::names::MachineName;
use vgrid::model::stage::Order;
use vgrid::model::wire::News;

use crate::support::node::with_machines;
use crate::support::portal::{Portal, Setup, id_of, password};

const HOUR: i64 = 3600;

/// A portal whose mail stays in the outbox.
fn portal(users: Vec<&'static str>, more_mail: &str) -> Portal {
    let server = format!(
        "[Leases]\ngrace = '2d'\nnotices = ['1h']\n[Mail]\ntransport = 'sendmail'\nsendmail = '/bin/false'\n\
         sender = 'vgrid@example.org'\n{more_mail}"
    );
    Setup { hosts: vec![("localhost", 9)], clock: true, more_server: server, users, ..Setup::default() }
        .start()
}

/// A newly deployed machine, leased for a day.
fn deployed(portal: &Portal, user: &str) -> String {
    let fields = "vmImage=tiny&vmMemory=128&vmPartition=1&expiryTime=1d&vmHostname=vm1&format=json";
    let ask = portal.ask("GET", &format!("/cgi-bin/user/deploy?{fields}")).by(user, &password(user));
    let id = id_of(&ask.send().expect(202).json());
    portal.report(&id, Order::Deploy, 9, News::Done).expect(200);
    portal.nodes.has(Ipv4Addr::LOCALHOST, with_machines(&[(&id, &machine(user))]));
    id
}

/// The name of a user's machine on its host.
fn machine(owner: &str) -> String {
    let name = MachineName::new(&owner.parse().expect("a name"), &"vm1".parse().expect("a name"));
    name.expect("a machine's name").to_string()
}

/// Lets hours pass, with upkeep in each. The host stops what it is ordered to stop.
fn live(portal: &Portal, id: &str, hours: i64) {
    for _ in 0..hours {
        portal.pass(HOUR);
        portal.upkeep(&[]);
        if portal.state("admin", id) == "stopping" {
            portal.report(id, Order::Stop, 5, News::Done).expect(200);
            portal.nodes.has(Ipv4Addr::LOCALHOST, stopped(portal, id));
        }
    }
}

/// The host's `info` when the machine is stopped.
fn stopped(portal: &Portal, id: &str) -> vgrid::model::wire::NodeInfo {
    let owner = portal.show("admin", id)["machine"]["owner"].as_str().expect("an owner").to_owned();
    let mut info = with_machines(&[(id, &machine(&owner))]);
    info.domains.clear();
    info.jobs[0].stopped = true;
    info
}

/// The recipients and subjects of the waiting mail.
fn waiting(portal: &Portal) -> Vec<(String, String)> {
    let page = portal.get("admin", "admin?format=json").send().expect(200).json();
    let text = |mail: &serde_json::Value, key: &str| mail[key].as_str().expect("a text").to_owned();
    let mails = page["mail"].as_array().expect("waiting mail");
    mails.iter().map(|mail| (text(mail, "recipient"), text(mail, "subject"))).collect()
}

#[test]
fn a_user_name_that_is_a_mail_address_is_used_as_one() {
    let portal = portal(vec!["alice@example.org", "admin"], "domain = 'example.com'");
    let id = deployed(&portal, "alice@example.org");
    live(&portal, &id, 24);
    assert!(waiting(&portal).iter().any(|(to, _)| to == "alice@example.org"), "{:?}", waiting(&portal));
}

#[test]
fn an_unreachable_owner_loses_nothing_and_administrators_are_mailed_once() {
    let portal = portal(vec!["alice", "admin"], "");
    let id = deployed(&portal, "alice");
    // The lease, the grace period, and as long again.
    live(&portal, &id, 24 + 2 * 24 + 3 * 24);
    assert_eq!(portal.state("admin", &id), "expired");
    let mails: Vec<_> =
        waiting(&portal).into_iter().filter(|(_, what)| what.contains("can't be reached")).collect();
    assert_eq!(mails, [("admin@example.org".to_owned(), "alice can't be reached by mail".to_owned())]);
    portal.get("admin", "admin").send().expect(200).says("alice has had no mail address since");
    portal.get("admin", "admin?format=text").send().expect(200).says("unreachable\talice\t");
    let history = || portal.history("admin", &id);
    assert!(history().contains("owner not told") && !history().contains("owner told"), "{}", history());
    // With an address the grace period begins, and ends.
    portal.reconfigure("server.cfg", |text| {
        text.to_owned() + "\n[MailAddresses]\nalice = 'alice@example.org'\n"
    });
    live(&portal, &id, 1);
    let mails = waiting(&portal).into_iter().filter(|(to, _)| to == "alice@example.org").count();
    assert_eq!(mails, 1, "the lease has ended, and until when the disk is kept");
    assert!(history().contains("owner told"), "{}", history());
    // Waiting mail postpones the end. Once it has been sent, the whole grace period follows.
    portal.database().execute("DELETE FROM mail", []).expect("no waiting mail");
    live(&portal, &id, 47);
    assert_eq!(portal.state("admin", &id), "expired");
    live(&portal, &id, 3);
    assert_eq!(portal.state("admin", &id), "terminating");
    portal.assert_no_panic();
}

#[test]
fn a_silent_machine_of_an_unreachable_owner_is_kept() {
    let portal =
        portal(vec!["alice", "admin"], "[Upkeep]\nping = true\nsilentRuns = 1\nterminateSilentRuns = 2\n");
    let id = deployed(&portal, "alice");
    for _ in 0..4 {
        portal.pass(HOUR);
        portal.upkeep(&[]);
    }
    assert_eq!(portal.state("admin", &id), "deployed");
}

#[test]
fn without_mail_expired_machines_are_removed_as_usual() {
    let more_server = "[Leases]\ngrace = '2d'\nnotices = ['1h']\n".to_owned();
    let portal =
        Setup { hosts: vec![("localhost", 9)], clock: true, more_server, ..Setup::default() }.start();
    let id = deployed(&portal, "alice");
    live(&portal, &id, 24 + 2 * 24 + 3);
    assert_eq!(portal.state("admin", &id), "terminating");
}
