//! Owners who can't be told that their lease ends keep their disks, and administrators hear of it.

use std::net::Ipv4Addr;

use vgrid::model::names::MachineName;
use vgrid::model::stage::Order;
use vgrid::model::wire::News;

use crate::support::node::{nothing, with_machines};
use crate::support::portal::{Portal, Setup, id_of, password, state_of};

const HOUR: i64 = 3600;

/// A portal whose mail goes into the outbox and stays there.
fn portal(users: Vec<&'static str>, more_mail: &str) -> Portal {
    let server = format!(
        "[Leases]\ngrace = '2d'\nnotices = ['1h']\n[Mail]\ntransport = 'sendmail'\nsendmail = '/bin/false'\n\
         sender = 'vgrid@example.org'\n{more_mail}"
    );
    Setup { hosts: vec![("localhost", 9)], clock: true, more_server: server, users, ..Setup::default() }
        .start()
}

/// A machine of somebody's that has just been deployed, for a day.
fn deployed(portal: &Portal, user: &str) -> String {
    let fields = "vmImage=tiny&vmMemory=128&vmPartition=1&expiryTime=1d&vmHostname=vm1&format=json";
    let ask = portal.ask("GET", &format!("/cgi-bin/user/deploy?{fields}")).by(user, &password(user));
    let id = id_of(&ask.send().expect(202).json());
    portal.report(&id, Order::Deploy, 9, News::Done).expect(200);
    portal.nodes.has(Ipv4Addr::LOCALHOST, with_machines(&[(&id, &machine(user))]));
    id
}

/// What the host calls somebody's machine.
fn machine(owner: &str) -> String {
    let name = MachineName::new(&owner.parse().expect("a name"), &"vm1".parse().expect("a name"));
    name.expect("a machine's name").to_string()
}

fn state(portal: &Portal, id: &str) -> String {
    state_of(&portal.show("admin", id)).to_owned()
}

/// Lets so many hours pass, with upkeep in each; the host stops what it is to stop.
fn live(portal: &Portal, id: &str, hours: i64) {
    for _ in 0..hours {
        portal.pass(HOUR);
        portal.upkeep(&[]);
        if state(portal, id) == "stopping" {
            portal.report(id, Order::Stop, 5, News::Done).expect(200);
            portal.nodes.has(Ipv4Addr::LOCALHOST, nothing_runs(portal, id));
        }
    }
}

fn nothing_runs(portal: &Portal, id: &str) -> vgrid::model::wire::NodeInfo {
    let owner = portal.show("admin", id)["machine"]["owner"].as_str().expect("an owner").to_owned();
    let mut info = with_machines(&[(id, &machine(&owner))]);
    info.domains = nothing().domains;
    info.jobs[0].stopped = true;
    info
}

/// Whom the mail that waits is for, and about what.
fn waiting(portal: &Portal) -> Vec<(String, String)> {
    let page = portal.get("admin", "admin?format=json").send().expect(200).json();
    let text = |mail: &serde_json::Value, key: &str| mail[key].as_str().expect("a text").to_owned();
    let mails = page["mail"].as_array().expect("mail that waits");
    mails.iter().map(|mail| (text(mail, "recipient"), text(mail, "subject"))).collect()
}

#[test]
fn a_user_name_that_is_an_address_is_the_address() {
    let portal = portal(vec!["alice@example.org", "admin"], "domain = 'example.com'");
    let id = deployed(&portal, "alice@example.org");
    live(&portal, &id, 24);
    assert!(waiting(&portal).iter().any(|(to, _)| to == "alice@example.org"), "{:?}", waiting(&portal));
}

#[test]
fn who_could_not_be_told_loses_nothing_and_administrators_hear_of_it_once() {
    let portal = portal(vec!["alice", "admin"], "");
    let id = deployed(&portal, "alice");
    // Its lease, the grace, and as long again.
    live(&portal, &id, 24 + 2 * 24 + 3 * 24);
    assert_eq!(state(&portal, &id), "expired");
    let told: Vec<_> =
        waiting(&portal).into_iter().filter(|(_, what)| what.contains("can't be reached")).collect();
    assert_eq!(told, [("admin@example.org".to_owned(), "alice can't be reached by mail".to_owned())]);
    portal.get("admin", "admin").send().expect(200).says("alice has had no mail address since");
    portal.get("admin", "admin?format=text").send().expect(200).says("unreachable\talice\t");
    let history = || portal.show("admin", &id)["history"].to_string();
    assert!(history().contains("owner not told") && !history().contains("owner told"), "{}", history());
    // With an address the grace begins, and ends.
    portal.reconfigure("server.cfg", |text| {
        text.to_owned() + "\n[MailAddresses]\nalice = 'alice@example.org'\n"
    });
    live(&portal, &id, 1);
    let told = waiting(&portal).into_iter().filter(|(to, _)| to == "alice@example.org").count();
    assert_eq!(told, 1, "that the lease has ended, and until when the disk is kept");
    assert!(history().contains("owner told"), "{}", history());
    // Mail that waits puts the end off; when it has left, the whole grace follows.
    let registry = rusqlite::Connection::open(portal.path("var/registry.sqlite")).expect("the registry");
    registry.execute("DELETE FROM mail", []).expect("it has left");
    live(&portal, &id, 47);
    assert_eq!(state(&portal, &id), "expired");
    live(&portal, &id, 3);
    assert_eq!(state(&portal, &id), "terminating");
    portal.assert_no_panic();
}

#[test]
fn a_machine_that_does_not_answer_is_kept_when_its_owner_could_not_be_told() {
    let portal =
        portal(vec!["alice", "admin"], "[Upkeep]\nping = true\nsilentRuns = 1\nterminateSilentRuns = 2\n");
    let id = deployed(&portal, "alice");
    for _ in 0..4 {
        portal.pass(HOUR);
        portal.upkeep(&[]);
    }
    assert_eq!(state(&portal, &id), "deployed");
}

#[test]
fn a_portal_without_mail_removes_what_has_ended_as_before() {
    let more_server = "[Leases]\ngrace = '2d'\nnotices = ['1h']\n".to_owned();
    let portal =
        Setup { hosts: vec![("localhost", 9)], clock: true, more_server, ..Setup::default() }.start();
    let id = deployed(&portal, "alice");
    live(&portal, &id, 24 + 2 * 24 + 3);
    assert_eq!(state(&portal, &id), "terminating");
}
