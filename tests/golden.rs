//! What others rely on, pinned down in `tests/data/golden`: messages between server and nodes, a
//! node's records, text and JSON of every page, and a registry of an earlier version. Any rewrite
//! must read and write them unchanged.
//!
//! To regenerate the files: `VGRID_GOLDEN=write cargo test --test integration golden`. The tests
//! then fail, to show that they compared nothing. Review the changes before committing them: they
//! affect every script, and every node that is updated later than its server.
//!
//! `registry.sql` is never regenerated. It was left by programs with version 11 of the schema, run
//! under a fake clock. Only its ids were replaced by shorter ones, the version of the hosts by one
//! that never existed, and a few empty columns filled (`silent`, `restored`, a user's address).
//! Migrations bring it to later versions.
//!
//! A section of a text file is a request, the answer's status, type, length and body, the requests
//! to nodes (`-->`), and the changes in the registry (`+` and `-`).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use vgrid::model::fault::Fault;
use vgrid::model::lease::Moment;
use vgrid::model::names::{DomainNumber, VmId};
use vgrid::model::sign::{Key, Nonce, Recipient, Signed, SignedAnswer, token};
use vgrid::model::size::Amount;
use vgrid::model::stage::{Order, OrderNumber, Percent, Stage};
use vgrid::model::wire::{
    Accepted, ConsoleTail, DeployOrder, Discarded, Domain, Foreign, ImageDone, ImageOrder, MachineOrder,
    News, NodeInfo, NodeRefusal, Report, ResizeOrder, SaveOrder, SavedFile, SnapshotDone, SnapshotOrder,
    StatusReply, Verdict, Volume,
};
use vgrid::node::jobs::Record;

use crate::support::apache::give_to_web_user;
use crate::support::http::{Answer, Ask};
use crate::support::node::{Conduct, facts, nothing, with_machines};
use crate::support::portal::{Portal, STATUS, Setup};

/// A portal with the configuration of the one that left the registry.
fn portal() -> Portal {
    let more_server = "[Leases]\ngrace = '5d'\nmaximum = '180d'\ndefault = '30d'\nnotices = ['3d', '1d']\n[Mail]\n\
                       transport = 'sendmail'\nsendmail = '/bin/false'\nsender = 'vgrid@example.org'\n\
                       [MailAddresses]\nalice = 'alice@example.org'\n";
    Setup {
        hosts: vec![("localhost", 30), ("127.0.0.2", 4), ("127.0.0.9", 2)],
        names: 24,
        clock: true,
        users: vec!["alice", "bob", "admin", "carol c"],
        more_server: more_server.to_owned(),
        ..Setup::default()
    }
    .start()
}

/// The time on the programs' clock: ten minutes after the last upkeep in the registry.
const NOW: Moment = Moment::from_unix(1_795_348_800);

const REGISTRY: &str = include_str!("data/golden/registry.sql");

/// A machine in the registry, as its host knows it.
struct Machine {
    id: String,
    name: String,
    owner: String,
    state: String,
    order: Order,
    number: OrderNumber,
}

/// Machines that differ from others only in their owner or image.
const LIKE_OTHERS: [&str; 4] = ["vm4", "vm16", "vm19", "vm21"];

/// A portal with that registry, restored for every request.
struct Fixture {
    portal: Portal,
    /// The registry file, byte for byte.
    pristine: Vec<u8>,
    machines: Vec<Machine>,
    rows: BTreeMap<String, Vec<Vec<String>>>,
}

impl Fixture {
    fn new() -> Self {
        let mut portal = portal();
        portal.stop_clock(NOW);
        let pristine = portal.path("pristine.sqlite");
        let file = rusqlite::Connection::open(&pristine).expect("a file");
        file.execute_batch(REGISTRY).expect("the registry");
        file.pragma_update(None, "journal_mode", "wal").expect("a journal");
        let identity: String =
            file.query_row("SELECT id FROM identity", [], |row| row.get(0)).expect("an identity");
        portal.registry = identity.parse().expect("an identity");
        let sql = "SELECT id, virtual_host, owner, state, last_order, order_number FROM vm ORDER BY id";
        let machines: Vec<Machine> = file
            .prepare(sql)
            .expect("machines")
            .query_map([], |row| {
                Ok(Machine {
                    id: row.get(0)?,
                    name: row.get(1)?,
                    owner: row.get::<_, String>(2)?.replace('_', " "),
                    state: row.get(3)?,
                    order: row.get::<_, String>(4)?.parse().expect("an order"),
                    number: OrderNumber::of(row.get(5)?).expect("a number"),
                })
            })
            .and_then(Iterator::collect)
            .expect("machines");
        file.close().expect("the registry");
        portal.nodes.has(Ipv4Addr::LOCALHOST, on_its_host(&machines));
        let pristine = fs::read(pristine).expect("the registry");
        let mut fixture = Self { portal, pristine, machines, rows: BTreeMap::new() };
        fixture.restore();
        // The first program to open it migrates it.
        fixture.portal.get("admin", "list?format=text").send().expect(200);
        let file = fixture.portal.registry_file();
        fixture.pristine = fs::read(&file).expect("the registry");
        fixture.rows = rows(&file);
        fixture
    }

    /// Whether the registry is unchanged. No program has it open between two requests.
    fn is_pristine(&self) -> bool {
        let at = |ending: &str| self.portal.path(&format!("var/registry.sqlite{ending}"));
        let unwritten = fs::metadata(at("-wal")).is_ok_and(|facts| facts.len() > 0);
        !unwritten && fs::read(at("")).is_ok_and(|now| now == self.pristine)
    }

    /// Restores the registry.
    fn restore(&self) {
        if self.is_pristine() {
            return;
        }
        let fresh = self.portal.path("var/registry.sqlite.next");
        fs::write(&fresh, &self.pristine).expect("a copy");
        give_to_web_user(&fresh);
        for ending in ["-wal", "-shm"] {
            // Only writers leave these files.
            let _ = fs::remove_file(self.portal.path(&format!("var/registry.sqlite{ending}")));
        }
        fs::rename(fresh, self.portal.registry_file()).expect("the registry");
    }

    /// Replaces `{vm1}`, `{vm2}` … by the ids of the machines.
    fn filled(&self, text: &str) -> String {
        self.machines
            .iter()
            .fold(text.to_owned(), |text, vm| text.replace(&format!("{{{}}}", vm.name), &vm.id))
    }

    /// A request by a user: `METHOD PATH`, optionally followed by a blank and a form.
    fn ask(&self, user: &str, what: &str) -> Ask {
        let what = self.filled(what);
        let mut parts = what.splitn(3, ' ');
        let (method, path) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let ask = self.portal.get(user, path).method(method);
        match parts.next() {
            Some(form) => {
                ask.header("Content-Type", "application/x-www-form-urlencoded").body(form.to_owned())
            }
            None => ask,
        }
    }

    /// Sends a request and describes, in the format of the golden files, its answer and its
    /// effects.
    fn record(&self, title: &str, send: impl FnOnce() -> Answer) -> String {
        self.restore();
        let before = self.portal.nodes.received().len();
        let answer = send();
        let kind = answer.header("content-type").unwrap_or_default();
        let mut body = steady(&answer.text());
        if title.contains(" list?") {
            body = without_ago(&body);
        }
        // The length shows whether there is a final line break.
        let mut text = format!("=== {title}\n{} {kind} {}\n{body}", answer.status, body.len());
        if !body.ends_with('\n') {
            text.push('\n');
        }
        text + &self.effects(before)
    }

    /// The requests to nodes after the first `before`, and the changes in the registry.
    fn effects(&self, before: usize) -> String {
        let requests = self.portal.nodes.received().split_off(before);
        let requests = requests.into_iter().map(|request| {
            let body = String::from_utf8_lossy(&request.body).into_owned();
            format!("--> {} {} {body}\n", request.at, request.path)
        });
        steady(&(requests.collect::<String>() + &self.changes()))
    }

    /// The changes in the registry: of a changed row the first column and those that differ, of a
    /// new row all columns that are not empty.
    fn changes(&self) -> String {
        if self.is_pristine() {
            return String::new();
        }
        let now = rows(&self.portal.registry_file());
        let mut text = String::new();
        for (table, after) in now {
            let before = self.rows.get(&table).map_or(&[][..], Vec::as_slice);
            let gone: Vec<_> = before.iter().filter(|row| !after.contains(row)).collect();
            for row in after.iter().filter(|row| !before.contains(row)) {
                let was = gone.iter().find(|was| was[0] == row[0]);
                let cells = row.iter().enumerate().filter(|(n, cell)| match was {
                    Some(was) => *n == 0 || was[*n] != **cell,
                    None => !cell.ends_with("=NULL"),
                });
                let cells: Vec<&str> = cells.map(|(_, cell)| cell.as_str()).collect();
                let _ = writeln!(text, "+ {table} {}", cells.join(" "));
            }
            for row in gone.iter().filter(|row| after.iter().all(|after| after[0] != row[0])) {
                let _ = writeln!(text, "- {table} {}", row[..2.min(row.len())].join(" "));
            }
        }
        text
    }
}

/// Replaces what differs from run to run: new ids and request numbers, form tokens, the version.
fn steady(text: &str) -> String {
    let is_part = |c: char| matches!(c, '0'..='9' | 'a'..='f' | '-');
    let placeholder = |word: &str| match word.len() {
        _ if REGISTRY.contains(word) || !word.starts_with(|c: char| c.is_ascii_hexdigit()) => None,
        12 if !word.contains('-') => Some("(request)"),
        36 if word.parse::<VmId>().is_ok() => Some("(id)"),
        32.. if !word.contains('-') => Some("(token)"),
        _ => None,
    };
    let pieces = text.split_inclusive(|c| !is_part(c)).map(|piece| {
        let word = piece.trim_end_matches(|c| !is_part(c));
        placeholder(word).map_or_else(|| piece.to_owned(), |name| piece.replacen(word, name, 1))
    });
    pieces.collect::<String>().replace(vgrid::VERSION, "(version)")
}

/// The `info` of the one host that answers: its machines, and orphans.
fn on_its_host(machines: &[Machine]) -> NodeInfo {
    let name = |vm: &Machine| format!("{}_{}", vm.owner.replace(' ', "_"), vm.name);
    let exists = |vm: &&Machine| !["failed", "notDeployed", "deploying"].contains(&vm.state.as_str());
    let all: Vec<(&Machine, String)> = machines.iter().filter(exists).map(|vm| (vm, name(vm))).collect();
    let named: Vec<(&str, &str)> = all.iter().map(|(vm, name)| (vm.id.as_str(), name.as_str())).collect();
    let mut info = with_machines(&named);
    let stopped = |id: &str| {
        let vm = machines.iter().find(|vm| vm.id == id);
        vm.is_some_and(|vm| ["stopped", "expired"].contains(&vm.state.as_str()))
    };
    for job in &mut info.jobs {
        job.stopped = stopped(&job.id.to_string());
    }
    info.domains.retain(|domain| all.iter().any(|(vm, name)| *name == domain.name && !stopped(&vm.id)));
    let orphan: VmId = "01936f5e-0000-7000-8000-0000000000aa".parse().expect("an id");
    let order = json!({
        "id": orphan, "number": 1, "user": "dave d", "physical_host": "localhost", "virtual_host": "vm22",
        "image": "tiny", "memory": 128, "disk": 1,
    });
    let mut job = info.jobs[0].clone();
    job.id = orphan;
    job.machine = "dave_d_vm22".parse().expect("a name");
    job.order = serde_json::from_value(order).expect("an order");
    info.jobs.push(job);
    let (memory, state) = (Amount::from_mib(128), "-b----".to_owned());
    for (id, name) in [(90, "dave_d_vm22"), (91, "by-hand")] {
        info.domains.push(Domain {
            name: name.to_owned(),
            id: DomainNumber::new(id),
            memory,
            state: state.clone(),
        });
    }
    info.volumes = vec![Volume {
        name: "xen-root-dave_d_vm22".to_owned(),
        size: Amount::from_mib(1024),
        machine: Some(orphan),
        open: true,
        snapshot: None,
    }];
    info.saved = ["dave_d_old", "alice_web-2026.11", "carol_c_base"]
        .map(|stem| SavedFile { stem: stem.to_owned(), bytes: 4711 })
        .to_vec();
    info
}

/// The rows of each table, as `column=value`. Ids of mail differ from run to run, and its texts are
/// prose.
fn rows(file: &Path) -> BTreeMap<String, Vec<Vec<String>>> {
    let file = rusqlite::Connection::open(file).expect("a registry");
    let column = |sql: &str| -> Vec<String> {
        let mut statement = file.prepare(sql).expect("a table");
        statement
            .query_map([], |row| row.get(0))
            .and_then(Iterator::collect)
            .unwrap_or_else(|error| panic!("{sql}: {error}"))
    };
    let tables = column("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name");
    let read = |table: &String| {
        let mut columns = column(&format!("SELECT name FROM pragma_table_info('{table}')"));
        columns.retain(|name| table != "mail" || !["id", "plain", "html"].contains(&name.as_str()));
        let cells: Vec<String> = columns.iter().map(|name| format!("'{name}=' || quote({name})")).collect();
        // No value contains that character.
        let all = column(&format!("SELECT {} FROM {table}", cells.join(" || char(31) || ")));
        all.iter().map(|row| row.split('\u{1f}').map(str::to_owned).collect()).collect()
    };
    tables.iter().map(|table| (table.clone(), read(table))).collect()
}

/// Removes ages from a list: where it is linked statically, libfaketime has no effect.
fn without_ago(body: &str) -> String {
    const KEY: &str = "\"seen_ago\":\"";
    let mut parts = body.split(KEY);
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + KEY + part.find('"').map_or(part, |end| &part[end..]))
}

/// The folder of the golden files.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden")
}

/// Compares texts with the files of these names section by section, or writes the files.
fn compare(texts: &[(String, String)]) {
    let rewrite = std::env::var("VGRID_GOLDEN").is_ok_and(|what| what == "write");
    let mut differences = Vec::new();
    for (name, found) in texts {
        let file = folder().join(name);
        if rewrite {
            fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
            fs::write(&file, found).expect("a golden file");
            continue;
        }
        let kept = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let sections = |text: &str| text.split("=== ").map(str::to_owned).collect::<Vec<_>>();
        let (kept, found) = (sections(&kept), sections(found));
        if kept.len() != found.len() {
            differences.push(format!("{name}: {} sections, and not {}", found.len(), kept.len()));
        }
        let pairs = kept.iter().zip(&found).filter(|(kept, found)| kept != found);
        differences.extend(pairs.map(|(kept, found)| format!("{name}: {}", difference(kept, found))));
    }
    assert!(
        !rewrite,
        "the golden files were written, and nothing was compared: see git diff tests/data/golden"
    );
    let few = &differences[..differences.len().min(5)];
    assert!(differences.is_empty(), "{} differences, such as\n{}", differences.len(), few.join("\n"));
}

/// Shows where two sections first differ.
fn difference(kept: &str, found: &str) -> String {
    let title = kept.lines().next().unwrap_or_default();
    let same = kept.chars().zip(found.chars()).take_while(|(a, b)| a == b).count();
    let part = |text: &str| text.chars().skip(same.saturating_sub(60)).take(200).collect::<String>();
    format!("{title}\n  was: …{:?}\n  now: …{:?}", part(kept), part(found))
}

/// The messages of one kind as today's programs read and write them.
///
/// Each line of the file is a message. One prefixed with `old ` is from an earlier version and
/// means the same as the next line. One prefixed with `bad ` is refused.
fn messages<T: Serialize + DeserializeOwned>(kind: &str) -> (String, String) {
    let name = format!("messages/{kind}.jsonl");
    let kept = fs::read_to_string(folder().join(&name)).expect("messages");
    let again = |line: &str| {
        serde_json::from_str::<T>(line).map(|message| serde_json::to_string(&message).expect("JSON"))
    };
    let mut text = String::new();
    let mut old: Option<String> = None;
    for line in kept.lines() {
        if let Some(bad) = line.strip_prefix("bad ") {
            assert!(again(bad).is_err(), "{name}: this must be refused: {bad}");
            text += line;
        } else if let Some(earlier) = line.strip_prefix("old ") {
            old = Some(again(earlier).unwrap_or_else(|error| panic!("{name}: {error}: {earlier}")));
            text += line;
        } else {
            let written = again(line).unwrap_or_else(|error| panic!("{name}: {error}: {line}"));
            if let Some(old) = old.take() {
                assert_eq!(old, written, "{name}");
            }
            text += &written;
        }
        text.push('\n');
    }
    (name, text)
}

/// Asserts that a file has a message for every variant of a type. Serde lists them all in the error
/// about an unknown one.
#[track_caller]
fn has_every_variant<T: DeserializeOwned>(unknown: &str, (name, text): &(String, String)) {
    let Err(error) = serde_json::from_str::<T>(unknown) else { panic!("{unknown} was accepted") };
    let error = error.to_string();
    let variants: Vec<&str> = error.split('`').skip(3).step_by(2).collect();
    assert!(!variants.is_empty(), "{error}");
    for variant in variants {
        assert!(text.contains(&format!("\"{variant}\"")), "{name} has no {variant}");
    }
}

#[test]
fn messages_are_read_and_written_unchanged() {
    let (report, fault, reply) =
        (messages::<Report>("report"), messages::<Fault>("fault"), messages::<StatusReply>("status-reply"));
    has_every_variant::<Fault>(r#"{"code":"?"}"#, &fault);
    has_every_variant::<News>(r#"{"event":"?"}"#, &report);
    has_every_variant::<Stage>("\"?\"", &report);
    has_every_variant::<Order>("\"?\"", &reply);
    has_every_variant::<Verdict>("\"?\"", &reply);
    compare(&[
        report,
        fault,
        reply,
        messages::<DeployOrder>("deploy-order"),
        messages::<MachineOrder>("machine-order"),
        messages::<SaveOrder>("save-order"),
        messages::<ResizeOrder>("resize-order"),
        messages::<SnapshotOrder>("snapshot-order"),
        messages::<SnapshotDone>("snapshot-done"),
        messages::<ImageOrder>("image-order"),
        messages::<ImageDone>("image-done"),
        messages::<Foreign>("stranger"),
        messages::<Discarded>("discarded"),
        messages::<Accepted>("accepted"),
        messages::<NodeRefusal>("node-refusal"),
        messages::<NodeInfo>("node-info"),
        messages::<ConsoleTail>("console-tail"),
        // Not a message: a node's record, which must survive every update.
        messages::<Record>("record"),
    ]);
}

#[test]
fn signatures_are_unchanged() {
    let key = Key::new("0123456789abcdef0123456789abcdef").expect("a key");
    let node = Recipient::Node("node1.example.org".parse().expect("a host"));
    let nonce: Nonce = "00112233445566778899aabbccddeeff".parse().expect("a nonce");
    let registry = "01936f5e-0000-7000-8000-000000000099".parse().ok();
    let order = Signed {
        to: &node,
        registry,
        nonce: &nonce,
        time: NOW,
        method: "POST",
        path_and_query: "/cgi-bin/node/stop",
        body: b"{}",
    };
    let question =
        Signed { method: "GET", path_and_query: "/cgi-bin/node/console?machine=a", body: b"", ..order };
    let report = Signed { to: &Recipient::Server, registry: None, path_and_query: STATUS, ..order };
    let mut text = String::new();
    for (title, signed) in [("order", order), ("question", question), ("report", report)] {
        let headers = signed.headers(&key);
        let signature = headers.last().map(|(_, value)| value.clone()).unwrap_or_default();
        assert_eq!(signed.verify(&key, &signature, NOW), Ok(()));
        let answer = SignedAnswer { request: &signature, status: 200, registry, body: b"{}" };
        for (part, headers) in [("", headers), (", answered", answer.headers(&key))] {
            let _ = writeln!(text, "=== {title}{part}");
            for (name, value) in headers {
                let _ = writeln!(text, "{name}: {value}");
            }
        }
    }
    let _ = writeln!(text, "=== token\n{}", token(&key, &["form", "alice", "20779"]));
    compare(&[("signatures.txt".to_owned(), text)]);
}

/// Requests that only read, made as text and as JSON: user, and request (see [`Fixture::ask`]).
const PAGES: &[(&str, &str)] = &[
    ("alice", "GET list"),
    ("admin", "GET list"),
    ("admin", "GET list?scope=mine"),
    ("bob", "GET list"),
    ("bob", "GET list?page=2"),
    ("carol c", "GET list"),
    ("admin", "GET show?id={vm2}"),
    ("admin", "GET show?id={vm13}"),
    ("bob", "GET show?id={vm18}"),
    ("bob", "GET show?id={vm21}"),
    ("carol c", "GET show?id={vm19}"),
    ("alice", "GET deploy"),
    ("admin", "GET deploy"),
    ("alice", "GET deploy?like={vm1}"),
    ("alice", "GET deploy?like={vm16}"),
    ("alice", "GET images"),
    ("bob", "GET images"),
    ("admin", "GET images?scope=all"),
    ("alice", "GET history"),
    ("bob", "GET history"),
    ("admin", "GET history?what=told&page=1"),
    ("admin", "GET history?who=admin"),
    ("admin", "GET history?about=vm20&since=2026-11-22&until=2026-11-22T11:40:00Z"),
    ("alice", "GET console?id={vm1}"),
    ("alice", "GET console?id={vm13}"),
    ("alice", "GET console?id={vm15}"),
    ("admin", "GET admin"),
];

/// Requests that change something or are refused, also made as text and as JSON.
const ACTS: &[(&str, &str)] = &[
    // A machine.
    ("alice", "POST deploy vmImage=tiny&vmMemory=256&vmPartition=2&vmName=New+one&expiryTime=7d"),
    (
        "alice",
        "POST deploy vmImage=debian-12&vmMemory=128&vmPartition=1&physicalHost=127.0.0.2&vmHostname=vm24",
    ),
    ("alice", "POST deploy savedImage=web-2026.11&vmMemory=128&vmPartition=1"),
    ("bob", "GET deploy?savedImage=carol+c/base&vmImage=tiny&vmMemory=128&vmPartition=1"),
    (
        "alice",
        "POST deploy requestId=order-1&vmImage=tiny&vmMemory=128&vmPartition=1&physicalHost=localhost&vmHostname=vm2&vmName=Being+made",
    ),
    ("alice", "POST deploy requestId=order-1&vmImage=tiny&vmMemory=256&vmPartition=1"),
    (
        "alice",
        "POST deploy vmImage=none&vmMemory=x&vmPartition=0&physicalHost=nowhere&vmHostname=vm99&expiryTime=999d",
    ),
    ("alice", "POST deploy vmImage=tiny&vmMemory=128&vmPartition=1&vmHostname=vm1"),
    ("alice", "POST deploy vmImage=tiny&vmMemory=128&vmPartition=1&vmHostname=vm23"),
    ("alice", "POST deploy vmImage=tiny&vmMemory=128&vmPartition=1&physicalHost=127.0.0.9"),
    ("alice", "POST deploy savedImage=base&vmMemory=128&vmPartition=1"),
    (
        "alice",
        "POST deploy machine=01936f5e-0000-7000-8000-0000000000bb&vmImage=tiny&vmMemory=128&vmPartition=1",
    ),
    // Its lease and its removal.
    ("alice", "POST extend vmHostname=vm11&expiryTime=30d"),
    ("alice", "POST extend id={vm6}&protect=1"),
    ("alice", "POST extend id={vm6}&expiryTime=1d"),
    ("alice", "POST extend id={vm6}&expiryTime=1d&confirm=1"),
    ("alice", "POST extend id={vm6}&expiryTime=never"),
    ("alice", "POST extend id={vm6}&expiryTime=200d"),
    ("alice", "POST extend id={vm6}&expiryTime=soon"),
    ("admin", "POST extend id={vm6}&expiryTime=never"),
    ("alice", "POST terminate id={vm14}&force=1"),
    ("alice", "POST terminate id={vm13}&force=1"),
    ("admin", "POST terminate id={vm1}&force=1"),
    ("alice", "POST terminate id={vm6}&saveAs=web-2026.11"),
    ("alice", "POST terminate id={vm6}&saveAs=Not+a+Name"),
    ("alice", "POST terminate id={vm6}&saveAs=x&force=1"),
    ("alice", "POST save id={vm6}&name=web-2026.11"),
    ("alice", "POST save id={vm6}"),
    ("admin", "POST save id={vm6}&name=by-admin"),
    ("alice", "GET resize?id={vm6}"),
    ("alice", "POST resize id={vm6}&vmMemory=256&vmCPUs=2&vmPartition=30"),
    ("alice", "POST resize id={vm6}&vmMemory=4000&vmPartition=60000"),
    ("alice", "POST resize id={vm6}&vmMemory=x&vmCPUs=0"),
    ("admin", "GET resize?vmHostname=vm6&vmPartition=12"),
    ("alice", "GET snapshots?id={vm6}"),
    ("alice", "POST snapshots id={vm6}&do=take&name=before"),
    ("alice", "POST snapshots id={vm6}&do=take&name=A"),
    ("alice", "POST snapshots id={vm6}&do=roll-back&name=before"),
    ("alice", "POST snapshots id={vm6}&do=thaw&name=before"),
    ("alice", "POST snapshots id={vm6}&do=as-new"),
    ("alice", "POST snapshots id={vm6}&do=as-new&name=before"),
    ("carol c", "GET snapshots?id={vm6}"),
    // Images.
    ("alice", "POST images do=delete&name=web-2026.11"),
    ("alice", "POST images do=rename&name=web-2026.11&newName=web"),
    ("alice", "POST images do=share&name=web-2026.11"),
    ("carol c", "POST images do=unshare&name=base"),
    ("admin", "POST images do=delete&name=base&owner=carol_c"),
    ("alice", "POST images do=delete&name=base&owner=carol_c"),
    ("alice", "POST images do=delete&name=none"),
    ("alice", "POST images do=burn&name=web-2026.11"),
    // Administration.
    ("admin", "POST admin do=close&kind=portal&reason=The+hall+is+moved"),
    ("admin", "POST admin do=close&kind=name&name=vm24&reason=Taken"),
    ("admin", "POST admin do=open&kind=host&name=127.0.0.9"),
    ("admin", "POST admin do=remove&kind=domain&host=localhost&name=by-hand"),
    ("admin", "POST admin do=remove&kind=image&host=localhost&name=dave_d_old"),
    ("admin", "POST admin do=adopt&kind=record&host=localhost&name=01936f5e-0000-7000-8000-0000000000aa"),
    ("admin", "POST admin do=close&kind=host&name=localhost"),
    ("admin", "POST admin do=close&kind=host&name=nowhere&reason=x"),
    ("alice", "GET admin"),
    // Others' machines, and machines that do not exist.
    ("bob", "GET show?id={vm1}"),
    ("bob", "GET console?id={vm1}"),
    ("bob", "POST stop id={vm1}"),
    ("alice", "GET show?id=01936f5e-0000-7000-8000-0000000000ff"),
    ("alice", "POST stop id=01936f5e-0000-7000-8000-0000000000ff"),
    ("alice", "POST start vmHostname=vm99"),
    ("alice", "POST start vmHostname=vm24"),
    // Malformed requests.
    ("alice", "GET list?scope=all"),
    ("alice", "GET list?scope=some"),
    ("alice", "GET list?page=0"),
    ("alice", "GET list?pages=1"),
    ("alice", "GET show"),
    ("alice", "GET show?id=1"),
    ("alice", "GET history?since=yesterday"),
    ("alice", "POST reboot id={vm1}&id={vm1}"),
    ("alice", "GET reboot"),
    ("alice", "POST list x=1"),
    ("alice", "DELETE show?id={vm1}"),
    ("alice", "PUT deploy x=1"),
];

/// Adds a format to a request.
fn in_format(what: &str, format: &str) -> String {
    let mut parts: Vec<String> = what.splitn(3, ' ').map(str::to_owned).collect();
    let sign = if parts[1].contains('?') { '&' } else { '?' };
    parts[1].push_str(&format!("{sign}format={format}"));
    parts.join(" ")
}

#[test]
fn pages_are_unchanged() {
    let fixture = Fixture::new();
    let nodes = &fixture.portal.nodes;
    let both = |asked: &[(&str, &str)]| {
        let all = asked.iter().flat_map(|one| ["text", "json"].map(|format| (*one, format)));
        // Administrators' actions are answered with the whole page, so one format is enough.
        let all = all.filter(|((_, what), format)| *format == "text" || !what.starts_with("POST admin"));
        all.fold(String::new(), |text, ((user, what), format)| {
            let what = in_format(what, format);
            text + &fixture.record(&format!("{user}: {what}"), || fixture.ask(user, &what).send())
        })
    };
    let shown: Vec<String> =
        fixture.machines.iter().map(|vm| format!("GET show?id={{{}}}", vm.name)).collect();
    let of_alice = fixture.machines.iter().zip(&shown).filter(|(vm, _)| vm.owner == "alice");
    let of_alice: Vec<(&str, &str)> = of_alice.map(|(_, page)| ("alice", page.as_str())).collect();
    let table = |user: &str| {
        fixture.record(&format!("{user}: history as a table"), || {
            fixture.ask(user, "GET history?format=csv").send()
        })
    };
    let mut pages = both(PAGES) + &both(&of_alice) + &table("alice") + &table("admin");
    let mut acts = both(ACTS);
    // For users while the portal is closed.
    let closing = "POST admin?format=json do=close&kind=portal&reason=The+hall+is+moved";
    for (user, what) in
        [("bob", "GET list"), ("bob", "POST stop id={vm18}"), ("admin", "GET list?scope=mine")]
    {
        for what in ["text", "json"].map(|format| in_format(what, format)) {
            acts += &fixture.record(&format!("{user}, closed: {what}"), || {
                fixture.ask("admin", closing).send().expect(200);
                fixture.ask(user, &what).send()
            });
        }
    }
    // A browser without a token, and hosts that do not carry out orders.
    let stop = "POST stop?format=json id={vm1}";
    acts += &fixture.record("alice: a browser", || fixture.ask("alice", stop).like_a_browser().send());
    for (n, conduct) in faulty_hosts().into_iter().enumerate() {
        nodes.conduct(conduct);
        for what in [
            "POST deploy vmImage=tiny&vmMemory=128&vmPartition=1&physicalHost=localhost",
            "POST deploy vmImage=tiny&vmMemory=128&vmPartition=1",
            "POST stop id={vm20}",
            "POST start id={vm6}",
            "POST save id={vm6}&name=x",
            "POST terminate id={vm20}",
            "POST images do=delete&name=web-2026.11",
            "GET console?id={vm20}",
        ] {
            let what = in_format(what, "text");
            let title = format!("alice, unwilling host {n}: {what}");
            acts += &fixture.record(&title, || fixture.ask("alice", &what).send());
        }
    }
    pages.push_str(&acts);
    compare(&[("pages.txt".to_owned(), pages)]);
    fixture.portal.assert_no_panic();
}

/// Ways in which a host fails to carry out an order.
fn faulty_hosts() -> [Conduct; 4] {
    let full = Fault::NotEnoughMemory { needed: Amount::from_mib(128), free: Amount::from_mib(64) };
    [
        Conduct::Refuse(full),
        Conduct::Close,
        Conduct::Say(503, "{\"error\":{\"message\":\"busy\"}}".to_owned()),
        Conduct::Say(202, "{}".to_owned()),
    ]
}

#[test]
fn orders_have_the_same_effects() {
    let fixture = Fixture::new();
    let mut text = String::new();
    for vm in fixture.machines.iter().filter(|vm| !LIKE_OTHERS.contains(&vm.name.as_str())) {
        for what in [
            "stop id=",
            "start id=",
            "reboot id=",
            "save name=keep&id=",
            "resize vmPartition=30&id=",
            "extend expiryTime=60d&id=",
            "terminate id=",
            "terminate saveAs=keep&id=",
        ] {
            let title = format!("{} ({}): {what}", vm.name, vm.state);
            let what = in_format(&format!("POST {what}{}", vm.id), "text");
            text += &fixture.record(&title, || fixture.ask(&vm.owner, &what).send());
        }
    }
    compare(&[("orders.txt".to_owned(), text)]);
}

#[test]
fn reports_have_the_same_effects() {
    let fixture = Fixture::new();
    let mut text = String::new();
    for vm in fixture.machines.iter().filter(|vm| !LIKE_OTHERS.contains(&vm.name.as_str())) {
        let stage = vm.order.stages()[0];
        let progress = News::Progress { stage, percent: Percent::try_from(7).ok(), place: None };
        let fault = Fault::TimedOut { what: "the test".to_owned(), seconds: 5 };
        let failed = News::Failed { fault };
        // Those of the version that left the registry.
        let orders: Vec<Order> = Order::ALL.iter().copied().filter(|order| *order != Order::Resize).collect();
        let before = orders[(vm.order as usize + 1) % orders.len()];
        for (order, sequence, news) in [
            (vm.order, 50, progress.clone()),
            (vm.order, 50, News::Done),
            (vm.order, 50, News::Saved { bytes: 5000 }),
            (vm.order, 50, failed.clone()),
            // Late, and about another order.
            (vm.order, 0, progress),
            (before, 50, News::Done),
            (before, 50, failed),
        ] {
            let id = vm.id.parse().expect("an id");
            let report = Report { id, order, number: vm.number, sequence, news, host: Some(facts()) };
            let body = serde_json::to_string(&report).expect("JSON");
            let news = serde_json::to_string(&report.news).expect("JSON");
            let title = format!("{} ({}): {order} {sequence} {news}", vm.name, vm.state);
            text += &fixture.record(&title, || {
                fixture.portal.signed(STATUS, body.into_bytes(), &fixture.portal.key).send()
            });
        }
    }
    let id = "01936f5e-0000-7000-8000-0000000000ff".parse().expect("an id");
    let (order, number) = (Order::Deploy, OrderNumber::default());
    let unknown = Report { id, order, number, sequence: 1, news: News::Done, host: None };
    let body = serde_json::to_vec(&unknown).expect("JSON");
    text += &fixture.record("a machine that nobody knows", || {
        fixture.portal.signed(STATUS, body, &fixture.portal.key).send()
    });
    compare(&[("reports.txt".to_owned(), text)]);
}

#[test]
fn upkeep_has_the_same_effects() {
    const HOUR: i64 = 3600;
    let fixture = Fixture::new();
    let nodes = &fixture.portal.nodes;
    let mut text = String::new();
    for (title, after, there) in [
        ("as the registry has it", 0, true),
        ("three days later", 72 * HOUR, true),
        ("one hour later, and its host has lost everything", HOUR, false),
        ("forty days later", 40 * 24 * HOUR, true),
    ] {
        fixture.restore();
        fixture.portal.stop_clock(NOW.plus_seconds(after));
        nodes.has(Ipv4Addr::LOCALHOST, if there { on_its_host(&fixture.machines) } else { nothing() });
        let before = nodes.received().len();
        fixture.portal.upkeep(&[]);
        // Hosts are asked concurrently.
        let effects = fixture.effects(before);
        let mut lines: Vec<&str> = effects.lines().collect();
        lines.sort_unstable();
        let _ = writeln!(text, "=== {title}\n{}", lines.join("\n"));
    }
    compare(&[("upkeep.txt".to_owned(), text)]);
}
