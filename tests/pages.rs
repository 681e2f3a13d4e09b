//! Every page in every format, with the right status.

use crate::support::http::Answer;
use crate::support::node::{Conduct, facts};
use crate::support::page::{assert_well_formed, token};
use crate::support::portal::{DEPLOY, DEPLOY_JSON, Portal, Setup, enter_machines, id_of, password};

/// A page without the id that its form reserves for a new machine, which differs each time.
fn without_new_id(page: &str) -> String {
    let mut parts = page.split(|c: char| !(c.is_ascii_hexdigit() || matches!(c, '-' | '.')));
    match parts.find(|part| part.len() == 36 + 1 + 32) {
        Some(id) => page.replace(id, ""),
        None => page.to_owned(),
    }
}

#[test]
fn every_page_comes_in_three_formats() {
    let portal = Portal::start();
    let id = portal.deployed_with("alice", &[("vmName", "my <b>first & \"only\"")]);
    let pages = [
        "list".to_owned(),
        "deploy".to_owned(),
        "images".to_owned(),
        format!("show?id={id}"),
        format!("console?id={id}"),
        format!("deploy?like={id}"),
    ];
    for page in &pages {
        let join = if page.contains('?') { '&' } else { '?' };
        let forms = [
            (
                "text/html",
                vec![portal.get("alice", page), portal.get("alice", &format!("{page}{join}format=html"))],
            ),
            (
                "application/json",
                vec![
                    portal.get("alice", &format!("{page}{join}format=json")),
                    portal.get("alice", page).header("Accept", "application/json"),
                ],
            ),
            (
                "text/plain",
                vec![
                    portal.get("alice", &format!("{page}{join}format=text")),
                    portal.get("alice", page).header("Accept", "text/plain"),
                ],
            ),
        ];
        for (kind, asks) in forms {
            let answers: Vec<Answer> = asks.iter().map(|ask| ask.send().expect(200)).collect();
            for answer in &answers {
                assert!(
                    answer.header("content-type").is_some_and(|k| k.starts_with(kind)),
                    "{page}: {answer}"
                );
                assert_well_formed(answer);
            }
            let [one, other] = [&answers[0], &answers[1]].map(|answer| without_new_id(&answer.text()));
            assert_eq!(one, other, "{page}: two ways to ask for {kind}");
            let head = asks[0].clone().method("HEAD").send().expect(200);
            assert!(head.body.is_empty(), "HEAD {page}: {head}");
        }
    }
    // What users type is shown as text and never becomes markup.
    let page = portal.get("alice", "list").send().text();
    assert!(page.contains("my &lt;b&gt;first &amp;") && !page.contains("<b>first"), "{page}");
    assert_eq!(portal.list("alice")["machines"][0]["label"], "my <b>first & \"only\"");
    let line = portal.get("alice", "list?format=text").send().text();
    assert_eq!(line.lines().next().map(|l| l.split('\t').count()), Some(12), "{line}");
    // Only browsers get a question; a script's request acts.
    let ask = portal.get("alice", &format!("terminate?id={id}")).header("Accept", "text/html");
    assert_well_formed(&ask.send().expect(200).says("Terminate vm1?"));
    for (program, question) in [("stop", "Stop vm1?"), ("reboot", "Reboot vm1?"), ("start", "Start vm1?")] {
        let ask = portal.get("alice", &format!("{program}?id={id}")).header("Accept", "text/html");
        assert_well_formed(&ask.send().expect(200).says(question));
    }
    let ask = portal.get("alice", &format!("save?id={id}")).header("Accept", "text/html");
    assert_well_formed(&ask.send().expect(200).says("Save vm1 as an image?"));
    portal.assert_no_panic();
}

#[test]
fn every_status_has_its_page() {
    let portal = Setup { hosts: vec![("localhost", 1)], ..Setup::default() }.start();
    let id = portal.deploy("alice", &[]);
    let unknown = vgrid::model::names::VmId::generate();
    let full = "deploy?vmImage=tiny&vmMemory=128&vmPartition=1";
    let cases = [
        (400, "show?id=x".to_owned()),
        (400, "list?scope=everything".to_owned()),
        (400, "list?page=0".to_owned()),
        (400, "list?colour=red".to_owned()),
        (400, "show".to_owned()),
        (400, "deploy?vmImage=tiny&vmMemory=0&vmPartition=1".to_owned()),
        (400, "images?do=burn&name=x".to_owned()),
        (400, "images?name=x".to_owned()),
        (403, "list?scope=all".to_owned()),
        (403, "images?scope=all".to_owned()),
        (404, "images?do=delete&name=x".to_owned()),
        (404, format!("show?id={unknown}")),
        (404, format!("terminate?id={unknown}")),
        (404, "terminate?vmHostname=vm6".to_owned()),
        (404, "stop?vmHostname=vm6".to_owned()),
        (409, format!("start?id={id}")),
        (409, full.to_owned()),
    ];
    for (status, path) in cases {
        for form in ["html", "json", "text"] {
            let join = if path.contains('?') { '&' } else { '?' };
            let answer = portal.get("alice", &format!("{path}{join}format={form}")).send();
            assert_eq!(answer.status, status, "{path} as {form}: {answer}");
            assert_well_formed(&answer);
            if form == "json" {
                let json = answer.json();
                assert_eq!(json["error"]["status"], status, "{path}: {json}");
                assert!(
                    json["error"]["message"].as_str().is_some_and(|m| m.ends_with('.')),
                    "{path}: {json}"
                );
            }
        }
    }
    for (program, methods) in [
        ("list", "GET, HEAD"),
        ("show", "GET, HEAD"),
        ("console", "GET, HEAD"),
        ("deploy", "GET, HEAD, POST"),
        ("stop", "GET, HEAD, POST"),
        ("start", "GET, HEAD, POST"),
        ("reboot", "GET, HEAD, POST"),
        ("save", "GET, HEAD, POST"),
        ("resize", "GET, HEAD, POST"),
        ("snapshots", "GET, HEAD, POST"),
        ("images", "GET, HEAD, POST"),
    ] {
        for method in ["PUT", "DELETE", "BREW", "get", "PATCH"] {
            let ask = portal.ask(method, &format!("/cgi-bin/user/{program}")).by("alice", &password("alice"));
            let answer = ask.send().expect(405);
            assert_eq!(answer.header("allow"), Some(methods), "{program}: {answer}");
            assert_well_formed(&answer);
        }
    }
    portal.post("alice", "list", &[]).send().expect(405);
    let chunked = portal.ask("POST", "/cgi-bin/user/deploy").by("alice", &password("alice"));
    assert_well_formed(
        &chunked
            .header("Transfer-Encoding", "chunked")
            .body_without_length("3\r\na=b\r\n0\r\n\r\n")
            .send()
            .expect(411),
    );
    let large = vec![b'a'; 200_000];
    let ask = portal.ask("POST", "/cgi-bin/user/deploy").by("alice", &password("alice")).body(large);
    assert_well_formed(&ask.send().expect(413));
    portal.nodes.conduct(Conduct::Close);
    assert_well_formed(&portal.get("alice", &format!("console?id={id}&format=json")).send().expect(502));
    assert_well_formed(&portal.get("alice", &format!("console?id={id}")).send().expect(200));
    // If there is no such program, Apache answers.
    portal.ask("GET", "/cgi-bin/user/nothing").by("alice", &password("alice")).send().expect(404);
    portal.assert_no_panic();
}

#[test]
fn a_locked_registry_is_reported_as_busy() {
    let portal = Portal::start();
    portal.deploy("alice", &[]);
    let connection = portal.database();
    connection.execute_batch("BEGIN IMMEDIATE").expect("the write lock");
    let began = std::time::Instant::now();
    // Reading still works.
    portal.get("alice", "list").send().expect(200);
    assert!(began.elapsed().as_secs() < 5, "a page waited for a writer");

    let answer = portal.post("alice", "deploy", &DEPLOY_JSON).send().expect(503);
    assert!(answer.header("retry-after").is_some(), "{answer}");
    assert!(answer.text().contains("try again"), "{answer}");
    assert_well_formed(&answer);
    drop(connection);
    portal.post("alice", "deploy", &DEPLOY_JSON).send().expect(202);
}

#[test]
fn a_refused_form_comes_back_filled_in() {
    let portal = Portal::start();
    let token = token(&portal.get("alice", "deploy").send().expect(200));
    let typed = [
        ("vmImage", "debian-12"),
        ("vmMemory", "12\"><script>"),
        ("vmPartition", "0"),
        ("physicalHost", "127.0.0.2"),
        ("vmHostname", "vm3"),
        ("vmName", "kept & shown"),
        ("expiryTime", "for ever"),
        ("token", token.as_str()),
    ];
    let answer = portal.post("alice", "deploy", &typed).like_a_browser().send().expect(400);
    assert_well_formed(&answer);
    let page = answer.text();
    for field in ["vmMemory", "vmPartition", "expiryTime"] {
        assert!(page.contains(&format!("id=\"{field}-fault\"")), "no error about {field}: {page}");
    }
    for field in ["vmImage", "physicalHost", "vmHostname", "vmName"] {
        assert!(!page.contains(&format!("id=\"{field}-fault\"")), "an error about {field}: {page}");
    }
    let field = |name: &str| {
        page.split(&format!("name=\"{name}\""))
            .nth(1)
            .and_then(|r| r.split('>').next())
            .unwrap_or_default()
            .to_owned()
    };
    assert!(field("vmMemory").contains("12&quot;&gt;&lt;script&gt;"), "{page}");
    assert!(field("expiryTime").contains("for ever"), "{page}");
    assert!(field("vmName").contains("kept &amp; shown"), "{page}");
    assert!(
        page.contains("value=\"127.0.0.2\" selected") && page.contains("value=\"vm3\" selected"),
        "{page}"
    );
    assert!(page.contains("value=\"debian-12\" required checked"), "{page}");
    // A script gets each fault by field name.
    let fields = [&typed[..7], &[("format", "json")]].concat();
    let json = portal.post("alice", "deploy", &fields).send().expect(400).json();
    let faults = json["error"]["fields"].as_object().expect("faults").keys().cloned().collect::<Vec<_>>();
    assert_eq!(faults, ["expiryTime", "vmMemory", "vmPartition"]);
    let lines =
        portal.post("alice", "deploy", &[&typed[..7], &[("format", "text")]].concat()).send().expect(400);
    assert!(lines.text().lines().any(|line| line.starts_with("vmMemory: ")), "{lines}");
    assert!(portal.nodes.received().is_empty());
}

#[test]
fn pages_load_nothing_from_other_sites() {
    let portal = Portal::start();
    let id = portal.deploy("alice", &[]);
    for page in [
        "list".to_owned(),
        "deploy".to_owned(),
        "images".to_owned(),
        format!("show?id={id}"),
        format!("console?id={id}"),
    ] {
        let text = portal.get("alice", &page).send().expect(200).text();
        for attribute in ["src=\"", "href=\"", "action=\""] {
            for link in text.split(attribute).skip(1).filter_map(|rest| rest.split('"').next()) {
                assert!(!link.contains("//") && !link.starts_with("data:"), "{page} links to {link}");
                if link.starts_with("/resources/") && !link.ends_with("vgrid-source.tar.gz") {
                    let file = portal.ask("GET", link).send().expect(200);
                    let kind = file.header("content-type").unwrap_or_default();
                    let right = [(".css", "text/css"), (".js", "javascript"), (".svg", "image/svg+xml")];
                    let path = link.split('?').next().unwrap_or_default();
                    assert!(
                        right.iter().any(|(end, k)| path.ends_with(end) && kind.contains(k)),
                        "{link}: {kind}"
                    );
                }
            }
        }
    }
    // The source code that the license offers is really there.
    let head = portal.ask("HEAD", "/resources/vgrid-source.tar.gz").send().expect(200);
    assert!(head.header("content-length").and_then(|l| l.parse::<u64>().ok()).is_some_and(|l| l > 10_000));
    let listing = portal.ask("GET", "/resources/").send();
    assert!(matches!(listing.status, 403 | 404), "{listing}");
}

#[test]
fn long_lists_come_in_pages() {
    let portal = Setup { hosts: vec![("localhost", 500)], names: 250, ..Setup::default() }.start();
    portal.get("alice", "deploy").send().expect(200);
    enter_machines(&portal.registry_file(), "alice", |_| "localhost".to_owned(), 230);
    let mut seen = std::collections::BTreeSet::new();
    for page in 1..=3 {
        let json = portal.get("alice", &format!("list?page={page}&format=json")).send().expect(200).json();
        assert_eq!(
            (json["page"].as_u64(), json["pages"].as_u64(), json["total"].as_u64()),
            (Some(page), Some(3), Some(230))
        );
        for machine in json["machines"].as_array().expect("machines") {
            assert!(seen.insert(machine["id"].to_string()), "on two pages: {machine}");
        }
        assert_well_formed(
            &portal
                .get("alice", &format!("list?page={page}"))
                .send()
                .expect(200)
                .says(&format!("Page {page} of 3")),
        );
    }
    assert_eq!(seen.len(), 230);
    let beyond = portal.get("alice", "list?page=99&format=json").send().expect(200).json();
    assert_eq!(beyond["page"], 3);
}

#[test]
fn the_answer_to_an_order_is_the_machine() {
    let portal = Portal::start();
    let all = [
        ("vmImage", "tiny"),
        ("vmMemory", "256"),
        ("vmPartition", "3"),
        ("physicalHost", "127.0.0.2"),
        ("vmHostname", "vm4"),
        ("vmName", "Ünïcode"),
        ("expiryTime", "12h"),
        ("format", "json"),
    ];
    let answer = portal.post("alice", "deploy", &all).send().expect(202).json();
    let machine = &answer["machine"];
    for (key, value) in [
        ("state", "deploying"),
        ("virtual_host", "vm4"),
        ("physical_host", "127.0.0.2"),
        ("image", "tiny"),
        ("label", "Ünïcode"),
        ("owner", "alice"),
    ] {
        assert_eq!(machine[key], value, "{key} of {answer}");
    }
    assert_eq!((machine["memory_mib"].as_u64(), machine["disk_gib"].as_u64()), (Some(256), Some(3)));
    let order = portal.nodes.orders("deploy").pop().expect("an order");
    assert_eq!(order.at.to_string(), "127.0.0.2", "the node that got the order");
    assert!(order.signed);
    let order = order.json();
    assert_eq!((order["id"].as_str(), order["virtual_host"].as_str()), (machine["id"].as_str(), Some("vm4")));
    assert_eq!((order["memory"].as_u64(), order["disk"].as_u64()), (Some(256), Some(3)));
    // The page shows what the node said about itself in its answer.
    let hosts = portal.list("alice")["hosts"].clone();
    let host = hosts.as_array().and_then(|h| h.iter().find(|h| h["name"] == "127.0.0.2")).expect("the host");
    assert_eq!(host["memory_free"], facts().memory_free.to_string().as_str());
    assert_eq!(host["differs"], true, "the scripted node has another common.cfg");
    // A script may ask for text, which has the same line as the list.
    let line = portal
        .post("alice", "deploy", &[&all[..3], &[("format", "text")]].concat())
        .send()
        .expect(202)
        .text();
    let columns: Vec<&str> = line.trim_end().split('\t').collect();
    assert_eq!((columns[1], columns[2], columns[3]), ("deploying", "vm1", "localhost"), "{line}");
    assert_eq!(id_of(&portal.show("alice", columns[0])), columns[0]);
}

#[test]
fn processors_are_asked_for_shown_and_ordered() {
    let portal = Portal::start();
    let shown = |id: &str| portal.show("alice", id)["machine"]["vmCPUs"].as_u64();
    let ordered = || portal.nodes.orders("deploy").pop().expect("an order").json()["cpus"].as_u64();
    // One, if nobody says how many. The host is told only if there are more.
    for more in [&[][..], &[("vmCPUs", "")], &[("vmCPUs", "1")]] {
        let id = portal.deploy("alice", more);
        assert_eq!((shown(&id), ordered()), (Some(1), None), "{more:?}");
    }
    let id = portal.deploy("alice", &[("vmCPUs", "12")]);
    assert_eq!((shown(&id), ordered()), (Some(12), Some(12)));
    portal.get("alice", &format!("show?id={id}")).send().expect(200).says("Processors</dt><dd>12</dd>");
    portal.get("alice", "list").send().expect(200).says("128 MiB, 12 processors, 1 GiB").says("1 processor,");
    for page in ["extend", "terminate"] {
        let question = portal.get("alice", &format!("{page}?id={id}")).like_a_browser().send().expect(200);
        question.says("128 MiB, 12 processors, 1 GiB");
    }
    let line = portal.get("alice", &format!("show?id={id}&format=text")).send().expect(200).text();
    assert_eq!(line.lines().next().and_then(|line| line.split('\t').nth(11)), Some("12"), "{line}");
    // A form for another one like it proposes the same, and an untouched form proposes one.
    for (form, value) in [(format!("deploy?like={id}"), "12"), ("deploy".to_owned(), "1")] {
        let form =
            portal.get("alice", &format!("{form}{}format=json", if form == "deploy" { '?' } else { '&' }));
        assert_eq!(form.send().expect(200).json()["values"]["vmCPUs"], value);
    }
    // It comes back as it was typed.
    let typed = [&DEPLOY_JSON[..], &[("vmCPUs", "65")]].concat();
    let refused = portal.post("alice", "deploy", &typed).send().expect(400);
    assert_eq!(refused.field_error("vmCPUs"), "Must be from 1 to 64 processors.");
    let page = portal.get("alice", "deploy?vmImage=tiny&vmCPUs=65").like_a_browser().send().expect(200);
    page.says("name=\"vmCPUs\"").says("value=\"65\"");
    portal.assert_no_panic();
}

#[test]
fn vgrid_chooses_the_emptiest_host_and_the_first_free_name() {
    let hosts = vec![("localhost", 4), ("127.0.0.2", 2), ("127.0.0.1", 0)];
    let portal = Setup { hosts, names: 5, ..Setup::default() }.start();
    let chosen: Vec<(String, String)> = (0..5)
        .map(|_| {
            let id = portal.deploy("alice", &[]);
            let machine = portal.show("alice", &id)["machine"].clone();
            let text = |key: &str| machine[key].as_str().unwrap_or_default().to_owned();
            (text("physical_host"), text("virtual_host"))
        })
        .collect();
    let expected = [
        ("localhost", "vm1"),
        ("127.0.0.2", "vm2"),
        ("localhost", "vm3"),
        ("localhost", "vm4"),
        ("127.0.0.2", "vm5"),
    ];
    assert_eq!(chosen.iter().map(|(h, n)| (h.as_str(), n.as_str())).collect::<Vec<_>>(), expected);

    portal.post("alice", "deploy", &DEPLOY).send().expect(409);
    // Full, and switched off.
    for (host, status) in [("127.0.0.2", 409), ("127.0.0.1", 400)] {
        let to_host = [&DEPLOY_JSON[..], &[("physicalHost", host)]].concat();
        portal.post("alice", "deploy", &to_host).send().expect(status);
    }
}
