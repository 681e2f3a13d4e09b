//! The registry file: created by one command and nothing else, backed up, verified and restored.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use vgrid::model::lease::Moment;
use vgrid::model::names::{DomainNumber, MachineName};
use vgrid::model::size::Amount;
use vgrid::model::stage::Order;
use vgrid::model::wire::{DeployOrder, Domain, Job, News, NodeInfo, Volume};
use vgrid::server::registry::Registry;

use crate::support::apache::give_to_web_user;
use crate::support::http::Answer;
use crate::support::node::{address, nothing};
use crate::support::portal::{DEPLOY_JSON, Portal, STATUS, Setup};

/// Runs `vgrid-registry`: whether it succeeded, and its output.
fn run(portal: &Portal, arguments: &[&str]) -> (bool, String) {
    let output = portal.run_registry(arguments);
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text.into_owned())
}

/// Runs `vgrid-registry`, which must succeed. Returns its output.
#[track_caller]
fn succeeds(portal: &Portal, arguments: &[&str]) -> String {
    let (done, output) = run(portal, arguments);
    assert!(done, "{arguments:?}: {output}");
    output
}

/// Runs `vgrid-registry`, which must refuse for this reason.
#[track_caller]
fn refuses(portal: &Portal, arguments: &[&str], why: &str) {
    let (done, output) = run(portal, arguments);
    assert!(!done && output.contains(why), "{arguments:?}: {output}");
}

/// Requests every page in every format, a deploy, and what nodes request.
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

/// The registry and the files beside it.
fn files(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("a file").file_name());
    let mut names: Vec<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
    names.retain(|name| name.starts_with("registry"));
    names.sort();
    names
}

#[test]
fn a_missing_registry_is_reported_and_not_created() {
    let portal = Setup { registry: false, ..Setup::default() }.start();
    let nothing = files(&portal.path("var"));
    for (path, answer) in ask_for_everything(&portal) {
        assert_eq!(answer.status, 503, "{path}: {answer}");
        assert!(answer.text().contains("find its registry"), "{path}: {answer}");
    }
    // Administrators are told where it should be and what to do; users are not.
    portal.get("admin", "list?format=text").send().expect(503).says("vgrid-registry restore FILE");
    let error = portal.get("alice", "list?format=text").send().expect(503).text();
    assert!(!error.contains("vgrid-registry") && !error.contains("/var"), "{error}");
    let upkeep = portal.start_upkeep(&[]).wait_with_output().expect("upkeep");
    let errors = String::from_utf8_lossy(&upkeep.stderr);
    assert!(!upkeep.status.success() && errors.contains("vgrid-registry restore FILE"), "{errors}");
    assert!(
        fs::read_to_string(portal.path("var/server.log"))
            .is_ok_and(|log| log.contains("vgrid-registry restore"))
    );
    assert_eq!(files(&portal.path("var")), nothing, "one was created");

    assert!(succeeds(&portal, &["init"]).contains(" is made. "));
    assert!(succeeds(&portal, &["init"]).contains(" was there already. "));
    let mode = fs::metadata(portal.registry_file()).expect("the registry").permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
    portal.get("admin", "list?format=json").send().expect(200);
    portal.deploy("alice", &[]);
    portal.assert_no_panic();
}

#[test]
fn anything_else_in_the_registry_s_place_is_reported() {
    let portal = Portal::start();
    portal.deploy("alice", &[]);
    let file = portal.registry_file();
    let away = portal.path("var/away.sqlite");
    let replacements: [(&str, &dyn Fn()); 4] = [
        ("it is a pipe", &|| {
            nix::unistd::mkfifo(&file, nix::sys::stat::Mode::from_bits_truncate(0o666)).expect("a pipe");
        }),
        ("it is a folder", &|| fs::create_dir(&file).expect("a folder")),
        ("it is empty", &|| fs::write(&file, "").expect("an empty file")),
        ("it is no SQLite database", &|| fs::write(&file, "x".repeat(9000)).expect("a file")),
    ];
    for (what, put) in replacements {
        fs::rename(&file, &away).expect("the registry away");
        put();
        give_to_web_user(&file);
        for (path, answer) in ask_for_everything(&portal) {
            assert_eq!(answer.status, 503, "{what}, {path}: {answer}");
        }
        portal.get("admin", "list?format=text").send().expect(503).says(what);
        refuses(&portal, &["init"], what);
        refuses(&portal, &["verify"], what);
        if file.is_dir() { fs::remove_dir(&file) } else { fs::remove_file(&file) }
            .expect("it can be removed");
        fs::rename(&away, &file).expect("the registry back");
    }
    assert_eq!(portal.machine_count("alice"), 1);
    portal.assert_no_panic();
}

#[test]
fn a_backup_is_taken_while_the_registry_is_in_use_and_restored_only_when_not() {
    let portal = Portal::start();
    portal.deploy("alice", &[]);
    let backup = portal.path("var/backup.sqlite").display().to_string();
    assert!(succeeds(&portal, &["backup", &backup]).contains("machines 1,"));
    refuses(&portal, &["backup", &backup], "no backup is overwritten");
    assert!(succeeds(&portal, &["verify", &backup]).contains("machines 1,"));
    portal.deploy("alice", &[]);
    assert!(succeeds(&portal, &["verify"]).contains("machines 2,"));

    // It is in use.
    let open = Registry::open(&portal.registry_file()).expect("the registry");
    refuses(&portal, &["restore", &backup], "is in use");
    drop(open);
    assert!(succeeds(&portal, &["verify"]).contains("machines 2,"));

    let output = succeeds(&portal, &["restore", &backup]);
    assert!(output.contains("machines 1,") && output.contains("vgrid-upkeep"), "{output}");
    let kept = files(&portal.path("var"))
        .into_iter()
        .find(|name| name.contains(".before-"))
        .expect("the replaced registry");
    let kept = portal.path("var").join(kept).display().to_string();
    assert!(succeeds(&portal, &["verify", &kept]).contains("machines 2,"));
    refuses(&portal, &["restore", "/nonexistent"], "there is no registry");
    portal.assert_no_panic();
}

/// The `info` of a node that has carried out all orders: it has the machines that were deployed and
/// not terminated, each in the state last ordered.
fn after_all_orders(portal: &Portal) -> NodeInfo {
    let mut info = nothing();
    for received in portal.nodes.received() {
        match received.program() {
            "deploy" => {
                let order: DeployOrder = serde_json::from_value(received.json()).expect("an order");
                let machine = MachineName::new(&order.user, &order.virtual_host).expect("a machine's name");
                let (memory, state) = (order.spec.memory.amount(), "running".to_owned());
                info.domains.push(Domain {
                    name: machine.to_string(),
                    id: DomainNumber::new(7),
                    memory,
                    state,
                });
                for prefix in ["xen-root-", "xen-swap-"] {
                    let (name, machine) = (format!("{prefix}{machine}"), Some(order.id));
                    info.volumes.push(Volume {
                        name,
                        size: Amount::from_mib(64),
                        machine,
                        open: true,
                        snapshot: None,
                    });
                }
                let (id, number, since) = (order.id, order.number, Moment::from_unix(0));
                let (work, stage, stopped, order) = (None, None, false, Some(order));
                info.jobs.push(Job { id, machine, work, stage, stopped, since, number, order });
            }
            "stop" | "terminate" => {
                let json = received.json();
                let id = json["id"].as_str().expect("an id").to_owned();
                let number = serde_json::from_value(json["number"].clone()).expect("a number");
                // The machine may already be gone.
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

/// Moves the portal's clock past the grace period of machines that have just changed, and runs
/// upkeep.
fn look_at_hosts(portal: &Portal) -> String {
    portal.nodes.has(address(1), after_all_orders(portal));
    portal.pass(130);
    portal.upkeep(&[])
}

fn administration(portal: &Portal) -> serde_json::Value {
    portal.get("admin", "admin?format=json").send().expect(200).json()
}

/// The ids of the machines in a list on the administration page.
fn ids(page: &serde_json::Value, list: &str, key: &str) -> Vec<String> {
    let all = page[list].as_array().expect("a list").iter();
    let all = all.filter(|one| list != "unknown" || one["kind"] == "record");
    all.map(|one| one[key].as_str().expect("an id").to_owned()).collect()
}

/// A registry of an hour ago, and ten machines deployed, stopped and terminated since: no disk is
/// lost, each difference is shown, and one call adopts or removes each.
#[test]
fn after_a_restore_no_disk_is_lost_and_each_difference_is_adopted_or_removed() {
    let portal = Setup { clock: true, names: 20, hosts: vec![("localhost", 20)], ..Setup::default() };
    let portal = portal.start();
    // Before the backup: one machine stays as it is, one is stopped later, one terminated later.
    let [stays, stopped, terminated] = [(); 3].map(|()| portal.deployed("alice"));
    let backup = portal.path("var/backup.sqlite").display().to_string();
    succeeds(&portal, &["backup", &backup]);
    portal.pass(3600);
    let since: Vec<String> = (0..10).map(|_| portal.deployed("alice")).collect();
    for id in [&stopped, &since[3], &since[4], &since[5]] {
        portal.carry_out("alice", Order::Stop, id);
    }
    for id in [&terminated, &since[6], &since[7]] {
        portal.carry_out("alice", Order::Terminate, id);
    }
    look_at_hosts(&portal);
    let names: Vec<_> =
        since.iter().map(|id| portal.show("alice", id)["machine"]["virtual_host"].clone()).collect();

    succeeds(&portal, &["restore", &backup]);
    let before = portal.nodes.received().len();
    // Nothing is deployed before the hosts have been queried.

    portal.post("alice", "deploy", &DEPLOY_JSON).send().expect(503).says("restored from a backup");
    assert_eq!(administration(&portal)["awaits_comparison"], true);
    portal.get("admin", "admin").send().expect(200).says("was restored from a backup");
    // Reports on machines that the registry no longer knows change nothing.
    for id in &since {
        assert_eq!(portal.report(id, Order::Stop, 9, News::Done).expect(200).json()["verdict"], "unknown");
    }
    for _ in 0..3 {
        look_at_hosts(&portal);
    }
    let requests: Vec<_> = portal.nodes.received().split_off(before);
    assert!(requests.iter().all(|request| request.program() == "info"), "upkeep only looks: {requests:?}");

    let page = administration(&portal);
    assert_eq!(page["awaits_comparison"], false);
    let mut unknown = ids(&page, "unknown", "name");
    let kept = [&since[..6], &since[8..]].concat();
    let mut expected = kept.clone();
    unknown.sort();
    expected.sort();
    assert_eq!(unknown, expected, "the machines since the backup that are still there");
    assert_eq!(ids(&page, "missing", "id"), std::slice::from_ref(&terminated));
    assert_eq!(portal.state("alice", &stays), "deployed");
    assert_eq!(portal.state("alice", &stopped), "stopped");

    // No name that an orphan has is assigned.
    let taken = names[0].as_str().expect("a name");
    let wanted = [&DEPLOY_JSON[..], &[("vmHostname", taken)]].concat();
    portal.post("alice", "deploy", &wanted).send().expect(409).says("is in use on");
    let free = portal.deploy("alice", &[]);
    let free = portal.show("alice", &free)["machine"]["virtual_host"].clone();
    assert!(
        !names.iter().enumerate().any(|(n, name)| *name == free && ![6, 7].contains(&n)),
        "{free} is in use"
    );

    // One call adopts or removes each.
    let host = |id: &str| {
        let unknown = page["unknown"].as_array().expect("a list").iter().find(|one| one["name"] == id);
        unknown.expect("an orphan")["host"].as_str().expect("a host").to_owned()
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
    let output = look_at_hosts(&portal);
    look_at_hosts(&portal);
    let page = administration(&portal);
    assert_eq!(ids(&page, "unknown", "name"), [""; 0], "{output}");
    assert_eq!(ids(&page, "missing", "id"), [""; 0]);
    // They obey again, because their hosts know no later order.
    portal.order("alice", Order::Stop, &kept[0]).expect(202);
    portal.order("alice", Order::Start, &since[3]).expect(202);
    portal.assert_no_panic();
}
