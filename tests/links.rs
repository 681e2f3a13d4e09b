//! Links from other sites (webmail, other pages), proxies in front of the portal, and scripts that
//! look like browsers: what only shows is shown, and what would act is refused with the reason.

use vgrid::cgi::policy::Role;
use vgrid::server::endpoints::ENDPOINTS;

use crate::support::http::{Answer, Ask};
use crate::support::page::token;
use crate::support::portal::{DEPLOY, Portal, Setup, password, state_of, with_query};

/// Headers that show that another site sent the browser here.
const FROM_ELSEWHERE: [(&str, &str); 4] = [
    ("Sec-Fetch-Site", "cross-site"),
    ("Referer", "https://webmail.example/inbox"),
    ("Origin", "null"),
    ("Accept-Language", "\u{e9}"),
];

/// An endpoint that can change something, with the fields of its page and of its action.
struct Form {
    program: &'static str,
    user: &'static str,
    page: Vec<(&'static str, String)>,
    action: Vec<(&'static str, String)>,
}

/// All of them; fails when one is missing.
fn forms(id: &str) -> Vec<Form> {
    let field = |name, value: &str| (name, value.to_owned());
    let machine = || vec![field("id", id)];
    let form = |program, page: Vec<_>, more: &[(&'static str, &str)]| {
        let action =
            page.iter().cloned().chain(more.iter().map(|(name, value)| field(name, value))).collect();
        Form { program, user: if program == "admin" { "admin" } else { "alice" }, page, action }
    };
    let forms = vec![
        form("deploy", vec![], &DEPLOY),
        form("terminate", machine(), &[]),
        form("stop", machine(), &[]),
        form("start", machine(), &[]),
        form("reboot", machine(), &[]),
        form("extend", machine(), &[("expiryTime", "30d")]),
        form("save", machine(), &[("name", "web")]),
        form("resize", machine(), &[("vmMemory", "256")]),
        form("snapshots", machine(), &[("do", "take"), ("name", "before")]),
        form("admin", vec![], &[("do", "close"), ("kind", "portal"), ("reason", "mine")]),
        form("images", vec![], &[("do", "delete"), ("name", "web")]),
    ];
    let changing = |role| matches!(role, Role::User | Role::Owner | Role::Administrator);
    for endpoint in ENDPOINTS.iter().filter(|endpoint| endpoint.changes() && changing(endpoint.role)) {
        let program = endpoint.name.strip_prefix("user/").expect("a page of users");
        assert!(forms.iter().any(|form| form.program == program), "{program} is not in the table");
    }
    forms
}

impl Form {
    fn fields<'a>(&'a self, acts: bool, format: &'a str) -> Vec<(&'a str, &'a str)> {
        let fields = if acts { &self.action } else { &self.page };
        let given = fields.iter().map(|(name, value)| (*name, value.as_str()));
        given.chain((!format.is_empty()).then_some(("format", format))).collect()
    }

    fn get(&self, portal: &Portal, acts: bool, format: &str) -> Ask {
        portal.get(self.user, &with_query(self.program, &self.fields(acts, format)))
    }

    fn post(&self, portal: &Portal, format: &str) -> Ask {
        portal.post(self.user, self.program, &self.fields(true, format))
    }
}

/// Asserts that no action of the table took effect.
#[track_caller]
fn nothing_was_done(portal: &Portal, id: &str, orders: usize) {
    assert_eq!(portal.nodes.received().len(), orders, "a host was contacted");
    assert_eq!(portal.machine_count("alice"), 1);
    let shown = portal.show("alice", id);
    assert_eq!(state_of(&shown), "deployed");
    assert!(!shown["history"].to_string().contains("lease set"), "{shown}");
    assert!(portal.get("admin", "admin?format=json").send().expect(200).json()["portal"].is_null());
}

#[test]
fn a_link_from_another_site_shows_its_page_but_never_acts() {
    let portal = Portal::start();
    let id = portal.deployed("alice");
    let orders = portal.nodes.received().len();
    for form in forms(&id) {
        for (header, value) in FROM_ELSEWHERE {
            let what = format!("{} with {header}: {value}", form.program);
            let linked = |ask: Ask| ask.header(header, value);
            let page = |answer: Answer| {
                assert_eq!(answer.status, 200, "{what}: {answer}");
                assert!(answer.text().contains("<main"), "{what}: {answer}");
            };
            // As a browser opens it, and as a client that sends fewer headers.
            for format in ["", "html"] {
                page(linked(form.get(&portal, false, format)).header("Accept", "text/html").send());
                page(linked(form.get(&portal, false, format)).send());
                let filled_in = linked(form.get(&portal, true, format)).header("Accept", "text/html").send();
                if form.program == "images" {
                    // There is no image with that name.
                    filled_in.expect(404);
                } else {
                    page(filled_in);
                }
            }
            let refused = |answer: Answer| {
                assert_eq!(answer.status, 403, "{what}: {answer}");
                assert!(answer.text().contains("another site"), "{what}: {answer}");
            };
            for format in ["json", "text"] {
                refused(linked(form.get(&portal, true, format)).send());
                refused(linked(form.post(&portal, format)).send());
            }
            if form.action.iter().any(|(name, _)| *name != "id") {
                refused(linked(form.get(&portal, true, "")).send());
            }
            refused(linked(form.post(&portal, "")).send());
            refused(linked(form.post(&portal, "")).header("Accept", "text/html").send());
        }
    }
    nothing_was_done(&portal, &id, orders);
    portal.assert_no_panic();
}

#[test]
fn read_only_pages_can_be_linked_from_anywhere() {
    let portal = Portal::start();
    let id = portal.deployed("alice");
    for (header, value) in FROM_ELSEWHERE {
        for page in ["list", &format!("show?id={id}"), &format!("console?id={id}"), "history"] {
            for format in ["html", "json", "text"] {
                let separator = if page.contains('?') { '&' } else { '?' };
                let path = format!("{page}{separator}format={format}");
                let answer = portal.get("alice", &path).header(header, value).send();
                assert_eq!(answer.status, 200, "{path} with {header}: {value}: {answer}");
            }
        }
    }
}

#[test]
fn an_unreadable_header_does_not_make_a_script() {
    let portal = Portal::start();
    let id = portal.deployed("alice");
    let orders = portal.nodes.received().len();
    for header in ["Accept-Language", "Accept", "Sec-Fetch-Site", "Origin", "Referer"] {
        for form in forms(&id) {
            let answer = form.get(&portal, true, "").header(header, "\u{e9}").send();
            let what = format!("{} with an unreadable {header}", form.program);
            assert!(matches!(answer.status, 200 | 403), "{what}: {answer}");
            let answer = form.post(&portal, "json").header(header, "\u{e9}").send();
            assert_eq!(answer.status, 403, "{what}: {answer}");
            assert!(answer.text().contains(&format!("header {}", header.to_lowercase())), "{what}: {answer}");
        }
    }
    nothing_was_done(&portal, &id, orders);
}

#[test]
fn a_script_taken_for_a_browser_learns_why_nothing_was_done() {
    let portal = Portal::start();
    let id = portal.deployed("alice");
    let orders = portal.nodes.received().len();
    let looks = [
        // Java's HttpURLConnection.
        ("Accept", "text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2"),
        ("Accept-Language", "en"),
        ("Sec-Fetch-Site", "none"),
    ];
    for form in forms(&id) {
        for (header, value) in looks {
            for format in ["json", "text"] {
                for ask in [form.get(&portal, true, format), form.post(&portal, format)] {
                    let answer = ask.header(header, value).send();
                    let what = format!("{} {format} with {header}: {value}", form.program);
                    assert_eq!(answer.status, 400, "{what}: {answer}");
                    answer.says("Nothing was done").says(&format!("header {}", header.to_lowercase()));
                }
                // Requester for the choices is no action.
                if form.page.is_empty() {
                    form.get(&portal, false, format).header(header, value).send().expect(200);
                }
            }
        }
    }
    nothing_was_done(&portal, &id, orders);
    // Without these headers the order is carried out.
    portal.get("alice", &format!("stop?id={id}&format=text")).header("Accept", "*/*").send().expect(202);
}

#[test]
fn forms_work_behind_a_proxy_once_its_url_is_configured() {
    let more = |lines: &str| Setup { more_server: lines.to_owned(), ..Setup::default() }.start();
    let send = |portal: &Portal, origin: &str| {
        let page = portal.get("alice", "deploy").send().expect(200);
        let token = token(&page);
        let fields = [&DEPLOY[..], &[("token", token.as_str())]].concat();
        let form = portal.post("alice", "deploy", &fields).header("Accept", "text/html");
        let form = form.header("Sec-Fetch-Site", "same-origin").header("Origin", origin);
        form.header("Referer", format!("{origin}/cgi-bin/user/deploy")).send()
    };
    let public = "https://vgrid.example.org";

    let portal = more("");
    let refused = send(&portal, public).expect(403);
    refused
        .says(public)
        .says(&portal.apache.address.to_string())
        .says("another site")
        .says("portalURLs")
        .says("server.cfg");
    assert_eq!(portal.machine_count("alice"), 0);
    drop(portal);

    for lines in [
        "portalURLs = [\"https://other.example.org/\", \"https://vgrid.example.org\"]",
        "portalURLs = [\"https://VGRID.example.org:443/cgi-bin/user\"]",
        "[Mail]\nportalURL = \"https://vgrid.example.org/cgi-bin/user\"",
    ] {
        let portal = more(lines);
        send(&portal, public).expect(303);
        for foreign in ["http://vgrid.example.org", "https://vgrid.example.org:8443", "https://evil.example"]
        {
            send(&portal, foreign).expect(403);
        }
    }
    let broken = more("portalURLs = [\"vgrid.example.org\"]");
    let ask = broken.ask("GET", "/cgi-bin/user/list").by("alice", &password("alice"));
    ask.send().expect(500);
}
