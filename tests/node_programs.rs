//! The node's programs as the network sees them: who may give orders, and what is an order. What they do
//! needs a real Xen host and is tested there.

use serde_json::{Value, json};
use vgrid::model::names::VmId;
use vgrid::model::sign::{self, Key, SIGNATURE_HEADER, Signed, TIME_HEADER};
use vgrid::system::clock;

use crate::support::http::Ask;
use crate::support::portal::Portal;

const DEPLOY: &str = "/cgi-bin/node/deploy";
const TERMINATE: &str = "/cgi-bin/node/terminate";
/// All that take orders.
const ORDERS: [&str; 5] =
    [DEPLOY, TERMINATE, "/cgi-bin/node/stop", "/cgi-bin/node/start", "/cgi-bin/node/reboot"];

fn signed_get(portal: &Portal, path: &str, key: &Key) -> Ask {
    let time = clock::now();
    let signature = sign::sign(key, &Signed { method: "GET", path_and_query: path, time, body: b"" });
    portal.ask("GET", path).header(TIME_HEADER, time.unix().to_string()).header(SIGNATURE_HEADER, signature)
}

/// An order for this machine: a node takes no others.
fn order() -> Value {
    let here = nix::unistd::gethostname().expect("a host name").to_string_lossy().to_lowercase();
    json!({
        "id": VmId::generate().to_string(),
        "user": "alice",
        "physical_host": here,
        "virtual_host": "vm1",
        "image": "tiny",
        "memory": 128,
        "disk": 1,
    })
}

#[test]
fn only_signed_orders_count() {
    let portal = Portal::start();
    let other = Key::new(&"k".repeat(64)).expect("a key");
    for path in ORDERS {
        let body = order().to_string().into_bytes();
        portal.ask("POST", path).body(body.clone()).send().expect(403).says("not signed");
        portal.signed(path, body, &other).send().expect(403).says("the signature is wrong");
    }
    for path in ["/cgi-bin/node/info", "/cgi-bin/node/console?machine=alice_vm1"] {
        portal.ask("GET", path).send().expect(403).says("not signed");
        signed_get(&portal, path, &other).send().expect(403).says("the signature is wrong");
    }
    // A signature is for one path and one query.
    let stolen = signed_get(&portal, "/cgi-bin/node/info", &portal.key);
    stolen.path("/cgi-bin/node/console?machine=alice_vm1").send().expect(403);
    let stolen = signed_get(&portal, "/cgi-bin/node/console?machine=alice_vm1", &portal.key);
    stolen.clone().path("/cgi-bin/node/console?machine=bob_vm2").send().expect(403);
    stolen.header("X-Cgi-Query-String", "machine=bob_vm2").send();
    portal.assert_no_panic();
}

#[test]
fn only_the_server_s_address_counts() {
    let portal = Portal::start();
    portal.reconfigure("node.cfg", |text| {
        text.replace("serverHostname = \"localhost\"", "serverHostname = \"127.0.0.2\"")
    });
    let body = order().to_string().into_bytes();
    for header in ["X-Forwarded-For", "X-Cgi-Remote-Addr", "Remote-Addr"] {
        let ask = portal.signed(DEPLOY, body.clone(), &portal.key).header(header, "127.0.0.2");
        ask.send().expect(403).says("takes orders from 127.0.0.2 only, and 127.0.0.1 is not its address");
    }
    signed_get(&portal, "/cgi-bin/node/info", &portal.key).send().expect(403);
}

#[test]
fn what_is_signed_but_no_order_is_refused_with_a_sentence() {
    let portal = Portal::start();
    let with = |key: &str, value: Value| {
        let mut order = order();
        order[key] = value;
        order.to_string().into_bytes()
    };
    let mut bodies = vec![
        Vec::new(),
        b"null".to_vec(),
        b"{".to_vec(),
        b"\xff".to_vec(),
        vec![0; 64],
        b"[".repeat(60_000),
        with("extra", json!(1)),
        with("memory", json!(0)),
        with("memory", json!(1_000_000_000_000_u64)),
        with("memory", json!("128")),
        with("disk", json!(-1)),
        with("user", json!("a/b")),
        with("user", json!("")),
        with("user", json!("a\nb")),
        with("virtual_host", json!("../x")),
        with("virtual_host", json!("-x")),
        with("image", json!("../../etc/passwd")),
        with("image", json!("a b")),
        with("id", json!("x")),
    ];
    for key in ["id", "user", "virtual_host", "image", "memory"] {
        bodies.push(with(key, Value::Null));
        bodies.push(with(key, json!("x".repeat(4000))));
        bodies.push(with(key, json!("a';\"$(x)`y`\0")));
    }
    for path in ORDERS {
        for body in &bodies {
            let shown = String::from_utf8_lossy(&body[..body.len().min(90)]).into_owned();
            let answer = portal.signed(path, body.clone(), &portal.key).send();
            assert_eq!(answer.status, 400, "{path} {shown}: {answer}");
            assert!(answer.json()["error"]["message"].as_str().is_some_and(|m| m.ends_with('.')), "{answer}");
        }
        portal.signed(path, vec![b' '; 70_000], &portal.key).send().expect(413);
    }
    for machine in [
        "",
        "?machine=",
        "?machine=..%2f..%2fetc",
        "?machine=alice",
        "?machine=a_vm1%00",
        "?machine=%ff",
        "?name=alice_vm1",
    ] {
        let path = format!("/cgi-bin/node/console{machine}");
        signed_get(&portal, &path, &portal.key).send().expect(400);
    }
    portal.assert_no_panic();
}

#[test]
fn a_host_without_xen_says_so_and_keeps_nothing() {
    if std::path::Path::new("/proc/xen").exists() {
        println!("this is a Xen host: not tried here");
        return;
    }
    let portal = Portal::start();
    let answer = portal.signed(DEPLOY, order().to_string().into_bytes(), &portal.key).send();
    assert!((400..500).contains(&answer.status), "a refusal with a reason, not {answer}");
    let fault = answer.json()["fault"].clone();
    assert!(fault["code"].is_string(), "{answer}");
    let mut left = Vec::new();
    for entry in std::fs::read_dir(portal.path("var/node")).expect("its records") {
        let path = entry.expect("a record").path();
        if path.is_file() && std::fs::metadata(&path).is_ok_and(|m| m.len() > 0) {
            left.push(path);
        }
    }
    assert!(left.is_empty(), "{left:?}");
    portal.assert_no_panic();
}
