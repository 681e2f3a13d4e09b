//! The registry's file: made by one command and by nothing else, backed up, checked and put back.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::support::apache::web_user;
use crate::support::http::Answer;
use crate::support::portal::{Portal, STATUS, Setup};
use vgrid::server::registry::Registry;

/// What `vgrid-registry` said, and whether it did it.
fn run(portal: &Portal, arguments: &[&str]) -> (bool, String) {
    let output = portal.run_registry(arguments);
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.success(), said.into_owned())
}

#[track_caller]
fn does(portal: &Portal, arguments: &[&str]) -> String {
    let (done, said) = run(portal, arguments);
    assert!(done, "{arguments:?}: {said}");
    said
}

#[track_caller]
fn refuses(portal: &Portal, arguments: &[&str], why: &str) {
    let (done, said) = run(portal, arguments);
    assert!(!done && said.contains(why), "{arguments:?}: {said}");
}

/// Every page, each in the ways in which it is asked for, and what nodes ask.
fn ask_for_everything(portal: &Portal) -> Vec<(String, Answer)> {
    let mut answers = Vec::new();
    for page in
        ["list", "show?id=01936f5e-8c3e-7a37-a6b3-1f3c1f7c9f00", "deploy", "images", "history", "admin"]
    {
        for format in ["html", "json", "text"] {
            let sign = if page.contains('?') { '&' } else { '?' };
            let path = format!("{page}{sign}format={format}");
            answers.push((path.clone(), portal.get("admin", &path).send()));
        }
    }
    let deploy = "deploy?vmImage=tiny&vmMemory=128&vmPartition=1&format=json";
    answers.push((deploy.to_owned(), portal.get("alice", deploy).send()));
    answers.push((STATUS.to_owned(), portal.signed(STATUS, b"{}".to_vec(), &portal.key).send()));
    answers
}

fn files(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("a file").file_name());
    let mut names: Vec<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
    names.retain(|name| name.starts_with("registry"));
    names.sort();
    names
}

#[test]
fn a_registry_that_is_missing_is_missed_and_not_made() {
    let portal = Setup { registry: false, ..Setup::default() }.start();
    let nothing = files(&portal.path("var"));
    for (path, answer) in ask_for_everything(&portal) {
        assert_eq!(answer.status, 503, "{path}: {answer}");
        assert!(answer.text().contains("find its registry"), "{path}: {answer}");
    }
    // Administrators read where it should be and what to do; others don't.
    portal.get("admin", "list?format=text").send().expect(503).says("vgrid-registry restore FILE");
    let told = portal.get("alice", "list?format=text").send().expect(503).text();
    assert!(!told.contains("vgrid-registry") && !told.contains("/var"), "{told}");
    let upkeep = portal.start_upkeep(&[]).wait_with_output().expect("upkeep");
    let said = String::from_utf8_lossy(&upkeep.stderr);
    assert!(!upkeep.status.success() && said.contains("vgrid-registry restore FILE"), "{said}");
    assert!(
        fs::read_to_string(portal.path("var/server.log"))
            .is_ok_and(|log| log.contains("vgrid-registry restore"))
    );
    assert_eq!(files(&portal.path("var")), nothing, "nobody made one");

    assert!(does(&portal, &["init"]).contains(" is made. "));
    assert!(does(&portal, &["init"]).contains(" was there already. "));
    let mode = fs::metadata(portal.path("var/registry.sqlite")).expect("the registry").permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
    portal.get("admin", "list?format=json").send().expect(200);
    portal.deploy("alice", &[]);
    portal.assert_no_panic();
}

#[test]
fn what_is_in_the_registry_s_place_neither_hangs_nor_confuses() {
    let portal = Portal::start();
    portal.deploy("alice", &[]);
    let file = portal.path("var/registry.sqlite");
    let away = portal.path("var/away.sqlite");
    let put: [(&str, &dyn Fn()); 4] = [
        ("it is a pipe", &|| {
            nix::unistd::mkfifo(&file, nix::sys::stat::Mode::from_bits_truncate(0o666)).expect("a pipe");
        }),
        ("it is a folder", &|| fs::create_dir(&file).expect("a folder")),
        ("it is empty", &|| fs::write(&file, "").expect("an empty file")),
        ("it is no SQLite database", &|| fs::write(&file, "x".repeat(9000)).expect("a file")),
    ];
    for (what, put) in put {
        fs::rename(&file, &away).expect("the registry away");
        put();
        if let Some(user) = web_user() {
            std::os::unix::fs::chown(&file, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
                .expect("a new owner");
        }
        for (path, answer) in ask_for_everything(&portal) {
            assert_eq!(answer.status, 503, "{what}, {path}: {answer}");
        }
        portal.get("admin", "list?format=text").send().expect(503).says(what);
        refuses(&portal, &["init"], what);
        refuses(&portal, &["verify"], what);
        if file.is_dir() { fs::remove_dir(&file) } else { fs::remove_file(&file) }.expect("it goes");
        fs::rename(&away, &file).expect("the registry back");
    }
    assert_eq!(portal.list("alice")["machines"].as_array().map(Vec::len), Some(1));
    portal.assert_no_panic();
}

#[test]
fn a_backup_is_made_while_the_portal_works_and_put_back_when_it_does_not() {
    let portal = Portal::start();
    portal.deploy("alice", &[]);
    let backup = portal.path("var/backup.sqlite").display().to_string();
    assert!(does(&portal, &["backup", &backup]).contains("machines 1,"));
    refuses(&portal, &["backup", &backup], "no backup is overwritten");
    assert!(does(&portal, &["verify", &backup]).contains("machines 1,"));
    portal.deploy("alice", &[]);
    assert!(does(&portal, &["verify"]).contains("machines 2,"));

    // Somebody has it open.
    let open = Registry::open(&portal.path("var/registry.sqlite")).expect("the registry");
    refuses(&portal, &["restore", &backup], "is in use");
    drop(open);
    assert!(does(&portal, &["verify"]).contains("machines 2,"));

    let said = does(&portal, &["restore", &backup]);
    assert!(said.contains("machines 1,") && said.contains("vgrid-upkeep"), "{said}");
    let kept = files(&portal.path("var"))
        .into_iter()
        .find(|name| name.contains(".before-"))
        .expect("the one of before");
    let kept = portal.path("var").join(kept).display().to_string();
    assert!(does(&portal, &["verify", &kept]).contains("machines 2,"));
    refuses(&portal, &["restore", "/nonexistent"], "there is no registry");
    portal.assert_no_panic();
}
