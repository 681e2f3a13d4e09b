//! A whole portal for one test: installed files, configuration, Apache and nodes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use serde_json::Value;
use tempfile::TempDir;
use vgrid::model::lease::Moment;
use vgrid::model::names::{RegistryId, VmId};
use vgrid::model::sign::{Key, REQUEST_HEADER};
use vgrid::model::stage::{Order, OrderNumber};
use vgrid::model::wire::{News, Report};
use vgrid::system::clock;

use super::apache::{Apache, Kind, give_to_web_user, web_user};
use super::http::{Answer, Ask, encoded};
use super::node::{Conduct, Nodes, address, facts, with_machines};
use super::signed::Seal;
use super::stage::{Stage, public_folder};

/// The path that takes the reports of nodes.
pub const STATUS: &str = "/cgi-bin/internal/status";

/// The fields of a small machine.
pub const DEPLOY: [(&str, &str); 3] = [("vmImage", "tiny"), ("vmMemory", "128"), ("vmPartition", "1")];

/// The same from a script that reads JSON.
pub const DEPLOY_JSON: [(&str, &str); 4] =
    [("vmImage", "tiny"), ("vmMemory", "128"), ("vmPartition", "1"), ("format", "json")];

/// Everyone's password is their name with this suffix.
const PASSWORD: &str = "-secret";

/// How a test's portal differs from the usual one.
#[derive(Debug, Clone)]
pub struct Setup {
    pub kind: Kind,
    /// `[VMImages]`.
    pub images: Vec<&'static str>,
    /// `[PhysicalHostsPool]`.
    pub hosts: Vec<(&'static str, u32)>,
    /// That many more hosts with ten slots each: 127.0.0.1, 127.0.0.2 …
    pub more_hosts: u16,
    /// How many virtual host names: vm1, vm2 …
    pub names: usize,
    pub node_timeout: u8,
    pub user_variable: &'static str,
    /// Appended to the `[General]` section of server.cfg.
    pub more_server: String,
    /// The suffix of a shipped htaccess file or, if it has a line break, the content itself.
    pub htaccess: &'static str,
    pub users: Vec<&'static str>,
    /// Whether the clock of the programs can be set, by libfaketime.
    pub clock: bool,
    /// Whether to run `vgrid-registry init`.
    pub registry: bool,
    /// Appended to Apache's configuration.
    pub more_apache: String,
    /// The directives of a virtual host with TLS; `None`: no TLS.
    pub tls: Option<String>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            kind: Kind::Event,
            images: vec!["debian-12", "tiny"],
            hosts: vec![("localhost", 4), ("127.0.0.2", 4)],
            more_hosts: 0,
            names: 6,
            node_timeout: 2,
            user_variable: "REMOTE_USER",
            more_server: String::new(),
            htaccess: "basic",
            users: vec!["alice", "bob", "admin"],
            clock: false,
            registry: true,
            more_apache: String::new(),
            tls: None,
        }
    }
}

/// The library that fakes the clock, from Debian's package faketime.
const CLOCK: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

/// A time zone with daylight saving: New York since 2007, as in tzset(3). Nothing may depend on it.
const ZONE: &str = "EST5EDT,M3.2.0,M11.1.0";

/// The variables that fake a program's clock. The file holds an offset from the real time, or the
/// time at which the clock stands still (faketime(1)).
fn clock_variables(dir: &Path) -> [(&'static str, String); 4] {
    [
        ("TZ", ZONE.to_owned()),
        ("LD_PRELOAD", CLOCK.to_owned()),
        ("FAKETIME_TIMESTAMP_FILE", dir.join("etc/clock").display().to_string()),
        // Waiting threads use real time.
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ]
}

/// Removes what killed programs with a fake clock left behind. libfaketime makes two files per
/// process, and the next process with that id would not start.
fn sweep_clocks() {
    let Ok(entries) = fs::read_dir("/dev/shm") else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let process = ["faketime_shm_", "sem.faketime_sem_"].into_iter().find_map(|p| name.strip_prefix(p));
        if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            // Another test may be doing the same.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// An order number that passes for that of the last order: higher than any, whatever the clock
/// said.
pub fn last_order_number() -> OrderNumber {
    OrderNumber::default().next(u64::MAX >> 11)
}

/// A running portal; removed when dropped.
#[derive(Debug)]
pub struct Portal {
    // Dropped in this order: the programs before what they write to.
    pub apache: Apache,
    pub nodes: Nodes,
    pub key: Key,
    /// The identity of its registry.
    pub registry: RegistryId,
    pub dir: TempDir,
    /// How many seconds the programs' clock is ahead.
    ahead: AtomicI64,
    stage: Arc<Stage>,
}

impl Portal {
    /// Starts the usual portal.
    pub fn start() -> Self {
        Setup::default().start()
    }

    /// A file or folder of this portal.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A request without sign-in.
    pub fn ask(&self, method: &str, path: &str) -> Ask {
        Ask::new(self.apache.address, method, path)
    }

    /// A GET of a page by a user. Without an `Accept` header it counts as a script's.
    pub fn get(&self, user: &str, path: &str) -> Ask {
        self.ask("GET", &format!("/cgi-bin/user/{path}")).by(user, &password(user))
    }

    /// A form posted by a script.
    pub fn post(&self, user: &str, program: &str, fields: &[(&str, &str)]) -> Ask {
        self.ask("POST", &format!("/cgi-bin/user/{program}")).by(user, &password(user)).form(fields)
    }

    /// The answer of `list`, as JSON.
    #[track_caller]
    pub fn list(&self, user: &str) -> Value {
        self.get(user, "list?format=json").send().expect(200).json()
    }

    /// Deploys a small machine as a script does, with these fields in addition or instead. Returns
    /// its id.
    #[track_caller]
    pub fn deploy(&self, user: &str, more: &[(&str, &str)]) -> String {
        let mut fields = DEPLOY_JSON.to_vec();
        fields.retain(|(name, _)| more.iter().all(|(known, _)| known != name));
        fields.extend_from_slice(more);
        let answer = self.post(user, "deploy", &fields).send().expect(202).json();
        id_of(&answer)
    }

    /// Deploys a small machine and reports that it runs. Returns its id.
    #[track_caller]
    pub fn deployed(&self, user: &str) -> String {
        self.deployed_with(user, &[])
    }

    /// Like [`Portal::deployed`], with these fields in addition or instead.
    #[track_caller]
    pub fn deployed_with(&self, user: &str, more: &[(&str, &str)]) -> String {
        let id = self.deploy(user, more);
        self.report(&id, Order::Deploy, 9, News::Done).expect(200);
        id
    }

    /// Gives an order about a machine, as a script does.
    #[track_caller]
    pub fn order(&self, user: &str, order: Order, id: &str) -> Answer {
        self.post(user, order.as_str(), &[("id", id), ("format", "json")]).send()
    }

    /// Gives an order, which must be accepted, and reports that it is done.
    #[track_caller]
    pub fn carry_out(&self, user: &str, order: Order, id: &str) {
        self.order(user, order, id).expect(202);
        self.report(id, order, 9, News::Done).expect(200);
    }

    /// Sends a report as a machine's node does.
    #[track_caller]
    pub fn report(&self, id: &str, order: Order, sequence: u32, news: News) -> Answer {
        let id: VmId = id.parse().expect("a machine's id");
        let report = Report { id, order, number: last_order_number(), sequence, news, host: Some(facts()) };
        self.signed(STATUS, serde_json::to_vec(&report).expect("JSON"), &self.key).send()
    }

    /// What messages are signed with by default.
    pub fn seal<'a>(&self, key: &'a Key) -> Seal<'a> {
        Seal { key, to: None, registry: Some(self.registry), time: self.now() }
    }

    /// A signed message to a program, as a POST.
    pub fn signed(&self, path: &str, body: Vec<u8>, key: &Key) -> Ask {
        self.sealed(&self.seal(key), path, body)
    }

    /// A message with a given signature.
    pub fn sealed(&self, seal: &Seal<'_>, path: &str, body: Vec<u8>) -> Ask {
        seal.headers("POST", path, &body)
            .into_iter()
            .fold(self.ask("POST", path), |ask, (name, value)| ask.header(name, value))
            .header(REQUEST_HEADER, "test")
            .header("Content-Type", "application/json")
            .body(body)
    }

    /// A signed GET.
    pub fn signed_get(&self, path: &str, key: &Key) -> Ask {
        let headers = self.seal(key).headers("GET", path, b"");
        headers.into_iter().fold(self.ask("GET", path), |ask, (name, value)| ask.header(name, value))
    }

    /// The time on the programs' clock.
    pub fn now(&self) -> Moment {
        clock::now().plus_seconds(self.ahead.load(Ordering::SeqCst))
    }

    /// Sets the programs' clock that many seconds ahead.
    pub fn set_clock(&self, ahead: i64) {
        self.ahead.store(ahead, Ordering::SeqCst);
        self.write_clock(&format!("{ahead:+}s\n"));
    }

    /// Stops the programs' clock at a moment.
    pub fn stop_clock(&self, at: Moment) {
        self.ahead.store(at.since(clock::now()), Ordering::SeqCst);
        let zone = jiff::tz::TimeZone::posix(ZONE).expect("a time zone");
        let at = jiff::Timestamp::from_second(at.unix()).expect("a time").to_zoned(zone);
        self.write_clock(&at.strftime("%Y-%m-%d %H:%M:%S\n").to_string());
    }

    fn write_clock(&self, text: &str) {
        // Replaced atomically, because programs may read it at any moment.
        let (file, fresh) = (self.path("etc/clock"), self.path("etc/clock.new"));
        fs::write(&fresh, text).expect("the clock's file");
        fs::rename(fresh, file).expect("the clock's file");
    }

    /// Moves the programs' clock forward.
    pub fn pass(&self, seconds: i64) {
        self.set_clock(self.ahead.load(Ordering::SeqCst) + seconds);
    }

    /// An installed file, by its final absolute path.
    pub fn installed(&self, path: &str) -> PathBuf {
        self.stage.path(path)
    }

    /// Starts upkeep as cron does, as the web server's user.
    pub fn start_upkeep(&self, arguments: &[&str]) -> Child {
        let mut command = command(&self.stage, self.dir.path(), "vgrid-upkeep");
        command.args(arguments);
        let pipes = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        pipes.spawn().expect("vgrid-upkeep can be started")
    }

    /// Runs `vgrid-registry` as the web server's user.
    pub fn run_registry(&self, arguments: &[&str]) -> std::process::Output {
        let mut command = command(&self.stage, self.dir.path(), "vgrid-registry");
        command.args(arguments).stdin(Stdio::null()).output().expect("vgrid-registry can be started")
    }

    /// Runs upkeep, which must succeed. Returns its output.
    #[track_caller]
    pub fn upkeep(&self, arguments: &[&str]) -> String {
        let output = self.start_upkeep(arguments).wait_with_output().expect("an exit status");
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        text
    }

    /// The answer of `show` about a machine, as JSON.
    #[track_caller]
    pub fn show(&self, user: &str, id: &str) -> Value {
        self.get(user, &format!("show?id={id}&format=json")).send().expect(200).json()
    }

    /// A machine's state, as its owner or an administrator sees it.
    #[track_caller]
    pub fn state(&self, user: &str, id: &str) -> String {
        state_of(&self.show(user, id)).to_owned()
    }

    /// A machine's history, as JSON text.
    #[track_caller]
    pub fn history(&self, user: &str, id: &str) -> String {
        self.show(user, id)["history"].to_string()
    }

    /// How many machines a user's list shows.
    #[track_caller]
    pub fn machine_count(&self, user: &str) -> usize {
        self.list(user)["machines"].as_array().expect("machines").len()
    }

    /// The registry's file.
    pub fn registry_file(&self) -> PathBuf {
        self.path("var/registry.sqlite")
    }

    /// The registry as a plain database, for what no request can do.
    pub fn database(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.registry_file()).expect("the registry")
    }

    /// Edits a configuration file.
    pub fn reconfigure(&self, file: &str, change: impl Fn(&str) -> String) {
        let file = self.path("etc").join(file);
        let text = fs::read_to_string(&file).expect("a configuration file");
        fs::write(&file, change(&text)).expect("a configuration file");
    }

    /// Configures the node on this machine for images: `files` are lines of `[VMImageFiles]`,
    /// `mkfs` the command that makes file systems.
    pub fn configure_images(&self, files: &str, mkfs: &str) {
        self.reconfigure("node.cfg", |text| {
            format!(
                "{text}[VMImageFiles]\n{files}\n[VMConfigTemplates]\ndefault = \"xen-xvda\"\n[VMSwapSize]\n\
                 default = 64\n[VMTypes]\ndefault = \"xen\"\n[XenDeployerFSCreateCmd]\ndefault = \"{mkfs}\"\n"
            )
        });
        let images = self.path("images");
        fs::create_dir(&images).expect("a folder for images");
        give_to_web_user(&images);
    }

    /// Runs a CGI program directly, with an environment that Apache might not produce. Returns the
    /// status and the whole output.
    pub fn run_directly(&self, program: &str, environment: &[(&str, &str)], body: &[u8]) -> (u16, String) {
        self.run_with(program, environment, None, body)
    }

    /// Like [`Portal::run_directly`], but without one of the variables that Apache always sets.
    pub fn run_without(&self, variable: &str, program: &str, environment: &[(&str, &str)]) -> (u16, String) {
        self.run_with(program, environment, Some(variable), b"")
    }

    fn run_with(
        &self,
        program: &str,
        environment: &[(&str, &str)],
        without: Option<&str>,
        body: &[u8],
    ) -> (u16, String) {
        use std::io::Write as _;
        let path = format!("/cgi-bin/{program}");
        let mut variables: BTreeMap<&str, &str> = [
            ("GATEWAY_INTERFACE", "CGI/1.1"),
            ("REQUEST_METHOD", "GET"),
            ("REQUEST_URI", &path),
            ("SCRIPT_NAME", &path),
            ("SERVER_PROTOCOL", "HTTP/1.1"),
            ("QUERY_STRING", ""),
            ("REMOTE_ADDR", "192.0.2.7"),
            ("HTTP_ACCEPT", "text/html"),
        ]
        .into();
        variables.extend(environment.iter().copied());
        variables.retain(|name, _| without != Some(*name));
        let mut process = Command::new(self.path("cgi-bin").join(program))
            .env_clear()
            .env("VGRID_CONFIG_DIR", self.path("etc"))
            .envs(variables)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a program");
        // The pipe closes at the end of the statement. A program may end without reading it; only
        // its output counts.
        let _ = process.stdin.take().expect("a pipe").write_all(body);
        let output = process.wait_with_output().expect("an exit status");
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let status = text.strip_prefix("Status: ").and_then(|rest| rest.get(..3)?.parse().ok());
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!errors.contains("panic"), "{errors}");
        (status.unwrap_or_else(|| panic!("no status: {text:?} {errors}")), text)
    }

    /// vGrid's own log, if it goes to a file because this machine has no syslog.
    pub fn own_log(&self) -> Option<String> {
        (!Path::new("/dev/log").exists())
            .then(|| fs::read_to_string(self.path("var/server.log")).unwrap_or_default())
    }

    /// Asserts that no program panicked.
    #[track_caller]
    pub fn assert_no_panic(&self) {
        for log in [self.apache.log(), self.own_log().unwrap_or_default()] {
            let bad: Vec<&str> = log
                .lines()
                .filter(|line| line.contains("panic") || line.contains("RUST_BACKTRACE"))
                .collect();
            assert!(bad.is_empty(), "{bad:#?}");
        }
    }
}

/// A user's password.
pub fn password(user: &str) -> String {
    format!("{user}{PASSWORD}")
}

/// The machine's id in the answer to an order, or on its page.
#[track_caller]
pub fn id_of(answer: &Value) -> String {
    answer["machine"]["id"].as_str().unwrap_or_else(|| panic!("no id in {answer}")).to_owned()
}

/// The machine's state in the answer to an order, or on its page.
#[track_caller]
pub fn state_of(shown: &Value) -> &str {
    shown["machine"]["state"].as_str().unwrap_or_else(|| panic!("no state in {shown}"))
}

/// A path with a query.
pub fn with_query(program: &str, fields: &[(&str, &str)]) -> String {
    format!("{program}?{}", encoded(fields))
}

impl Setup {
    /// One host with that many slots and as many names: all machines are where the tests' reports
    /// come from.
    pub fn one_host(slots: u16) -> Self {
        Self { hosts: vec![("localhost", slots.into())], names: slots.into(), ..Self::default() }
    }

    /// Starts the portal.
    pub fn start(self) -> Portal {
        let stage = Stage::shared();
        let dir = public_folder();
        let at = |name: &str| dir.path().join(name);
        for folder in ["etc", "var", "var/node", "cgi-bin"] {
            fs::create_dir_all(at(folder)).expect("a folder");
        }
        give_to_web_user(&at("var"));
        give_to_web_user(&at("var/node"));
        let secret = format!("{}{}", uuid::Uuid::now_v7().simple(), uuid::Uuid::now_v7().simple());
        let key = Key::new(&secret).expect("a key");
        fs::write(at("etc/key"), secret).expect("the key's file");
        let nodes = Nodes::start(&key, self.more_hosts.max(2));
        link_programs(&stage, dir.path());
        self.write_configuration(&stage, dir.path(), nodes.port);
        let mut registry = RegistryId::generate();
        if self.registry {
            let made =
                command(&stage, dir.path(), "vgrid-registry").arg("init").output().expect("vgrid-registry");
            let output = String::from_utf8_lossy(&made.stdout);
            let identity = output.trim_end().trim_end_matches('.').rsplit(' ').next().unwrap_or_default();
            // Some tests start with a broken server.cfg.
            match identity.parse() {
                Ok(identity) => registry = identity,
                Err(_) => eprintln!("no registry: {}", String::from_utf8_lossy(&made.stderr)),
            }
        }
        self.write_sign_in(&stage, dir.path());
        let sites = shipped_sites(&stage, dir.path());
        let apache = Apache::start(dir.path(), self.kind, self.tls.is_some(), |_, tls_port| {
            let mut text = format!("SetEnv VGRID_CONFIG_DIR \"{}\"\n{sites}", at("etc").display());
            text.push_str(&self.more_apache);
            if self.clock {
                for (name, value) in clock_variables(dir.path()) {
                    let _ = write!(text, "\nSetEnv {name} \"{value}\"\n");
                }
            }
            if let Some(tls) = &self.tls {
                let _ =
                    write!(text, "<VirtualHost 127.0.0.1:{tls_port}>\nSSLEngine on\n{tls}\n</VirtualHost>\n");
            }
            text.replace("@DIR@", &dir.path().display().to_string())
        });
        let portal = Portal { apache, nodes, key, registry, dir, ahead: AtomicI64::new(0), stage };
        if self.clock {
            sweep_clocks();
            portal.set_clock(0);
        }
        portal
    }

    fn write_configuration(&self, stage: &Stage, dir: &Path, port: u16) {
        let mut common = "[VMImages]\n".to_owned();
        for image in &self.images {
            let _ = writeln!(common, "\"{image}\" = \"The image {image}\"");
        }
        common.push_str("[PhysicalHostsPool]\n");
        for (host, maximum) in &self.hosts {
            let _ = writeln!(common, "\"{host}\" = {maximum}");
        }
        for n in 1..=self.more_hosts {
            let _ = writeln!(common, "\"{}\" = 10", address(n));
        }
        common.push_str("[VirtualHostsPool]\n");
        for n in 1..=self.names {
            let _ = writeln!(common, "\"vm{n}\" = \"\"");
        }
        let at = |name: &str| dir.join(name).display().to_string();
        let server = format!(
            "[General]\nEnvUsernameVariable = \"{}\"\nregistryFile = \"{}\"\nkeyFile = \"{}\"\nlogFile = \"{}\"\n\
             templateDirectory = \"{}\"\nnodeURL = \"http://{{host}}:{port}/cgi-bin/node\"\nnodeTimeout = {}\n{}\n\
             [Administrators]\nadmin = \"admin@example.org\"\n",
            self.user_variable,
            at("var/registry.sqlite"),
            at("etc/key"),
            at("var/server.log"),
            stage.path("/usr/share/vgrid/templates").display(),
            self.node_timeout,
            self.more_server,
        );
        let node = format!(
            "[General]\nserverHostname = \"localhost\"\nimageDirectory = \"{}\"\nvolumeGroupName = \"vgtest\"\n\
             stateDirectory = \"{}\"\nkeyFile = \"{}\"\nlogFile = \"{}\"\ntemplateDirectory = \"{}\"\n",
            at("images"),
            at("var/node"),
            at("etc/key"),
            at("var/node.log"),
            stage.path("/etc/vgrid/vmtmpl").display(),
        );
        for (name, text) in [("common.cfg", common), ("server.cfg", server), ("node.cfg", node)] {
            fs::write(dir.join("etc").join(name), text).expect("a configuration file");
        }
    }

    fn write_sign_in(&self, stage: &Stage, dir: &Path) {
        let text = if self.htaccess.contains('\n') {
            self.htaccess.to_owned()
        } else {
            fs::read_to_string(stage.path(&format!("/etc/vgrid/htaccess.{}", self.htaccess)))
                .expect("htaccess")
        };
        let etc = dir.join("etc");
        let text = text.replace("/etc/vgrid", &etc.display().to_string());
        fs::write(dir.join("cgi-bin/user/.htaccess"), text).expect(".htaccess");
        let file = etc.join("htpasswd");
        for (n, user) in self.users.iter().enumerate() {
            let made = Command::new("/usr/bin/htpasswd")
                // The cheapest hash that Apache accepts: it is computed for every request of every
                // test.
                .args(if n == 0 { ["-bc", "-s"] } else { ["-b", "-s"] })
                .arg(&file)
                .args([user, password(user).as_str()])
                .output()
                .expect("htpasswd can be started");
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        }
    }
}

/// A command of the portal in `dir`, to be run as the web server's user.
fn command(stage: &Stage, dir: &Path, name: &str) -> Command {
    let mut line: Vec<String> = Vec::new();
    if let Some(user) = web_user() {
        // Not by `Command::uid`: std then forks, which copies the page tables of all the tests.
        let (uid, gid) = (format!("--reuid={}", user.uid), format!("--regid={}", user.gid));
        line.extend(["/usr/bin/setpriv".to_owned(), uid, gid, "--clear-groups".to_owned()]);
    }
    if dir.join("etc/clock").exists() {
        // For the program alone: the files of a clock that setpriv made as root would be closed to it.
        line.push("/usr/bin/env".to_owned());
        line.extend(clock_variables(dir).map(|(name, value)| format!("{name}={value}")));
    }
    line.push(stage.path("/usr/bin").join(name).display().to_string());
    let mut command = Command::new(&line[0]);
    command.args(&line[1..]).env_clear().env("VGRID_CONFIG_DIR", dir.join("etc")).current_dir("/");
    command
}

/// Links the installed programs into a folder of this portal, so that it can have its own
/// `.htaccess`.
fn link_programs(stage: &Stage, dir: &Path) {
    let installed = stage.path("/usr/lib/vgrid/cgi-bin");
    for subject in ["user", "internal", "node"] {
        let to = dir.join("cgi-bin").join(subject);
        fs::create_dir_all(&to).expect("a folder for programs");
        for entry in fs::read_dir(installed.join(subject)).expect("installed programs") {
            let entry = entry.expect("an installed program");
            // `.htaccess` is a link to the configuration of a real installation.
            if entry.file_type().expect("a file type").is_file() {
                let mode = entry.metadata().expect("metadata").permissions().mode();
                assert_eq!(mode & 0o777, 0o755, "{}", entry.path().display());
                fs::hard_link(entry.path(), to.join(entry.file_name())).expect("a link");
            }
        }
    }
}

/// Apache's configuration as installed, with the paths of this portal.
fn shipped_sites(stage: &Stage, dir: &Path) -> String {
    ["vgrid-server.conf", "vgrid-node.conf"]
        .map(|name| {
            fs::read_to_string(stage.path("/etc/apache2/conf-available").join(name))
                .expect("Apache's configuration")
                .replace("/usr/lib/vgrid/cgi-bin", &dir.join("cgi-bin").display().to_string())
                .replace("/usr/share/vgrid", &stage.path("/usr/share/vgrid").display().to_string())
        })
        .join("\n")
}

/// Enters machines directly in the registry, for pages that show many. Someone must have used the
/// portal before.
pub fn enter_machines(
    registry: &Path,
    owner: &str,
    host: impl Fn(usize) -> String,
    many: usize,
) -> Vec<VmId> {
    use vgrid::model::spec::Spec;
    use vgrid::server::machine::life;
    use vgrid::server::registry::user::Registered;
    use vgrid::server::registry::vm::{NewVm, Placed};
    use vgrid::server::registry::{Registry, RegistryError};
    assert!(registry.exists(), "no one has used the portal yet");
    let mut registry = Registry::open(registry).expect("the registry");
    let entered: Result<Vec<VmId>, RegistryError> = registry.write(|writer| {
        let mut ids = Vec::new();
        let Registered::Known(owner) = writer.register(&owner.parse().expect("a user"))? else {
            panic!("{owner} is another user");
        };
        for n in 1..=many {
            let new = NewVm {
                owner: owner.clone(),
                virtual_host: format!("vm{n}").parse().expect("a name"),
                physical_host: host(n).parse().expect("a host"),
                placed: Placed::AsAsked,
                spec: Spec {
                    image: "tiny".parse().expect("an image"),
                    memory: "128".parse().expect("a size"),
                    cpus: "1".parse().expect("a number"),
                    disk: "1".parse().expect("a size"),
                    saved: None,
                    snapshot: None,
                },
                label: format!("number {n}").parse().expect("a label"),
                lease: "7d".parse().expect("a lease"),
            };
            let vm = writer.enter(new)?;
            let change = life::adopted(&vm, vm.number, true, writer.at()).expect("it runs");
            writer.apply(&vm, change)?;
            ids.push(vm.id);
        }
        Ok(ids)
    });
    entered.expect("machines in the registry")
}

/// A portal with a thousand hosts and ten thousand running machines of alice. One host in twenty
/// hangs, and one in twenty closes connections at once.
pub fn thousand_hosts() -> Portal {
    const HOSTS: u16 = 1000;
    let portal = Setup { hosts: vec![], more_hosts: HOSTS, names: 10_000, ..Setup::default() }.start();
    portal.get("alice", "deploy").send().expect(200);
    let host = |n: usize| (n - 1) % usize::from(HOSTS) + 1;
    let name = |n: usize| address(u16::try_from(host(n)).expect("a host")).to_string();
    let ids = enter_machines(&portal.path("var/registry.sqlite"), "alice", name, 10_000);
    for at in 1..=HOSTS {
        let theirs = (1..).zip(&ids).filter(|(n, _)| host(*n) == usize::from(at));
        let machines: Vec<(String, String)> =
            theirs.map(|(n, id)| (id.to_string(), format!("alice_vm{n}"))).collect();
        let machines: Vec<(&str, &str)> = machines.iter().map(|(id, name)| (&**id, &**name)).collect();
        portal.nodes.has(address(at), with_machines(&machines));
        match at % 20 {
            3 => portal.nodes.conduct_at(address(at), Conduct::Hang),
            7 => portal.nodes.conduct_at(address(at), Conduct::Close),
            _ => {}
        }
    }
    portal
}

/// The peak memory of a process in KiB; `None` if it has ended.
pub fn peak_of(process: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}
