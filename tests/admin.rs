//! The administration page: what it shows, and what administrators open, close and remove.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use crate::roles::OTHER_SITES;
use crate::support::http::Answer;
use crate::support::node::{Conduct, Received, nothing, with_machines};
use crate::support::page::{assert_well_formed, token};
use crate::support::portal::{DEPLOY, DEPLOY_JSON, Portal, Setup, with_query};
use vgrid::model::fault::Fault;
use vgrid::model::lease::Moment;
use vgrid::model::names::{DomainNumber, VmId};
use vgrid::model::size::Amount;
use vgrid::model::stage::Order;
use vgrid::model::wire::{Domain, News, NodeInfo, SavedFile, Volume};
use vgrid::server::registry::host::Contact;
use vgrid::server::registry::mail::Message;
use vgrid::server::registry::orphan::{Orphan, OrphanKind};
use vgrid::server::registry::{Registry, RegistryError, Writer};
use vgrid::system::clock;

/// Opens or closes something, as a script does.
fn act(portal: &Portal, what: &str, kind: &str, name: &str, reason: &str) -> Answer {
    let fields = [("do", what), ("kind", kind), ("name", name), ("reason", reason), ("format", "json")];
    let given: Vec<_> = fields.into_iter().filter(|(_, value)| !value.is_empty()).collect();
    portal.post("admin", "admin", &given).send()
}

#[track_caller]
fn admin_page(portal: &Portal) -> Value {
    portal.get("admin", "admin?format=json").send().expect(200).json()
}

/// Writes to the registry, as upkeep does.
fn write(portal: &Portal, work: impl FnOnce(&Writer<'_>) -> Result<(), RegistryError>) {
    write_at(portal, clock::now(), work);
}

/// Writes to the registry as if at that moment.
fn write_at(portal: &Portal, at: Moment, work: impl FnOnce(&Writer<'_>) -> Result<(), RegistryError>) {
    portal.get("admin", "deploy").send().expect(200);
    let mut registry = Registry::open(&portal.registry_file()).expect("the registry");
    registry.stop_clock(at);
    registry.write(work).expect("an entry");
}

/// A host on the administration page.
#[track_caller]
fn host(page: &Value, name: &str) -> Value {
    let found = page["hosts"].as_array().and_then(|hosts| hosts.iter().find(|host| host["name"] == name));
    found.unwrap_or_else(|| panic!("no host {name} in {page}")).clone()
}

#[test]
fn a_disabled_host_gets_no_new_machines_and_keeps_its_own() {
    let portal = Portal::start();
    let existing = portal.deployed("alice");
    assert_eq!(portal.show("alice", &existing)["machine"]["physical_host"], "localhost");
    let page = act(&portal, "close", "host", "localhost", "its disk is <b>dying</b>.").expect(200).json();
    let host = host(&page, "localhost");
    assert_eq!(
        (host["closed"]["who"].as_str(), host["disabled"].as_str()),
        (Some("admin"), Some("its disk is <b>dying</b>."))
    );
    // Whether the host is chosen or left to vGrid, and for administrators too.
    for user in ["alice", "admin"] {
        let to = [&DEPLOY_JSON[..], &[("physicalHost", "localhost")]].concat();
        let json = portal.post(user, "deploy", &to).send().expect(409).json();
        let fault = json["error"]["fields"]["physicalHost"].as_str().expect("a fault");
        assert!(fault.contains("gets no new machines") && fault.contains("dying"), "{json}");
        assert!(fault.contains("</b>. Choose another"), "{fault}");
    }
    for _ in 0..4 {
        let id = portal.deploy("bob", &[]);
        assert_eq!(portal.show("bob", &id)["machine"]["physical_host"], "127.0.0.2");
    }
    portal.post("bob", "deploy", &DEPLOY_JSON).send().expect(409).says("All hosts are full or disabled.");
    // The form does not offer it and says why, and so does the list.
    let form = portal.get("alice", "deploy").send().expect(200);
    assert_well_formed(&form);
    form.says("value=\"localhost\" disabled>localhost (disabled: its disk is &lt;b&gt;dying");
    portal.get("alice", "list").send().expect(200).says("disabled").says("&lt;b&gt;dying");
    portal.get("alice", "deploy?format=text").send().expect(200).says("host\tlocalhost\t1\t4\tdisabled\n");
    let hosts = portal.get("alice", "list?format=text").send().expect(200).text();
    assert!(
        hosts.lines().any(|line| line.starts_with("# host\tlocalhost") && line.ends_with("\tdisabled")),
        "{hosts}"
    );
    // Existing machines keep working.
    portal.carry_out("alice", Order::Stop, &existing);
    portal.order("alice", Order::Start, &existing).expect(202);
    act(&portal, "open", "host", "localhost", "").expect(200);
    portal.deploy("alice", &[("physicalHost", "localhost")]);
    portal.assert_no_panic();
}

#[test]
fn a_disabled_name_is_not_assigned() {
    let portal = Setup { names: 3, ..Setup::default() }.start();
    let first = portal.deploy("alice", &[]);
    for name in ["vm1", "vm2"] {
        act(&portal, "close", "name", name, "its address is in use elsewhere").expect(200);
    }
    let asked = [&DEPLOY_JSON[..], &[("vmHostname", "vm2")]].concat();
    let json = portal.post("alice", "deploy", &asked).send().expect(409).json();
    let fault = json["error"]["fields"]["vmHostname"].as_str().expect("a fault");
    assert!(fault.contains("vm2 is not given out at present: its address is in use elsewhere."), "{fault}");
    let second = portal.deploy("alice", &[]);
    assert_eq!(portal.show("alice", &second)["machine"]["virtual_host"], "vm3");
    portal.post("alice", "deploy", &DEPLOY_JSON).send().expect(409).says("All names are taken or disabled.");
    portal.get("alice", "deploy").send().expect(200).says("vm2 (disabled: its address").says("vm1 (taken)");
    portal.get("alice", "deploy?format=text").send().expect(200).says("name\tvm2\tdisabled\n");
    // The machine with that name keeps it; afterward it is not assigned again.
    portal.report(&first, Order::Deploy, 1, News::Done).expect(200);
    assert_eq!(portal.state("alice", &first), "deployed");
    let names = admin_page(&portal)["names"].clone();
    assert_eq!(
        (names[0]["machine"]["id"].as_str(), names[0]["machine"]["owner"].as_str()),
        (Some(first.as_str()), Some("alice"))
    );
    assert_eq!(admin_page(&portal)["free_names"], 0);
    portal.carry_out("alice", Order::Terminate, &first);
    portal.post("alice", "deploy", &DEPLOY_JSON).send().expect(409);
    act(&portal, "open", "name", "VM1", "").expect(200);
    let again = portal.deploy("alice", &[]);
    assert_eq!(portal.show("alice", &again)["machine"]["virtual_host"], "vm1");
    // A form prefilled from a machine whose name has since been disabled.
    act(&portal, "close", "name", "vm1", "x").expect(200);
    portal.get("alice", &format!("deploy?like={again}")).send().expect(200);
    portal.assert_no_panic();
}

#[test]
fn a_closed_portal_is_read_only() {
    let portal = Portal::start();
    let id = portal.deployed("alice");
    let orders = portal.nodes.received().len();
    let reason = "the hall is being <moved>, until Monday";
    act(&portal, "close", "portal", "", reason).expect(200);
    // Nothing can be changed, whatever the format.
    let terminate = [("id", id.as_str())];
    for form in ["html", "json", "text"] {
        for (program, fields) in
            [("deploy", &DEPLOY[..]), ("terminate", &terminate), ("stop", &terminate), ("reboot", &terminate)]
        {
            let fields = [fields, &[("format", form)]].concat();
            let answer = portal.post("alice", program, &fields).send().expect(503);
            assert_well_formed(&answer);
            assert_eq!(answer.header("retry-after"), None, "no one knows when it will open: {answer}");
            let shown = if form == "html" { "&lt;moved&gt;" } else { "<moved>" };
            answer.says("The portal is closed: the hall is being").says(shown).says("Nothing was done.");
            let query = with_query(program, &fields);
            portal.get("alice", &query).send().expect(503);
        }
    }
    let form = portal.get("alice", "deploy").send().expect(200).says("The portal is closed");
    let good = token(&form);
    let with_token = [&DEPLOY[..], &[("token", good.as_str())]].concat();
    portal.post("alice", "deploy", &with_token).like_a_browser().send().expect(503);
    assert_eq!(portal.state("alice", &id), "deployed");
    assert_eq!(portal.nodes.received().len(), orders, "a node was contacted");
    // All pages are still shown, and say so.
    for page in ["list", "deploy", &format!("show?id={id}"), "history"] {
        let page = portal.get("alice", page).header("Accept", "text/html").send().expect(200);
        assert_well_formed(&page);
        page.says(
            "The portal is closed: the hall is being &lt;moved&gt;, until Monday. You can look at everything",
        );
    }
    let ask = portal.get("alice", &format!("terminate?id={id}")).header("Accept", "text/html");
    ask.send().expect(200).says("The portal is closed");
    let ask =
        portal.get("alice", "show?id=0190f000-0000-7000-8000-000000000000").header("Accept", "text/html");
    ask.send().expect(404).says("The portal is closed").says("There is no machine with this id.");
    assert!(portal.list("alice")["closed"].as_str().is_some_and(|text| text.contains(reason)));
    let text = portal.get("alice", "list?format=text").send().expect(200).text();
    assert!(text.lines().any(|line| line.starts_with("# closed\tThe portal is closed")), "{text}");
    // Reports from hosts are still accepted.
    let late = portal.deploy("admin", &[("physicalHost", "localhost")]);
    portal.report(&late, Order::Deploy, 1, News::Done).expect(200);
    assert_eq!(portal.state("admin", &late), "deployed");
    // Administrators can still act, and see that the portal is closed.
    portal.get("admin", "list").send().expect(200).says("Only administrators can change anything");
    portal.order("admin", Order::Stop, &id).expect(202);
    act(&portal, "open", "portal", "", "").expect(200);
    portal.deploy("alice", &[]);
    let page = portal.get("alice", "list").send().expect(200).text();
    assert!(!page.contains("The portal is closed"), "{page}");
    portal.assert_no_panic();
}

#[test]
fn opening_and_closing_is_recorded_once() {
    let portal = Portal::start();
    for _ in 0..2 {
        act(&portal, "close", "host", "localhost", "dust").expect(200);
    }
    act(&portal, "close", "host", "localhost", "more dust").expect(200);
    for _ in 0..2 {
        act(&portal, "open", "host", "localhost", "").expect(200);
    }
    act(&portal, "close", "portal", "", "tea").expect(200);
    act(&portal, "open", "portal", "", "").expect(200);
    act(&portal, "close", "name", "vm3", "its number is up").expect(200);
    let json = portal.get("admin", "history?format=json").send().expect(200).json();
    let text = |event: &Value, key: &str| event[key].as_str().expect("a text").to_owned();
    let recorded: Vec<_> = json["events"]
        .as_array()
        .expect("events")
        .iter()
        .rev()
        .map(|event| {
            assert_eq!((event["who"].as_str(), event["from"].as_str()), (Some("admin"), Some("127.0.0.1")));
            [text(event, "what"), text(event, "about"), text(event, "detail")]
        })
        .collect();
    let expected = [
        ["host disabled", "localhost", "dust"],
        ["host disabled", "localhost", "more dust"],
        ["host enabled", "localhost", ""],
        ["portal closed", "portal", "tea"],
        ["portal opened", "portal", ""],
        ["name disabled", "vm3", "its number is up"],
    ];
    assert_eq!(recorded, expected.map(|event| event.map(str::to_owned)));
    if let Some(log) = portal.own_log() {
        assert!(log.contains("event=host.disabled") && log.contains("more dust"), "{log}");
    }
}

#[test]
fn nonsense_is_refused_and_changes_nothing() {
    let portal = Portal::start();
    let long = "x".repeat(301);
    for (fields, status, words) in [
        (
            &[("do", "close"), ("kind", "host"), ("name", "node77"), ("reason", "x")][..],
            404,
            "There is no host node77",
        ),
        (&[("do", "open"), ("kind", "host"), ("name", "node77")], 404, "There is no host node77"),
        (
            &[("do", "close"), ("kind", "name"), ("name", "localhost"), ("reason", "x")],
            404,
            "There is no name localhost",
        ),
        (&[("do", "close"), ("kind", "name"), ("name", "vm7"), ("reason", "x")], 404, "[VirtualHostsPool]"),
        (&[("do", "close"), ("kind", "host"), ("name", "localhost")], 400, "Say why"),
        (&[("do", "close"), ("kind", "host"), ("name", "localhost"), ("reason", "  ")], 400, "Say why"),
        (&[("do", "close"), ("kind", "portal")], 400, "Say why"),
        (&[("do", "close"), ("kind", "portal"), ("reason", &long)], 400, "longer than 300"),
        (&[("do", "close"), ("kind", "portal"), ("reason", "a\u{1}b")], 400, "control character"),
        (&[("do", "close"), ("kind", "portal"), ("reason", "a\u{202e}b")], 400, "control character"),
        (
            &[("do", "close"), ("kind", "portal"), ("name", "x"), ("reason", "x")],
            400,
            "The portal has no name",
        ),
        (&[("do", "close"), ("kind", "host"), ("reason", "x")], 400, "name is missing"),
        (&[("do", "close"), ("kind", "host"), ("name", "a/b"), ("reason", "x")], 400, "must not contain"),
        (
            &[("do", "close"), ("kind", "image"), ("name", "tiny"), ("reason", "x")],
            400,
            "portal, host or name",
        ),
        (&[("do", "destroy"), ("kind", "portal")], 400, "close, open, remove or adopt"),
        (&[("kind", "portal"), ("reason", "x")], 400, "close, open, remove or adopt"),
        (
            &[("do", "close"), ("kind", "host"), ("host", "localhost"), ("reason", "x")],
            400,
            "The field host goes with do=remove",
        ),
        (&[("do", "remove"), ("kind", "portal")], 400, "domain, volume, record or image"),
        (&[("do", "remove"), ("name", "x"), ("host", "localhost")], 400, "domain, volume, record or image"),
        (&[("do", "remove"), ("kind", "domain"), ("host", "localhost")], 400, "name is missing"),
        (&[("do", "remove"), ("kind", "domain"), ("name", "x")], 400, "host is missing"),
        (&[("do", "remove"), ("kind", "domain"), ("name", "x"), ("host", "a/b")], 400, "must not contain"),
        (
            &[("do", "remove"), ("kind", "domain"), ("name", "x"), ("host", "localhost")],
            404,
            "Look at the page again",
        ),
        (
            &[("do", "remove"), ("kind", "volume"), ("name", "xen-root-x"), ("host", "node77")],
            404,
            "Look at the page again",
        ),
        (&[("do", "close"), ("what", "portal")], 400, "There is no field"),
    ] {
        for form in ["html", "json", "text"] {
            let fields = [fields, &[("format", form)]].concat();
            let answer = portal.post("admin", "admin", &fields).send();
            assert_eq!(answer.status, status, "{fields:?}: {answer}");
            assert_well_formed(&answer);
            answer.says(words);
            portal.get("admin", &with_query("admin", &fields)).send().expect(status);
        }
    }
    for bad in ["", "'", "\"><script>", "\u{0}", "💣", "=1", "../..", "-x", &"ü".repeat(4000)] {
        for field in ["do", "kind", "name", "reason"] {
            let mut fields = vec![("do", "close"), ("kind", "name"), ("name", "vm1"), ("reason", "x")];
            fields.retain(|(name, _)| *name != field);
            fields.push((field, bad));
            let answer = portal.post("admin", "admin", &fields).send();
            assert!(answer.status < 500 && !answer.text().contains("<script>"), "{fields:?}: {answer}");
        }
    }
    act(&portal, "open", "name", "vm1", "").expect(200);
    let page = admin_page(&portal);
    assert!(page["portal"].is_null(), "{page}");
    for list in ["hosts", "names"] {
        assert!(page[list].as_array().expect("a list").iter().all(|one| one["closed"].is_null()), "{page}");
    }
    portal.assert_no_panic();
}

#[test]
fn one_page_shows_the_whole_portal() {
    let portal = Portal::start();
    let id = portal.deployed("alice");
    let now = clock::now();
    write_at(&portal, now.plus_seconds(-600), |writer| writer.live_on().map(drop));
    write_at(&portal, now, |writer| {
        writer.keep_contact(&Contact {
            name: "127.0.0.2".parse().expect("a host"),
            tried: now,
            fault: Some("The host 127.0.0.2 did not answer.".to_owned()),
            since: now.plus_seconds(-7200),
            told: true,
        })?;
        let stray = |kind, name: &str| Orphan { kind, name: name.to_owned(), detail: "128 MiB".to_owned() };
        let strays = [stray(OrphanKind::Domain, "o'dd <one>"), stray(OrphanKind::Volume, "xen-root-x_vm1")];
        writer.keep_strays(&"localhost".parse().expect("a host"), &strays.each_ref(), &[])?;
        let mail = Message {
            recipient: "alice@example.org".to_owned(),
            subject: "Your lease <ends>".to_owned(),
            plain: "secret words".to_owned(),
            html: String::new(),
        };
        writer.queue(&mail)?;
        let waiting = writer.mail_waiting(9)?;
        writer.postpone(&waiting[0].id, "connection refused", now.plus_seconds(900))
    });
    let page = admin_page(&portal);
    assert!(page["upkeep"]["warning"].is_null(), "{page}");
    assert_eq!(page["upkeep"]["ago"], "10 min ago");
    assert_eq!(page["names"][0]["machine"]["id"], id.as_str());
    assert_eq!(
        page["unknown"][0]["command"],
        "xl destroy 'o'\\''dd <one>'   # with libvirt: virsh destroy 'o'\\''dd <one>'"
    );
    assert_eq!(page["unknown"][1]["command"], "lvremove --select lv_name=xen-root-x_vm1");
    assert_eq!(
        (page["mail"][0]["tries"].as_u64(), page["mail"][0]["error"].as_str()),
        (Some(1), Some("connection refused"))
    );
    assert!(!page.to_string().contains("secret words"), "the page shows the content of mail");
    assert_eq!(host(&page, "127.0.0.2")["fault"], "The host 127.0.0.2 did not answer.");
    let html = portal.get("admin", "admin").send().expect(200);
    assert_well_formed(&html);
    let html = html.text();
    for words in [
        "xl destroy &#x27;o",
        "did not answer",
        "alice@example.org",
        "Your lease &lt;ends&gt;",
        "connection refused",
        "deployed on localhost",
        "configuration differs",
        "list?scope=all",
        "href=\"history\"",
        "5 names are free",
    ] {
        assert!(
            html.contains(words) || html.contains(&words.replace("&#x27;", "&#39;")),
            "no {words}: {html}"
        );
    }
    let text = portal.get("admin", "admin?format=text").send().expect(200);
    assert_well_formed(&text);
    let text = text.text();
    for line in [
        "portal\topen\t-",
        "upkeep\t2",
        "host\tlocalhost\topen\t-\t1\t4\t",
        "unknown\tlocalhost\tvolume\t",
        "mail\talice@",
    ] {
        assert!(text.lines().any(|known| known.starts_with(line)), "no {line:?}: {text}");
    }
    assert!(text.contains(&format!("name\tvm1\ttaken\t-\t{id}\talice\n")), "{text}");
    // Upkeep has not run for too long.
    write_at(&portal, now.plus_seconds(-8000), |writer| writer.live_on().map(drop));
    let page = admin_page(&portal);
    assert!(page["upkeep"]["warning"].as_str().is_some_and(|text| text.contains("INSTALL.md")), "{page}");
    portal.assert_no_panic();
}

#[test]
fn upkeep_that_never_ran_is_reported() {
    let portal = Portal::start();
    let page = portal.get("admin", "admin").send().expect(200);
    assert_well_formed(&page);
    page.says("Upkeep has never run.").says("Upkeep has found nothing unknown.");
}

#[test]
fn hosts_and_names_that_left_the_pool_can_still_be_enabled() {
    let portal = Portal::start();
    portal.deploy("alice", &[("physicalHost", "127.0.0.2")]);
    act(&portal, "close", "host", "127.0.0.2", "old").expect(200);
    act(&portal, "close", "name", "vm6", "old").expect(200);
    portal.reconfigure("common.cfg", |text| {
        text.replace("\"127.0.0.2\" = 4\n", "").replace("\"vm6\" = \"\"\n", "")
    });
    let page = admin_page(&portal);
    let host = host(&page, "127.0.0.2");
    assert_eq!((host["in_pool"].as_bool(), host["machines"].as_u64()), (Some(false), Some(1)));
    portal.get("admin", "admin").send().expect(200).says("not in the pool");
    act(&portal, "close", "host", "127.0.0.2", "other words").expect(404);
    act(&portal, "open", "host", "127.0.0.2", "").expect(200);
    act(&portal, "open", "name", "vm6", "").expect(200);
    act(&portal, "open", "name", "vm6", "").expect(404);
    let names = admin_page(&portal)["names"].clone();
    assert!(names.as_array().is_some_and(|names| names.iter().all(|name| name["name"] != "vm6")), "{names}");
    // A host with machines is still listed.
    assert_eq!(admin_page(&portal)["hosts"].as_array().map(Vec::len), Some(2));
}

/// Two machines that no portal knows: a host has a volume of the first and a record of the second.
const OF_CAROL: &str = "01936f5e-8c3e-7a37-a6b3-1f3c1f7c9f01";
const OF_DAVE: &str = "01936f5e-8c3e-7a37-a6b3-1f3c1f7c9f02";

/// A host with an orphan of each kind, and a domain whose name cannot be part of an order.
fn with_orphans() -> NodeInfo {
    let mut info = with_machines(&[(OF_DAVE, "dave_vm8")]);
    info.domains.clear();
    let (memory, state) = (Amount::from_mib(96), "running".to_owned());
    for (name, id) in [("Domain-0", 0), ("somebody", 7), ("o'dd", 8)] {
        info.domains.push(Domain {
            name: name.to_owned(),
            id: DomainNumber::new(id),
            memory,
            state: state.clone(),
        });
    }
    let volume = |name: &str, machine: Option<VmId>| Volume {
        name: name.to_owned(),
        size: Amount::from_mib(8),
        machine,
        open: false,
        snapshot: None,
    };
    info.volumes.push(volume("root", None));
    info.volumes.push(volume("xen-root-old", None));
    info.volumes.push(volume("xen-root-carol_vm9", OF_CAROL.parse().ok()));
    info.saved.push(SavedFile { stem: "alice_web".to_owned(), bytes: 7 });
    info
}

/// A portal whose upkeep has found them.
fn portal_with_orphans() -> Portal {
    let portal = Portal::start();
    portal.get("admin", "deploy").send().expect(200);
    portal.nodes.has(Ipv4Addr::LOCALHOST, with_orphans());
    portal.upkeep(&[]);
    assert_eq!(orphans(&portal).len(), 6);
    portal
}

/// The orphans: kind, name, and whether a removal is in progress.
fn orphans(portal: &Portal) -> Vec<(String, String, bool)> {
    let text = |one: &Value, key: &str| one[key].as_str().expect("a text").to_owned();
    let page = admin_page(portal);
    let all = page["unknown"].as_array().expect("orphans");
    all.iter().map(|one| (text(one, "kind"), text(one, "name"), !one["ordered"].is_null())).collect()
}

/// The fields of an order to remove an orphan.
fn removal<'a>(kind: &'a str, name: &'a str, format: &'a str) -> [(&'static str, &'a str); 5] {
    [("do", "remove"), ("kind", kind), ("host", "localhost"), ("name", name), ("format", format)]
}

fn remove(portal: &Portal, kind: &str, name: &str) -> Answer {
    portal.post("admin", "admin", &removal(kind, name, "json")).send()
}

/// The events about the host, oldest first: what happened, and details.
fn events(portal: &Portal) -> Vec<(String, String)> {
    let json = portal.get("admin", "history?format=json&about=localhost").send().expect(200).json();
    let text = |event: &Value, key: &str| event[key].as_str().expect("a text").to_owned();
    let events = json["events"].as_array().expect("events").iter().rev();
    events
        .map(|event| {
            assert_eq!(event["who"], "admin", "{event}");
            (text(event, "what"), text(event, "detail"))
        })
        .collect()
}

#[test]
fn each_orphan_has_a_button_and_is_removed_by_its_kind() {
    let portal = portal_with_orphans();
    let page = portal.get("admin", "admin").send().expect(200);
    assert_well_formed(&page);
    let text = page.text();
    assert_eq!(text.matches("value=\"remove\" class=\"danger\"").count(), 5, "one for each but o'dd: {text}");
    assert_eq!(text.matches("<summary>Remove…").count(), 5, "{text}");
    let token = token(&page);
    page.says("Remove domain somebody").says("xl destroy somebody").says("Its disks stay");
    assert!(portal.nodes.received().iter().all(|one| one.program() == "info"), "upkeep only looks");

    // In all formats. The list still shows what the node has not confirmed as gone.
    remove(&portal, "domain", "somebody").expect(200);
    let left = portal.get("admin", &with_query("admin", &removal("volume", "xen-root-old", "text")));
    let left = left.send().expect(200).text();
    assert!(
        left.contains("unknown\tlocalhost\tvolume\txen-root-carol_vm9") && !left.contains("-old"),
        "{left}"
    );
    let form = [&removal("image", "alice_web", "html")[..], &[("token", &token)]].concat();
    let sent = portal.post("admin", "admin", &form).like_a_browser().send().expect(303);
    assert_eq!(sent.header("location"), Some("admin#unknown-title"));
    let discarded: Vec<Value> = portal.nodes.orders("discard").iter().map(Received::json).collect();
    let expected =
        [json!({"domain": {"name": "somebody", "number": 7}}), json!({"volume": {"name": "xen-root-old"}})];
    assert_eq!(discarded, expected);
    let image = portal.nodes.orders("image");
    assert_eq!(image.len(), 1);
    assert_eq!(image[0].json(), json!({"image": {"owner": "alice", "name": "web"}, "act": "delete"}));

    // A node takes its time to remove a machine.
    let page = remove(&portal, "volume", "xen-root-carol_vm9").expect(202).json();
    assert_eq!(page["unknown"][2]["ordered"]["who"], "admin", "{page}");
    let form = [&removal("record", OF_DAVE, "html")[..], &[("token", &token)]].concat();
    portal.post("admin", "admin", &form).like_a_browser().send().expect(303);
    portal.get("admin", "admin").send().expect(200).says("admin ordered its removal").says("in progress");
    let mut terminated: Vec<Value> = portal.nodes.orders("terminate").iter().map(Received::json).collect();
    for order in &mut terminated {
        let number = order.as_object_mut().and_then(|order| order.remove("number"));
        assert!(number.and_then(|number| number.as_u64()).is_some_and(|number| number > 0), "{order}");
    }
    let expected = [
        json!({"id": OF_CAROL, "user": "carol", "virtual_host": "vm9"}),
        json!({"id": OF_DAVE, "user": "dave", "virtual_host": "vm8"}),
    ];
    assert_eq!(terminated, expected);
    assert!(portal.nodes.received().iter().all(|one| one.signed));
    let orphan = |kind: &str, name: &str, ordered| (kind.to_owned(), name.to_owned(), ordered);
    assert_eq!(
        orphans(&portal),
        [
            orphan("domain", "o'dd", false),
            orphan("record", OF_DAVE, true),
            orphan("volume", "xen-root-carol_vm9", true),
        ]
    );
    let line = |what: &str, detail: &str| (what.to_owned(), detail.to_owned());
    assert_eq!(
        events(&portal),
        [
            line("stray removal ordered", "domain somebody"),
            line("stray removed", "domain somebody"),
            line("stray removal ordered", "volume xen-root-old"),
            line("stray removed", "volume xen-root-old"),
            line("stray removal ordered", "image alice_web"),
            line("stray removed", "image alice_web"),
            line("stray removal ordered", "volume xen-root-carol_vm9"),
            line("stray removal ordered", &format!("record {OF_DAVE}")),
        ]
    );
    if let Some(log) = portal.own_log() {
        assert!(log.contains("event=stray.removed") && log.contains("domain somebody"), "{log}");
    }
    // The host reports to a server that never knew them, and need not repeat the report.
    portal.report(OF_CAROL, Order::Terminate, 3, News::Done).expect(200);
    portal.nodes.has(Ipv4Addr::LOCALHOST, nothing());
    portal.upkeep(&[]);
    assert!(orphans(&portal).is_empty());
    portal.assert_no_panic();
}

#[test]
fn only_an_administrator_removes_orphans_and_no_other_site_can() {
    let portal = portal_with_orphans();
    let asked = portal.nodes.received().len();
    for format in ["html", "json", "text"] {
        let fields = removal("domain", "somebody", format);
        portal.post("alice", "admin", &fields).send().expect(403).says("Only administrators");
        portal.get("alice", &with_query("admin", &fields)).send().expect(403);
        for (header, value) in OTHER_SITES {
            let ask = portal.post("admin", "admin", &fields).header(header, value);
            ask.send().expect(403).says("another site");
            portal.get("admin", &with_query("admin", &fields)).header(header, value).send().expect(403);
        }
    }
    // A GET by a browser shows the page, and the form on it needs a token.
    let query = with_query("admin", &removal("domain", "somebody", "html"));
    portal
        .get("admin", &query)
        .header("Accept", "text/html")
        .send()
        .expect(200)
        .says("Remove domain somebody");
    let form = removal("domain", "somebody", "html");
    portal.post("admin", "admin", &form).like_a_browser().send().expect(403).says("too old");
    assert_eq!(portal.nodes.received().len(), asked, "a node was contacted");
    assert_eq!(orphans(&portal).len(), 6);
    portal.assert_no_panic();
}

#[test]
fn what_is_no_longer_an_orphan_is_left_alone() {
    let portal = portal_with_orphans();
    for (kind, name) in
        [("domain", "nobody"), ("volume", "root"), ("volume", "somebody"), ("domain", "Domain-0")]
    {
        remove(&portal, kind, name).expect(404).says("Look at the page again");
    }
    remove(&portal, "domain", "o'dd").expect(409).says("must not contain").says("Type the command");
    // Since upkeep looked, a record has appeared for the machine that the domain is.
    let mut info = with_orphans();
    info.domains[1].name = "dave_vm8".to_owned();
    portal.nodes.has(Ipv4Addr::LOCALHOST, info.clone());
    portal.upkeep(&[]);
    remove(&portal, "domain", "dave_vm8").expect(409).says(&format!("the record {OF_DAVE}"));
    // Gone.
    info.domains.clear();
    info.volumes.clear();
    portal.nodes.has(Ipv4Addr::LOCALHOST, info);
    remove(&portal, "domain", "dave_vm8").expect(409).says("it is gone, or belongs to the portal by now");
    remove(&portal, "volume", "xen-root-old").expect(409);
    // The portal's by now: a machine that was ordered after upkeep had looked.
    let id = portal.deploy("alice", &[("physicalHost", "localhost")]);
    let mut info = with_machines(&[(&id, "alice_vm1")]);
    info.volumes.push(Volume {
        name: "xen-root-alice_vm1".to_owned(),
        size: Amount::from_mib(8),
        machine: None,
        open: true,
        snapshot: None,
    });
    portal.nodes.has(Ipv4Addr::LOCALHOST, info);
    write(&portal, |writer| {
        let stray = |kind, name: &str| Orphan { kind, name: name.to_owned(), detail: String::new() };
        let found = [
            stray(OrphanKind::Record, &id),
            stray(OrphanKind::Domain, "alice_vm1"),
            stray(OrphanKind::Volume, "xen-root-alice_vm1"),
        ];
        writer.keep_strays(&"localhost".parse().expect("a host"), &found.each_ref(), &[]).map(drop)
    });
    for (kind, name, why) in [
        ("record", id.as_str(), "belongs to the portal by now"),
        ("domain", "alice_vm1", "belongs to the portal by now"),
        ("volume", "xen-root-alice_vm1", "its name is of vm1, which is the portal's"),
    ] {
        remove(&portal, kind, name).expect(409).says(why);
    }
    for program in ["discard", "terminate", "image"] {
        assert!(portal.nodes.orders(program).is_empty(), "a node was events to {program}");
    }
    assert_eq!(events(&portal).len(), 0, "nothing was ordered");
    portal.assert_no_panic();
}

#[test]
fn a_failed_removal_is_reported_with_the_reason() {
    let portal = portal_with_orphans();
    let refuse = |fault| portal.nodes.conduct(Conduct::RefuseTo("discard", fault));
    refuse(Fault::StrangersProtected);
    let refused = remove(&portal, "volume", "xen-root-old").expect(409);
    refused
        .says("was not removed")
        .says("removeStrangers = true")
        .says("lvremove --select lv_name=xen-root-old");
    let why = "the volume xen-root-old is <in> use".to_owned();
    refuse(Fault::StrangerKept { why });
    let fields = removal("volume", "xen-root-old", "html");
    let page = portal.post("admin", "admin", &fields).send().expect(409);
    assert_well_formed(&page);
    page.says("is &lt;in&gt; use");
    portal.nodes.conduct(Conduct::Close);
    remove(&portal, "domain", "somebody").expect(502).says("was not removed");
    assert_eq!(orphans(&portal).len(), 6);
    assert!(orphans(&portal).iter().all(|(_, _, ordered)| !ordered), "none is in progress");
    let events = events(&portal);
    assert_eq!(events.len(), 4, "{events:?}");
    assert!(
        events[1].0 == "stray removal failed"
            && events[1].1.starts_with("volume xen-root-old: This host lets"),
        "{events:?}"
    );
    portal.assert_no_panic();
}
