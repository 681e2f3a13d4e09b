//! Who may do what, and what counts as an intent to act: owners, administrators, browsers, scripts,
//! and other sites that try to act in a user's name.

use crate::support::http::Ask;
use crate::support::page::token;
use crate::support::portal::{DEPLOY, Portal, Setup, id_of, password, state_of, with_query};

#[test]
fn a_machine_belongs_to_its_owner() {
    let portal = Portal::start();
    let id = portal.deploy("alice", &[]);
    for form in ["html", "json", "text"] {
        for program in ["show", "console", "terminate", "stop", "start", "reboot"] {
            let path = format!("{program}?id={id}&format={form}");
            portal.get("bob", &path).send().expect(403).says("belongs to somebody else");
        }
        let fields = [("id", id.as_str()), ("format", form)];
        portal.post("bob", "terminate", &fields).send().expect(403).says("belongs to somebody else");
        let by_name = [("vmHostname", "vm1"), ("format", form)];
        portal.post("bob", "terminate", &by_name).send().expect(403).says("belongs to somebody else");
        let force = [("id", id.as_str()), ("format", form), ("force", "1")];
        portal.post("bob", "terminate", &force).send().expect(403);
    }
    portal.get("bob", &format!("deploy?like={id}")).send().expect(403);
    assert_eq!(portal.machine_count("bob"), 0);
    portal.get("bob", "list?scope=all").send().expect(403).says("Only administrators");
    assert_eq!(portal.state("alice", &id), "deploying");
    assert!(portal.nodes.orders("terminate").is_empty(), "the node was contacted");
}

#[test]
fn an_administrator_may_do_what_the_owner_may() {
    let portal = Portal::start();
    let id = portal.deploy("alice", &[("vmName", "a label")]);
    assert_eq!(portal.machine_count("admin"), 1);
    assert_eq!(portal.show("admin", &id)["machine"]["owner"], "alice");
    portal.get("admin", &format!("console?id={id}&format=text")).send().expect(200).says("Linux version");
    let fields = [("id", id.as_str()), ("format", "json")];
    let answer = portal.post("admin", "terminate", &fields).send().expect(202).json();
    assert_eq!(state_of(&answer), "terminating");
    let history = portal.history("alice", &id);
    assert!(history.contains("\"who\":\"admin\""), "{history}");
    assert_eq!(portal.nodes.orders("terminate")[0].json()["user"], "alice", "the machine stays alice's");
}

#[test]
fn administration_is_for_administrators_only() {
    let portal = Portal::start();
    let page = "admin?format=json";
    let close = [("do", "close"), ("kind", "portal"), ("reason", "mine now"), ("format", "json")];
    for user in ["alice", "bob"] {
        for form in ["html", "json", "text"] {
            let sentence = "Only administrators";
            portal.get(user, &format!("admin?format={form}")).send().expect(403).says(sentence);
            let browser = portal.get(user, &format!("admin?format={form}")).header("Accept", "text/html");
            browser.send().expect(403).says(sentence);
        }
        portal.post(user, "admin", &close).send().expect(403);
        portal.get(user, &with_query("admin", &close)).send().expect(403);
        // The token of a user's own form does not help either.
        let token = token(&portal.get(user, "deploy").send().expect(200));
        let with_token = [&close[..3], &[("token", token.as_str())]].concat();
        portal.post(user, "admin", &with_token).like_a_browser().send().expect(403);
        let list = portal.get(user, "list").send().expect(200).text();
        assert!(!list.contains("href=\"admin\"") && list.contains("href=\"history\""), "{list}");
    }
    portal.ask("GET", "/cgi-bin/user/admin").send().expect(401);
    assert!(portal.get("admin", page).send().expect(200).json()["portal"].is_null(), "the portal was closed");
    portal.get("admin", "list").send().expect(200).says("href=\"admin\"");
}

#[test]
fn only_the_exact_names_in_the_file_are_administrators() {
    let setup =
        Setup { users: vec!["admin", "Admin", "admin ", "a dmin", "ad_min", "ad min"], ..Default::default() };
    let portal = setup.start();
    portal.reconfigure("server.cfg", |text| format!("{text}\n\"ad min\" = \"\"\n"));
    portal.get("admin", "list?scope=all").send().expect(200);
    portal.get("ad min", "list?scope=all").send().expect(200);
    for other in ["Admin", "a dmin", "ad_min"] {
        portal.get(other, "list?scope=all").send().expect(403);
        portal.get(other, "admin").send().expect(403);
    }
    portal.get("ad min", "admin").send().expect(200);
}

/// Headers that show that another site sent the browser here.
pub const OTHER_SITES: [(&str, &str); 7] = [
    ("Sec-Fetch-Site", "cross-site"),
    ("Sec-Fetch-Site", "same-site"),
    ("Origin", "http://evil.example"),
    ("Origin", "null"),
    ("Referer", "http://evil.example/page?x=/cgi-bin/user/deploy"),
    ("Referer", "https://127.0.0.1.evil.example/"),
    ("Referer", "not an address"),
];

#[test]
fn another_site_cannot_act_in_a_user_s_name() {
    let portal = Portal::start();
    let id = portal.deploy("alice", &[]);
    let orders = portal.nodes.received().len();

    let terminate = [("id", id.as_str())];
    let valid = token(&portal.get("alice", "deploy").send().expect(200));
    for (header, value) in OTHER_SITES {
        for (program, fields) in [("deploy", &DEPLOY[..]), ("terminate", &terminate[..])] {
            let path = format!("{}&format=json", with_query(program, fields));
            let with_token = [fields, &[("token", valid.as_str())]].concat();
            for ask in [
                portal.get("alice", &path),
                portal.get("alice", &path).header("Accept", "text/html"),
                portal.post("alice", program, fields),
                portal.post("alice", program, &with_token),
            ] {
                let answer = ask.header(header, value).send();
                assert_eq!(answer.status, 403, "{program} with {header}: {value}: {answer}");
                assert!(answer.text().contains("another site"), "{answer}");
            }
        }
        // Looking does no harm: links in mail must work.
        portal.get("alice", "list").header(header, value).send().expect(200);
        portal.get("alice", "deploy").header(header, value).send().expect(200);
    }
    assert_eq!(portal.machine_count("alice"), 1);
    assert_eq!(portal.nodes.received().len(), orders, "a node was contacted");
}

/// A GET by a browser, as for a typed address or a link on the portal.
fn browse(ask: Ask, site: &str) -> Ask {
    ask.header("Accept", "text/html,application/xhtml+xml").header("Sec-Fetch-Site", site)
}

#[test]
fn a_browser_s_get_never_acts() {
    let portal = Portal::start();
    let id = portal.deploy("alice", &[]);
    let orders = portal.nodes.received().len();
    for site in ["none", "same-origin"] {
        let deploy = "deploy?vmImage=debian-12&vmMemory=321&vmPartition=2";
        let form = browse(portal.get("alice", deploy), site).send().expect(200);
        form.clone().says("<form").says("321").says("name=\"token\"");
        let terminate = format!("terminate?id={id}");
        browse(portal.get("alice", &terminate), site).send().expect(200).says("<form").says("name=\"token\"");
        let force = format!("terminate?id={id}&force=1");
        browse(portal.get("alice", &force), site).send().expect(200).says("<form");
    }
    // HEAD is treated like GET.
    let head =
        portal.ask("HEAD", &format!("/cgi-bin/user/terminate?id={id}")).by("alice", &password("alice"));
    browse(head, "none").send().expect(200);
    assert_eq!(portal.state("alice", &id), "deploying");
    assert_eq!(portal.machine_count("alice"), 1);
    assert_eq!(portal.nodes.received().len(), orders, "a node was contacted");
}

#[test]
fn resources_loaded_by_another_site_over_http_never_act() {
    // An <img referrerpolicy="no-referrer"> in a browser that sends passwords with images of other
    // sites, and trusts neither site: only the headers that all browsers send are left.
    let portal = Portal::start();
    let id = portal.deploy("alice", &[]);
    let orders = portal.nodes.received().len();
    for path in [
        format!("terminate?id={id}"),
        "terminate?vmHostname=vm1".to_owned(),
        "deploy?vmImage=tiny&vmMemory=128&vmPartition=1".to_owned(),
    ] {
        for accept in [
            "image/avif,image/webp,image/png,image/svg+xml,image/*;q=0.8,*/*;q=0.5",
            "*/*",
            "text/css,*/*;q=0.1",
        ] {
            let ask = portal.get("alice", &path).header("Accept", accept);
            let browser = ask.header(
                "User-Agent",
                "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
            );
            browser.header("Accept-Language", "en-US,en;q=0.5").send().expect(200);
        }
    }
    assert_eq!(portal.machine_count("alice"), 1);
    assert_eq!(portal.nodes.received().len(), orders, "a node was contacted");
}

#[test]
fn head_never_acts() {
    let portal = Portal::start();
    let deploy = "/cgi-bin/user/deploy?vmImage=tiny&vmMemory=128&vmPartition=1";
    // wget --spider sends HEAD to test an address before fetching it.
    portal.ask("HEAD", deploy).by("alice", &password("alice")).send();
    assert_eq!(portal.machine_count("alice"), 0, "HEAD deployed a machine");
}

#[test]
fn an_administrator_s_browser_closes_nothing_by_itself() {
    let portal = Portal::start();
    let close = [("do", "close"), ("kind", "portal"), ("reason", "x")];
    let path = with_query("admin", &close);
    browse(portal.get("admin", &path), "same-origin").send().expect(200);
    portal.post("admin", "admin", &close).like_a_browser().send().expect(403).says("not from this portal");
    for (header, value) in OTHER_SITES {
        portal.post("admin", "admin", &close).header(header, value).send().expect(403).says("another site");
        portal.get("admin", &path).header(header, value).send().expect(403);
    }
    let alices = token(&portal.get("alice", "deploy").send().expect(200));
    portal
        .post("admin", "admin", &[&close[..], &[("token", &alices)]].concat())
        .like_a_browser()
        .send()
        .expect(403);
    let open = || portal.get("admin", "admin?format=json").send().expect(200).json()["portal"].is_null();
    assert!(open());
    let valid = token(&portal.get("admin", "admin").send().expect(200));
    let sent =
        portal.post("admin", "admin", &[&close[..], &[("token", &valid)]].concat()).like_a_browser().send();
    assert_eq!(sent.expect(303).header("location"), Some("admin"));
    assert!(!open());
}

#[test]
fn a_browser_s_form_needs_its_token() {
    let portal = Portal::start();

    let send = |fields: &[(&str, &str)]| portal.post("alice", "deploy", fields).like_a_browser().send();
    send(&DEPLOY).expect(403).says("too old, or not from this portal");
    let bobs = token(&portal.get("bob", "deploy").send().expect(200));
    for wrong in ["", "x", &"0".repeat(32), &bobs, &"x".repeat(4000), "é", "a\0b"] {
        send(&[&DEPLOY[..], &[("token", wrong)]].concat())
            .expect(403)
            .says("too old, or not from this portal");
    }
    assert_eq!(portal.machine_count("alice"), 0);
    let valid = token(&portal.get("alice", "deploy").send().expect(200));
    let with_token = [&DEPLOY[..], &[("token", valid.as_str())]].concat();
    let answer = send(&with_token).expect(303);
    let location = answer.header("location").expect("a page to go to").to_owned();
    assert!(!location.contains("//"), "a redirect that leaves the host: {location}");
    let id = location.rsplit("id=").next().expect("an id").to_owned();
    assert_eq!(portal.state("alice", &id), "deploying");

    // The same for the form that terminates. A token is good for all forms of its user.
    let ask = |fields: &[(&str, &str)]| portal.post("alice", "terminate", fields).like_a_browser().send();
    ask(&[("id", &id)]).expect(403);
    ask(&[("id", &id), ("token", &bobs)]).expect(403);
    assert_eq!(portal.state("alice", &id), "deploying");
    ask(&[("id", &id), ("token", &valid)]).expect(303);
    assert_eq!(portal.state("alice", &id), "terminating");
}

#[test]
fn a_script_s_get_acts() {
    let portal = Portal::start();
    let path = "deploy?vmImage=tiny&vmMemory=128&vmPartition=1&format=json";
    let id = id_of(&portal.get("alice", path).header("Accept", "*/*").send().expect(202).json());
    let order = portal.nodes.orders("deploy");
    assert_eq!(order.len(), 1);
    assert!(order[0].signed, "the order is not signed");
    assert_eq!(order[0].json()["id"], id.as_str());
    let answer = portal.get("alice", &format!("terminate?id={id}&format=json")).send().expect(202).json();
    assert_eq!(state_of(&answer), "terminating");
    assert!(portal.nodes.orders("terminate")[0].signed, "the order is not signed");
}
