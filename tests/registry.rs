//! The registry's file: made by one command and by nothing else, backed up, checked and put back.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use vgrid::model::lease::Moment;
use vgrid::model::names::MachineName;
use vgrid::model::size::Amount;
use vgrid::model::stage::Order;
use vgrid::model::wire::{DeployOrder, Domain, Job, News, NodeInfo, Volume};
use vgrid::server::registry::Registry;

use crate::support::apache::web_user;
use crate::support::http::Answer;
use crate::support::node::{address, nothing};
use crate::support::portal::{Portal, STATUS, Setup};

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

/// What a node says that has the machines which it was told to make, but for those that were terminated. Each is in the state
/// that was ordered last.
fn after_all_orders(portal: &Portal) -> NodeInfo {
    let mut info = nothing();
    for received in portal.nodes.received() {
        match received.program() {
            "deploy" => {
                let order: DeployOrder = serde_json::from_value(received.json()).expect("an order");
                let machine = MachineName::new(&order.user, &order.virtual_host).expect("a machine's name");
                let (memory, state) = (order.spec.memory.amount(), "-b----".to_owned());
                info.domains.push(Domain { name: machine.to_string(), id: 7, memory, state });
                for prefix in ["xen-root-", "xen-swap-"] {
                    let (name, machine) = (format!("{prefix}{machine}"), Some(order.id));
                    info.volumes.push(Volume { name, size: Amount::from_mib(64), machine, open: true });
                }
                let (id, number, since) = (order.id, order.number, Moment::from_unix(0));
                let (work, stage, stopped, order) = (None, None, false, Some(order));
                info.jobs.push(Job { id, machine, work, stage, stopped, since, number, order });
            }
            "stop" | "terminate" => {
                let json = received.json();
                let id = json["id"].as_str().expect("an id").to_owned();
                let number = serde_json::from_value(json["number"].clone()).expect("a number");
                // One that is gone already is no error.
                let found = info.jobs.iter_mut().find(|job| job.id.to_string() == id);
                let Some(job) = found else { continue };
                (job.stopped, job.number) = (true, number);
                let machine = job.machine.to_string();
                info.domains.retain(|domain| domain.name != machine);
                if received.program() == "terminate" {
                    info.jobs.retain(|job| job.id.to_string() != id);
                    info.volumes.retain(|volume| volume.machine.is_none_or(|of| of.to_string() != id));
                }
            }
            _ => {}
        }
    }
    info
}

/// Moves the portal's clock past the time for which a machine that has just changed is left in peace, and has upkeep look.
fn look_at_hosts(portal: &Portal) -> String {
    portal.nodes.has(address(1), after_all_orders(portal));
    portal.pass(130);
    portal.upkeep(&[])
}

fn administration(portal: &Portal) -> serde_json::Value {
    portal.get("admin", "admin?format=json").send().expect(200).json()
}

/// The ids of the machines in a list of the administration page.
fn ids(page: &serde_json::Value, list: &str, key: &str) -> Vec<String> {
    let all = page[list].as_array().expect("a list").iter();
    let all = all.filter(|one| list != "unknown" || one["kind"] == "record");
    all.map(|one| one[key].as_str().expect("an id").to_owned()).collect()
}

fn order(portal: &Portal, what: Order, id: &str) {
    portal.order("alice", what, id).expect(202);
    portal.report(id, what, 9, News::Done).expect(200);
}

/// A registry of an hour ago, and ten machines made, stopped and terminated since: no disk is lost, everything that differs is
/// shown, and one call adopts or removes each.
#[test]
fn after_a_restore_no_disk_is_lost_and_each_difference_is_shown_adopted_or_removed() {
    let portal = Setup { clock: true, names: 20, hosts: vec![("localhost", 20)], ..Setup::default() };
    let portal = portal.start();
    // Of before the backup: one goes on, one is stopped later, one is terminated later.
    let [stays, stopped, terminated] = [(); 3].map(|()| portal.deployed("alice"));
    let backup = portal.path("var/backup.sqlite").display().to_string();
    does(&portal, &["backup", &backup]);
    portal.pass(3600);
    let since: Vec<String> = (0..10).map(|_| portal.deployed("alice")).collect();
    for id in [&stopped, &since[3], &since[4], &since[5]] {
        order(&portal, Order::Stop, id);
    }
    for id in [&terminated, &since[6], &since[7]] {
        order(&portal, Order::Terminate, id);
    }
    look_at_hosts(&portal);
    let names: Vec<_> =
        since.iter().map(|id| portal.show("alice", id)["machine"]["virtual_host"].clone()).collect();

    does(&portal, &["restore", &backup]);
    let before = portal.nodes.received().len();
    // Nothing is deployed before the hosts have been looked at.
    let deploy = [("vmImage", "tiny"), ("vmMemory", "128"), ("vmPartition", "1"), ("format", "json")];
    portal.post("alice", "deploy", &deploy).send().expect(503).says("restored from a backup");
    assert_eq!(administration(&portal)["awaits_comparison"], true);
    portal.get("admin", "admin").send().expect(200).says("was restored from a backup");
    // What hosts have to say of machines that nobody knows any more leads to nothing.
    for id in &since {
        assert_eq!(portal.report(id, Order::Stop, 9, News::Done).expect(200).json()["verdict"], "unknown");
    }
    for _ in 0..3 {
        look_at_hosts(&portal);
    }
    let said: Vec<_> = portal.nodes.received().split_off(before);
    assert!(said.iter().all(|received| received.program() == "info"), "hosts were only asked: {said:?}");

    let page = administration(&portal);
    assert_eq!(page["awaits_comparison"], false);
    let mut unknown = ids(&page, "unknown", "name");
    let kept = [&since[..6], &since[8..]].concat();
    let mut expected = kept.clone();
    unknown.sort();
    expected.sort();
    assert_eq!(unknown, expected, "the machines since the backup that are still there");
    assert_eq!(ids(&page, "missing", "id"), std::slice::from_ref(&terminated));
    let state = |id: &str| portal.show("alice", id)["machine"]["state"].as_str().expect("a state").to_owned();
    assert_eq!((state(&stays), state(&stopped)), ("deployed".to_owned(), "stopped".to_owned()));

    // No name is given out that something unknown has.
    let taken = names[0].as_str().expect("a name");
    let wanted = [&deploy[..], &[("vmHostname", taken)]].concat();
    portal.post("alice", "deploy", &wanted).send().expect(409).says("is in use on");
    let free = portal.deploy("alice", &[]);
    let free = portal.show("alice", &free)["machine"]["virtual_host"].clone();
    assert!(
        !names.iter().enumerate().any(|(n, name)| *name == free && ![6, 7].contains(&n)),
        "{free} is in use"
    );

    // One call each.
    let host = |id: &str| {
        let unknown = page["unknown"].as_array().expect("a list").iter().find(|one| one["name"] == id);
        unknown.expect("it is unknown")["host"].as_str().expect("a host").to_owned()
    };
    let act = |what: &str, id: &str| {
        let fields =
            [("do", what), ("kind", "record"), ("host", &host(id)), ("name", id), ("format", "json")];
        portal.post("admin", "admin", &fields).send()
    };
    let adopted = &kept[..kept.len() - 1];
    for id in adopted {
        act("adopt", id).expect(200);
        act("adopt", id).expect(404);
        let machine = portal.show("alice", id)["machine"].clone();
        let expected = if since[3..6].contains(id) { "stopped" } else { "deployed" };
        assert_eq!(
            (machine["state"].as_str(), machine["owner"].as_str()),
            (Some(expected), Some("alice")),
            "{machine}"
        );
        let n = since.iter().position(|known| known == id).expect("a machine");
        assert_eq!(machine["virtual_host"], names[n]);
    }
    assert!(portal.show("alice", &kept[0])["history"].to_string().contains("adopted"));
    act("remove", &kept[kept.len() - 1]).expect(202);
    portal.order("alice", Order::Terminate, &terminated).expect(202);
    let told = look_at_hosts(&portal);
    look_at_hosts(&portal);
    let page = administration(&portal);
    assert_eq!(ids(&page, "unknown", "name"), [""; 0], "{told}");
    assert_eq!(ids(&page, "missing", "id"), [""; 0]);
    // They obey again, for their hosts know no later order.
    portal.order("alice", Order::Stop, &kept[0]).expect(202);
    portal.order("alice", Order::Start, &since[3]).expect(202);
    portal.assert_no_panic();
}
