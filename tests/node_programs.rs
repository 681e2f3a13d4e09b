//! The node's programs as the network sees them: who may give orders, and what counts as an order.
//! What the orders do is tested on a real Xen host.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};
use vgrid::model::names::{MachineName, VmId};
use vgrid::model::sign::Key;
use vgrid::model::wire::MachineOrder;
use vgrid::node::host::{HostState, Machines, Storage};
use vgrid::node::hypervisor::Memory;
use vgrid::node::jobs::Record;
use vgrid::node::storage::Space;
use vgrid::system::clock;

use crate::support::apache::give_to_web_user;
use crate::support::http::Answer;
use crate::support::own_name;
use crate::support::portal::Portal;

const DEPLOY: &str = "/cgi-bin/node/deploy";
const TERMINATE: &str = "/cgi-bin/node/terminate";
const SAVE: &str = "/cgi-bin/node/save";
const RESIZE: &str = "/cgi-bin/node/resize";
const IMAGE: &str = "/cgi-bin/node/image";
const DISCARD: &str = "/cgi-bin/node/discard";
/// Everything that takes orders.
const ORDERS: [&str; 9] = [
    DEPLOY,
    TERMINATE,
    SAVE,
    RESIZE,
    IMAGE,
    DISCARD,
    "/cgi-bin/node/stop",
    "/cgi-bin/node/start",
    "/cgi-bin/node/reboot",
];

/// A deploy for this machine: a node accepts no others.
fn order() -> Value {
    json!({
        "id": VmId::generate().to_string(),
        "number": 1,
        "user": "alice",
        "physical_host": own_name(),
        "virtual_host": "vm1",
        "image": "tiny",
        "memory": 128,
        "disk": 1,
    })
}

#[test]
fn only_signed_orders_are_accepted() {
    let portal = Portal::start();
    let other = Key::new(&"k".repeat(64)).expect("a key");
    for path in ORDERS {
        let body = order().to_string().into_bytes();
        portal.ask("POST", path).body(body.clone()).send().expect(403).says("not signed");
        portal.signed(path, body, &other).send().expect(403).says("the signature is wrong");
    }
    for path in ["/cgi-bin/node/info", "/cgi-bin/node/console?machine=alice_vm1"] {
        portal.ask("GET", path).send().expect(403).says("not signed");
        portal.signed_get(path, &other).send().expect(403).says("the signature is wrong");
    }
    // A signature is for one path and one query.
    let stolen = portal.signed_get("/cgi-bin/node/info", &portal.key);
    stolen.path("/cgi-bin/node/console?machine=alice_vm1").send().expect(403);
    let stolen = portal.signed_get("/cgi-bin/node/console?machine=alice_vm1", &portal.key);
    stolen.clone().path("/cgi-bin/node/console?machine=bob_vm2").send().expect(403);
    stolen.header("X-Cgi-Query-String", "machine=bob_vm2").send();
    portal.assert_no_panic();
}

#[test]
fn only_the_server_s_address_is_accepted() {
    let portal = Portal::start();
    portal.reconfigure("node.cfg", |text| {
        text.replace("serverHostname = \"localhost\"", "serverHostname = \"127.0.0.2\"")
    });
    let body = order().to_string().into_bytes();
    for header in ["X-Forwarded-For", "X-Cgi-Remote-Addr", "Remote-Addr"] {
        let ask = portal.signed(DEPLOY, body.clone(), &portal.key).header(header, "127.0.0.2");
        ask.send().expect(403).says("takes orders from 127.0.0.2 only, and 127.0.0.1 is not its address");
    }
    portal.signed_get("/cgi-bin/node/info", &portal.key).send().expect(403);
}

#[test]
fn a_signed_message_that_is_no_order_is_refused_with_a_sentence() {
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
        with("cpus", json!(0)),
        with("cpus", json!(65)),
        with("cpus", json!("1")),
        with("cpus", Value::Null),
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
        portal.signed_get(&path, &portal.key).send().expect(400);
    }
    portal.assert_no_panic();
}

#[test]
fn a_host_without_xen_says_so_and_leaves_nothing() {
    if std::path::Path::new("/proc/xen").exists() {
        println!("this is a Xen host: skipped");
        return;
    }
    let portal = Portal::start();
    let answer = portal.signed(DEPLOY, order().to_string().into_bytes(), &portal.key).send();
    assert!((400..500).contains(&answer.status), "a refusal with a reason, not {answer}");
    let fault = answer.json()["fault"].clone();
    assert!(fault["code"].is_string(), "{answer}");
    let mut left = Vec::new();
    for entry in std::fs::read_dir(portal.path("var/node")).expect("the records") {
        let path = entry.expect("a record").path();
        // It remembers which registry it obeys.
        let kept = path.file_name().is_some_and(|name| name == "registry");
        if !kept && path.is_file() && std::fs::metadata(&path).is_ok_and(|m| m.len() > 0) {
            left.push(path);
        }
    }
    assert!(left.is_empty(), "{left:?}");
    portal.assert_no_panic();
}

/// A node with image files. Nothing gets as far as unpacking them.
fn node_with_images() -> Portal {
    let portal = Portal::start();
    let images = portal.path("images");
    portal.configure_images(
        "default = \"tiny.tar.gz\"
alice-s = \"alice_base.tar.gz\"",
        "/bin/true",
    );
    for name in ["tiny.tar.gz", "alice_base.tar.gz"] {
        fs::write(images.join(name), "the administrator's").expect("an image");
    }
    portal
}

/// Gives an order to a node that has just looked at its host.
fn give(portal: &Portal, path: &str, order: &Value) -> Answer {
    let amount = |mib| serde_json::from_value(json!(mib)).expect("an amount");
    let state = HostState {
        taken: clock::millis(),
        machines: Ok(Machines {
            toolstack: "xl".to_owned(),
            memory: Memory { total: amount(2000), free: amount(1000) },
            overhead: amount(4),
            domains: Vec::new(),
        }),
        storage: Ok(Storage {
            space: Space { size: amount(9000), free: amount(8000), extent: amount(4), fill: None },
            volumes: Vec::new(),
            snapshots: false,
            unprepared: vec![],
        }),
    };
    let file = portal.path("var/node/host.json");
    fs::write(&file, serde_json::to_vec(&state).expect("JSON")).expect("what the host has");
    give_to_web_user(&file);
    portal.signed(path, order.to_string().into_bytes(), &portal.key).send()
}

/// The names of the image files.
fn images(portal: &Portal) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(portal.path("images"))
        .expect("the folder of images")
        .map(|entry| entry.expect("a file").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn put_image(portal: &Portal, name: &str) {
    let file = portal.path("images").join(name);
    fs::write(&file, "an image").expect("an image");
    give_to_web_user(&file);
}

#[test]
fn only_saved_images_are_renamed_and_deleted() {
    let portal = node_with_images();
    let act = |name: &str, act: Value| {
        give(&portal, IMAGE, &json!({"image": {"owner": "alice", "name": name}, "act": act}))
    };
    put_image(&portal, "alice_one.tar.gz");
    put_image(&portal, "alice_two.tar.zst");
    // What a killed worker left behind is removed with the next request.
    put_image(&portal, ".alice_half.tar.gz.new");
    for _ in 0..2 {
        let done = act("one", json!({"rename": "three"})).expect(200);
        assert_eq!(done.json()["host"]["memory_free"], 1000, "{done}");
    }
    let all = ["alice_base.tar.gz", "alice_three.tar.gz", "alice_two.tar.zst", "tiny.tar.gz"];
    assert_eq!(images(&portal), all);
    let refused = |answer: Answer, code: &str| {
        assert_eq!(answer.status, 409, "{answer}");
        assert_eq!(answer.json()["fault"]["code"], code, "{answer}");
    };
    refused(act("three", json!({"rename": "two"})), "image-exists");
    refused(act("three", json!({"rename": "base"})), "image-exists");
    refused(act("base", json!({"rename": "mine"})), "saved-image-missing");
    refused(act("none", json!({"rename": "mine"})), "saved-image-missing");
    act("base", json!("delete")).expect(200);
    assert_eq!(images(&portal), all);
    for _ in 0..2 {
        act("two", json!("delete")).expect(200);
    }
    assert_eq!(images(&portal), ["alice_base.tar.gz", "alice_three.tar.gz", "tiny.tar.gz"]);
    for bad in [json!("burn"), json!({"rename": "../x"}), json!({"rename": "a_b"}), json!({"delete": "x"})] {
        act("three", bad).expect(400);
    }
    act("../alice_three", json!("delete")).expect(400);
    portal.assert_no_panic();
}

/// Writes the record of an idle machine. Returns its file and content.
fn put_record(portal: &Portal, machine: &Value) -> (PathBuf, Vec<u8>) {
    let order: MachineOrder = serde_json::from_value(machine.clone()).expect("an order");
    let name = MachineName::new(&order.user, &order.virtual_host).expect("a machine's name");
    let mut record = Record::unknown(&order, name, "r".parse().expect("an id"), clock::now());
    (record.done, record.told) = (true, true);
    let jobs = portal.path("var/node/jobs");
    fs::create_dir_all(&jobs).expect("a folder for records");
    give_to_web_user(&jobs);
    let file = jobs.join(format!("{}.json", order.id));
    let json = serde_json::to_vec(&record).expect("JSON");
    fs::write(&file, &json).expect("a record");
    give_to_web_user(&file);
    (file, json)
}

#[test]
fn a_recorded_machine_is_no_orphan_and_the_helper_is_needed_to_remove_one() {
    let portal = node_with_images();
    let id = VmId::generate().to_string();
    put_record(&portal, &json!({"id": id, "number": 1, "user": "alice", "virtual_host": "vm1"}));
    let volume = |name: &str| json!({"volume": {"name": name}});
    let domain = |name: &str, number: i64| json!({"domain": {"name": name, "number": number}});
    for ours in [volume("xen-root-alice_vm1"), volume("xen-swap-alice_vm1"), domain("alice_vm1", 3)] {
        let answer = give(&portal, DISCARD, &ours).expect(409);
        assert_eq!(answer.json()["fault"]["code"], "stranger-kept", "{ours}: {answer}");
        answer.says("a record of the machine alice_vm1");
    }
    // The helper is not installed, or sudo does not let it run.
    for orphan in [volume("xen-root-bob_vm2"), domain("bob_vm2", 3)] {
        let answer = give(&portal, DISCARD, &orphan).expect(503);
        assert_eq!(answer.json()["fault"]["code"], "privilege-refused", "{orphan}: {answer}");
    }
    for bad in [
        volume("root"),
        volume("xen-root-"),
        volume("vg1/xen-root-x"),
        volume("xen-root-x -f"),
        volume("--select=all"),
        json!({"volume": {"name": "xen-root-x", "force": true}}),
        json!({"volume": "xen-root-x"}),
        json!({"volume": {"name": "xen-root-x"}, "domain": {"name": "a", "number": 1}}),
        json!("volume"),
        json!({"image": {"name": "x"}}),
        domain("7", 7),
        domain("Domain-0", 0),
        domain("(null)", 7),
        domain("a b", 7),
        domain("a", -1),
        json!({"domain": {"name": "a"}}),
    ] {
        give(&portal, DISCARD, &bad).expect(400);
    }
    portal.assert_no_panic();
}

#[test]
fn saving_needs_a_free_name_and_an_existing_machine() {
    let portal = node_with_images();
    let id = VmId::generate();
    let machine = json!({"id": id.to_string(), "number": 2, "user": "alice", "virtual_host": "vm1"});
    let save = |name: &str| give(&portal, SAVE, &json!({"machine": machine, "name": name}));
    let code = |answer: &Answer| {
        assert_eq!(answer.status, 409, "{answer}");
        answer.json()["fault"]["code"].as_str().expect("a fault").to_owned()
    };
    assert_eq!(code(&save("mine")), "machine-missing");

    let mut before = machine.clone();
    before["number"] = json!(1);
    let (file, record) = put_record(&portal, &before);
    put_image(&portal, "alice_one.tar.zst");
    for name in ["one", "base"] {
        let answer = save(name);
        assert_eq!(code(&answer), "image-exists");
        answer.says(&format!("\"name\":\"{name}\""));
    }
    assert_eq!(fs::read(&file).expect("the record"), record);
    save("a_b").expect(400);
    portal.assert_no_panic();
}

#[test]
fn other_sizes_need_a_machine_and_must_all_be_sizes() {
    let portal = node_with_images();
    let machine =
        json!({"id": VmId::generate().to_string(), "number": 2, "user": "alice", "virtual_host": "vm1"});
    let sizes = json!({"memory": 256, "cpus": 2, "disk": 3});
    let order = |sizes: &Value| give(&portal, RESIZE, &json!({"machine": machine, "sizes": sizes}));
    assert_eq!(order(&sizes).expect(409).json()["fault"]["code"], "machine-missing");
    for (size, value) in [
        ("memory", json!(15)),
        ("memory", json!("256")),
        ("cpus", json!(0)),
        ("cpus", json!(65)),
        ("disk", json!(0)),
        ("disk", json!(65_537)),
        ("disk", json!(-1)),
        ("disk", json!(1.5)),
        ("swap", json!(1)),
    ] {
        let mut bad = sizes.clone();
        bad[size] = value;
        order(&bad).expect(400);
    }
    for missing in ["memory", "cpus", "disk"] {
        let mut bad = sizes.clone();
        bad.as_object_mut().expect("sizes").remove(missing);
        order(&bad).expect(400);
    }
    // A record without the order that made the machine does not say which sizes it has.
    let mut before = machine.clone();
    before["number"] = json!(1);
    let (file, record) = put_record(&portal, &before);
    order(&sizes).expect(409);
    assert_eq!(fs::read(&file).expect("the record"), record);
    portal.assert_no_panic();
}

#[test]
fn a_deploy_from_a_saved_image_needs_that_image() {
    let portal = node_with_images();
    // The image is looked for before the name is resolved, which fails.
    portal.reconfigure("common.cfg", |text| text.replace("vm1", "none.invalid"));
    let deploy = |name: &str| {
        let mut order = order();
        order["virtual_host"] = json!("none.invalid");
        order["saved"] = json!({"owner": "bob", "name": name});
        let answer = give(&portal, DEPLOY, &order).expect(409);
        answer.json()["fault"]["code"].as_str().expect("a fault").to_owned()
    };
    put_image(&portal, "bob_one.tar.gz");
    assert_eq!(deploy("one"), "name-unresolved");
    assert_eq!(deploy("none"), "saved-image-missing");
    portal.assert_no_panic();
}

#[test]
fn a_host_gives_a_machine_as_many_processors_as_its_configuration_says() {
    let portal = node_with_images();
    // Whether there are too many is decided before the name is resolved, which fails.
    portal.reconfigure("common.cfg", |text| text.replace("vm1", "none.invalid"));
    let deploy = |cpus: u64| {
        let mut order = order();
        order["virtual_host"] = json!("none.invalid");
        order["cpus"] = json!(cpus);
        give(&portal, DEPLOY, &order).expect(409).json()["fault"].clone()
    };
    assert_eq!(deploy(64)["code"], "name-unresolved", "no limit is known");
    portal.reconfigure("node.cfg", |text| text.replacen("[General]\n", "[General]\nmaxCPUs = 4\n", 1));
    assert_eq!(deploy(4)["code"], "name-unresolved");
    assert_eq!(deploy(5), json!({"code": "too-many-cpus", "asked": 5, "most": 4}));
    // The server hears of it with every answer.
    let act = json!({"image": {"owner": "alice", "name": "none"}, "act": "delete"});
    assert_eq!(give(&portal, IMAGE, &act).expect(200).json()["host"]["max_cpus"], 4);
    portal.assert_no_panic();
}

#[test]
fn a_node_says_which_images_it_can_deploy() {
    let portal = node_with_images();
    let answer = || {
        let act = json!({"image": {"owner": "alice", "name": "none"}, "act": "delete"});
        give(&portal, IMAGE, &act).expect(200).json()["host"]["images"].clone()
    };
    // Those of common.cfg, also where node.cfg has only a default, and no others.
    assert_eq!(answer(), json!(["debian-12", "tiny"]));
    portal
        .reconfigure("node.cfg", |text| text.replace("default = \"tiny.tar.gz\"", "tiny = \"tiny.tar.gz\""));
    assert_eq!(answer(), json!(["tiny"]), "node.cfg names no file of the other");
    portal.reconfigure("node.cfg", |text| text.replace("default = 64", "debian-12 = 64"));
    assert_eq!(answer(), json!([]), "and no swap for this one");
    portal.reconfigure("node.cfg", |text| text.replace("debian-12 = 64", "default = 64"));
    assert_eq!(answer(), json!(["tiny"]));
    fs::remove_file(portal.path("images/tiny.tar.gz")).expect("an image");
    assert_eq!(answer(), json!([]), "its file is missing");
    portal.assert_no_panic();
}

#[test]
fn an_outdated_order_is_refused() {
    let portal = node_with_images();
    let id = VmId::generate().to_string();
    let machine = |number: u64| json!({"id": id, "number": number, "user": "alice", "virtual_host": "vm1"});
    let (file, record) = put_record(&portal, &machine(5));
    for number in [0, 4] {
        for program in ["stop", "start", "reboot", "terminate"] {
            let answer = give(&portal, &format!("/cgi-bin/node/{program}"), &machine(number)).expect(409);
            assert_eq!(answer.json()["fault"]["code"], "order-outdated", "{program} {number}: {answer}");
        }
        let save = json!({"machine": machine(number), "name": "mine"});
        assert_eq!(give(&portal, SAVE, &save).expect(409).json()["fault"]["code"], "order-outdated");
        let resize = json!({"machine": machine(number), "sizes": {"memory": 256, "cpus": 1, "disk": 1}});
        assert_eq!(give(&portal, RESIZE, &resize).expect(409).json()["fault"]["code"], "order-outdated");
    }
    // Another order with the number of the last.
    let answer = give(&portal, "/cgi-bin/node/reboot", &machine(5)).expect(409);
    assert_eq!(answer.json()["fault"]["code"], "order-outdated", "{answer}");
    assert_eq!(fs::read(&file).expect("the record"), record);
    portal.assert_no_panic();
}
