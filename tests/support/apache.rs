//! A private Apache on a free port of 127.0.0.1: the Debian programs with a configuration of its
//! own, independent of the machine's.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, Uid, User};

use super::eventually;

const PROGRAM: &str = "/usr/sbin/apache2";
const MODULES: &str = "/usr/lib/apache2/modules";

/// How Apache runs CGI programs. The two modes differ in what a program sees when a request is
/// faulty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// mpm_event with mod_cgid: Debian's default.
    Event,
    /// mpm_prefork with mod_cgi.
    Prefork,
}

/// A running Apache. When dropped, it is stopped with everything it started.
#[derive(Debug)]
pub struct Apache {
    process: Child,
    dir: PathBuf,
    /// Its address for plain HTTP.
    pub address: SocketAddr,
    /// Its address for TLS, if it has one.
    pub tls: Option<SocketAddr>,
}

/// The user that CGI programs run as: www-data when the tests run as root, otherwise `None` for the
/// caller's own user.
pub fn web_user() -> Option<User> {
    Uid::effective()
        .is_root()
        .then(|| User::from_name("www-data").expect("the list of users").expect("the user www-data"))
}

/// Gives a file or folder to the web server's user.
pub fn give_to_web_user(path: &Path) {
    if let Some(user) = web_user() {
        let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
        std::os::unix::fs::chown(path, Some(uid), Some(gid)).expect("a new owner");
    }
}

/// A free port, below those that the kernel assigns to clients.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let salt = u16::try_from(std::process::id() % 200).expect("less than 200") * 100;
    loop {
        let port = 10_000 + (salt + NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

impl Apache {
    /// Starts an Apache in a folder. `configuration` is given the ports for plain HTTP and for TLS.
    pub fn start(dir: &Path, kind: Kind, tls: bool, configuration: impl Fn(u16, u16) -> String) -> Self {
        for folder in ["run", "logs"] {
            fs::create_dir_all(dir.join(folder)).expect("a folder for Apache");
        }
        for _ in 0..5 {
            let (port, tls_port) = (free_port(), free_port());
            let text = base(dir, kind, port, tls.then_some(tls_port)) + &configuration(port, tls_port);
            fs::write(dir.join("apache.conf"), text).expect("Apache's configuration");
            let process = launch(dir);
            let mut apache = Self {
                process,
                dir: dir.to_owned(),
                address: (Ipv4Addr::LOCALHOST, port).into(),
                tls: tls.then_some((Ipv4Addr::LOCALHOST, tls_port).into()),
            };
            if apache.comes_up(kind) {
                return apache;
            }
            let output = fs::read_to_string(dir.join("logs/start.log")).unwrap_or_default();
            // Another process took the port before Apache could bind it.
            assert!(
                output.contains("Address already in use"),
                "Apache does not start: {output}{}",
                apache.log()
            );
        }
        panic!("no free port for Apache");
    }

    fn comes_up(&mut self, kind: Kind) -> bool {
        // mod_cgid first creates its socket and then hands it over to the web server's user. A
        // request in between gets a 503.
        let socket = self.dir.join(format!("run/cgisock.{}", self.process.id()));
        let owner = web_user().map_or_else(Uid::effective, |user| user.uid).as_raw();
        let cgi = || kind == Kind::Prefork || fs::metadata(&socket).is_ok_and(|facts| facts.uid() == owner);
        let up = eventually(Duration::from_secs(20), || {
            if self.process.try_wait().expect("Apache's state").is_some() {
                return Some(false);
            }
            (cgi() && TcpStream::connect(self.address).is_ok()).then_some(true)
        });
        up.unwrap_or(false)
    }

    /// How many requests it has answered whose request line contains these words.
    pub fn requests(&self, words: &str) -> usize {
        let bytes = fs::read(self.dir.join("logs/access.log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).lines().filter(|line| line.contains(words)).count()
    }

    /// Its error log.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.dir.join("logs/error.log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// Starts Apache with an environment of its own and without our descriptors, which all its children
/// would inherit. The kernel stops it when the thread that runs the test ends, for whatever reason.
fn launch(dir: &Path) -> Child {
    let output = fs::File::create(dir.join("logs/start.log")).expect("Apache's output");
    let close =
        "for fd in /proc/$$/fd/*; do fd=${fd##*/}; (( fd < 3 )) || eval \"exec $fd>&-\"; done; exec \"$@\"";
    Command::new("/bin/bash")
        .args(["-c", close, "bash", "/usr/bin/setpriv", "--pdeathsig", "TERM", PROGRAM, "-d"])
        .arg(dir)
        .arg("-f")
        .arg(dir.join("apache.conf"))
        .args(["-D", "FOREGROUND"])
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .stdin(Stdio::null())
        .stdout(output.try_clone().expect("a second descriptor"))
        .stderr(output)
        .process_group(0)
        .spawn()
        .expect("bash can be started")
}

impl Drop for Apache {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("The end of Apache's log:\n{}", lines[lines.len().saturating_sub(15)..].join("\n"));
        }
        let pid = Pid::from_raw(self.process.id().cast_signed());
        // Any of these may fail because the process is already gone.
        let _ = kill(pid, Signal::SIGTERM);
        let gone = eventually(Duration::from_secs(2), || self.process.try_wait().ok().flatten());
        if gone.is_none() {
            let _ = killpg(pid, Signal::SIGKILL);
            let _ = self.process.wait();
        }
        for orphan in programs_of(&self.dir) {
            let _ = kill(orphan, Signal::SIGKILL);
        }
    }
}

/// The processes started for this folder, wherever they are now: each has the folder in its
/// environment or arguments.
pub fn programs_of(dir: &Path) -> Vec<Pid> {
    use std::os::unix::ffi::OsStrExt as _;
    let needle = dir.as_os_str().as_bytes();
    let mentions_dir = |file: PathBuf| {
        fs::read(file).is_ok_and(|bytes| bytes.windows(needle.len()).any(|part| part == needle))
    };
    fs::read_dir("/proc")
        .expect("/proc")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter(|&pid| pid != std::process::id().cast_signed())
        .filter(|pid| {
            mentions_dir(format!("/proc/{pid}/environ").into())
                || mentions_dir(format!("/proc/{pid}/cmdline").into())
        })
        .map(Pid::from_raw)
        .collect()
}

/// What Debian's apache2 configures before any site, as far as vGrid needs it.
fn base(dir: &Path, kind: Kind, port: u16, tls: Option<u16>) -> String {
    let dir = dir.display();
    let mut text = format!(
        "ServerRoot \"{dir}\"\nServerName localhost\nDefaultRuntimeDir \"{dir}/run\"\nPidFile run/apache.pid\n\
         ErrorLog logs/error.log\nCustomLog logs/access.log \"%r %>s\"\nLogLevel info\nListen 127.0.0.1:{port}\nTypesConfig /etc/mime.types\n\
         Timeout 60\nUseCanonicalName Off\nTraceEnable Off\n"
    );
    let (mpm, cgi) = match kind {
        Kind::Event => ("mpm_event", "cgid"),
        Kind::Prefork => ("mpm_prefork", "cgi"),
    };
    let mut modules = vec![
        mpm,
        cgi,
        "authn_core",
        "authn_file",
        "auth_basic",
        "authz_core",
        "authz_user",
        "authz_host",
        "alias",
        "env",
        "mime",
        "reqtimeout",
    ];
    if tls.is_some() {
        modules.extend(["ssl", "socache_shmcb"]);
    }
    for module in modules {
        text.push_str(&format!("LoadModule {module}_module {MODULES}/mod_{module}.so\n"));
    }
    if let Some(tls) = tls {
        text.push_str(&format!("Listen 127.0.0.1:{tls}\nSSLSessionCache \"shmcb:{dir}/run/tls(512000)\"\n"));
    }
    if let Some(user) = web_user() {
        text.push_str(&format!("User {}\nGroup {}\n", user.name, user.name));
    }
    text.push_str(match kind {
        // Relative to DefaultRuntimeDir, not to ServerRoot.
        Kind::Event => "ScriptSock cgisock\nStartServers 1\nServerLimit 4\nMaxRequestWorkers 100\n",
        Kind::Prefork => "StartServers 5\nMaxRequestWorkers 100\n",
    });
    text.push_str("<Directory />\n    AllowOverride None\n    Require all denied\n</Directory>\n");
    text.push_str("<Files \".ht*\">\n    Require all denied\n</Files>\n");
    text
}
