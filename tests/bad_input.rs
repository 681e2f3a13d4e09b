//! Everything that a client can get wrong, by accident or on purpose, at every endpoint and in both
//! of Apache's CGI modes: the answer is a 4xx with a sentence, never a 5xx or a panic, and nothing
//! changes.

use std::time::{Duration, Instant};

use vgrid::cgi::policy::{Endpoint, Role};
use vgrid::model::names::VmId;

use crate::support::apache::Kind;
use crate::support::endpoints;
use crate::support::http::{Answer, Ask, raw};
use crate::support::portal::{DEPLOY, Portal, Setup, enter_machines, password, with_query};

/// A request to an endpoint by a user that Apache lets through.
fn ask(portal: &Portal, endpoint: &Endpoint, method: &str, query: &[u8]) -> Ask {
    let path = [b"/cgi-bin/", endpoint.name.as_bytes(), query].concat();
    let ask = Ask::new(portal.apache.address, method, path);
    match endpoint.role {
        Role::User | Role::Owner => ask.by("alice", &password("alice")),
        Role::Administrator => ask.by("admin", &password("admin")),
        Role::Server | Role::Node => ask,
    }
}

/// A request by the endpoint's first method, with a body if that needs one.
fn minimal(portal: &Portal, endpoint: &Endpoint, query: &[u8]) -> Ask {
    let method = endpoint.methods()[0];
    let ask = ask(portal, endpoint, method, query);
    if method == "POST" { ask.body("{}") } else { ask }
}

/// Asserts a 4xx with a sentence.
#[track_caller]
fn refused(answer: &Answer, what: &str) {
    assert!((400..500).contains(&answer.status), "{what}: {answer}");
    let text = String::from_utf8_lossy(&answer.body);
    assert!(text.split_whitespace().count() > 3, "{what}: no sentence in {answer}");
    assert!(!text.contains("panic") && !text.contains("src/"), "{what}: {answer}");
}

/// Asserts one of these statuses, with a sentence.
#[track_caller]
fn refused_with(answer: &Answer, what: &str, statuses: &[u16]) {
    refused(answer, what);
    assert!(statuses.contains(&answer.status), "{what}: not {statuses:?}: {answer}");
}

/// Runs a test in both CGI modes. Nothing may have been deployed afterward.
fn in_both_modes(test: impl Fn(&Portal) + Sync) {
    std::thread::scope(|scope| {
        for kind in [Kind::Event, Kind::Prefork] {
            let test = &test;
            scope.spawn(move || {
                let portal = Setup { kind, ..Setup::default() }.start();
                test(&portal);
                // Nothing has changed.
                assert_eq!(portal.machine_count("alice"), 0, "something was deployed");
                assert!(portal.nodes.received().is_empty(), "a node was contacted");
                portal.assert_no_panic();
                let log = portal.apache.log();
                for bad in ["Premature end of script headers", "malformed header", "exit signal", "AH01220"] {
                    assert!(!log.contains(bad), "{bad}: {log}");
                }
            });
        }
    });
}

#[test]
fn unknown_methods_are_refused() {
    in_both_modes(|portal| {
        for endpoint in endpoints() {
            for method in ["BREW", "get", "OPTIONS", "PUT", "DELETE", "PATCH", "PROPFIND", "X-Y", "MKCOL"] {
                let what = format!("{method} {}", endpoint.name);
                let answer = ask(portal, endpoint, method, b"").send();
                refused_with(&answer, &what, &[405]);
                assert_eq!(answer.header("allow"), Some(endpoint.methods().join(", ").as_str()), "{what}");
                let answer = ask(portal, endpoint, method, b"").body("vmImage=tiny").send();
                refused_with(&answer, &what, &[405]);
            }
            refused_with(&ask(portal, endpoint, "TRACE", b"").send(), endpoint.name, &[405]);
            refused(&ask(portal, endpoint, &"M".repeat(9000), b"").send(), endpoint.name);
            refused(&ask(portal, endpoint, "GE\x01T", b"").send(), endpoint.name);
            let unknown = ["POST", "GET"].into_iter().find(|m| !endpoint.methods().contains(m));
            if let Some(method) = unknown {
                let answer = ask(portal, endpoint, method, b"").body("").send();
                refused_with(&answer, endpoint.name, &[405]);
            }
        }
    });
}

/// An order that looks complete when its end is missing: scripts need no token.
const TRUNCATED: &str = "vmImage=tiny&vmMemory=128&vmPartition=1&token=";

#[test]
fn wrong_lengths_are_refused() {
    in_both_modes(|portal| {
        for endpoint in endpoints() {
            // The method that allows a body, if there is one.
            let method = if endpoint.methods().contains(&"POST") { "POST" } else { "GET" };
            let name = endpoint.name;
            let form = "application/x-www-form-urlencoded";
            let plain = || ask(portal, endpoint, method, b"").header("Content-Type", form);
            if method == "POST" {
                refused_with(&plain().send(), &format!("{name}: no length"), &[411]);
            }
            let chunked =
                plain().header("Transfer-Encoding", "chunked").body_without_length("5\r\nvmIma\r\n0\r\n\r\n");
            refused_with(&chunked.send(), &format!("{name}: chunked"), &[411]);
            let both = plain().header("Transfer-Encoding", "chunked").body("5\r\nvmIma\r\n0\r\n\r\n");
            refused_with(&both.send(), &format!("{name}: chunked with a length"), &[400, 411]);
            let broken =
                plain().header("Transfer-Encoding", "chunked").body_without_length("zz\r\nvmImage\r\n");
            refused_with(&broken.send_and_shut(), &format!("{name}: broken chunks"), &[400, 411]);
            let odd = plain().header("Transfer-Encoding", "gzip").body_without_length("x");
            refused(&odd.send_and_shut(), &format!("{name}: an unknown encoding"));
            for length in ["-5", "abc", "5 5", "0x10", "1e3", "99999999999999999999999", "+5", "5,5", " "] {
                let answer = plain().body("vmIma").length(length).send_and_shut();
                // Apache itself judges `5,5` and a blank. Whatever it does with them, nothing may
                // be deployed.
                refused(&answer, &format!("{name}: Content-Length {length:?}"));
            }
            let twice = plain().header("Content-Length", "3").body("a=bcd");
            refused_with(&twice.send_and_shut(), &format!("{name}: two lengths"), &[400]);
            for (length, statuses) in
                [("1000000000", &[413][..]), ("4000000000", &[413]), ("1048577", &[413])]
            {
                let began = Instant::now();
                let answer = plain().body("vmImage").length(length).send_and_shut();
                refused_with(&answer, &format!("{name}: Content-Length {length}"), statuses);
                assert!(
                    began.elapsed() < Duration::from_secs(10),
                    "{name}: {length} took {:?}",
                    began.elapsed()
                );
            }
            // A body that really is longer than the endpoint accepts.
            let large = "x".repeat(endpoint.body_limit() + 1);
            refused_with(&plain().body(large).send(), &format!("{name}: too long"), &[413]);
            let larger = "x".repeat(900_000);
            refused_with(&plain().body(larger).send(), &format!("{name}: much too long"), &[413]);
            // Announced but never sent: the client hangs up halfway.
            if endpoint.body_limit() > 0 {
                let cut = plain().body(TRUNCATED).length("200").send_and_shut();
                refused_with(&cut, &format!("{name}: truncated"), &[400]);
            }
        }
    });
}

#[test]
fn a_truncated_body_is_refused() {
    // Apache often notices first and stops the program. This is what happens when it does not.
    let portal = Portal::start();
    portal.get("alice", "deploy").send().expect(200);
    let length = (TRUNCATED.len() + 1).to_string();
    let environment = [
        ("REQUEST_METHOD", "POST"),
        ("REMOTE_USER", "alice"),
        ("HTTP_ACCEPT", "*/*"),
        ("CONTENT_TYPE", "application/x-www-form-urlencoded"),
        ("CONTENT_LENGTH", length.as_str()),
    ];
    let (status, text) = portal.run_directly("user/deploy", &environment, TRUNCATED.as_bytes());
    assert_eq!(status, 400, "{text}");
    assert!(text.contains("cut off") && text.contains("Nothing was done"), "{text}");
    assert_eq!(portal.machine_count("alice"), 0);
    // The same request with its end is an order, so it was refused for the missing end.
    let (status, text) = portal.run_directly("user/deploy", &environment, format!("{TRUNCATED}x").as_bytes());
    assert_eq!(status, 303, "{text}");
}

#[test]
fn a_client_that_hangs_up_changes_nothing() {
    in_both_modes(|portal| {
        for _ in 0..5 {
            let deploy = portal.ask("POST", "/cgi-bin/user/deploy").by("alice", &password("alice"));
            let bytes = deploy
                .header("Content-Type", "application/x-www-form-urlencoded")
                .body(TRUNCATED)
                .length((TRUNCATED.len() + 1).to_string())
                .bytes();
            let mut stream = std::net::TcpStream::connect(portal.apache.address).expect("a connection");
            std::io::Write::write_all(&mut stream, &bytes).expect("to send");
            drop(stream);
        }
        // Any program that was started has had time to act.
        std::thread::sleep(Duration::from_millis(500));
    });
}

#[test]
fn a_client_that_leaves_in_the_middle_of_a_page_does_no_harm() {
    for kind in [Kind::Event, Kind::Prefork] {
        let portal = Setup { kind, hosts: vec![("localhost", 100)], names: 100, ..Setup::default() }.start();
        portal.get("alice", "deploy").send().expect(200);
        enter_machines(&portal.registry_file(), "alice", |_| "localhost".to_owned(), 100);
        let bytes = portal.get("alice", "list").bytes();
        for wait in 0..20 {
            let mut stream = std::net::TcpStream::connect(portal.apache.address).expect("a connection");
            std::io::Write::write_all(&mut stream, &bytes).expect("to send");
            std::thread::sleep(Duration::from_millis(wait));
        }
        portal.get("alice", "list").send().expect(200);
        portal.assert_no_panic();
    }
}

#[test]
fn malformed_queries_are_refused() {
    in_both_modes(|portal| {
        let long = [b"?id=".to_vec(), b"x".repeat(4000)].concat();
        let longer = [b"?id=".to_vec(), b"x".repeat(9000)].concat();
        let many = [b"?".to_vec(), b"a=1&".repeat(1500)].concat();
        let queries: [(&[u8], &[u16]); 22] = [
            (b"?id=%ff%fe", &[400]),
            (b"?%ff=1", &[400]),
            (b"?id=\xff\xfe", &[400]),
            (b"?id=caf\xc3\xa9", &[400]),
            (b"?id=%00", &[400]),
            (b"?id=%0a%0d", &[400]),
            (b"?id=\x01", &[400]),
            (b"?id=\0", &[400]),
            (b"?id=%", &[400]),
            (b"?id=%zz", &[400]),
            (b"?id=a&id=b", &[400]),
            (b"?id=a&%69d=b", &[400]),
            (b"?format=json&format=text", &[400]),
            (b"?format=xml", &[400]),
            (b"?format[]=json", &[400]),
            (b"?=x", &[400]),
            (b"?id=';DROP TABLE vm", &[400]),
            (b"?id=../../../etc/passwd", &[400]),
            (b"?id=%3Cscript%3Ealert(1)%3C/script%3E", &[400]),
            (&long, &[400]),
            (&longer, &[414]),
            (&many, &[400]),
        ];
        for endpoint in endpoints() {
            for (query, statuses) in queries {
                let what = format!("{}{:.60}", endpoint.name, String::from_utf8_lossy(query));
                let answer = minimal(portal, endpoint, query).send();
                // Unauthenticated callers do not learn what else is wrong.
                let unsigned = [&[403], statuses].concat();
                let signed = matches!(endpoint.role, Role::User | Role::Owner | Role::Administrator);
                refused_with(&answer, &what, if signed { statuses } else { &unsigned });
                assert!(!answer.text().contains("<script>"), "{what}: {answer}");
            }
        }
    });
}

#[test]
fn malformed_headers_are_refused() {
    in_both_modes(|portal| {
        let long = b"x".repeat(8000);
        let longer = b"x".repeat(9000);
        // Odd but well-formed headers do no harm and are ignored; malformed ones are refused.
        let headers: [(&str, &[u8], bool); 16] = [
            ("X-Test", b"\xff\xfe", true),
            ("X-Test", b"\x01", true),
            ("X-Test", b"a\0b", true),
            ("X-Test", b"a\x7fb", true),
            ("Accept", b"\xff", true),
            ("Cookie", b"\xc0\x80", true),
            ("User-Agent", b"\xed\xa0\x80", true),
            ("Host", b"elsewhere.example", true),
            ("X-Test", &longer, true),
            ("Content-Type", b"multipart/form-data; boundary=x", true),
            ("X-Test", &long, false),
            ("Accept", b"application/json;q=x;;;,,text/", false),
            ("Range", b"bytes=0-5", false),
            ("Expect", b"the unexpected", true),
            ("Host", b"bad host", true),
            ("Content-Length", b"x", true),
        ];
        for endpoint in endpoints() {
            for (name, value, is_refused) in headers {
                let what = format!("{}: {name}: {:.40}", endpoint.name, String::from_utf8_lossy(value));
                let answer = minimal(portal, endpoint, b"").header(name, value).send();
                assert!(answer.status < 500, "{what}: {answer}");
                if is_refused {
                    refused(&answer, &what);
                }
            }
            // Lines that are not headers.
            let line = format!("GET /cgi-bin/{} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n", endpoint.name);
            for rest in ["no colon\r\n\r\n", ": no name\r\n\r\n", " folded: x\r\n\r\n", "A B: c\r\n\r\n"] {
                let answer = raw(portal.apache.address, format!("{line}{rest}").as_bytes(), true);
                refused(&answer.expect("an answer"), rest);
            }
            let no_host = format!("GET /cgi-bin/{} HTTP/1.1\r\n\r\n", endpoint.name);
            refused(&raw(portal.apache.address, no_host.as_bytes(), true).expect("an answer"), "no Host");
            let old = format!("GET /cgi-bin/{} HTTP/3.7\r\nHost: x\r\n\r\n", endpoint.name);
            let answer = raw(portal.apache.address, old.as_bytes(), true).expect("an answer");
            assert!((400..500).contains(&answer.status) || answer.status == 505, "{answer}");
        }
    });
}

#[test]
fn paths_beyond_a_program_are_refused() {
    in_both_modes(|portal| {
        for endpoint in endpoints() {
            for rest in
                ["/x", "/%0aSet-Cookie:x", "/%ff", "/%00", "/%2f..%2f..", "/..%5c", "/\u{e9}", "%20", "%00"]
            {
                let answer = minimal(portal, endpoint, rest.as_bytes()).send();
                let what = format!("{}{rest}", endpoint.name);
                refused_with(&answer, &what, &[400, 403, 404]);
                assert!(answer.header("set-cookie").is_none(), "{what}: {answer}");
            }
        }
    });
}

/// Values that no field accepts.
fn nonsense() -> Vec<String> {
    [
        "../../etc/passwd",
        "a'b",
        "a\"b",
        "a;reboot",
        "a\nb",
        "a\0b",
        "$(reboot)",
        "`reboot`",
        "a b",
        "-a",
        "\u{202E}a",
        "٥",
    ]
    .into_iter()
    .map(str::to_owned)
    .chain(["x".repeat(4000)])
    .collect()
}

#[test]
fn bad_fields_of_a_deploy_are_refused() {
    in_both_modes(|portal| {
        let sizes = [
            "0",
            "-1",
            "1000000000000",
            "99999999999999999999999",
            "1e3",
            "12.5",
            "0x80",
            "+5",
            "15 MiB",
            "NaN",
        ];
        let mut cases: Vec<(&'static str, String)> = Vec::new();
        for field in
            ["vmImage", "vmMemory", "vmCPUs", "vmPartition", "physicalHost", "vmHostname", "expiryTime"]
        {
            cases.extend(nonsense().into_iter().map(|value| (field, value)));
        }
        for field in ["vmMemory", "vmCPUs", "vmPartition"] {
            cases.extend(sizes.map(|value| (field, value.to_owned())));
        }
        for (field, value) in [
            ("vmImage", ""),
            ("vmImage", "no-such-image"),
            ("vmImage", "TINY"),
            ("vmMemory", ""),
            ("vmMemory", "15"),
            ("vmMemory", "4194305"),
            ("vmPartition", ""),
            ("vmPartition", "65537"),
            ("physicalHost", "no-such-host"),
            ("vmHostname", "no-such-name"),
            ("vmHostname", "vm1."),
            ("expiryTime", "0d"),
            ("expiryTime", "7"),
            ("expiryTime", "-7d"),
            ("expiryTime", "91d"),
            ("expiryTime", "99999999999999999999d"),
            ("expiryTime", "7y"),
            ("vmName", "a\nb"),
            ("vmName", "a\0b"),
            ("vmName", "\u{202E}a"),
            ("vmName", "a\u{7f}"),
        ] {
            cases.push((field, value.to_owned()));
        }
        cases.push(("vmName", "x".repeat(4000)));
        cases.push(("vmName", "é".repeat(65)));
        for (field, value) in &cases {
            let mut fields: Vec<(&str, &str)> =
                DEPLOY.iter().filter(|(name, _)| name != field).copied().collect();
            fields.extend([(*field, value.as_str()), ("format", "json")]);
            let what = format!("{field}={value:.40?}");
            let by_get = portal.get("alice", &with_query("deploy", &fields)).send();
            if value.len() < 2000 {
                refused_with(&by_get, &what, &[400]);
            } else {
                refused_with(&by_get, &what, &[400, 414]);
            }
            let answer = portal.post("alice", "deploy", &fields).send();
            refused_with(&answer, &what, &[400]);
            let json = answer.json();
            let fault = json["error"]["fields"][field].as_str().unwrap_or_default();
            assert!(
                fault.ends_with('.') && fault.chars().count() < 300,
                "{what}: no sentence about the field: {json}"
            );
            // A page shows what was typed, as text.
            let page = portal.post("alice", "deploy", &fields[..fields.len() - 1]).send();
            refused_with(&page, &what, &[400]);
            assert!(page.text().contains(&format!("id=\"{field}-fault\"")), "{what}: {page}");
        }
        for (name, fields) in [
            ("missing", &[("vmImage", "tiny"), ("format", "json")][..]),
            ("unknown", &[&DEPLOY[..], &[("vmMemmory", "5")]].concat()),
            ("of another page", &[&DEPLOY[..], &[("id", "5")]].concat()),
        ] {
            refused_with(&portal.post("alice", "deploy", fields).send(), name, &[400]);
        }
        let form = "application/x-www-form-urlencoded";
        let post = |body: &[u8]| {
            let ask = portal.ask("POST", "/cgi-bin/user/deploy").by("alice", &password("alice"));
            ask.header("Content-Type", form).body(body).send()
        };
        refused_with(&post(b"vmImage=tiny&vmMemory=128&vmPartition=1&vmName=%ff"), "not UTF-8", &[400]);
        refused_with(&post(b"vmImage=tiny&vmMemory=128&vmPartition=1&vmName=\xff"), "not UTF-8", &[400]);
        refused_with(&post(b"vmImage=tiny&vmMemory=128&vmMemory=64&vmPartition=1"), "a field twice", &[400]);
        refused_with(&post(&b"&".repeat(10_000)), "nothing, at length", &[400]);
        refused_with(&post(&b"\0".repeat(10_000)), "NULs", &[400]);
        let both = portal
            .ask("POST", "/cgi-bin/user/deploy?vmMemory=64")
            .by("alice", &password("alice"))
            .form(&DEPLOY);
        refused_with(&both.send(), "a field in query and form", &[400]);
        // Bodies that are not forms.
        for kind in ["application/json", "text/plain", "", "é"] {
            let ask = portal.ask("POST", "/cgi-bin/user/deploy").by("alice", &password("alice"));
            let answer = ask.header("Content-Type", kind).body("{\"vmImage\":\"tiny\"}").send();
            refused(&answer, &format!("Content-Type {kind:?}"));
        }
    });
}

/// The programs that take orders about one machine.
const ABOUT_ONE: [&str; 7] = ["terminate", "stop", "start", "reboot", "save", "resize", "snapshots"];

#[test]
fn bad_ids_and_names_of_machines_are_refused() {
    in_both_modes(|portal| {
        let unknown = VmId::generate().to_string();
        let mut bad: Vec<(String, &[u16])> =
            nonsense().into_iter().map(|value| (value, &[400][..])).collect();
        bad.push((unknown.to_uppercase(), &[400]));
        bad.push(("6b0dcfc1-8c3e-4a37-a6b3-1f3c1f7c9f41".to_owned(), &[400]));
        bad.push((unknown.replace('-', ""), &[400]));
        bad.push((format!("{{{unknown}}}"), &[400]));
        bad.push((String::new(), &[400]));
        bad.push((unknown, &[404]));
        for (id, statuses) in &bad {
            for program in
                ["show", "console", "terminate", "stop", "start", "reboot", "save", "resize", "snapshots"]
            {
                let what = format!("{program} of {id:.40?}");
                let ask = portal.get("alice", &with_query(program, &[("id", id), ("format", "text")]));
                refused_with(&ask.send(), &what, statuses);
            }
            for program in ABOUT_ONE {
                refused_with(&portal.post("alice", program, &[("id", id)]).send(), program, statuses);
            }
            let like =
                portal.get("alice", &with_query("deploy", &[("like", id)])).header("Accept", "text/html");
            let answer = like.send();
            // An empty id means none.
            if !id.is_empty() {
                refused_with(&answer, &format!("deploy like {id:.40?}"), statuses);
            }
        }
        for name in nonsense() {
            for program in ABOUT_ONE {
                let answer =
                    portal.post("alice", program, &[("vmHostname", &name), ("format", "json")]).send();
                refused_with(&answer, &format!("{program} {name:.40?}"), &[400]);
            }
        }
        let id = VmId::generate().to_string();
        let both = [("vmHostname", "vm1"), ("id", id.as_str())];
        for program in ABOUT_ONE {
            refused_with(&portal.post("alice", program, &both).send(), "both", &[400]);
            refused_with(&portal.post("alice", program, &[]).send(), "nothing", &[400]);
            let unknown = [("vmHostname", "vm1"), ("format", "json")];
            refused_with(&portal.post("alice", program, &unknown).send(), "a name without a machine", &[404]);
        }
        for program in ["stop", "start", "reboot"] {
            let forced = [("id", id.as_str()), ("force", "1")];
            refused_with(&portal.post("alice", program, &forced).send(), "an unknown field", &[400]);
        }
        refused_with(
            &portal.post("alice", "terminate", &[("id", &id), ("force", "yes")]).send(),
            "force",
            &[400],
        );
    });
}

#[test]
fn no_header_overrides_what_apache_says() {
    let portal = Portal::start();
    // The CGI crate presents Apache's variables as headers with these names, which a client can
    // send too.
    let forged = |ask: Ask| {
        ask.header("X-Cgi-Query-String", "vmImage=tiny&vmMemory=128&vmPartition=1")
            .header("X-Cgi-Content-Type", "application/x-www-form-urlencoded")
            .header("X-Cgi-Request-Method", "POST")
            .header("X-Cgi-Remote-Addr", "192.0.2.99")
            .header("X-Cgi-Remote-User", "admin")
            .header("X-Cgi-Request-Uri", "/cgi-bin/user/deploy?vmImage=tiny")
    };
    forged(portal.get("alice", "deploy")).send().expect(200);
    assert_eq!(portal.machine_count("alice"), 0);
    let body = b"vmImage=tiny&vmMemory=128&vmPartition=1".to_vec();
    let plain = portal.ask("POST", "/cgi-bin/user/deploy").by("alice", &password("alice"));
    let answer = forged(plain.header("Content-Type", "text/plain").body(body)).send();
    refused(&answer, "a body that is not a form");
    let id = portal.deploy("alice", &[]);
    forged(portal.get("alice", &format!("terminate?id={id}&format=json"))).send().expect(202);
    let history = portal.history("alice", &id);
    assert!(history.contains("127.0.0.1") && !history.contains("192.0.2.99"), "{history}");
}
