//! `vgrid-check` against a portal in which one thing at a time is broken: its check fails, and what
//! depends on it is skipped, but nothing else changes. `xen::check` breaks what needs a Xen host or
//! root's own folders, `virt::check` what needs a libvirt host.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use vgrid::config::Common;
use vgrid::model::fault::Fault;
use vgrid::model::wire::NodeInfo;

use crate::support::apache::web_user;
use crate::support::node::{Conduct, facts, nothing};
use crate::support::own_name;
use crate::support::portal::{Portal, Setup};
use crate::{virt, xen};

/// Checks that need the answer of a node.
const NODE_ANSWER: &[&str] = &[
    "nodes' clocks",
    "nodes take orders from here",
    "nodes' keys",
    "nodes' registry",
    "nodes tell what they have",
    "nodes' version",
    "nodes' common.cfg",
];

/// Checks that need an image.
const IMAGE: &[&str] =
    &["file system programs", "file systems", "templates", "templates for the toolstack", "bridge"];

/// One thing to break.
struct Case {
    /// The check that must fail.
    breaks: &'static str,
    how: fn(&Portal),
    /// Mends what is broken outside the configuration files.
    mends: fn(&Portal),
    /// Other checks that fail.
    fails: &'static [&'static str],
    /// Checks that are skipped, in groups.
    skips: &'static [&'static [&'static str]],
}

const fn case(breaks: &'static str, how: fn(&Portal), skips: &'static [&'static [&'static str]]) -> Case {
    Case { breaks, how, mends: |_| (), fails: &[], skips }
}

fn add(portal: &Portal, file: &str, text: &str) {
    portal.reconfigure(file, |old| format!("{old}{text}"));
}

fn mail(portal: &Portal, settings: &str) {
    add(portal, "server.cfg", &format!("[Mail]\nsender = \"vgrid@example.org\"\n{settings}\n"));
}

fn replace(portal: &Portal, file: &str, from: &str, to: &str) {
    portal.reconfigure(file, |text| {
        assert!(text.contains(from), "{file} has no {from}");
        text.replace(from, to)
    });
}

fn rename(portal: &Portal, from: &str, to: &str) {
    fs::rename(portal.path(from), portal.path(to)).expect("it can be renamed");
}

const SERVER: [Case; 25] = [
    Case {
        skips: &[&["machines' names", "hosts' names", "nodes answer"], NODE_ANSWER],
        ..case("common.cfg", |p| add(p, "common.cfg", "[VMImages\n"), &[])
    },
    case(
        "common.cfg",
        |p| {
            fs::write(p.path("etc/common.cfg"), "[VMImages]\n[PhysicalHostsPool]\n[VirtualHostsPool]\n")
                .expect("written");
        },
        &[&["machines' names", "hosts' names", "nodes answer"], NODE_ANSWER],
    ),
    case(
        "server.cfg",
        |p| replace(p, "server.cfg", "EnvUsernameVariable", "EnvUserNameVariable"),
        &[
            &[
                "key",
                "key's rights",
                "page templates",
                "mail",
                "registry",
                "upkeep",
                "portal answers",
                "nodes answer",
            ],
            NODE_ANSWER,
        ],
    ),
    case("machines' names", |p| on_all_nodes(p, |p| add(p, "common.cfg", "\"none.invalid\" = \"\"\n")), &[]),
    case("machines' names", |p| on_all_nodes(p, |p| add(p, "common.cfg", "\"192.0.523\" = \"\"\n")), &[]),
    // An address that every machine has.
    case("machines' names", |p| on_all_nodes(p, |p| add(p, "common.cfg", "\"127.0.1.1\" = \"\"\n")), &[]),
    Case {
        // internal/status cannot read it either.
        fails: &["portal answers"],
        ..case(
            "key",
            |p| fs::write(p.path("etc/key"), "short").expect("written"),
            &[&["key's rights", "nodes answer"], NODE_ANSWER],
        )
    },
    case(
        "page templates",
        |p| replace(p, "server.cfg", "templateDirectory = \"", "templateDirectory = \"/none"),
        &[],
    ),
    // No server listens on port 1.
    Case { mends: |p| drop(p.upkeep(&[])), ..case("upkeep", last_upkeep_in_1970, &[]) },
    case("mail", |p| mail(p, "transport = \"smtp\"\nserver = \"127.0.0.1:1\""), &[]),
    case("mail", |p| mail(p, "transport = \"sendmail\"\nsendmail = \"/none\""), &[]),
    Case {
        mends: |p| rename(p, "cgi-bin/internal/away", "cgi-bin/internal/status"),
        ..case("portal answers", |p| rename(p, "cgi-bin/internal/status", "cgi-bin/internal/away"), &[])
    },
    case(
        "hosts' names",
        |p| {
            on_all_nodes(p, |p| {
                replace(p, "common.cfg", "[Physi", "[PhysicalHostsPool]\n\"none.invalid\" = 1\n#[Physi");
            });
        },
        &[],
    ),
    case("nodes answer", |p| p.nodes.conduct(Conduct::Close), &[NODE_ANSWER]),
    case("nodes answer", |p| p.nodes.conduct(Conduct::Garbage), &[NODE_ANSWER]),
    case("nodes answer", |p| p.nodes.serve_page("It works!"), &[NODE_ANSWER]),
    case("nodes' clocks", |p| p.nodes.clock_is_ahead(400), &[]),
    case("nodes' clocks", |p| p.nodes.clock_is_ahead(-400), &[]),
    case(
        "nodes tell what they have",
        |p| p.nodes.conduct(Conduct::Refuse(Fault::PrivilegeRefused)),
        &[&["nodes' version", "nodes' common.cfg"]],
    ),
    case("nodes' version", |p| report_info(p, |info| "0.0.9".clone_into(&mut info.host.version)), &[]),
    case(
        "nodes' common.cfg",
        |p| report_info(p, |info| "0123".clone_into(&mut info.host.common_digest)),
        &[],
    ),
    case(
        "nodes' keys",
        |p| p.nodes.conduct(Conduct::Say(403, refusal(&vgrid::model::sign::SignFault::Wrong.to_string()))),
        &[&["nodes' registry", "nodes tell what they have", "nodes' version", "nodes' common.cfg"]],
    ),
    case(
        "nodes' registry",
        |p| p.nodes.conduct(Conduct::Say(403, refusal("Refused: this host obeys the registry 1, not 2"))),
        &[&["nodes tell what they have", "nodes' version", "nodes' common.cfg"]],
    ),
    Case {
        fails: &["upkeep", "nodes answer"],
        mends: |p| rename(p, "var/away.sqlite", "var/registry.sqlite"),
        ..case("registry", |p| rename(p, "var/registry.sqlite", "var/away.sqlite"), &[NODE_ANSWER])
    },
    Case {
        mends: |p| set_mode(&p.path("var/registry.sqlite"), 0o640),
        ..case("registry", |p| set_mode(&p.path("var/registry.sqlite"), 0o644), &[])
    },
];

const NODE: [Case; 17] = [
    case(
        "node.cfg",
        |p| add(p, "node.cfg", "[VMSwapsize]\n"),
        &[
            &[
                "key",
                "key's rights",
                "node answers",
                "server's name",
                "server answers",
                "clock",
                "server's key",
                "records",
                "images",
                "saved images",
                "prepared images",
            ],
            IMAGE,
            &[
                "toolstack",
                "one toolstack",
                "autostart",
                "consoles",
                "console logs",
                "volume group",
                "free space",
            ],
        ],
    ),
    case("own name", |p| replace(p, "common.cfg", &format!("\"{}\"", own_name()), "another"), &[]),
    Case {
        mends: |p| rename(p, "cgi-bin/node/away", "cgi-bin/node/info"),
        ..case("node answers", |p| rename(p, "cgi-bin/node/info", "cgi-bin/node/away"), &[])
    },
    case(
        "server's name",
        |p| replace(p, "node.cfg", "serverHostname = \"localhost\"", "serverHostname = \"none.invalid\""),
        &[&["server answers", "clock", "server's key"]],
    ),
    case(
        "server answers",
        |p| replace(p, "node.cfg", "/cgi-bin/internal", "/cgi-bin/eternal"),
        &[&["clock", "server's key"]],
    ),
    case(
        "server answers",
        |p| replace(p, "node.cfg", "serverURL = \"http://localhost:", "serverURL = \"http://localhost:1/"),
        &[&["clock", "server's key"]],
    ),
    Case {
        // A signature from another time is refused too.
        fails: &["server's key"],
        ..case(
            "clock",
            |p| {
                p.nodes.conduct(Conduct::Say(403, refusal("the message is not signed")));
                p.nodes.clock_is_ahead(3600);
                replace(p, "node.cfg", &p.apache.address.port().to_string(), &p.nodes.port.to_string());
            },
            &[],
        )
    },
    case(
        "server's key",
        |p| {
            fs::write(p.path("etc/other"), "0123456789abcdef0123456789abcdef").expect("written");
            set_key_rights(&p.path("etc/other"));
            replace(p, "node.cfg", "/etc/key\"", "/etc/other\"");
        },
        &[],
    ),
    Case {
        mends: |p| rename(p, "images/away", "images/tiny.tar"),
        ..case("images", |p| rename(p, "images/tiny.tar", "images/away"), &[IMAGE])
    },
    Case {
        mends: |p| rename(p, "images/away", "images/tiny.tar"),
        ..case(
            "images",
            |p| {
                rename(p, "images/tiny.tar", "images/away");
                fs::write(p.path("images/tiny.tar"), "<html>not an archive</html>").expect("written");
            },
            &[IMAGE],
        )
    },
    case("images", |p| replace(p, "node.cfg", "tiny = \"tiny.tar\"", ""), &[IMAGE]),
    Case {
        mends: |p| set_mode(&p.path("images/tiny.tar"), 0o644),
        ..case("images", |p| set_mode(&p.path("images/tiny.tar"), 0o600), &[IMAGE])
    },
    Case {
        mends: |p| set_mode(&p.path("images"), 0o755),
        ..case("saved images", |p| set_mode(&p.path("images"), 0o555), &[])
    },
    Case {
        mends: |p| fs::remove_file(p.path("var/node/ahead.json")).expect("it is there"),
        ..case("prepared images", an_image_is_damaged, &[])
    },
    case(
        "file system programs",
        |p| replace(p, "node.cfg", "/sbin/mkfs.ext4", "/sbin/mkfs.none"),
        &[&["file systems"]],
    ),
    case("file systems", |p| replace(p, "node.cfg", "/sbin/mkfs.ext4 -q -F", "/bin/true"), &[]),
    case(
        "file systems",
        |p| {
            // As by mke2fs's own choice in later versions.
            let program = p.path("mkfs");
            let line = "exec /sbin/mkfs.ext4 -q -F -O metadata_csum,metadata_csum_seed,orphan_file \"$@\"";
            fs::write(&program, format!("#!/bin/sh\n{line}\n")).expect("a program");
            set_mode(&program, 0o755);
            replace(p, "node.cfg", "/sbin/mkfs.ext4 -q -F", &program.display().to_string());
        },
        &[],
    ),
];

/// As a host remembers it.
fn an_image_is_damaged(portal: &Portal) {
    let failed = json!([{
        "key": "tiny.0123456789abcdef",
        "at": vgrid::system::clock::now(),
        "why": Fault::ImageCorrupt { tag: "tiny".parse().expect("a tag"), detail: "it ends".to_owned() },
    }]);
    fs::write(portal.path("var/node/ahead.json"), failed.to_string()).expect("written");
}

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("its mode");
}

fn refusal(text: &str) -> String {
    json!({"error": {"message": format!("Refused: {text}.")}}).to_string()
}

/// Makes the nodes answer like working ones, but for one change.
fn report_info(portal: &Portal, change: impl FnOnce(&mut NodeInfo)) {
    let mut host = facts();
    if let Ok(common) = Common::load(&portal.path("etc")) {
        host.common_digest = common.digest;
    }
    let mut info = NodeInfo { host, ..nothing() };
    change(&mut info);
    portal.nodes.conduct(Conduct::Say(200, serde_json::to_string(&info).expect("JSON")));
}

/// Changes `common.cfg`, also on the nodes.
fn on_all_nodes(portal: &Portal, change: fn(&Portal)) {
    change(portal);
    report_info(portal, |_| ());
}

/// Runs vgrid-check.
fn vgrid_check(portal: &Portal, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vgrid-check"))
        .args(["--own-url", &format!("http://{}", portal.apache.address)])
        .args(args)
        .env("VGRID_CONFIG_DIR", portal.path("etc"))
        .output()
        .expect("vgrid-check can be started")
}

/// The status of each check of a part, by name.
fn statuses(portal: &Portal, part: &str) -> BTreeMap<String, String> {
    let output = vgrid_check(portal, &[part, "--json"]);
    let rows: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{error}: {output:?}");
    });
    let word =
        |row: &Value, key: &str| row[key].as_str().unwrap_or_else(|| panic!("no {key}: {row}")).to_owned();
    for row in &rows {
        assert_eq!(row["remedy"].is_string(), row["status"] == "failed", "{row}");
        assert!(!word(row, "why").is_empty(), "{row}");
    }
    let failed = rows.iter().any(|row| row["status"] == "failed");
    assert_eq!(output.status.code(), Some(i32::from(failed)));
    rows.iter().map(|row| (word(row, "name"), word(row, "status"))).collect()
}

/// The configuration files and their content.
fn snapshot(portal: &Portal) -> Vec<(PathBuf, Vec<u8>)> {
    let files = fs::read_dir(portal.path("etc")).expect("the configuration");
    files
        .map(|entry| entry.expect("a file").path())
        .filter(|path| path.is_file())
        .map(|path| (path.clone(), fs::read(&path).expect("a file")))
        .collect()
}

/// Breaks one thing at a time.
fn break_one_by_one(portal: &Portal, part: &str, cases: &[Case]) {
    let whole = snapshot(portal);
    let before = statuses(portal, part);
    for (number, case) in cases.iter().enumerate() {
        let name = case.breaks;
        if !nix::unistd::geteuid().is_root() && before[name] == "skipped" {
            println!("only root can run the check {name}: skipped");
            continue;
        }
        assert_eq!(before[name], "passed", "{name} fails before anything is broken");
        (case.how)(portal);
        // What does not pass on this machine cannot get worse.
        let mut expected = before.clone();
        let status = |name: &str| before.get(name).unwrap_or_else(|| panic!("no check {name}")).as_str();
        let failed = case.fails.iter().chain([&name]).filter(|name| status(name) == "passed");
        expected.extend(failed.map(|name| ((*name).to_owned(), "failed".to_owned())));
        let skipped = case.skips.iter().copied().flatten().filter(|name| !status(name).is_empty());
        expected.extend(skipped.map(|name| ((*name).to_owned(), "skipped".to_owned())));
        let now = statuses(portal, part);
        let wrong: Vec<_> = now
            .iter()
            .filter(|(name, status)| expected[*name] != **status)
            .map(|(name, status)| format!("{name}: {status}, not {}", expected[name]))
            .collect();
        assert!(
            wrong.is_empty(),
            "case {number} ({name} broken): {wrong:#?}\n{}",
            String::from_utf8_lossy(&vgrid_check(portal, &[part]).stdout)
        );
        (case.mends)(portal);
        for (file, bytes) in &whole {
            fs::write(file, bytes).expect("the configuration");
        }
        portal.nodes.clock_is_ahead(0);
        report_info(portal, |_| ());
    }
    assert_eq!(statuses(portal, part), before, "after everything is mended");
}

/// Makes it look as if upkeep ran once, long ago.
fn last_upkeep_in_1970(portal: &Portal) {
    portal.upkeep(&[]);
    portal.database().execute("UPDATE upkeep SET last = 5", []).expect("it ran long ago");
}

/// Gives a key the owner and mode that it must have, as far as the user running the tests can.
fn set_key_rights(key: &Path) {
    let web = web_user();
    if let Some(user) = &web {
        std::os::unix::fs::chown(key, Some(0), Some(user.gid.as_raw())).expect("the key's group");
    }
    set_mode(key, if web.is_some() { 0o640 } else { 0o600 });
}

/// A portal that passes as many checks as one below /tmp can: with the right modes, and names that
/// have addresses.
fn portal(hosts: Vec<(&'static str, u32)>) -> Portal {
    let portal = Setup { hosts, images: vec!["tiny"], names: 0, ..Setup::default() }.start();
    // Addresses that no machine has (RFC 5737).
    add(&portal, "common.cfg", "\"192.0.2.11\" = \"\"\n\"192.0.2.12\" = \"\"\n");
    set_mode(&portal.path("var"), 0o700);
    set_mode(&portal.path("var/node"), 0o700);
    set_key_rights(&portal.path("etc/key"));
    report_info(&portal, |_| ());
    portal.upkeep(&[]);
    portal
}

#[test]
fn each_fault_of_a_server_is_named() {
    let portal = portal(vec![("127.0.0.1", 4), ("127.0.0.2", 4)]);
    let before = statuses(&portal, "--server");
    if nix::unistd::geteuid().is_root() {
        // Apache's own configuration is this machine's, where nothing is installed.
        let elsewhere =
            ["Apache's configuration", "Apache's modules", "portal's site", "portal's programs", "sign-in"];
        let wrong: Vec<_> = before
            .iter()
            .filter(|(name, status)| !elsewhere.contains(&name.as_str()) && *status != "passed")
            .collect();
        assert!(wrong.is_empty(), "{wrong:?}");
    }
    break_one_by_one(&portal, "--server", &SERVER);
    portal.assert_no_panic();
}

#[test]
fn each_fault_of_a_node_is_named() {
    let portal = portal(vec![(Box::leak(own_name().into_boxed_str()), 4)]);
    let address = portal.apache.address;
    add(
        &portal,
        "node.cfg",
        &format!(
            "serverURL = \"http://localhost:{}/cgi-bin/internal\"
",
            address.port()
        ),
    );
    portal.configure_images("tiny = \"tiny.tar\"", "/sbin/mkfs.ext4 -q -F");
    let made = Command::new("tar")
        .args(["-cf", &portal.path("images/tiny.tar").display().to_string(), "-C", "/etc", "hostname"])
        .status();
    assert!(made.is_ok_and(|status| status.success()), "tar");
    break_one_by_one(&portal, "--node", &NODE);
    portal.assert_no_panic();
}

fn lines(output: &Output) -> BTreeSet<String> {
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

/// Whoever adds a check must break it here, in `xen::check` or in `virt::check`.
#[test]
fn every_check_has_a_case_that_breaks_it() {
    let portal = portal(vec![("127.0.0.1", 4)]);
    let known = lines(&vgrid_check(&portal, &["--server", "--node", "--list"]));
    let here = SERVER.iter().chain(&NODE).map(|case| case.breaks);
    let xen = xen::check::CASES.iter().map(|case| case.breaks);
    let virt = virt::check::CASES.iter().map(|case| case.breaks);
    let by_libvirt = xen::libvirt::CASES.iter().map(|case| case.breaks);
    let broken: BTreeSet<String> = here.chain(xen).chain(virt).chain(by_libvirt).map(str::to_owned).collect();
    assert_eq!(known, broken);
}

#[test]
fn the_installed_or_selected_parts_are_checked() {
    let portal = portal(vec![("127.0.0.1", 4)]);
    let list = |args: &[&str]| lines(&vgrid_check(&portal, &[&["--list"], args].concat()));
    let (server, node) = (list(&["--server"]), list(&["--node"]));
    assert!(server.contains("registry") && !server.contains("Xen"), "{server:?}");
    assert!(node.contains("Xen") && !node.contains("registry"), "{node:?}");
    assert_eq!(list(&[]), &server | &node);
    fs::remove_file(portal.path("etc/node.cfg")).expect("node.cfg");
    assert_eq!(list(&[]), server);
    fs::remove_file(portal.path("etc/server.cfg")).expect("server.cfg");
    assert_eq!(list(&["--node"]), node);
    for wrong in [&[][..], &["--nonsense"]] {
        assert_eq!(vgrid_check(&portal, wrong).status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn output_is_plain_unless_on_a_terminal() {
    let portal = portal(vec![("127.0.0.1", 4)]);
    let lines_of =
        |portal: &Portal| String::from_utf8(vgrid_check(portal, &["--server"]).stdout).expect("UTF-8");
    portal.nodes.conduct(Conduct::Close);
    let text = lines_of(&portal);
    assert!(!text.contains('\u{1b}'), "{text}");
    let names = lines(&vgrid_check(&portal, &["--server", "--list"]));
    // One line per check, and a summary.
    assert_eq!(text.lines().count(), names.len() + 1, "{text}");
    let line = text.lines().find(|line| line.contains("nodes answer")).expect("a line");
    assert!(line.starts_with("FAILED") && line.contains(" -> "), "{line}");
    let line = text.lines().find(|line| line.contains("nodes' keys")).expect("a line");
    assert!(line.starts_with("skipped") && line.ends_with("needs \"nodes answer\""), "{line}");

    // script(1) provides a terminal.
    let on_a_terminal = |environment: &[(&str, &str)]| {
        let program = env!("CARGO_BIN_EXE_vgrid-check");
        let output = Command::new("script")
            .args(["-qec", &format!("{program} --server"), "/dev/null"])
            .env("VGRID_CONFIG_DIR", portal.path("etc"))
            .env("TERM", "xterm")
            .env_remove("NO_COLOR")
            .envs(environment.iter().copied())
            .output()
            .expect("script can be started");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(on_a_terminal(&[]).contains("\u{1b}["));
    assert!(!on_a_terminal(&[("NO_COLOR", "1")]).contains("\u{1b}["));
}
