//! Who gets in, and as whom: Basic, certificates, and everything that a client can forge.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::http::{Answer, Ask};
use crate::support::portal::{Portal, Setup, password};

/// Whom the page greets.
#[track_caller]
fn greeted(answer: &Answer) -> String {
    let page = answer.text();
    let name = page.split("<span class=\"name\">").nth(1).and_then(|rest| rest.split('<').next());
    name.unwrap_or_else(|| panic!("nobody is greeted: {answer}")).to_owned()
}

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
    assert_eq!(greeted(&portal.get("alice", "list").send().expect(200)), "alice");
    // Other spellings of the path are behind the same door.
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

/// Headers that become variables of the names that matter, or look as if they could.
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
fn no_header_makes_anybody_somebody_else() {
    let portal = Portal::start();
    for header in FORGERIES {
        let answer = portal.get("alice", "list").header(header, "admin").send().expect(200);
        assert_eq!(greeted(&answer), "alice", "{header}");
        assert!(!answer.text().contains("administrator"), "{header}");
    }
    let all = FORGERIES.iter().fold(portal.get("alice", "list"), |ask, header| ask.header(header, "admin"));
    assert_eq!(greeted(&all.send().expect(200)), "alice");
}

#[test]
fn a_header_counts_only_when_apache_says_the_same() {
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
    // Twice: Apache joins them, and what comes out is neither.
    portal
        .get("alice", "list")
        .header("ADFS-LOGIN", "alice")
        .header("ADFS-LOGIN", "admin")
        .send()
        .expect(403);
    let confirmed = portal.get("alice", "list").header("ADFS-LOGIN", "alice").send().expect(200);
    assert_eq!(greeted(&confirmed), "alice");
    portal.assert_no_panic();
}

#[test]
fn a_variable_that_nobody_sets_is_nobody() {
    let portal = Setup { user_variable: "ADFS_LOGIN", ..Setup::default() }.start();
    for header in ["ADFS-LOGIN", "ADFS_LOGIN", "Http-Adfs-Login"] {
        let answer = portal.get("alice", "list").header(header, "alice").send().expect(403);
        assert!(
            answer.text().contains("no user name") || answer.text().contains("not signed in"),
            "{answer}"
        );
    }
    // In every form, and without any of the portal's pages around it.
    let json = portal.get("alice", "list?format=json").send().expect(403).json();
    assert_eq!(json["error"]["status"], 403, "{json}");
    assert!(json["error"]["message"].as_str().is_some_and(|text| text.contains("Sign in")), "{json}");
}

#[test]
fn names_that_cannot_be_used_are_refused_with_the_reason() {
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
    // Nobody knows either of them yet, and looking around settles nothing.
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
    // Nor is a name that only a capital letter tells from it.
    portal.get("O brien", "list").send().expect(403).says("only in capitals");
    assert_eq!(portal.list("o brien")["machines"].as_array().map(Vec::len), Some(1));
}

#[test]
fn shibboleth_s_environment_is_believed_only_where_headers_cannot_reach() {
    let portal = Portal::start();
    let who = |variable: &'static str, environment: &[(&str, &str)]| {
        portal.reconfigure("server.cfg", |text| {
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            lines[1] = format!("EnvUsernameVariable = \"{variable}\"");
            lines.join("\n")
        });
        portal.run_directly("user/list", environment, b"")
    };
    let session = [("AUTH_TYPE", "shibboleth"), ("Shib_Session_ID", "_abc"), ("REMOTE_USER", "frida")];
    let with = |more: &[(&'static str, &'static str)]| [&session[..], more].concat();
    assert_eq!(who("ADFS_LOGIN", &with(&[("ADFS_LOGIN", "frida")])).0, 200);
    assert_eq!(who("REMOTE_USER", &session).0, 200);
    assert_eq!(who("HTTP_ADFS_LOGIN", &with(&[("HTTP_ADFS_LOGIN", "frida")])).0, 200);
    // A session without the attribute; a lazy session that is none.
    assert_eq!(who("REMOTE_USER", &[("REMOTE_USER", "")]).0, 403);
    assert_eq!(who("ADFS_LOGIN", &with(&[("ADFS_LOGIN", "")])).0, 403);
    assert_eq!(who("ADFS_LOGIN", &with(&[("HTTP_ADFS_LOGIN", "admin")])).0, 403);
    // What a client adds to its own, real session.
    assert_eq!(
        who("HTTP_ADFS_LOGIN", &with(&[("HTTP_ADFS_LOGIN", "admin"), ("ADFS_LOGIN", "frida")])).0,
        403
    );
    // A door without a lock: no Require line, so nobody was asked.
    assert_eq!(who("HTTP_ADFS_LOGIN", &[("HTTP_ADFS_LOGIN", "admin")]).0, 403);
    // Several values of the attribute.
    assert_eq!(who("ADFS_LOGIN", &with(&[("ADFS_LOGIN", "frida;admin")])).0, 403);
    // Names that only a client chooses are no setting at all.
    for variable in ["QUERY_STRING", "HTTP_PATH_INFO", "SSL_TLS_SNI", "REMOTE_ADDR"] {
        let (status, text) = who(variable, &with(&[("QUERY_STRING", "admin")]));
        assert_eq!(status, 500, "{variable}: {text}");
        assert!(!text.contains(variable), "{text}");
    }
}

#[test]
fn a_hostile_environment_gets_an_answer() {
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

/// A certificate authority for one test, and what it has signed.
pub struct Authority<'a> {
    pub dir: &'a Path,
}

impl Authority<'_> {
    fn openssl(&self, args: &[&str]) {
        let made = Command::new("/usr/bin/openssl")
            .current_dir(self.dir)
            .args(args)
            .stdin(Stdio::null())
            .output()
            .expect("openssl can be started");
        assert!(made.status.success(), "{args:?}: {}", String::from_utf8_lossy(&made.stderr));
    }

    pub fn found(&self, name: &str) {
        self.openssl(&[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/O=Example/CN=A throw-away authority",
            "-keyout",
            &format!("{name}.key"),
            "-out",
            &format!("{name}.pem"),
        ]);
    }

    pub fn sign(&self, authority: &str, name: &str, subject: &str, extension: &str) {
        fs::write(self.dir.join(format!("{name}.ext")), extension).expect("a file");
        let (key, request, signed) = (format!("{name}.key"), format!("{name}.csr"), format!("{name}.pem"));
        self.openssl(&[
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-utf8",
            "-subj",
            subject,
            "-keyout",
            &key,
            "-out",
            &request,
        ]);
        self.openssl(&[
            "x509",
            "-req",
            "-days",
            "2",
            "-in",
            &request,
            "-CA",
            &format!("{authority}.pem"),
            "-CAkey",
            &format!("{authority}.key"),
            "-CAcreateserial",
            "-extfile",
            &format!("{name}.ext"),
            "-out",
            &signed,
        ]);
    }
}

/// Asks by TLS, with a certificate or without.
pub fn ask_with_certificate(
    portal: &Portal,
    dir: &Path,
    certificate: Option<&str>,
    path: &str,
) -> (u16, String) {
    use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};
    let read = |name: &str| fs::read(dir.join(name)).expect("a PEM file");
    let root = Certificate::from_pem(&read("ca.pem")).expect("a certificate");
    let mut tls = TlsConfig::builder().root_certs(RootCerts::new_with_certs(&[root]));
    if let Some(name) = certificate {
        let chain = [Certificate::from_pem(&read(&format!("{name}.pem"))).expect("a certificate")];
        let key = PrivateKey::from_pem(&read(&format!("{name}.key"))).expect("a key");
        tls = tls.client_cert(Some(ClientCert::new_with_certs(&chain, key)));
    }
    let agent = ureq::Agent::config_builder()
        .tls_config(tls.build())
        .http_status_as_error(false)
        .proxy(None)
        .timeout_global(Some(std::time::Duration::from_secs(30)))
        .build()
        .new_agent();
    let port = portal.apache.tls.expect("a port with TLS").port();
    let mut answer = agent.get(format!("https://localhost:{port}{path}")).call().expect("an answer");
    (answer.status().as_u16(), answer.body_mut().read_to_string().expect("a page"))
}

#[test]
fn certificates_sign_in_when_they_are_verified() {
    let files = tempfile::tempdir().expect("a temporary folder");
    let authority = Authority { dir: files.path() };
    authority.found("ca");
    authority.found("foreign");
    let client = "extendedKeyUsage=clientAuth\nbasicConstraints=CA:FALSE\n";
    authority.sign(
        "ca",
        "server",
        "/CN=localhost",
        "subjectAltName=DNS:localhost\nextendedKeyUsage=serverAuth\n",
    );
    authority.sign("ca", "carol", "/O=Example/CN=carol", client);
    authority.sign("ca", "zoe", "/O=Example/CN=Zoë M", client);
    authority.sign("ca", "twice", "/O=Example/CN=dave/CN=admin", client);
    authority.sign("ca", "guest", "/O=Elsewhere/CN=carol", client);
    authority.sign("foreign", "forged", "/O=Example/CN=carol", client);
    let at = |name: &str| files.path().join(name).display().to_string();
    let site = |verify: &str| {
        format!(
            "ServerName localhost\nSSLCertificateFile \"{}\"\nSSLCertificateKeyFile \"{}\"\n\
             SSLCACertificateFile \"{}\"\nSSLVerifyClient {verify}",
            at("server.pem"),
            at("server.key"),
            at("ca.pem"),
        )
    };
    let setup = Setup { user_variable: "SSL_CLIENT_S_DN_CN", ..Setup::default() };

    // As shipped: Apache itself lets only the verified in.
    let portal = Setup { htaccess: "certificate", tls: Some(site("optional")), ..setup.clone() }.start();
    let list = |who| ask_with_certificate(&portal, files.path(), who, "/cgi-bin/user/list");
    let (status, page) = list(Some("carol"));
    assert_eq!(status, 200, "{page}");
    assert!(page.contains("<span class=\"name\">carol<"), "{page}");
    let (status, page) = list(Some("zoe"));
    assert_eq!(status, 200, "{page}");
    assert!(page.contains("Zoë M"), "{page}");
    assert_eq!(list(None).0, 403);
    assert_eq!(list(Some("guest")).0, 200, "which organisations may come in is the authority's to say");
    let (status, page) = list(Some("twice"));
    assert_eq!(status, 403, "{page}");
    assert!(page.contains("not signed in") && page.contains("certificateName"), "{page}");
    // Without TLS there is no certificate, whatever a header says.
    let plain = Ask::new(portal.apache.address, "GET", "/cgi-bin/user/list");
    plain.header("SSL-Client-S-DN-CN", "carol").header("SSL-Client-Verify", "SUCCESS").send().expect(403);
    drop(portal);

    // With an Apache that lets everybody in, the program still looks.
    let open = "SSLOptions +StdEnvVars\nRequire all granted\n";
    let portal = Setup { htaccess: open, tls: Some(site("optional_no_ca")), ..setup }.start();
    let list = |who| ask_with_certificate(&portal, files.path(), who, "/cgi-bin/user/list");
    assert_eq!(list(Some("carol")).0, 200);
    for who in [None, Some("forged"), Some("twice")] {
        let (status, page) = list(who);
        assert_eq!(status, 403, "{who:?}: {page}");
        assert!(page.contains("not signed in"), "{page}");
    }
    portal.assert_no_panic();
}
