//! Who can sign in, and as whom: Basic, certificates, and everything that a client can forge.

use std::fs;

use crate::support::http::Ask;
use crate::support::page::user_on;
use crate::support::portal::{Portal, Setup, password};
use crate::support::tls::{Authority, CLIENT, LOCALHOST, get_with_certificate, site};

#[test]
fn no_password_no_page() {
    let portal = Portal::start();
    for program in ["list", "deploy", "show", "console", "terminate"] {
        let path = format!("/cgi-bin/user/{program}");
        portal.ask("GET", &path).send().expect(401);
        portal.ask("GET", &path).by("alice", "wrong").send().expect(401);
        portal.ask("GET", &path).by("mallory", "mallory-secret").send().expect(401);
        portal.ask("GET", &path).header("Remote-User", "alice").send().expect(401);
    }
    assert_eq!(user_on(&portal.get("alice", "list").send().expect(200).text()), "alice");
    // Other spellings of the path are protected too.
    for path in [
        "//cgi-bin//user//list",
        "/cgi-bin/user/../user/list",
        "/cgi-bin/%75ser/list",
        "/resources/../cgi-bin/user/list",
    ] {
        portal.ask("GET", path).send().expect(401);
    }
    portal.ask("GET", "/cgi-bin/user/.htaccess").by("alice", &password("alice")).send().expect(403);
}

#[test]
fn the_front_page_is_the_list() {
    let portal = Portal::start();
    for path in ["/", "/vgrid", "/vgrid/"] {
        let answer = portal.ask("GET", path).send().expect(302);
        assert!(answer.header("location").is_some_and(|to| to.ends_with("/cgi-bin/user/list")), "{answer}");
    }
}

/// Headers that become variables that matter, or look as if they might.
const FORGERIES: [&str; 14] = [
    "Remote-User",
    "REMOTE_USER",
    "Remote.User",
    "X-Remote-User",
    "Auth-Type",
    "ADFS-LOGIN",
    "ADFS_LOGIN",
    "Shib-Session-ID",
    "SSL-Client-S-DN-CN",
    "X-Cgi-Remote-User",
    "X-Forwarded-User",
    "HTTP-REMOTE-USER",
    "Env-Username-Variable",
    "Administrators",
];

#[test]
fn no_header_changes_who_is_signed_in() {
    let portal = Portal::start();
    for header in FORGERIES {
        let answer = portal.get("alice", "list").header(header, "admin").send().expect(200);
        assert_eq!(user_on(&answer.text()), "alice", "{header}");
        assert!(!answer.text().contains("administrator"), "{header}");
    }
    let all = FORGERIES.iter().fold(portal.get("alice", "list"), |ask, header| ask.header(header, "admin"));
    assert_eq!(user_on(&all.send().expect(200).text()), "alice");
}

#[test]
fn a_header_counts_only_if_apache_confirms_it() {
    let portal = Setup { user_variable: "HTTP_ADFS_LOGIN", ..Setup::default() }.start();
    portal.get("alice", "list").send().expect(403).says("not signed in");
    for forged in ["admin", "root", "ALICE", "alice;admin", ""] {
        portal.get("alice", "list").header("ADFS-LOGIN", forged).send().expect(403).says("not signed in");
    }
    portal
        .get("alice", "list")
        .header("ADFS-LOGIN", "admin")
        .header("Remote-User", "admin")
        .header("Auth-Type", "shibboleth")
        .header("Shib-Session-ID", "x")
        .send()
        .expect(403);
    // Sent twice: Apache joins the values, and the result is neither name.
    portal
        .get("alice", "list")
        .header("ADFS-LOGIN", "alice")
        .header("ADFS-LOGIN", "admin")
        .send()
        .expect(403);
    let confirmed = portal.get("alice", "list").header("ADFS-LOGIN", "alice").send().expect(200);
    assert_eq!(user_on(&confirmed.text()), "alice");
    portal.assert_no_panic();
}

#[test]
fn an_unset_variable_signs_nobody_in() {
    let portal = Setup { user_variable: "ADFS_LOGIN", ..Setup::default() }.start();
    for header in ["ADFS-LOGIN", "ADFS_LOGIN", "Http-Adfs-Login"] {
        let answer = portal.get("alice", "list").header(header, "alice").send().expect(403);
        assert!(
            answer.text().contains("no user name") || answer.text().contains("not signed in"),
            "{answer}"
        );
    }
    // In every format, and without the portal's navigation.
    let json = portal.get("alice", "list?format=json").send().expect(403).json();
    assert_eq!(json["error"]["status"], 403, "{json}");
    assert!(json["error"]["message"].as_str().is_some_and(|text| text.contains("Sign in")), "{json}");
}

#[test]
fn unusable_names_are_refused_with_the_reason() {
    let long = "x".repeat(4000);
    let names: [(&[u8], u16); 8] = [
        (b"J\xfcrgen", 400),
        (b"a;b", 403),
        (b"../../etc/passwd", 403),
        (b"-rf", 403),
        (b"a\tb", 403),
        ("ab\u{202E}nimda".as_bytes(), 403),
        (b"ends with a blank ", 403),
        (long.as_bytes(), 403),
    ];
    let portal = Portal::start();
    let file = portal.path("etc/htpasswd");
    let mut known = fs::read(&file).expect("the password file");
    let alices = String::from_utf8_lossy(&known).lines().next().expect("alice").to_owned();
    let hash = alices.split_once(':').expect("a hash").1.to_owned();
    for (name, _) in names {
        known.extend_from_slice(name);
        known.extend_from_slice(format!(":{hash}\n").as_bytes());
    }
    fs::write(&file, known).expect("the password file");
    for (name, status) in names {
        for program in ["list", "list?format=json", "deploy", "terminate?format=text"] {
            let ask = portal.ask("GET", &format!("/cgi-bin/user/{program}"));
            let answer = ask.by_bytes(name, &password("alice")).send();
            let shown = String::from_utf8_lossy(name);
            assert_eq!(answer.status, status, "{shown:.40} {program}: {answer}");
            assert!(answer.text().contains("user name"), "{shown:.40}: {answer}");
        }
    }
    portal.assert_no_panic();
}

#[test]
fn two_people_never_become_one() {
    let portal = Setup { users: vec!["o brien", "o_brien", "O brien", "admin"], ..Setup::default() }.start();
    // Neither has a machine yet, and looking around settles nothing.
    portal.get("o_brien", "list").send().expect(200);
    portal.get("o brien", "list").send().expect(200);
    let id = portal.deploy("o brien", &[]);
    assert_eq!(portal.show("o brien", &id)["machine"]["owner"], "o_brien");
    for path in [
        "list".to_owned(),
        format!("show?id={id}"),
        format!("terminate?id={id}"),
        "deploy?vmImage=tiny".to_owned(),
    ] {
        let refused = portal.get("o_brien", &path).send().expect(403);
        assert!(refused.text().contains("another person"), "{path}: {refused}");
    }
    // A name that differs only in capitals is refused too.
    portal.get("O brien", "list").send().expect(403).says("only in capitals");
    assert_eq!(portal.machine_count("o brien"), 1);
}

#[test]
fn shibboleth_is_believed_only_in_variables_that_no_header_sets() {
    let portal = Portal::start();
    let list_as = |variable: &'static str, environment: &[(&str, &str)]| {
        portal.reconfigure("server.cfg", |text| {
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            lines[1] = format!("EnvUsernameVariable = \"{variable}\"");
            lines.join("\n")
        });
        portal.run_directly("user/list", environment, b"")
    };
    let session = [("AUTH_TYPE", "shibboleth"), ("Shib_Session_ID", "_abc"), ("REMOTE_USER", "frida")];
    let with = |more: &[(&'static str, &'static str)]| [&session[..], more].concat();
    assert_eq!(list_as("ADFS_LOGIN", &with(&[("ADFS_LOGIN", "frida")])).0, 200);
    assert_eq!(list_as("REMOTE_USER", &session).0, 200);
    assert_eq!(list_as("HTTP_ADFS_LOGIN", &with(&[("HTTP_ADFS_LOGIN", "frida")])).0, 200);
    // A session without the attribute, and a lazy session that is none.
    assert_eq!(list_as("REMOTE_USER", &[("REMOTE_USER", "")]).0, 403);
    assert_eq!(list_as("ADFS_LOGIN", &with(&[("ADFS_LOGIN", "")])).0, 403);
    assert_eq!(list_as("ADFS_LOGIN", &with(&[("HTTP_ADFS_LOGIN", "admin")])).0, 403);
    // A client adds headers to its own, real session.
    assert_eq!(
        list_as("HTTP_ADFS_LOGIN", &with(&[("HTTP_ADFS_LOGIN", "admin"), ("ADFS_LOGIN", "frida")])).0,
        403
    );
    // No Require line, so no one was asked to sign in.
    assert_eq!(list_as("HTTP_ADFS_LOGIN", &[("HTTP_ADFS_LOGIN", "admin")]).0, 403);
    // Several values of the attribute.
    assert_eq!(list_as("ADFS_LOGIN", &with(&[("ADFS_LOGIN", "frida;admin")])).0, 403);
    // Variables that only the client sets cannot be configured.
    for variable in ["QUERY_STRING", "HTTP_PATH_INFO", "SSL_TLS_SNI", "REMOTE_ADDR"] {
        let (status, text) = list_as(variable, &with(&[("QUERY_STRING", "admin")]));
        assert_eq!(status, 500, "{variable}: {text}");
        assert!(!text.contains(variable), "{text}");
    }
}

#[test]
fn a_hostile_environment_is_no_server_error() {
    let portal = Portal::start();
    let long = "x".repeat(100_000);
    for variables in [
        &[("REQUEST_METHOD", "")][..],
        &[("REQUEST_METHOD", "GET GET")],
        &[("SERVER_PROTOCOL", "GOPHER/3")],
        &[("REQUEST_URI", "")],
        &[("REQUEST_URI", "no uri at all")],
        &[("REQUEST_URI", &long)],
        &[("QUERY_STRING", "a b\u{1}c")],
        &[("HTTP_", "x")],
        &[("HTTP_Ä", "x")],
        &[("HTTP_A B", "x")],
        &[("HTTP_X_CGI_REMOTE_ADDR", "not an address")],
        &[("REMOTE_ADDR", "not an address")],
        &[("CONTENT_LENGTH", "-1")],
        &[("CONTENT_LENGTH", "99999999999999999999999")],
        &[("CONTENT_LENGTH", "5")],
        &[("REQUEST_METHOD", "POST"), ("CONTENT_LENGTH", "5")],
        &[("HTTP_HOST", "a\u{7f}b")],
        &[("HTTP_ACCEPT", "é")],
        &[("AUTH_TYPE", "a\nb")],
    ] {
        let environment = [&[("REMOTE_USER", "alice"), ("AUTH_TYPE", "Basic")], variables].concat();
        let (status, text) = portal.run_directly("user/list", &environment, b"");
        assert!(status < 500, "{variables:.80?}: {text}");
    }
    let log = portal.own_log().unwrap_or_default();
    assert!(!log.contains("event=program.panicked"), "{log}");
}

#[test]
fn only_verified_certificates_sign_in() {
    let files = tempfile::tempdir().expect("a temporary folder");
    let authority = Authority { dir: files.path() };
    authority.found("ca");
    authority.found("foreign");
    authority.sign("ca", "server", "/CN=localhost", LOCALHOST);
    authority.sign("ca", "carol", "/O=Example/CN=carol", CLIENT);
    authority.sign("ca", "zoe", "/O=Example/CN=Zoë M", CLIENT);
    authority.sign("ca", "twice", "/O=Example/CN=dave/CN=admin", CLIENT);
    authority.sign("ca", "guest", "/O=Elsewhere/CN=carol", CLIENT);
    authority.sign("foreign", "forged", "/O=Example/CN=carol", CLIENT);
    let setup = Setup { user_variable: "SSL_CLIENT_S_DN_CN", ..Setup::default() };

    // As shipped: Apache itself admits only verified clients.
    let portal =
        Setup { htaccess: "certificate", tls: Some(site(files.path(), "optional")), ..setup.clone() }.start();
    let list = |who| get_with_certificate(&portal, files.path(), who, "/cgi-bin/user/list");
    let (status, page) = list(Some("carol"));
    assert_eq!(status, 200, "{page}");
    assert!(page.contains("<span class=\"name\">carol<"), "{page}");
    let (status, page) = list(Some("zoe"));
    assert_eq!(status, 200, "{page}");
    assert!(page.contains("Zoë M"), "{page}");
    assert_eq!(list(None).0, 403);
    assert_eq!(list(Some("guest")).0, 200, "the authority decides which organizations are admitted");
    let (status, page) = list(Some("twice"));
    assert_eq!(status, 403, "{page}");
    assert!(page.contains("not signed in") && page.contains("certificateName"), "{page}");
    // Without TLS there is no certificate, whatever a header says.
    let plain = Ask::new(portal.apache.address, "GET", "/cgi-bin/user/list");
    plain.header("SSL-Client-S-DN-CN", "carol").header("SSL-Client-Verify", "SUCCESS").send().expect(403);
    drop(portal);

    // If Apache admits everyone, the program still checks.
    let open = "SSLOptions +StdEnvVars\nRequire all granted\n";
    let portal = Setup { htaccess: open, tls: Some(site(files.path(), "optional_no_ca")), ..setup }.start();
    let list = |who| get_with_certificate(&portal, files.path(), who, "/cgi-bin/user/list");
    assert_eq!(list(Some("carol")).0, 200);
    for who in [None, Some("forged"), Some("twice")] {
        let (status, page) = list(who);
        assert_eq!(status, 403, "{who:?}: {page}");
        assert!(page.contains("not signed in"), "{page}");
    }
    portal.assert_no_panic();
}
