//! Mail: each arrives exactly once at a real mail server, whatever that server does.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use vgrid::config;
use vgrid::model::fault::Fault;
use vgrid::model::lease::Moment;
use vgrid::model::size::Amount;
use vgrid::model::spec::Spec;
use vgrid::model::stage::Order;
use vgrid::model::wire::News;
use vgrid::server::mail::{Notice, Post, Posted, Sent, send_due};
use vgrid::server::registry::event::Filter;
use vgrid::server::registry::user::{Owner, Registered};
use vgrid::server::registry::vm::{NewVm, Placed, Vm};
use vgrid::server::registry::{Registry, RegistryError};

use crate::support::at_once;
use crate::support::node::Conduct as Node;
use crate::support::portal::{DEPLOY_JSON, Portal, Setup};
use crate::support::smtp::{Conduct, Mail, Sink};
use crate::support::tls::self_signed;

/// When the outbox was filled.
const FILLED: Moment = Moment::from_unix(1_795_338_300);

/// An outbox, and the settings for sending from it.
struct Outbox {
    dir: TempDir,
    registry: Registry,
    config: config::Server,
}

impl Outbox {
    /// An outbox whose mail goes to `sink`.
    fn to(sink: &Sink) -> Self {
        Self::new(&format!("transport = \"smtp\"\nserver = \"127.0.0.1:{}\"", sink.port))
    }

    fn new(mail: &str) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let text = format!(
            "[General]\nEnvUsernameVariable = \"REMOTE_USER\"\ntemplateDirectory = \"{}/templates\"\n\
             [Mail]\nsender = \"vgrid@portal.example.org\"\ndomain = \"users.example.org\"\n\
             portalURL = \"https://portal.example.org/cgi-bin/user\"\n{mail}\n\
             [Administrators]\n\"root\" = \"root@example.org\"\n\"second\" = \"second@example.org\"\n\
             \"again\" = \"root@example.org\"\n\"none\" = \"\"\n[MailAddresses]\n\"Bob B\" = \"bob@example.org\"\n",
            env!("CARGO_MANIFEST_DIR")
        );
        fs::write(dir.path().join("server.cfg"), text).expect("server.cfg");
        let config = config::Server::load(dir.path()).expect("a configuration");
        let registry = Registry::create(&dir.path().join("registry.sqlite")).expect("a registry");
        Self { dir, registry, config }
    }

    /// Enters a machine of a user.
    fn machine(&mut self, owner: &str, name: &str, label: &str) -> Vm {
        self.registry.stop_clock(FILLED);
        let vm: Result<Vm, RegistryError> = self.registry.write(|writer| {
            let Registered::Known(owner) = writer.register(&owner.parse().expect("a user"))? else {
                panic!("{owner} is another user");
            };
            let new = NewVm {
                owner,
                virtual_host: name.parse().expect("a name"),
                physical_host: "node1".parse().expect("a host"),
                placed: Placed::AsAsked,
                spec: Spec {
                    image: "tiny".parse().expect("an image"),
                    memory: "128".parse().expect("a size"),
                    cpus: "1".parse().expect("a number"),
                    disk: "1".parse().expect("a size"),
                    saved: None,
                    snapshot: None,
                },
                label: label.parse().expect("a label"),
                lease: "7d".parse().expect("a lease"),
            };
            writer.enter(new)
        });
        vm.expect("a machine")
    }

    /// Queues a notice to the owner that the lease ends.
    fn notify(&mut self, vm: &Vm) -> Posted {
        let post = Post::new(&self.config);
        let notice = Notice::LeaseEnds { machine: vm, ends: FILLED.plus_seconds(86_400) };
        self.registry.stop_clock(FILLED);
        self.registry.write(|writer| post.to_owner(writer, &vm.owner, &notice)).expect("an outbox")
    }

    /// Queues one mail each to `user1`, `user2` …
    fn fill(&mut self, many: usize) {
        for n in 1..=many {
            let vm = self.machine(&format!("user{n}"), &format!("vm{n}"), "");
            assert_eq!(self.notify(&vm), Posted::Queued(1));
        }
    }

    /// Sends due mail as upkeep does, that many seconds after the outbox was filled.
    fn send(&mut self, after: i64) -> Sent {
        self.registry.stop_clock(FILLED.plus_seconds(after));
        send_due(&mut self.registry, &self.config, 100).expect("a registry")
    }

    /// The events about mail in the history.
    fn history(&self) -> Vec<(String, String, String)> {
        let filter = Filter { what: Some("mail".to_owned()), ..Filter::default() };
        let events = self.registry.read(|reader| reader.events(&filter, 100, 0)).expect("the history");
        let events = events.into_iter();
        events.map(|event| (event.about, event.occurrence.what, event.occurrence.detail)).collect()
    }

    /// The last error of each waiting mail.
    fn errors(&self) -> Vec<Option<String>> {
        let waiting = self.registry.read(|reader| reader.mail_waiting(100)).expect("the outbox");
        waiting.into_iter().map(|mail| mail.error).collect()
    }
}

fn sent(sent: u32, waiting: u32, given_up: u32) -> Sent {
    Sent { sent, waiting, given_up }
}

/// The recipients of all mail that arrived, sorted. Asserts that none arrived twice.
#[track_caller]
fn arrived(sink: &Sink) -> Vec<String> {
    let mut ids = BTreeMap::new();
    for mail in sink.accepted() {
        let id = Mail::read(&mail.text).header("message-id").to_owned();
        if let Some(before) = ids.insert(id, mail.clone()) {
            panic!("arrived twice: {before:?}");
        }
    }
    let mut recipients: Vec<String> = sink.accepted().into_iter().flat_map(|mail| mail.recipients).collect();
    recipients.sort();
    recipients
}

fn users(many: usize) -> Vec<String> {
    let mut users: Vec<String> = (1..=many).map(|n| format!("user{n}@users.example.org")).collect();
    users.sort();
    users
}

#[test]
fn each_mail_arrives_once_and_says_what_it_is() {
    let sink = Sink::start();
    let mut outbox = Outbox::to(&sink);
    let vm = outbox.machine("alice", "vm1", "Größe <b>&</b> 测试");
    assert_eq!(outbox.notify(&vm), Posted::Queued(1));
    assert_eq!(outbox.send(5), sent(1, 0, 0));
    assert_eq!(outbox.send(6), sent(0, 0, 0), "nothing is left to send");

    let [accepted] = &sink.accepted()[..] else { panic!("{:?}", sink.accepted()) };
    assert_eq!(accepted.sender, "vgrid@portal.example.org");
    assert_eq!(accepted.recipients, ["alice@users.example.org"]);
    let mail = Mail::read(&accepted.text);
    assert_eq!(mail.header("subject"), "vm1: its lease ends in 24 hours");
    assert_eq!(mail.header("from"), "vGrid <vgrid@portal.example.org>");
    assert_eq!(mail.header("to"), "alice@users.example.org");
    assert_eq!(mail.header("date"), "Sun, 22 Nov 2026 09:05:00 +0000", "when it was written");
    assert_eq!(mail.header("auto-submitted"), "auto-generated");
    assert!(mail.header("message-id").ends_with("@portal.example.org>"), "{mail:?}");
    let link = format!("https://portal.example.org/cgi-bin/user/extend?id={}", vm.id);
    for text in [&mail.plain, &mail.html] {
        assert!(text.contains(&link) && text.contains("2026-11-23 09:05 UTC"), "{text}");
    }
    assert!(mail.plain.contains("vm1 (Größe <b>&</b> 测试)"), "{}", mail.plain);
    assert!(mail.html.contains("Größe &lt;b&gt;&amp;"), "{}", mail.html);
}

#[test]
fn many_mails_take_one_connection() {
    let sink = Sink::start();
    let mut outbox = Outbox::to(&sink);
    outbox.fill(30);
    // No more than the limit, oldest first.
    let first = send_due(&mut outbox.registry, &outbox.config, 10).expect("a registry");
    assert_eq!(first, sent(10, 20, 0));
    assert_eq!(arrived(&sink), users(10));
    assert_eq!(outbox.send(0), sent(20, 0, 0));
    assert_eq!((arrived(&sink), sink.connections()), (users(30), 2));
}

#[test]
fn sending_continues_on_a_new_connection_when_the_server_closes_one() {
    let sink = Sink::start();
    sink.conduct(Conduct::AtMost(3));
    let mut outbox = Outbox::to(&sink);
    outbox.fill(8);
    assert_eq!(outbox.send(0), sent(8, 0, 0));
    assert_eq!((arrived(&sink), sink.connections()), (users(8), 3));
}

#[test]
fn after_an_hour_of_refusals_each_mail_arrives_once() {
    for refusal in [
        Conduct::TurnAway("421 too busy"),
        Conduct::TurnAway("554 no service"),
        Conduct::Close,
        Conduct::RefuseSender("451 no"),
        Conduct::RefuseSender("550 who are you"),
        Conduct::RefuseRecipient("", "450 mailbox busy"),
        Conduct::RefuseRecipient("", "421 closing"),
        Conduct::RefuseRecipient("", "530 log in first"),
        Conduct::RefuseContent("452 disk full"),
        Conduct::DropAfterData { keeps: false },
    ] {
        let sink = Sink::start();
        let mut outbox = Outbox::to(&sink);
        outbox.fill(7);
        sink.conduct(refusal.clone());
        for minute in (0..60).step_by(5) {
            assert_eq!(outbox.send(minute * 60), sent(0, 7, 0), "{refusal:?}, minute {minute}");
        }
        assert!(outbox.errors()[0].as_ref().is_some_and(|error| !error.is_empty()), "{refusal:?}");
        sink.conduct(Conduct::Accept);
        let mut left = 7;
        // The next retry may be an hour away.
        for minute in (60..=125).step_by(5) {
            left = outbox.send(minute * 60).waiting;
        }
        assert_eq!((left, arrived(&sink)), (0, users(7)), "{refusal:?}");
        assert_eq!(outbox.history(), [], "{refusal:?}");
    }
}

#[test]
fn an_absent_server_delays_all_mail_and_costs_one_attempt_per_run() {
    let sink = Sink::start();
    let mut outbox = Outbox::to(&sink);
    outbox.fill(5);
    let port = sink.port;
    drop(sink);
    let began = Instant::now();
    assert_eq!(outbox.send(0), sent(0, 5, 0));
    assert!(began.elapsed() < Duration::from_secs(5));
    let errors = outbox.errors();
    assert!(errors[0].as_ref().is_some_and(|error| error.contains("refused")), "{errors:?}");
    assert_eq!(errors[1..], [const { None }; 4], "the others were not tried");
    let text = fs::read_to_string(outbox.dir.path().join("server.cfg")).expect("server.cfg");
    let sink = Sink::start();
    fs::write(
        outbox.dir.path().join("server.cfg"),
        text.replace(&format!(":{port}\""), &format!(":{}\"", sink.port)),
    )
    .expect("server.cfg");
    outbox.config = config::Server::load(outbox.dir.path()).expect("a configuration");
    assert_eq!(outbox.send(30), sent(4, 1, 0));
    assert_eq!(outbox.send(60), sent(1, 0, 0), "a minute later");
    assert_eq!(arrived(&sink), users(5));
}

#[test]
fn a_silent_server_costs_one_timeout_per_run() {
    let sink = Sink::start();
    sink.conduct(Conduct::Hang);
    let mut outbox = Outbox::to(&sink);
    outbox.fill(5);
    let began = Instant::now();
    assert_eq!(outbox.send(0), sent(0, 5, 0));
    // Five would cost 50 s. One can take half a minute on a crowded machine.
    assert!(began.elapsed() < Duration::from_secs(45), "{:?}", began.elapsed());
    assert_eq!(outbox.errors()[0].as_deref(), Some("no answer in time"));
    sink.conduct(Conduct::Accept);
    assert_eq!(outbox.send(60), sent(5, 0, 0));
    assert_eq!(arrived(&sink), users(5));
}

#[test]
fn only_a_permanently_refused_recipient_is_given_up() {
    for (refusal, lost) in [
        (Conduct::RefuseRecipient("user2@users.example.org", "550 5.1.1 no such user"), 1),
        (Conduct::RefuseContent("554 5.7.1 spam"), 3),
    ] {
        let sink = Sink::start();
        let mut outbox = Outbox::to(&sink);
        outbox.fill(3);
        sink.conduct(refusal);
        assert_eq!(outbox.send(0), sent(3 - lost, 0, lost));
        assert_eq!(sink.connections(), 1);
        let history = outbox.history();
        assert_eq!(history.len(), lost as usize, "{history:?}");
        let (about, what, detail) = &history[lost as usize - 1];
        assert_eq!(what, "mail refused");
        assert!(about.ends_with("@users.example.org"), "{about}");
        assert!(detail.contains("its lease ends") && detail.contains("55"), "{detail}");
        if lost == 1 {
            assert_eq!(about, "user2@users.example.org");
            assert_eq!(arrived(&sink), ["user1@users.example.org", "user3@users.example.org"]);
        }
    }
}

#[test]
fn a_temporarily_refused_recipient_holds_up_no_other() {
    let sink = Sink::start();
    let mut outbox = Outbox::to(&sink);
    outbox.fill(3);
    sink.conduct(Conduct::RefuseRecipient("user1@users.example.org", "450 4.2.0 greylisted"));
    assert_eq!(outbox.send(0), sent(2, 1, 0));
    // Retries after 1, 5, 15 and 60 minutes, then hourly.
    for after in [1, 6, 21, 81, 141, 201] {
        assert_eq!(outbox.send(after * 60 - 1), sent(0, 1, 0));
        let tried = sink.connections();
        assert_eq!(outbox.send(after * 60), sent(0, 1, 0));
        assert_eq!(sink.connections(), tried + 1, "minute {after}");
    }
    sink.conduct(Conduct::Accept);
    assert_eq!(outbox.send(261 * 60), sent(1, 0, 0));
    assert_eq!(arrived(&sink), users(3));
}

#[test]
fn mail_that_may_have_arrived_is_resent_unchanged() {
    let sink = Sink::start();
    let mut outbox = Outbox::to(&sink);
    outbox.fill(1);
    sink.conduct(Conduct::DropAfterData { keeps: true });
    assert_eq!(outbox.send(0), sent(0, 1, 0));
    sink.conduct(Conduct::Accept);
    assert_eq!(outbox.send(60), sent(1, 0, 0));
    let [first, second] = &mails(&sink)[..] else { panic!("{:?}", sink.accepted()) };
    for header in ["message-id", "date", "subject", "to"] {
        assert_eq!(first.header(header), second.header(header));
    }
}

/// The mail that a server accepted, parsed.
fn mails(sink: &Sink) -> Vec<Mail> {
    sink.accepted().iter().map(|mail| Mail::read(&mail.text)).collect()
}

#[test]
fn concurrent_runs_send_nothing_twice() {
    let sink = Sink::start();
    let mut outbox = Outbox::to(&sink);
    outbox.fill(40);
    let file = outbox.dir.path().join("registry.sqlite");
    let runs = at_once(4, |_| {
        let mut registry = Registry::open(&file).expect("a registry");
        registry.stop_clock(FILLED);
        send_due(&mut registry, &outbox.config, 100).expect("a run").sent
    });
    let total: u32 = runs.into_iter().sum();
    assert_eq!((total, arrived(&sink)), (40, users(40)));
    assert_eq!(outbox.send(1), sent(0, 0, 0));
}

/// Tells a child process which outbox to empty, and at what time.
const CHILD_OUTBOX: &str = "VGRID_TEST_OUTBOX";

/// [`a_killed_run_loses_no_mail`] starts and kills this process. Without the variable it does
/// nothing.
#[test]
fn a_child_process_empties_the_outbox() {
    let Ok(outbox) = std::env::var(CHILD_OUTBOX) else { return };
    let (dir, now) = outbox.split_once(' ').expect("a folder and a time");
    let config = config::Server::load(Path::new(dir)).expect("server.cfg");
    let mut registry = Registry::open(&Path::new(dir).join("registry.sqlite")).expect("a registry");
    registry.stop_clock(Moment::from_unix(now.parse().expect("seconds")));
    send_due(&mut registry, &config, 100).expect("a run");
}

#[test]
fn a_killed_run_loses_no_mail() {
    const MANY: usize = 40;
    let sink = Sink::start();
    sink.conduct(Conduct::Slow(5));
    let mut outbox = Outbox::to(&sink);
    outbox.fill(MANY);
    let (mut killed, mut now) = (0, FILLED);
    for milliseconds in (60..).step_by(13) {
        let mut run = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "mail::a_child_process_empties_the_outbox"])
            .env(CHILD_OUTBOX, format!("{} {}", outbox.dir.path().display(), now.unix()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("this program can be started");
        std::thread::sleep(Duration::from_millis(milliseconds));
        if run.try_wait().expect("an exit status").is_none() {
            run.kill().expect("SIGKILL");
            killed += 1;
        }
        run.wait().expect("an exit status");
        // The mail in hand stays claimed by the killed run for a while.
        now = now.plus_seconds(30 * 60);
        if outbox.registry.read(|reader| reader.count_mail()).expect("the outbox") == 0 {
            break;
        }
    }
    assert!(killed > 1, "no run was killed, so this test shows nothing");
    let mut ids: BTreeMap<String, (usize, Vec<String>)> = BTreeMap::new();
    for mail in sink.accepted() {
        let (times, recipients) =
            ids.entry(Mail::read(&mail.text).header("message-id").to_owned()).or_default();
        *times += 1;
        *recipients = mail.recipients;
    }
    let mut recipients: Vec<String> = ids.values().flat_map(|(_, recipients)| recipients.clone()).collect();
    recipients.sort();
    assert_eq!(recipients, users(MANY));
    // A run killed after the server had accepted a mail and before that was recorded: at most one
    // mail each.
    let again: usize = ids.values().map(|(times, _)| times - 1).sum();
    assert!(again <= killed, "{again} mails arrived again, {killed} runs were killed");
    println!("{killed} runs were killed, {again} mails arrived again");
}

#[test]
fn addresses_come_from_table_sign_in_or_domain() {
    let sink = Sink::start();
    let mut outbox = Outbox::to(&sink);
    for owner in ["Bob B", "carol", "dave", "root"] {
        let vm = outbox.machine(owner, &format!("vm-{}", owner.replace(' ', "").to_lowercase()), "");
        if owner != "dave" {
            // The configuration takes precedence over the stored address.
            let kept: Result<(), RegistryError> = outbox
                .registry
                .write(|writer| writer.keep_mail(&vm.owner, &format!("{}@signed.in", vm.virtual_host)));
            kept.expect("an address");
        }
        assert_eq!(outbox.notify(&vm), Posted::Queued(1), "{owner}");
    }
    let nobody = outbox.machine("Jürgen Müller", "vm-jm", "");
    assert_eq!(outbox.notify(&nobody), Posted::NoAddress, "no address can be derived from that name");
    let fault = Fault::PrivilegeRefused;
    let notice = Notice::DeployFailed { machine: &nobody, fault: &fault };
    let post = Post::new(&outbox.config);
    let posted = outbox.registry.write(|writer| post.to_administrators(writer, &notice));
    assert_eq!(posted.expect("an outbox"), Posted::Queued(2), "each address once");
    outbox.send(0);
    assert_eq!(
        arrived(&sink),
        [
            "bob@example.org",
            "dave@users.example.org",
            "root@example.org",
            "root@example.org",
            "second@example.org",
            "vm-carol@signed.in"
        ]
    );

    let mut silent = Outbox::new("");
    let vm = silent.machine("alice", "vm1", "");
    assert_eq!(silent.notify(&vm), Posted::NoTransport);
    assert_eq!(silent.send(0), sent(0, 0, 0));
}

#[test]
fn a_broken_template_leaves_the_notice_unwritten() {
    let mut outbox = Outbox::new("transport = \"smtp\"");
    outbox.config.general.template_directory = "/nonexistent".into();
    let vm = outbox.machine("alice", "vm1", "");
    assert_eq!(outbox.notify(&vm), Posted::Unwritten);
}

/// A stand-in for `sendmail`. It stores arguments and input in numbered files, and exits with the
/// status in the file `status`.
fn sendmail(dir: &Path) -> PathBuf {
    let program = dir.join("sendmail");
    let text = format!(
        "#!/bin/sh\ncd {} || exit 1\nn=$(ls mail.* 2>/dev/null | wc -l)\n\
         printf '%s\\n' \"$@\" > args.$n\ncat > mail.$n\nstatus=$(cat status)\n\
         [ $status = 0 ] || rm mail.$n\nexit $status\n",
        dir.display()
    );
    fs::write(&program, text).expect("a program");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("its mode");
    program
}

#[test]
fn sendmail_gets_each_mail_once() {
    let dir = tempfile::tempdir().expect("a folder");
    let program = sendmail(dir.path());
    let exit_with = |status: u8| fs::write(dir.path().join("status"), status.to_string()).expect("a file");
    let mut outbox = Outbox::new(&format!("transport = \"sendmail\"\nsendmail = \"{}\"", program.display()));
    outbox.fill(3);
    // EX_TEMPFAIL: this mail waits, and so does each of the others.
    exit_with(75);
    assert_eq!(outbox.send(0), sent(0, 3, 0));
    assert!(outbox.errors().iter().all(Option::is_some), "{:?}", outbox.errors());
    // EX_USAGE: the mail is not to blame.
    exit_with(64);
    assert_eq!(outbox.send(60), sent(0, 3, 0));
    exit_with(0);
    assert_eq!(outbox.send(60), sent(2, 1, 0));
    assert_eq!(outbox.send(360), sent(1, 0, 0));
    for n in 0..3 {
        let text = fs::read_to_string(dir.path().join(format!("mail.{n}"))).expect("a mail");
        assert!(!text.contains('\r'), "Unix line endings");
        let mail = Mail::read(&text.replace('\n', "\r\n"));
        let args = fs::read_to_string(dir.path().join(format!("args.{n}"))).expect("arguments");
        let expected = format!("-i\n-f\nvgrid@portal.example.org\n--\n{}\n", mail.header("to"));
        assert_eq!(args, expected);
        assert!(mail.header("subject").contains("its lease ends"), "{mail:?}");
    }
    // EX_NOUSER
    exit_with(67);
    let vm = outbox.machine("user4", "vm4", "");
    assert_eq!(outbox.notify(&vm), Posted::Queued(1));
    assert_eq!(outbox.send(400), sent(0, 0, 1));
    assert_eq!(outbox.history().len(), 1);
    fs::remove_file(program).expect("the program");
    let vm = outbox.machine("user5", "vm5", "");
    assert_eq!(outbox.notify(&vm), Posted::Queued(1));
    assert_eq!(outbox.send(400), sent(0, 1, 0), "no mail is lost without the program");
}

#[test]
fn encrypted_mail_goes_only_to_a_verified_server() {
    let dir = tempfile::tempdir().expect("a folder");
    let (ours, key) = self_signed(dir.path(), "ours");
    let (another, _) = self_signed(dir.path(), "another");
    fs::write(dir.path().join("password"), "open sesame\n").expect("a password");
    for (encryption, wrapped) in [("starttls", false), ("tls", true)] {
        let sink = Sink::with_tls(&ours, &key, wrapped);
        let settings = |ca: &Path| {
            format!(
                "transport = \"smtp\"\nserver = \"127.0.0.1:{}\"\nencryption = \"{encryption}\"\ncaFile = \"{}\"\n\
                 user = \"vgrid\"\npasswordFile = \"{}\"",
                sink.port,
                ca.display(),
                dir.path().join("password").display()
            )
        };
        let mut outbox = Outbox::new(&settings(&ours));
        outbox.fill(2);
        assert_eq!(outbox.send(0), sent(2, 0, 0), "{encryption}: {:?}", outbox.errors());
        for mail in sink.accepted() {
            assert!(mail.encrypted, "{encryption}");
            assert_eq!(mail.login.as_deref(), Some("\0vgrid\0open sesame"));
        }
        // An unverified server gets nothing.
        let mut outbox = Outbox::new(&settings(&another));
        outbox.fill(1);
        assert_eq!(outbox.send(0), sent(0, 1, 0), "{encryption}");
        let error = outbox.errors()[0].clone().expect("a reason");
        assert!(error.to_lowercase().contains("certificate"), "{error}");
        assert_eq!(sink.accepted().len(), 2);
    }
    // Without STARTTLS, no mail.
    let sink = Sink::start();
    let mut outbox = Outbox::new(&format!(
        "transport = \"smtp\"\nserver = \"127.0.0.1:{}\"\nencryption = \"starttls\"\ncaFile = \"{}\"",
        sink.port,
        ours.display()
    ));
    outbox.fill(1);
    assert_eq!(outbox.send(0), sent(0, 1, 0));
    assert!(
        outbox.errors()[0].as_ref().is_some_and(|error| error.contains("STARTTLS")),
        "{:?}",
        outbox.errors()
    );
    assert_eq!(sink.accepted(), []);
}

/// A portal that mails to `sink` and takes addresses from a variable.
fn portal(sink: &Sink, variable: &str) -> Portal {
    Setup {
        more_server: format!(
            "[Mail]\ntransport = \"smtp\"\nserver = \"127.0.0.1:{}\"\nsender = \"vgrid@example.org\"\n\
             EnvMailVariable = \"{variable}\"",
            sink.port
        ),
        users: vec!["alice", "bob", "admin", "carol@example.org"],
        ..Setup::default()
    }
    .start()
}

/// Sends a portal's waiting mail, and returns all mail that has arrived.
fn send_all(portal: &Portal, sink: &Sink) -> Vec<Mail> {
    let config = config::Server::load(&portal.path("etc")).expect("server.cfg");
    let mut registry = Registry::open(&config.general.registry_file).expect("the registry");
    send_due(&mut registry, &config, 100).expect("a run");
    mails(sink)
}

#[test]
fn administrators_are_mailed_the_failures_that_concern_them() {
    let sink = Sink::start();
    let portal = portal(&sink, "ADFS_EMAIL");
    let failed = |fault: Fault| {
        let id = portal.deploy("alice", &[("physicalHost", "localhost")]);
        for _ in 0..2 {
            // A repeated report causes no second mail.
            portal.report(&id, Order::Deploy, 5, News::Failed { fault: fault.clone() }).expect(200);
        }
        id
    };
    let amount = Amount::from_mib(5);
    failed(Fault::NotEnoughMemory { needed: amount, free: amount });
    assert_eq!(send_all(&portal, &sink), [], "this concerns only its user");
    let id =
        failed(Fault::ImageCorrupt { tag: "tiny".parse().expect("a tag"), detail: "cut off".to_owned() });
    let [mail] = &send_all(&portal, &sink)[..] else { panic!("{:?}", sink.accepted()) };
    assert_eq!(mail.header("to"), "admin@example.org");
    assert!(mail.header("subject").starts_with("A deploy failed on localhost: vm"), "{mail:?}");
    for text in [&mail.plain, &mail.html] {
        for words in ["alice", "localhost", "The image tiny is damaged (cut off)", &id] {
            assert!(text.contains(words), "{words}: {text}");
        }
    }
    // A host that cannot even be asked.
    portal.nodes.conduct(Node::Close);

    portal.post("alice", "deploy", &DEPLOY_JSON).send().expect(502);
    let mails = send_all(&portal, &sink);
    assert_eq!(mails.len(), 2, "{mails:?}");
    assert!(mails[1].plain.contains("makes no sense"), "{}", mails[1].plain);
    portal.assert_no_panic();
}

#[test]
fn vgrid_check_tests_whether_mail_can_be_sent() {
    let dir = tempfile::tempdir().expect("a folder");
    let sink = Sink::start();
    let server = format!("server = \"127.0.0.1:{}\"", sink.port);
    let templates = concat!(env!("CARGO_MANIFEST_DIR"), "/templates");
    let check = |mail: &str, templates: &str| {
        let text = format!(
            "[General]\nEnvUsernameVariable = \"REMOTE_USER\"\ntemplateDirectory = \"{templates}\"\n\
             [Administrators]\n\"root\" = \"root@example.org\"\n\
             [Mail]\nsender = \"vgrid@example.org\"\n{mail}\n"
        );
        fs::write(dir.path().join("server.cfg"), text).expect("server.cfg");
        let output = Command::new(env!("CARGO_BIN_EXE_vgrid-check"))
            .args(["--server", "--json", "--own-url", "http://127.0.0.1:1"])
            .env("VGRID_CONFIG_DIR", dir.path())
            .output()
            .expect("vgrid-check can be started");
        let rows: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).expect("JSON");
        let row = rows.into_iter().find(|row| row["name"] == "mail").expect("a line");
        (row["status"] == "passed", row["why"].to_string(), row["remedy"].to_string())
    };
    let passes = |mail: &str| check(mail, templates);
    let (passed, why, _) = passes("transport = \"none\"");
    assert!(passed && why.contains("none is sent"), "{why}");
    let smtp = format!("transport = \"smtp\"\n{server}");
    let (passed, why, _) = passes(&smtp);
    assert!(passed && why.contains("127.0.0.1 port"), "{why}");
    assert_eq!(sink.accepted(), [], "a check sends nothing");
    let (passed, why, remedy) = check(&smtp, "/nonexistent");
    assert!(!passed && why.contains("/nonexistent/mail/") && remedy.contains("templateDirectory"), "{why}");
    let (passed, why, remedy) = passes(&format!("{smtp}\nencryption = \"starttls\""));
    assert!(!passed && why.contains("STARTTLS") && remedy.contains("encryption"), "{why} {remedy}");
    let secret = dir.path().join("password");
    fs::write(&secret, "open sesame").expect("a password");
    let with_password = format!("{smtp}\nuser = \"vgrid\"\npasswordFile = \"{}\"", secret.display());
    let (passed, why, remedy) = passes(&with_password);
    assert!(!passed && why.contains("read by everybody") && remedy.contains("chmod 640"), "{why} {remedy}");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).expect("its mode");
    let (passed, why, _) = passes(&with_password);
    let is_root = nix::unistd::geteuid().is_root();
    assert_eq!(passed, !is_root, "{why}");
    assert!(!is_root || why.contains("www-data can't read"), "{why}");
    sink.conduct(Conduct::RefuseRecipient("root@example.org", "450 later"));
    assert!(passes(&smtp).0, "the server would accept it later");
    sink.conduct(Conduct::RefuseRecipient("root@example.org", "554 5.7.1 relay access denied"));
    let (passed, why, remedy) = passes(&smtp);
    assert!(!passed && why.contains("relay access denied") && remedy.contains("from this machine"), "{why}");
    sink.conduct(Conduct::RefuseSender("550 no such sender"));
    let (passed, why, _) = passes(&smtp);
    assert!(!passed && why.contains("550 no such sender"), "{why}");
    sink.conduct(Conduct::TurnAway("554 no service"));
    let (passed, why, _) = passes(&smtp);
    assert!(!passed && why.contains("554 no service"), "{why}");
    assert!(passes("transport = \"sendmail\"\nsendmail = \"/bin/true\"").0);
    let (passed, why, remedy) = passes("transport = \"sendmail\"\nsendmail = \"/etc/passwd\"");
    assert!(
        !passed && why.contains("no program") && remedy.contains("install a mail server"),
        "{why} {remedy}"
    );
}

/// The address stored for a user.
fn stored_address(portal: &Portal, user: &str) -> Option<String> {
    let registry = Registry::open_to_read(&portal.registry_file()).expect("the registry");
    let owner = Owner::of(&user.parse().expect("a user"));
    registry.read(|reader| reader.mail_of(&owner)).expect("a registry")
}

#[test]
fn the_address_from_sign_in_is_stored_and_updated() {
    let sink = Sink::start();
    let portal = portal(&sink, "REMOTE_USER");
    portal.get("carol@example.org", "list").send().expect(200);
    portal.deploy("carol@example.org", &[]);
    assert_eq!(
        stored_address(&portal, "carol@example.org").as_deref(),
        Some("carol@example.org"),
        "since her first machine"
    );
    portal.deploy("alice", &[]);
    assert_eq!(stored_address(&portal, "alice"), None, "her name is not an address");

    portal.reconfigure("server.cfg", |text| {
        text.replace("EnvMailVariable = \"REMOTE_USER\"", "EnvMailVariable = \"ADFS_EMAIL\"")
    });
    // A header is not one of Apache's variables.
    let id = portal.deploy("bob", &[]);
    let forged = portal.post("bob", "stop", &[("id", &id)]).header("ADFS-EMAIL", "mallory@example.org");
    forged.header("ADFS_EMAIL", "mallory@example.org").send();
    assert_eq!(stored_address(&portal, "bob"), None);
    // Only for signed-in users, and only if it is an address.
    let order = |user: &str, mail: &str| {
        let query = format!("id={id}&format=json");
        let environment =
            [("REMOTE_USER", user), ("ADFS_EMAIL", mail), ("QUERY_STRING", &query), ("HTTP_ACCEPT", "*/*")];
        portal.run_directly("user/terminate", &environment, b"").0
    };
    for (user, mail, keeps) in [
        ("bob", "bob@example.org", Some("bob@example.org")),
        ("bob", "bob at home", Some("bob@example.org")),
        ("bob", "", Some("bob@example.org")),
        ("bob", "robert@example.org;bob@example.org", Some("robert@example.org")),
        ("", "mallory@example.org", Some("robert@example.org")),
    ] {
        let status = order(user, mail);
        assert_eq!(status == 403, user.is_empty(), "{status}");
        assert_eq!(stored_address(&portal, "bob").as_deref(), keeps, "{user:?} {mail:?}");
    }
    assert_eq!(stored_address(&portal, "carol@example.org").as_deref(), Some("carol@example.org"));
    portal.assert_no_panic();
}
