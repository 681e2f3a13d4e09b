//! The portal behind a reverse proxy, set up as in INSTALL.md: a second, real Apache that
//! terminates TLS and forwards to the portal's.

use serde_json::json;
use tempfile::TempDir;
use ureq::http::Response;
use vgrid::model::stage::Order;
use vgrid::model::wire::{News, Report};

use crate::support::apache::{Apache, Kind};
use crate::support::http::{Ask, basic, encoded};
use crate::support::node::facts;
use crate::support::page::hidden_field;
use crate::support::portal::{DEPLOY, DEPLOY_JSON, Portal, STATUS, Setup, last_order_number, password};
use crate::support::stage::public_folder;
use crate::support::tls::{self, Authority, LOCALHOST};

const MODULES: &str = "/usr/lib/apache2/modules";

/// The part of INSTALL.md that makes the portal's Apache take the client address from the proxy.
fn trust_the_proxy() -> String {
    format!(
        "LoadModule remoteip_module {MODULES}/mod_remoteip.so\nRemoteIPHeader X-Forwarded-For\n\
         RemoteIPInternalProxy 127.0.0.1\n"
    )
}

/// A proxy in front of a portal, with TLS and without.
struct Proxy {
    apache: Apache,
    dir: TempDir,
}

impl Proxy {
    fn start(portal: &Portal, more: &str) -> Self {
        let dir = public_folder();
        let authority = Authority { dir: dir.path() };
        authority.found("ca");
        authority.sign("ca", "server", "/CN=localhost", LOCALHOST);
        let at = |name: &str| dir.path().join(name).display().to_string();
        let behind = portal.apache.address;
        let apache = Apache::start(dir.path(), Kind::Event, true, |_, tls_port| {
            let pass = format!(
                "ProxyRequests Off\nProxyPass \"/\" \"http://{behind}/\"\nProxyPassReverse \"/\" \"http://{behind}/\"\n\
                 {more}\n<Proxy \"*\">\nRequire all granted\n</Proxy>\n"
            );
            format!(
                "LoadModule proxy_module {MODULES}/mod_proxy.so\nLoadModule proxy_http_module {MODULES}/mod_proxy_http.so\n\
                 {pass}<VirtualHost 127.0.0.1:{tls_port}>\nServerName localhost\nSSLEngine on\n\
                 SSLCertificateFile \"{}\"\nSSLCertificateKeyFile \"{}\"\n{pass}</VirtualHost>\n",
                at("server.pem"),
                at("server.key"),
            )
        });
        Self { apache, dir }
    }

    /// The public address of the portal.
    fn public(&self) -> String {
        format!("https://localhost:{}", self.apache.tls.expect("a port with TLS").port())
    }

    /// A request by a browser over TLS: a GET, or a POST of these fields.
    fn browse(&self, path: &str, fields: Option<&[(&str, &str)]>) -> (Response<ureq::Body>, String) {
        let agent = tls::client(self.dir.path(), None);
        let url = format!("{}{path}", self.public());
        let signed_in = basic(b"alice", &password("alice"));
        let answer = match fields {
            None => agent.get(&url).header("Authorization", signed_in).header("Accept", "text/html").call(),
            Some(fields) => agent
                .post(&url)
                .header("Authorization", signed_in)
                .header("Accept", "text/html")
                .header("Accept-Language", "en")
                .header("Origin", self.public())
                .header("Referer", format!("{}/cgi-bin/user/deploy", self.public()))
                .header("Sec-Fetch-Site", "same-origin")
                .content_type("application/x-www-form-urlencoded")
                .send(encoded(fields)),
        };
        let mut answer = answer.expect("an answer");
        let text = answer.body_mut().read_to_string().expect("a page");
        (answer, text)
    }
}

#[track_caller]
fn location(answer: &Response<ureq::Body>) -> String {
    let to = answer.headers().get("location").unwrap_or_else(|| panic!("no redirect: {answer:?}"));
    to.to_str().expect("text").to_owned()
}

/// Opens the portal, submits the form and follows the redirect.
fn deploys(proxy: &Proxy) {
    for front in ["/", "/vgrid", "/vgrid/"] {
        let (answer, page) = proxy.browse(front, None);
        assert_eq!(answer.status(), 302, "{page}");
        let to = location(&answer);
        assert_eq!(
            to.strip_prefix(&proxy.public()).unwrap_or(&to),
            "/cgi-bin/user/list",
            "{front} leads to the wrong page"
        );
    }
    let (_, form) = proxy.browse("/cgi-bin/user/deploy", None);
    let (token, machine) = (hidden_field(&form, "token"), hidden_field(&form, "machine"));
    let fields = [&DEPLOY[..], &[("token", token.as_str()), ("machine", machine.as_str())]].concat();
    let (answer, page) = proxy.browse("/cgi-bin/user/deploy", Some(&fields));
    assert_eq!(answer.status(), 303, "{page}");
    let to = location(&answer);
    assert!(to.starts_with("show?id=") || to.starts_with(&proxy.public()), "{to}");
    let page = to.rsplit('/').next().expect("a page");
    let (answer, shown) = proxy.browse(&format!("/cgi-bin/user/{page}"), None);
    assert_eq!(answer.status(), 200, "{shown}");
    assert!(shown.contains("deploying"), "{shown}");
}

#[test]
fn the_whole_portal_works_behind_a_proxy_that_terminates_tls() {
    // The proxy passes on the browser's Host header.
    let portal = Portal::start();
    deploys(&Proxy::start(&portal, "ProxyPreserveHost On"));
    drop(portal);
    // The proxy uses its own name for the portal, and the portal is configured with its public URL.
    let portal = Portal::start();
    let proxy = Proxy::start(&portal, "ProxyPreserveHost Off");
    let public = proxy.public();
    portal.reconfigure("server.cfg", |text| {
        text.replacen("[General]\n", &format!("[General]\nportalURLs = [\"{public}\"]\n"), 1)
    });
    deploys(&proxy);
    portal.assert_no_panic();
}

#[test]
fn the_client_s_address_is_what_the_proxy_saw_and_cannot_be_forged() {
    let portal = Setup { more_apache: trust_the_proxy(), ..Setup::default() }.start();
    let proxy = Proxy::start(&portal, "");
    let forged = |ask: Ask| {
        ["X-Forwarded-For", "X-Real-Ip", "Forwarded", "Client-Ip", "X-Client-Ip"]
            .into_iter()
            .fold(ask, |ask, name| ask.header(name, "6.6.6.6"))
            .header("X-Forwarded-Host", "evil.example")
            .header("X-Forwarded-Proto", "https")
            .header("X-Forwarded-User", "admin")
    };
    let deploy = || portal.post("alice", "deploy", &DEPLOY_JSON);
    let from = |ask: Ask| {
        let answer = ask.send().expect(202).json();
        let id = answer["machine"]["id"].as_str().expect("an id").to_owned();
        portal.show("alice", &id)["history"][0]["from"].clone()
    };
    let at_the_proxy = || deploy().to(proxy.apache.address).sent_from([127, 0, 0, 5]);
    assert_eq!(from(at_the_proxy()), "127.0.0.5");
    assert_eq!(from(forged(at_the_proxy())), "127.0.0.5");
    // A client that bypasses the proxy is not believed either.
    assert_eq!(from(forged(deploy().sent_from([127, 0, 0, 6]))), "127.0.0.6");
    // Nor does a header make a page of another site pass for the portal's.
    let form = portal.post("alice", "deploy", &DEPLOY).header("Origin", "http://evil.example");
    forged(form).to(proxy.apache.address).send().expect(403).says("another site");
    drop(proxy);

    // Without mod_remoteip no header counts: all requests come from the proxy.
    let portal = Portal::start();
    let proxy = Proxy::start(&portal, "");
    let ask = portal.post("alice", "deploy", &DEPLOY_JSON);
    let answer = forged(ask.to(proxy.apache.address).sent_from([127, 0, 0, 5])).send().expect(202).json();
    assert_eq!(answer["machine"]["state"], "deploying");
    let id = answer["machine"]["id"].as_str().expect("an id");
    assert_eq!(portal.show("alice", id)["history"][0]["from"], "127.0.0.1");
}

#[test]
fn a_host_reports_through_the_proxy_under_its_own_address_only() {
    let hosts = vec![("127.0.0.2", 4)];
    let portal = Setup { more_apache: trust_the_proxy(), hosts: hosts.clone(), ..Setup::default() }.start();
    let proxy = Proxy::start(&portal, "");
    let report = |portal: &Portal, id: &str, sequence: u32, news: News| {
        let id = id.parse().expect("an id");
        let report = Report {
            id,
            order: Order::Deploy,
            number: last_order_number(),
            sequence,
            news,
            host: Some(facts()),
        };
        portal.signed(STATUS, serde_json::to_vec(&report).expect("JSON"), &portal.key)
    };
    let id = portal.deploy("alice", &[]);
    let at_the_proxy =
        |portal: &Portal, sequence| report(portal, &id, sequence, News::Done).to(proxy.apache.address);
    let other = at_the_proxy(&portal, 1).sent_from([127, 0, 0, 3]).header("X-Forwarded-For", "127.0.0.2");
    other.send().expect(403);
    assert_eq!(portal.state("alice", &id), "deploying");
    at_the_proxy(&portal, 2).sent_from([127, 0, 0, 2]).send().expect(200);
    assert_eq!(portal.state("alice", &id), "deployed");
    drop(proxy);

    // Without mod_remoteip the report comes from the proxy's address, and is refused.
    let portal = Setup { hosts, ..Setup::default() }.start();
    let proxy = Proxy::start(&portal, "");
    let id = portal.deploy("alice", &[]);
    let refused =
        report(&portal, &id, 1, News::Done).to(proxy.apache.address).sent_from([127, 0, 0, 2]).send();
    refused.expect(403).says("127.0.0.1");
    assert_eq!(portal.list("alice")["machines"][0]["state"], json!("deploying"));
}
