//! User names that look alike or have several spellings: no one passes for another, and with a
//! setting all spellings are one person.

use std::fs;

use crate::support::http::{Answer, Ask};
use crate::support::portal::{Portal, Setup, password, state_of};

/// A portal whose Apache also admits these names, each with alice's password.
fn with_names(setup: Setup, names: &[&str]) -> Portal {
    let portal = setup.start();
    let file = portal.path("etc/htpasswd");
    let mut known = fs::read_to_string(&file).expect("the password file");
    let hash = known.lines().next().and_then(|line| line.split_once(':')).expect("alice").1.to_owned();
    for name in names {
        known.push_str(&format!("{name}:{hash}\n"));
    }
    fs::write(&file, known).expect("the password file");
    portal
}

/// A GET by a user with alice's password.
fn get(portal: &Portal, name: &str, path: &str) -> Ask {
    portal.ask("GET", &format!("/cgi-bin/user/{path}")).by(name, &password("alice"))
}

fn machines(answer: &Answer) -> usize {
    answer.json()["machines"].as_array().expect("machines").len()
}

#[test]
fn invisible_characters_in_user_names_are_refused() {
    let hidden = [
        '\u{AD}',
        '\u{34F}',
        '\u{61C}',
        '\u{115F}',
        '\u{180E}',
        '\u{200D}',
        '\u{202E}',
        '\u{2066}',
        '\u{3164}',
        '\u{FE0F}',
        '\u{FFA0}',
        '\u{E0041}',
        '\u{E0100}',
    ];
    let names: Vec<String> = hidden.iter().map(|c| format!("ali{c}ce")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let portal = with_names(Setup::default(), &names);
    for (name, c) in names.iter().zip(hidden) {
        for path in ["list", "list?format=json", "deploy?vmImage=tiny&vmMemory=128&vmPartition=1"] {
            let answer = get(&portal, name, path).send();
            assert_eq!(answer.status, 403, "{name:?} {path}: {answer}");
            answer.says("user name").says(&format!("U+{:04X}", u32::from(c)));
        }
    }
    assert!(portal.nodes.received().is_empty(), "a host was contacted");
    portal.assert_no_panic();
}

const SPELLINGS: [&str; 4] = ["ALICE", "J\u{fc}rgen", "Ju\u{308}rgen", "j\u{dc}RGEN"];

#[test]
fn a_second_spelling_of_a_known_name_is_refused_with_the_reason() {
    let portal = with_names(Setup::default(), &SPELLINGS);
    let id = portal.deployed("alice");
    get(&portal, "J\u{fc}rgen", "deploy?vmImage=tiny&vmMemory=128&vmPartition=1&format=json")
        .send()
        .expect(202);
    let orders = portal.nodes.received().len();
    for (name, known) in
        [("ALICE", "alice"), ("Ju\u{308}rgen", "J\u{fc}rgen"), ("j\u{dc}RGEN", "J\u{fc}rgen")]
    {
        for path in [
            "list".to_owned(),
            format!("show?id={id}"),
            format!("terminate?id={id}&format=text"),
            "deploy?vmImage=tiny&vmMemory=128&vmPartition=1&format=json".to_owned(),
        ] {
            let refused = get(&portal, name, &path).header("Accept", "text/plain").send();
            assert_eq!(refused.status, 403, "{name:?} {path}: {refused}");
            refused.says("only in capitals").says("Sign in as").says(known).says("foldUserNames");
        }
    }
    assert_eq!(portal.nodes.received().len(), orders, "a host was contacted");
    assert_eq!(machines(&get(&portal, "J\u{fc}rgen", "list?format=json").send().expect(200)), 1);
    assert_eq!(portal.state("alice", &id), "deployed");
}

#[test]
fn with_folding_all_spellings_share_machines_and_quota() {
    let setup = Setup {
        more_server: "foldUserNames = true\n[Quotas]\nmachines = 2\n[Quotas.users]\nALICE = { machines = 3 }"
            .to_owned(),
        ..Setup::default()
    };
    let portal = with_names(setup, &[&SPELLINGS[..], &["Alice", "BOB", "Admin"]].concat());
    let deploy = "deploy?vmImage=tiny&vmMemory=128&vmPartition=1&format=json";
    let id = portal.deployed("alice");
    let second = get(&portal, "ALICE", deploy).send().expect(202).json();
    // It belongs to the spelling that came first.
    assert_eq!(second["machine"]["owner"], "alice");
    for name in ["alice", "ALICE", "Alice"] {
        let list = get(&portal, name, "list?format=json").send().expect(200);
        assert_eq!(machines(&list), 2, "{name}");
        let shown = get(&portal, name, &format!("show?id={id}&format=json")).send().expect(200).json();
        assert_eq!(state_of(&shown), "deployed", "{name}");
    }
    // Each sees the spelling they signed in with.
    get(&portal, "ALICE", "list").send().expect(200).says("<span class=\"name\">ALICE<");
    get(&portal, "Alice", deploy).send().expect(202);
    get(&portal, "alice", deploy).send().expect(409).says("3 machines");
    // Others' machines stay theirs, in every spelling.
    for (name, path) in [("BOB", format!("stop?id={id}")), ("BOB", format!("show?id={id}"))] {
        get(&portal, name, &format!("{path}&format=text"))
            .send()
            .expect(403)
            .says("belongs to somebody else");
    }
    get(&portal, "ALICE", &format!("stop?id={id}&format=json")).send().expect(202);
    let history = portal.history("alice", &id);
    assert!(history.contains("\"who\":\"ALICE\""), "{history}");
    // Different encodings of a letter are folded too.
    get(&portal, "Ju\u{308}rgen", deploy).send().expect(202);
    assert_eq!(machines(&get(&portal, "J\u{fc}rgen", "list?format=json").send().expect(200)), 1);
    // An administrator is one in every spelling.
    get(&portal, "Admin", "admin").send().expect(200);
    portal.assert_no_panic();
}

#[test]
fn with_folding_all_spellings_share_images() {
    let setup = Setup { more_server: "foldUserNames = true".to_owned(), ..Setup::default() };
    let portal = with_names(setup, &SPELLINGS);
    portal.deployed("alice");
    portal
        .database()
        .execute(
            "INSERT INTO image (owner, name, host, base, bytes, disk_gib, shared, saved)
             VALUES ('alice', 'web', 'localhost', 'tiny', 5, 1, 1, 1000)",
            [],
        )
        .expect("a saved image");
    let deploy = |name: &str| format!("deploy?savedImage={name}&vmMemory=128&vmPartition=1&format=json");
    get(&portal, "ALICE", &deploy("web")).send().expect(202);
    get(&portal, "ALICE", &deploy("Alice/web")).send().expect(202);
    portal.get("bob", &deploy("ALICE/web")).send().expect(202);
    portal.get("bob", &deploy("ALICF/web")).send().expect(400);
    let unshare = "images?format=text&do=unshare&name=web";
    portal.get("bob", &format!("{unshare}&owner=ALICE")).send().expect(403);
    get(&portal, "ALICE", &format!("{unshare}&owner=Alice")).send().expect(202);
    portal.get("bob", &deploy("ALICE/web")).send().expect(400);
}

#[test]
fn without_folding_only_the_exact_name_is_an_administrator() {
    let portal = with_names(Setup::default(), &["Admin", "ADMIN"]);
    for name in ["Admin", "ADMIN"] {
        get(&portal, name, "admin").send().expect(403);
        get(&portal, name, "list?scope=all").send().expect(403);
        // No one can take an administrator's name before the administrator first signs in.
        let deploy = "deploy?vmImage=tiny&vmMemory=128&vmPartition=1&format=text";
        get(&portal, name, deploy).send().expect(403).says("Sign in as \"admin\"");
    }
    portal.get("admin", "admin").send().expect(200);
}
