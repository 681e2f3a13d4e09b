//! What administrators see of the whole, and what they close and open.

use serde_json::Value;

use crate::pages::well_made;
use crate::support::http::Answer;
use crate::support::portal::{Portal, Setup, state_of};
use vgrid::model::stage::Order;
use vgrid::model::wire::News;
use vgrid::server::registry::host::Contact;
use vgrid::server::registry::mail::Letter;
use vgrid::server::registry::stray::{Stray, StrayKind};
use vgrid::server::registry::{Registry, RegistryError, Writer};
use vgrid::system::clock;

const DEPLOY: [(&str, &str); 4] =
    [("vmImage", "tiny"), ("vmMemory", "128"), ("vmPartition", "1"), ("format", "json")];

/// Closes or opens as a script does.
fn act(portal: &Portal, what: &str, kind: &str, name: &str, reason: &str) -> Answer {
    let fields = [("do", what), ("kind", kind), ("name", name), ("reason", reason), ("format", "json")];
    let given: Vec<_> = fields.into_iter().filter(|(_, value)| !value.is_empty()).collect();
    portal.post("admin", "admin", &given).send()
}

#[track_caller]
fn seen(portal: &Portal) -> Value {
    portal.get("admin", "admin?format=json").send().expect(200).json()
}

/// Writes into the registry what upkeep does.
fn enter(portal: &Portal, work: impl FnOnce(&Writer<'_>) -> Result<(), RegistryError>) {
    portal.get("admin", "deploy").send().expect(200);
    let mut registry = Registry::open(&portal.path("var/registry.sqlite")).expect("the registry");
    registry.write(work).expect("an entry");
}

#[test]
fn a_disabled_host_gets_no_new_machines_and_keeps_its_own() {
    let portal = Portal::start();
    let there = portal.deployed("alice");
    assert_eq!(portal.show("alice", &there)["machine"]["physical_host"], "localhost");
    let page = act(&portal, "close", "host", "localhost", "its disk is <b>dying</b>.").expect(200).json();
    let host =
        page["hosts"].as_array().and_then(|all| all.iter().find(|host| host["name"] == "localhost")).cloned();
    let host = host.expect("the host");
    assert_eq!(
        (host["closed"]["who"].as_str(), host["disabled"].as_str()),
        (Some("admin"), Some("its disk is <b>dying</b>."))
    );
    // Chosen, and left to vGrid; also by an administrator.
    for user in ["alice", "admin"] {
        let to = [&DEPLOY[..], &[("physicalHost", "localhost")]].concat();
        let json = portal.post(user, "deploy", &to).send().expect(409).json();
        let fault = json["error"]["fields"]["physicalHost"].as_str().expect("a fault");
        assert!(fault.contains("gets no new machines") && fault.contains("dying"), "{json}");
        assert!(fault.contains("</b>. Choose another"), "{fault}");
    }
    for _ in 0..4 {
        let id = portal.deploy("bob", &[]);
        assert_eq!(portal.show("bob", &id)["machine"]["physical_host"], "127.0.0.2");
    }
    portal.post("bob", "deploy", &DEPLOY).send().expect(409).says("All hosts are full or disabled.");
    // The form does not offer it, and says why; so does the list.
    let form = portal.get("alice", "deploy").send().expect(200);
    well_made(&form);
    form.says("value=\"localhost\" disabled>localhost (disabled: its disk is &lt;b&gt;dying");
    portal.get("alice", "list").send().expect(200).says("disabled").says("&lt;b&gt;dying");
    portal.get("alice", "deploy?format=text").send().expect(200).says("host\tlocalhost\t1\t4\tdisabled\n");
    let hosts = portal.get("alice", "list?format=text").send().expect(200).text();
    assert!(
        hosts.lines().any(|line| line.starts_with("# host\tlocalhost") && line.ends_with("\tdisabled")),
        "{hosts}"
    );
    // What is there goes on.
    portal.order("alice", Order::Stop, &there).expect(202);
    portal.report(&there, Order::Stop, 1, News::Done).expect(200);
    portal.order("alice", Order::Start, &there).expect(202);
    act(&portal, "open", "host", "localhost", "").expect(200);
    portal.deploy("alice", &[("physicalHost", "localhost")]);
    portal.assert_no_panic();
}

#[test]
fn a_disabled_name_is_not_given_out() {
    let portal = Setup { names: 3, ..Setup::default() }.start();
    let first = portal.deploy("alice", &[]);
    for name in ["vm1", "vm2"] {
        act(&portal, "close", "name", name, "its address is in use elsewhere").expect(200);
    }
    let asked = [&DEPLOY[..], &[("vmHostname", "vm2")]].concat();
    let json = portal.post("alice", "deploy", &asked).send().expect(409).json();
    let fault = json["error"]["fields"]["vmHostname"].as_str().expect("a fault");
    assert!(fault.contains("vm2 is not given out at present: its address is in use elsewhere."), "{fault}");
    let second = portal.deploy("alice", &[]);
    assert_eq!(portal.show("alice", &second)["machine"]["virtual_host"], "vm3");
    portal.post("alice", "deploy", &DEPLOY).send().expect(409).says("All names are taken or disabled.");
    portal.get("alice", "deploy").send().expect(200).says("vm2 (disabled: its address").says("vm1 (taken)");
    portal.get("alice", "deploy?format=text").send().expect(200).says("name\tvm2\tdisabled\n");
    // The machine that has it keeps it; afterwards it is not given out again.
    portal.report(&first, Order::Deploy, 1, News::Done).expect(200);
    assert_eq!(state_of(&portal.show("alice", &first)), "deployed");
    let names = seen(&portal)["names"].clone();
    assert_eq!(
        (names[0]["machine"]["id"].as_str(), names[0]["machine"]["owner"].as_str()),
        (Some(first.as_str()), Some("alice"))
    );
    assert_eq!(seen(&portal)["free_names"], 0);
    portal.order("alice", Order::Terminate, &first).expect(202);
    portal.report(&first, Order::Terminate, 1, News::Done).expect(200);
    portal.post("alice", "deploy", &DEPLOY).send().expect(409);
    act(&portal, "open", "name", "VM1", "").expect(200);
    let again = portal.deploy("alice", &[]);
    assert_eq!(portal.show("alice", &again)["machine"]["virtual_host"], "vm1");
    // Another machine like one whose name is disabled by now.
    act(&portal, "close", "name", "vm1", "x").expect(200);
    portal.get("alice", &format!("deploy?like={again}")).send().expect(200);
    portal.assert_no_panic();
}

#[test]
fn a_closed_portal_is_to_be_looked_at() {
    let portal = Portal::start();
    let id = portal.deployed("alice");
    let orders = portal.nodes.received().len();
    let reason = "the hall is being <moved>, until Monday";
    act(&portal, "close", "portal", "", reason).expect(200);
    // Nothing is changed, in any way.
    let terminate = [("id", id.as_str())];
    for form in ["html", "json", "text"] {
        for (program, fields) in [
            ("deploy", &DEPLOY[..3]),
            ("terminate", &terminate),
            ("stop", &terminate),
            ("reboot", &terminate),
        ] {
            let fields = [fields, &[("format", form)]].concat();
            let answer = portal.post("alice", program, &fields).send().expect(503);
            well_made(&answer);
            assert_eq!(answer.header("retry-after"), None, "nobody knows when: {answer}");
            let shown = if form == "html" { "&lt;moved&gt;" } else { "<moved>" };
            answer.says("The portal is closed: the hall is being").says(shown).says("Nothing was done.");
            let query = crate::support::portal::with_query(program, &fields);
            portal.get("alice", &query).send().expect(503);
        }
    }
    let token = |user: &str| {
        let form = portal.get(user, "deploy").send().expect(200).says("The portal is closed").text();
        form.split("name=\"token\" value=\"")
            .nth(1)
            .and_then(|r| r.split('"').next())
            .expect("a token")
            .to_owned()
    };
    let good = token("alice");
    let with_token = [&DEPLOY[..3], &[("token", good.as_str())]].concat();
    portal.post("alice", "deploy", &with_token).like_a_browser().send().expect(503);
    assert_eq!(state_of(&portal.show("alice", &id)), "deployed");
    assert_eq!(portal.nodes.received().len(), orders, "a node was told something");
    // All pages are there, and say it.
    for page in ["list", "deploy", &format!("show?id={id}"), "history"] {
        let page = portal.get("alice", page).header("Accept", "text/html").send().expect(200);
        well_made(&page);
        page.says(
            "The portal is closed: the hall is being &lt;moved&gt;, until Monday. You can look at everything",
        );
    }
    let ask = portal.get("alice", &format!("terminate?id={id}")).header("Accept", "text/html");
    ask.send().expect(200).says("The portal is closed");
    assert!(portal.list("alice")["closed"].as_str().is_some_and(|text| text.contains(reason)));
    let text = portal.get("alice", "list?format=text").send().expect(200).text();
    assert!(text.lines().any(|line| line.starts_with("# closed\tThe portal is closed")), "{text}");
    // A host that tells how it is getting on is heard all the same.
    let late = portal.deploy("admin", &[("physicalHost", "localhost")]);
    portal.report(&late, Order::Deploy, 1, News::Done).expect(200);
    assert_eq!(state_of(&portal.show("admin", &late)), "deployed");
    // Administrators go on, and see that it is closed.
    portal.get("admin", "list").send().expect(200).says("Only administrators can change anything");
    portal.order("admin", Order::Stop, &id).expect(202);
    act(&portal, "open", "portal", "", "").expect(200);
    portal.deploy("alice", &[]);
    let page = portal.get("alice", "list").send().expect(200).text();
    assert!(!page.contains("The portal is closed"), "{page}");
    portal.assert_no_panic();
}

#[test]
fn what_is_closed_and_opened_is_in_the_history_once() {
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
    let text = |event: &Value, key: &str| event[key].as_str().expect("words").to_owned();
    let told: Vec<_> = json["events"]
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
    assert_eq!(told, expected.map(|event| event.map(str::to_owned)));
    if let Some(log) = portal.own_log() {
        assert!(log.contains("event=host-disabled") && log.contains("more dust"), "{log}");
    }
}

#[test]
fn what_makes_no_sense_is_refused_and_changes_nothing() {
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
        (&[("do", "remove"), ("kind", "portal")], 400, "close or open"),
        (&[("kind", "portal"), ("reason", "x")], 400, "close or open"),
        (&[("do", "close"), ("what", "portal")], 400, "There is no field"),
    ] {
        for form in ["html", "json", "text"] {
            let fields = [fields, &[("format", form)]].concat();
            let answer = portal.post("admin", "admin", &fields).send();
            assert_eq!(answer.status, status, "{fields:?}: {answer}");
            well_made(&answer);
            answer.says(words);
            portal.get("admin", &crate::support::portal::with_query("admin", &fields)).send().expect(status);
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
    let page = seen(&portal);
    assert!(page["portal"].is_null(), "{page}");
    for list in ["hosts", "names"] {
        assert!(page[list].as_array().expect("a list").iter().all(|one| one["closed"].is_null()), "{page}");
    }
    portal.assert_no_panic();
}

#[test]
fn the_whole_is_on_one_page() {
    let portal = Portal::start();
    let id = portal.deployed("alice");
    let now = clock::now();
    enter(&portal, |writer| {
        writer.live_on(now.plus_seconds(-600))?;
        writer.keep_contact(&Contact {
            name: "127.0.0.2".parse().expect("a host"),
            tried: now,
            fault: Some("The host 127.0.0.2 did not answer.".to_owned()),
            since: now.plus_seconds(-7200),
            told: true,
        })?;
        let stray = |kind, name: &str| Stray { kind, name: name.to_owned(), detail: "128 MiB".to_owned() };
        let strays = [stray(StrayKind::Domain, "o'dd <one>"), stray(StrayKind::Volume, "xen-root-x_vm1")];
        writer.keep_strays(&"localhost".parse().expect("a host"), &strays, now)?;
        let letter = Letter {
            recipient: "alice@example.org".to_owned(),
            subject: "Your lease <ends>".to_owned(),
            plain: "secret words".to_owned(),
            html: String::new(),
        };
        writer.queue(&letter, now)?;
        let waiting = writer.mail_waiting(9)?;
        writer.postpone(&waiting[0].id, "connection refused", now.plus_seconds(900))
    });
    let page = seen(&portal);
    assert!(page["upkeep"]["warning"].is_null(), "{page}");
    assert_eq!(page["upkeep"]["ago"], "10 min ago");
    assert_eq!(page["names"][0]["machine"]["id"], id.as_str());
    assert_eq!(page["unknown"][0]["command"], "xl destroy 'o'\\''dd <one>'");
    assert_eq!(page["unknown"][1]["command"], "lvremove --select lv_name=xen-root-x_vm1");
    assert_eq!(
        (page["mail"][0]["tries"].as_u64(), page["mail"][0]["error"].as_str()),
        (Some(1), Some("connection refused"))
    );
    assert!(!page.to_string().contains("secret words"), "other people's mail is on the page");
    let silent =
        page["hosts"].as_array().and_then(|all| all.iter().find(|host| host["name"] == "127.0.0.2")).cloned();
    assert_eq!(silent.expect("the host")["fault"], "The host 127.0.0.2 did not answer.");
    let html = portal.get("admin", "admin").send().expect(200);
    well_made(&html);
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
    well_made(&text);
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
    // It is not there twice that upkeep has stopped.
    enter(&portal, |writer| writer.live_on(now.plus_seconds(-8000)).map(drop));
    let page = seen(&portal);
    assert!(page["upkeep"]["warning"].as_str().is_some_and(|text| text.contains("INSTALL.md")), "{page}");
    portal.assert_no_panic();
}

#[test]
fn upkeep_that_never_ran_is_told() {
    let portal = Portal::start();
    let page = portal.get("admin", "admin").send().expect(200);
    well_made(&page);
    page.says("Upkeep has never run.").says("Nothing, as far as upkeep has seen.");
}

#[test]
fn what_has_left_the_pool_can_still_be_opened() {
    let portal = Portal::start();
    portal.deploy("alice", &[("physicalHost", "127.0.0.2")]);
    act(&portal, "close", "host", "127.0.0.2", "old").expect(200);
    act(&portal, "close", "name", "vm6", "old").expect(200);
    portal.reconfigure("common.cfg", |text| {
        text.replace("\"127.0.0.2\" = 4\n", "").replace("\"vm6\" = \"\"\n", "")
    });
    let page = seen(&portal);
    let host =
        page["hosts"].as_array().and_then(|all| all.iter().find(|host| host["name"] == "127.0.0.2")).cloned();
    let host = host.unwrap_or_else(|| panic!("{page}"));
    assert_eq!((host["in_pool"].as_bool(), host["machines"].as_u64()), (Some(false), Some(1)));
    portal.get("admin", "admin").send().expect(200).says("not in the pool");
    act(&portal, "close", "host", "127.0.0.2", "other words").expect(404);
    act(&portal, "open", "host", "127.0.0.2", "").expect(200);
    act(&portal, "open", "name", "vm6", "").expect(200);
    act(&portal, "open", "name", "vm6", "").expect(404);
    let names = seen(&portal)["names"].clone();
    assert!(names.as_array().is_some_and(|names| names.iter().all(|name| name["name"] != "vm6")), "{names}");
    // Who has a machine there is not without it.
    assert_eq!(seen(&portal)["hosts"].as_array().map(Vec::len), Some(2));
}
