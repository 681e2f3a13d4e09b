//! The configuration files: the shipped ones work, mistakes are named, and users see none of it.

use std::fs;
use std::path::Path;

use vgrid::config::{Common, Node, Server};

use crate::support::portal::{DEPLOY_JSON, Portal, Setup, password};
use crate::support::stage::Stage;

/// The error on loading a changed file.
fn load_error(portal: &Portal, file: &str, change: impl Fn(&str) -> String) -> String {
    let original = fs::read_to_string(portal.path("etc").join(file)).expect("a configuration file");
    portal.reconfigure(file, &change);
    let dir = portal.path("etc");
    let error = match file {
        "common.cfg" => Common::load(&dir).map(drop).err(),
        "server.cfg" => Server::load(&dir).map(drop).err(),
        _ => Node::load(&dir).map(drop).err(),
    };
    portal.reconfigure(file, |_| original.clone());
    error.map_or_else(|| panic!("{file} was accepted"), |error| error.to_string())
}

#[test]
fn a_mistake_is_named_with_file_line_and_remedy() {
    let portal = Portal::start();
    let at = |file: &str| portal.path("etc").join(file).display().to_string();
    let line_of = |file: &str, words: &str| {
        let text = fs::read_to_string(portal.path("etc").join(file)).expect("a file");
        text.lines().position(|line| line.contains(words)).expect("the line") + 1
    };
    for (file, right, wrong, nearest) in [
        ("server.cfg", "nodeTimeout", "nodeTimeOut", "nodeTimeout"),
        ("server.cfg", "registryFile", "registrFile", "registryFile"),
        ("server.cfg", "[Administrators]", "[Administrator]", "Administrators"),
        ("server.cfg", "EnvUsernameVariable", "envUsernameVariable", "EnvUsernameVariable"),
        ("node.cfg", "volumeGroupName", "volumegroupname", "volumeGroupName"),
        ("node.cfg", "serverHostname", "serverHostName", "serverHostname"),
        ("common.cfg", "[VMImages]", "[VmImages]", "VMImages"),
        ("common.cfg", "[PhysicalHostsPool]", "[PhysicalHostPool]", "PhysicalHostsPool"),
    ] {
        let line = line_of(file, right);
        let error = load_error(&portal, file, |text| text.replacen(right, wrong, 1));
        let key = wrong.trim_matches(['[', ']']);
        assert!(error.contains(&format!("{}, line {line}: ", at(file))), "{error}");
        assert!(error.contains(&format!("`{key}`")) && error.contains(&format!("`{nearest}`")), "{error}");
    }
    let old = load_error(&portal, "common.cfg", |_| {
        "[VMImages]\nslc4: Scientific Linux\n[PhysicalHostsPool]\nhost1: 4\n[VirtualHostsPool]\nvm1: none\n"
            .to_owned()
    });
    assert!(old.contains(&format!("vgrid-config-convert --in-place {}", at("common.cfg"))), "{old}");
    let twice = load_error(&portal, "common.cfg", |text| text.replace("\"vm2\" =", "\"VM1\" ="));
    assert!(twice.contains("[VirtualHostsPool] vm1: is there twice"), "{twice}");
    let text =
        load_error(&portal, "common.cfg", |text| text.replace("\"localhost\" = 4", "\"localhost\" = \"4\""));
    assert!(text.contains("[PhysicalHostsPool] localhost: must be a whole number"), "{text}");
}

#[test]
fn the_shipped_configuration_loads() {
    let stage = Stage::shared();
    let dir = stage.path("/etc/vgrid");
    let common = Common::load(&dir).expect("common.cfg as shipped");
    Server::load(&dir).expect("server.cfg as shipped");
    let node = Node::load(&dir).expect("node.cfg as shipped");
    for (tag, _) in &common.images {
        let settings = node.image(tag).expect("settings for a shipped image");
        let template = settings.template.file_name().expect("a template");
        assert!(dir.join("vmtmpl").join(template).is_file(), "{tag} names a template that is not shipped");
    }
    for name in ["htaccess", "htaccess.basic", "htaccess.shibboleth", "htaccess.certificate"] {
        let text = fs::read_to_string(dir.join(name)).expect("a sign-in");
        let active: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
        assert!(active.iter().any(|line| line.starts_with("Require")), "{name} requires no sign-in");
        assert!(!active.iter().any(|line| line.contains("Require all granted")), "{name} admits everyone");
    }
}

#[test]
fn a_converted_file_in_the_old_syntax_loads() {
    let portal = Portal::start();
    let file = portal.path("etc/common.cfg");
    let old = "[VMImages]\nslc4: Scientific Linux 4\n[PhysicalHostsPool]\nhost1.example.org: 4\n[VirtualHostsPool]\nvm1.example.org: \n";
    fs::write(&file, old).expect("a file");
    let convert = Stage::shared().path("/usr/bin/vgrid-config-convert");
    let done =
        std::process::Command::new(convert).arg("--in-place").arg(&file).output().expect("the converter");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let common = Common::load(&portal.path("etc")).expect("the converted file");
    assert_eq!(common.images.len(), 1);
    assert_eq!(common.physical_hosts[0].1, 4);
}

/// A change to a file's text.
type Change = fn(&str) -> String;

#[test]
fn users_see_one_sentence_and_administrators_the_cause() {
    let portal = Portal::start();
    portal.deploy("alice", &[]);
    let breakages: [(&str, Change, &str); 5] = [
        ("server.cfg", |text| text.replace("nodeTimeout", "nodeTimeOut"), "nodeTimeout"),
        ("server.cfg", |text| text.replace("[General]", "General]"), "line 1"),
        (
            "server.cfg",
            |text| {
                text.replace(
                    "EnvUsernameVariable = \"REMOTE_USER\"",
                    "EnvUsernameVariable = \"QUERY_STRING\"",
                )
            },
            "anybody could be anyone",
        ),
        ("server.cfg", |text| text.replace("templates\"", "no-such-folder\""), "no-such-folder"),
        ("common.cfg", |_| "\u{0}".to_owned(), "common.cfg"),
    ];
    for (file, change, detail) in breakages {
        let original = fs::read_to_string(portal.path("etc").join(file)).expect("a file");
        portal.reconfigure(file, change);
        for form in ["html", "json", "text"] {
            let answer = portal.get("alice", &format!("list?format={form}")).send();
            // Only the HTML page needs templates.
            if detail == "no-such-folder" && form != "html" {
                answer.expect(200);
                continue;
            }
            let text = answer.expect(500).text();
            assert!(text.contains("Something went wrong on this server"), "{text}");
            assert!(!text.contains(detail) && !text.contains("/tmp") && !text.contains(".cfg"), "{text}");
            if let Some(log) = portal.own_log().map(|log| log + &portal.apache.log()) {
                let id = request_id(&text);
                let line =
                    log.lines().find(|line| line.contains(&id)).unwrap_or_else(|| panic!("no {id} in {log}"));
                assert!(line.contains(detail), "{line}");
            }
        }
        portal.reconfigure(file, |_| original.clone());
        portal.get("alice", "list").send().expect(200);
    }
    for missing in ["server.cfg", "common.cfg", "key"] {
        let file = portal.path("etc").join(missing);
        let aside = portal.path("etc").join("aside");
        fs::rename(&file, &aside).expect("to move it");

        portal
            .post("alice", "deploy", &DEPLOY_JSON)
            .send()
            .expect(500)
            .says("Something went wrong on this server");
        fs::rename(&aside, &file).expect("to move it back");
    }
    assert_eq!(portal.list("alice")["total"], 1, "something was done halfway");
    portal.assert_no_panic();
}

/// The request id in an error, by which the log has the details.
#[track_caller]
fn request_id(text: &str) -> String {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric());
    let is_id = |w: &&str| w.len() == 12 && w.chars().all(|c| c.is_ascii_hexdigit());
    words.rev().find(is_id).unwrap_or_else(|| panic!("no request id in {text}")).to_owned()
}

#[test]
fn changes_and_refusals_are_logged_with_user_and_address() {
    let portal = Portal::start();
    let id = portal.deploy("alice", &[]);
    portal.get("bob", &format!("terminate?id={id}&format=json")).send().expect(403);
    portal.get("bob", "list?x=y").header("Cookie", "session=very-secret").send().expect(400);
    portal.ask("POST", "/cgi-bin/internal/status").body("{}").send().expect(403);
    portal.post("alice", "terminate", &[("id", &id), ("format", "json")]).send().expect(202);
    let Some(log) = portal.own_log() else {
        println!("the log goes to this machine's syslog: skipped");
        return;
    };
    let log = log + &portal.apache.log();
    for words in [
        &["event=order.given", "order=\"deploy\"", "user=\"alice\"", "from=\"127.0.0.1\"", &id][..],
        &["event=request.refused", "status=\"403\"", "user=\"bob\"", "from=\"127.0.0.1\"", &id],
        &["event=request.refused", "status=\"400\"", "user=\"bob\""],
        &["event=request.refused", "status=\"403\"", "internal/status", "from=\"127.0.0.1\""],
        &["event=order.given", "order=\"terminate\"", "user=\"alice\"", &id],
    ] {
        let found = log.lines().any(|line| words.iter().all(|word| line.contains(word)));
        assert!(found, "no line with {words:?} in {log}");
    }
    assert!(!log.contains("very-secret") && !log.contains(&password("bob")), "{log}");
}

#[test]
fn secrets_are_not_readable_by_everyone() {
    use std::os::unix::fs::PermissionsExt as _;
    let portal = Setup::default().start();
    portal.deploy("alice", &[]);
    for name in ["var/registry.sqlite", "var/server.log"] {
        let file = portal.path(name);
        if Path::new(&file).exists() {
            let mode = fs::metadata(&file).expect("its mode").permissions().mode();
            assert_eq!(mode & 0o007, 0, "{name} has mode {mode:o}");
        }
    }
}
