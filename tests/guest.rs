//! The guest's script, `resources/guest/copyuserkey`, without a guest: in a folder that stands in
//! for `/`, with the shells and tools of old and new distributions, against real key repositories.

use std::fs;
use std::io::Read as _;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::support::apache::{Apache, Kind};
use crate::support::eventually;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/resources/guest/copyuserkey");
const ALICE: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAaBh8n3G7xrcxh7AtnOz/RhasnHELnsOCGUyhtjbbmu alice";
const MALLORY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILpnYqoWYMLmGwGNYWUZzvIM9xqtaOaWYWR4kdxBdPWr mallory";
const MACHINE: &str = "01932c07-8e1f-7a11-9d3e-111122223333";
/// Where a machine finds its id: on Xen, and on KVM.
const IDS: [&str; 2] = ["sys/hypervisor/uuid", "sys/class/dmi/id/product_uuid"];
const NOBODY: &str = "NO KEY: nobody can log in as root by key.";

/// The shell and download tools of a distribution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kit {
    /// A shell like dash, and curl.
    Curl,
    /// bash, and only GNU wget.
    Wget,
    /// A shell like dash, and a GNU wget of 2007: no `--max-redirect`, no exit status but 1.
    OldWget,
    /// Only busybox, and GNU wget.
    BusyboxAndWget,
    /// Only busybox, whose wget does not check certificates.
    Busybox,
}

/// The kits that can fetch over https.
const KITS: [Kit; 4] = [Kit::Curl, Kit::Wget, Kit::OldWget, Kit::BusyboxAndWget];

/// Runs a test with several kits concurrently, because it mostly waits.
fn with_each(kits: impl IntoIterator<Item = Kit>, act: impl Fn(Kit) + Sync) {
    std::thread::scope(|scope| {
        for kit in kits {
            let act = &act;
            scope.spawn(move || act(kit));
        }
    });
}

impl Kit {
    fn shell(self) -> &'static [&'static str] {
        match self {
            Self::Curl | Self::OldWget => &["/bin/dash"],
            Self::Wget => &["/bin/bash", "--posix"],
            Self::BusyboxAndWget | Self::Busybox => &["/bin/busybox", "sh"],
        }
    }

    /// Fills the folder that becomes the script's PATH.
    fn fill(self, bin: &Path) {
        let tools =
            ["sed", "tr", "grep", "cat", "sleep", "mv", "rm", "mkdir", "chmod", "chown", "id"].as_slice();
        match self {
            Self::BusyboxAndWget | Self::Busybox => {
                let list = Command::new("/bin/busybox").arg("--list").output().expect("busybox lists");
                for name in String::from_utf8(list.stdout).expect("names").lines() {
                    symlink("/bin/busybox", bin.join(name)).expect("a link");
                }
            }
            _ => {
                for tool in tools {
                    symlink(Path::new("/bin").join(tool), bin.join(tool)).expect("a link");
                }
            }
        }
        match self {
            Self::Curl => symlink("/usr/bin/curl", bin.join("curl")).expect("a link"),
            Self::Wget => symlink("/usr/bin/wget", bin.join("wget")).expect("a link"),
            Self::BusyboxAndWget => {
                fs::remove_file(bin.join("wget")).expect("busybox has a wget");
                symlink("/usr/bin/wget", bin.join("wget")).expect("a link");
            }
            Self::Busybox => assert!(bin.join("wget").is_symlink(), "busybox has no wget"),
            Self::OldWget => {
                let text = "#!/bin/sh\ncase \"$*\" in\n--version) echo 'GNU Wget 1.10.2 (Red Hat modified)'; exit ;;\n\
                            --help) /usr/bin/wget --help | /bin/grep -v max-redirect; exit ;;\n*--max-redirect*) exit 1 ;;\n\
                            esac\n/usr/bin/wget \"$@\" || exit 1\n";
                write(&bin.join("wget"), text);
                fs::set_permissions(bin.join("wget"), fs::Permissions::from_mode(0o755)).expect("a program");
            }
        }
    }
}

fn write(file: &Path, text: &str) {
    fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
    fs::write(file, text).expect("a file");
}

/// A guest's root folder.
struct Guest {
    dir: TempDir,
    kit: Kit,
}

impl Guest {
    /// A guest owned by `name` whose repository is at `prefix`. Its image contains Mallory's key.
    fn new(kit: Kit, name: &str, prefix: &str) -> Self {
        let guest = Self { dir: TempDir::new().expect("a folder"), kit };
        guest.owner(name);
        guest.machine(IDS[0], MACHINE);
        write(&guest.at("dev/console"), "");
        fs::create_dir(guest.at("bin")).expect("a folder");
        kit.fill(&guest.at("bin"));
        guest.repository(prefix, "");
        write(&guest.keys(), &format!("{MALLORY}\n"));
        write(&guest.at("root/.ssh/authorized_keys2"), &format!("{MALLORY}\n"));
        guest
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn keys(&self) -> PathBuf {
        self.at("root/.ssh/authorized_keys")
    }

    fn owner(&self, name: &str) {
        let line = format!("root=/dev/xvda1 ro vgrid_username={name} ip=10.0.2.21::10.0.2.2 console=hvc0\n");
        write(&self.at("proc/cmdline"), &line);
    }

    fn machine(&self, file: &str, id: &str) {
        write(&self.at(file), &format!("{id}\n"));
    }

    fn repository(&self, prefix: &str, more: &str) {
        let path = self.at("bin");
        let text = format!(
            "PATH={}\nWEB_SOURCE_PREFIX={prefix}\nCA_FILE=/etc/ca.pem\nTRIES=2\nPAUSE=0\nTIME_LIMIT=3\n{more}\n",
            path.display()
        );
        write(&self.at("etc/default/vgrid-guest"), &text);
    }

    fn trust(&self, authority: &Path) {
        fs::copy(authority, self.at("etc/ca.pem")).expect("the authority");
    }

    fn command(&self, words: &[&str]) -> Command {
        let shell = self.kit.shell();
        let mut command = Command::new(shell[0]);
        command.args(&shell[1..]).arg(SCRIPT).arg("--root").arg(self.dir.path()).args(words);
        command.env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A kernel command line can set these variables. They must not count.
        for (name, value) in [
            ("PATH", "/nowhere"),
            ("WEB_SOURCE_PREFIX", "https://127.0.0.1:1/"),
            ("NAME", "mallory"),
            ("MARK", "#"),
            ("CURL_CA_BUNDLE", "/nowhere"),
            ("https_proxy", "http://127.0.0.1:1/"),
            ("HOME", "/root"),
        ] {
            command.env(name, value);
        }
        command
    }

    /// Boots the guest. Returns the script's output.
    #[track_caller]
    fn boot(&self) -> String {
        fs::write(self.at("dev/console"), "").expect("a console");
        let Output { status, stderr, stdout } = self.command(&["start"]).output().expect("the shell runs");
        let output = String::from_utf8(stderr).expect("UTF-8");
        assert_eq!(status.code(), Some(0), "{:?}: {output}", self.kit);
        assert_eq!(String::from_utf8_lossy(&stdout), "");
        assert_eq!(self.console(), output, "{:?}: the console says the same", self.kit);
        output
    }

    fn console(&self) -> String {
        fs::read_to_string(self.at("dev/console")).expect("a console")
    }

    /// The files in root's `.ssh` folder.
    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.at("root/.ssh")).expect("a folder");
        let mut names: Vec<String> = entries
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
            .collect();
        names.sort();
        names
    }

    /// Asserts that root's keys are these lines, and that only root can access file and folder.
    #[track_caller]
    fn lets_in(&self, lines: &str, output: &str) {
        let text =
            fs::read_to_string(self.keys()).unwrap_or_else(|_| panic!("{:?}: no key: {output}", self.kit));
        let keys: Vec<&str> = text.lines().filter(|line| !line.starts_with("# by copyuserkey")).collect();
        assert_eq!(keys.join("\n"), lines.trim_end(), "{:?}: {output}", self.kit);
        assert_eq!(self.files(), ["authorized_keys"], "{:?}", self.kit);
        let mode = |path: PathBuf| fs::metadata(path).expect("facts").permissions().mode() & 0o7777;
        assert_eq!((mode(self.keys()), mode(self.at("root/.ssh"))), (0o600, 0o700));
    }

    /// Asserts that no key is installed and that the console says so, with these words.
    #[track_caller]
    fn lets_nobody_in(&self, output: &str, words: &str) {
        assert!(
            output.contains(words) && output.contains(NOBODY),
            "{:?}: no {words:?} in {output}",
            self.kit
        );
        assert_eq!(self.files(), Vec::<String>::new(), "{:?}: {output}", self.kit);
    }
}

/// A key repository: Apache with a certificate from an authority of its own.
struct Repository {
    apache: Apache,
    dir: TempDir,
}

/// A repository's certificate, valid or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Certificate {
    Valid,
    SelfSigned,
    OtherHost,
    Expired,
}

impl Repository {
    fn start(certificate: Certificate) -> Self {
        let dir = TempDir::new().expect("a folder");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("a public folder");
        let (host, days) = match certificate {
            Certificate::OtherHost => ("keys.example.org", "2"),
            Certificate::Expired => ("localhost", "-1"),
            Certificate::Valid | Certificate::SelfSigned => ("localhost", "2"),
        };
        let line = format!(
            "set -e; new='-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes'
             openssl req -x509 $new -days 2 -subj '/CN=A throw-away authority' -keyout ca.key -out ca.pem
             openssl req -x509 $new -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost -keyout self.key -out self.pem
             openssl req $new -subj /CN={host} -keyout signed.key -out signed.csr
             echo subjectAltName=DNS:{host} > ext
             openssl x509 -req -in signed.csr -CA ca.pem -CAkey ca.key -set_serial 1 -days {days} -extfile ext -out signed.pem"
        );
        let made =
            Command::new("/bin/sh").args(["-c", &line]).current_dir(dir.path()).output().expect("sh runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let keys = dir.path().join("keys");
        write(&keys.join("authorized_keys.alice"), &format!("{ALICE}\n"));
        fs::set_permissions(&keys, fs::Permissions::from_mode(0o755)).expect("a public folder");
        let name = if certificate == Certificate::SelfSigned { "self" } else { "signed" };
        let at = dir.path().display();
        let apache = Apache::start(dir.path(), Kind::Event, true, |port, tls_port| {
            format!(
                "Redirect /elsewhere/ http://localhost:{port}/keys/\nAlias /keys/ \"{at}/keys/\"\n\
                 <Directory \"{at}/keys\">\nRequire all granted\n</Directory>\n\
                 <VirtualHost 127.0.0.1:{tls_port}>\nSSLEngine on\nSSLCertificateFile \"{at}/{name}.pem\"\n\
                 SSLCertificateKeyFile \"{at}/{name}.key\"\n</VirtualHost>\n"
            )
        });
        Self { apache, dir }
    }

    fn put(&self, name: &str, text: &str) {
        write(&self.dir.path().join("keys").join(format!("authorized_keys.{name}")), text);
    }

    /// Its https address, for a folder.
    fn prefix(&self, folder: &str) -> String {
        let port = self.apache.tls.expect("a port with TLS").port();
        format!("https://localhost:{port}/{folder}/authorized_keys.")
    }

    fn guest(&self, kit: Kit, name: &str) -> Guest {
        let guest = Guest::new(kit, name, &self.prefix("keys"));
        guest.trust(&self.dir.path().join("ca.pem"));
        guest
    }
}

#[test]
fn the_scripts_pass_shellcheck() {
    let output = Command::new("shellcheck")
        .arg(SCRIPT)
        .args(["pcgrub", "pvgrub"].map(|name| format!("{}/bin/node/{name}", env!("CARGO_MANIFEST_DIR"))))
        .output()
        .expect("shellcheck can be started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn a_key_in_the_image_takes_precedence_and_is_the_only_one() {
    for kit in KITS.into_iter().chain([Kit::Busybox]) {
        let guest = Guest::new(kit, "J%C3%BCrgen_M.", "https://127.0.0.1:1/");
        // Written on Windows, with options.
        let more = format!("# two\r\n\r\nfrom=\"10.*,!10.1.*\",no-pty {ALICE}\r\n{ALICE} two\r\n");
        write(&guest.at("opt/ssh_public_keys/authorized_keys.J%C3%BCrgen_M."), &more);
        write(&guest.at("opt/ssh_public_keys/authorized_keys.mallory"), MALLORY);
        let output = guest.boot();
        guest.lets_in(&more.replace('\r', ""), &output);
        assert!(output.contains("root may log in with the key of J%C3%BCrgen_M., from /opt/"), "{output}");
    }
}

#[test]
fn a_key_is_fetched_from_the_repository() {
    let repository = Repository::start(Certificate::Valid);
    repository.put("Jürgen", ALICE);
    with_each(KITS, |kit| {
        let guest = repository.guest(kit, "alice");
        let output = guest.boot();
        guest.lets_in(ALICE, &output);
        assert!(output.contains("from https://localhost:"), "{output}");
        guest.owner("J%C3%BCrgen");
        let output = guest.boot();
        guest.lets_in(ALICE, &output);
        // A user without a key gets none, and not the previous user's either.
        guest.owner("bob");
        guest.lets_nobody_in(&guest.boot(), "404");
    });
}

#[test]
fn a_repository_without_a_valid_certificate_is_not_asked() {
    for certificate in [Certificate::SelfSigned, Certificate::OtherHost, Certificate::Expired] {
        let repository = Repository::start(certificate);
        with_each(KITS, |kit| {
            let guest = repository.guest(kit, "alice");
            guest.lets_nobody_in(&guest.boot(), "certificate");
            // Nor is the key of an earlier boot kept.
            fs::write(
                guest.keys(),
                format!("# by copyuserkey for alice on {MACHINE}; replaced at every start\n{ALICE}\n"),
            )
            .expect("a key");
            guest.lets_nobody_in(&guest.boot(), "certificate");
        });
        assert_eq!(repository.apache.requests("GET"), 0, "{certificate:?}: the repository was asked");
    }
}

#[test]
fn an_answer_that_is_not_a_key_is_rejected() {
    let long = format!("{ALICE}\n").repeat(20_000);
    let html = format!("<!DOCTYPE html>\n<html><body><pre>\n{ALICE}\n</pre></body></html>\n");
    let comment = "# no key yet\n";
    let private =
        "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAA\n-----END OPENSSH PRIVATE KEY-----\n";
    let short = "ssh-ed25519 AAAAC3Nza\n";
    with_each(KITS, |kit| {
        // One for each kit, because its answers change.
        let repository = Repository::start(Certificate::Valid);
        let guest = repository.guest(kit, "alice");
        for text in ["", &html, comment, private, short, &format!("{ALICE}\nand more\n")] {
            repository.put("alice", text);
            guest.lets_nobody_in(&guest.boot(), "is no public key");
        }
        repository.put("alice", &long);
        guest.lets_nobody_in(&guest.boot(), "copyuserkey");
        repository.put("alice", ALICE);
        // The server may redirect to http or to a server without a certificate.
        guest.repository(&repository.prefix("elsewhere"), "");
        let output = guest.boot();
        guest.lets_nobody_in(&output, "gave no key for alice");
    });
}

#[test]
fn an_unreachable_repository_keeps_only_the_owner_s_last_key() {
    let repository = Repository::start(Certificate::Valid);
    with_each(KITS, |kit| IDS.iter().for_each(|id| keeps_only_the_owner_s_last_key(&repository, kit, id)));
}

/// `id` is where the machine has its id.
fn keeps_only_the_owner_s_last_key(repository: &Repository, kit: Kit, id: &str) {
    let guest = repository.guest(kit, "alice");
    fs::remove_file(guest.at(IDS[0])).expect("an id");
    guest.machine(id, MACHINE);
    let away = "https://127.0.0.1:1/";
    guest.repository(away, "");
    let output = guest.boot();
    guest.lets_nobody_in(&output, "can't be reached (try 2 of 2)");
    // The key of an earlier boot is kept if the tool can tell that the server did not answer …
    let earlier = || {
        guest.repository(&repository.prefix("keys"), "");
        guest.lets_in(ALICE, &guest.boot());
        guest.repository(away, "");
    };
    earlier();
    let output = guest.boot();
    if kit == Kit::OldWget {
        guest.lets_nobody_in(&output, "can't be reached");
    } else {
        guest.lets_in(ALICE, &output);
        assert!(output.contains("for the same owner, alice, stays"), "{output}");
    }
    // … unless it was another owner's, or installed on another machine, whose disk was saved as
    // an image,
    earlier();
    guest.owner("bob");
    guest.lets_nobody_in(&guest.boot(), "can't be reached");
    guest.owner("alice");
    earlier();
    guest.machine(id, "01932c07-8e1f-7a11-9d3e-111122224444");
    guest.lets_nobody_in(&guest.boot(), "can't be reached");
    guest.machine(id, MACHINE);
    // or the machine cannot be identified.
    earlier();
    fs::remove_file(guest.at(id)).expect("an id");
    guest.lets_nobody_in(&guest.boot(), "can't be reached");
    guest.machine(id, MACHINE);
    // A host name that does not exist.
    guest.repository("https://keys.invalid/", "");
    guest.lets_nobody_in(&guest.boot(), "can't be reached");
}

#[test]
fn other_keys_are_removed_before_the_repository_is_asked() {
    with_each(KITS, |kit| {
        let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        silent.set_nonblocking(true).expect("a port");
        let prefix = format!("https://127.0.0.1:{}/", silent.local_addr().expect("an address").port());
        let guest = Guest::new(kit, "alice", &prefix);
        guest.trust(Path::new("/etc/ssl/certs/ca-certificates.crt"));
        let start = Instant::now();
        let mut child = guest.command(&[]).spawn().expect("the shell runs");
        let mut call =
            eventually(Duration::from_secs(20), || silent.accept().ok()).expect("the repository is asked").0;
        assert!(!guest.keys().exists() && !guest.at("root/.ssh/authorized_keys2").exists(), "{kit:?}");
        call.set_nonblocking(false).expect("a connection");
        let mut first = [0; 1];
        assert!(call.read_exact(&mut first).is_ok(), "{kit:?} sends nothing");
        let status = child.wait().expect("an exit status");
        assert!(status.success(), "{kit:?}: {status}");
        guest.lets_nobody_in(&guest.console(), "can't be reached (try 2 of 2)");
        assert!(start.elapsed() < Duration::from_secs(30), "{kit:?} took {:?}", start.elapsed());
    });
}

#[test]
fn owner_names_that_are_paths_or_worse_are_rejected() {
    let repository = Repository::start(Certificate::Valid);
    write(&repository.dir.path().join("keys/bob"), MALLORY);
    let long = "a".repeat(769);
    for name in [
        "..",
        ".",
        "../alice",
        "/../alice",
        "x/../../../../opt/ssh_public_keys/authorized_keys.mallory",
        "%2E%2E",
        "%2e%2e%2falice",
        "..%2Falice",
        "..%2falice",
        "x%2F..%2Falice",
        "x%5C..%5Calice",
        "alice%0Amallory",
        "alice%0d",
        "alice%00",
        "alice%7F",
        "al%69ce",
        "alice%",
        "alice%4",
        "alice%zz",
        "-alice",
        "$(id)",
        "`id`",
        "a;id",
        "a*",
        "alice?x",
        "alice#",
        "\"alice\"",
        "ali\\ce",
        "jürgen",
        "alice vgrid_username=mallory",
        "",
        &long,
    ] {
        for kit in [Kit::Curl, Kit::Wget, Kit::BusyboxAndWget] {
            let guest = repository.guest(kit, name);
            write(&guest.at("opt/ssh_public_keys/authorized_keys.mallory"), MALLORY);
            let output = guest.boot();
            guest.lets_nobody_in(&output, "owner");
            assert!(!output.contains("ssh_public_keys"), "{name}: {output}");
        }
    }
    let guest = repository.guest(Kit::Curl, "alice");
    fs::remove_file(guest.at("proc/cmdline")).expect("a command line");
    guest.lets_nobody_in(&guest.boot(), "names no owner");
    assert_eq!(repository.apache.requests("GET"), 0);
}

#[test]
fn http_is_used_only_if_configured_and_with_a_warning() {
    let repository = Repository::start(Certificate::Valid);
    let port = repository.apache.address.port();
    with_each(KITS.into_iter().chain([Kit::Busybox]), |kit| {
        let guest = repository.guest(kit, "alice");
        guest.repository(&format!("http://localhost:{port}/keys/authorized_keys."), "");
        let output = guest.boot();
        guest.lets_in(ALICE, &output);
        assert!(output.contains("WARNING: the key is fetched by http"), "{output}");
        guest.owner("bob");
        let output = guest.boot();
        assert!(output.contains(NOBODY), "{output}");
        guest.owner("alice");
        for (prefix, words) in [
            ("", "No key repository is set"),
            ("ftp://localhost/", "must begin with https://"),
            ("file:///root/", "must begin with https://"),
            ("/keys/", "must begin with https://"),
            ("'https://localhost/ -k '", "is no address"),
        ] {
            guest.repository(prefix, "");
            guest.lets_nobody_in(&guest.boot(), words);
        }
    });
}

#[test]
fn without_a_tool_that_checks_certificates_nothing_is_fetched() {
    let repository = Repository::start(Certificate::Valid);
    let guest = repository.guest(Kit::Busybox, "alice");
    guest.lets_nobody_in(&guest.boot(), "neither curl nor a GNU wget of 1.10");
    for version in ["1.9.1", "1.9", "0.99"] {
        let guest = repository.guest(Kit::OldWget, "alice");
        let file = guest.at("bin/wget");
        let text = fs::read_to_string(&file).expect("a program").replace("1.10.2", version);
        fs::write(&file, text).expect("a program");
        guest.lets_nobody_in(&guest.boot(), "neither curl nor a GNU wget of 1.10");
    }
    assert_eq!(repository.apache.requests("GET"), 0);
}

#[test]
fn broken_settings_let_nobody_in() {
    for kit in KITS {
        let guest = Guest::new(kit, "alice", "'https://localhost/");
        guest.lets_nobody_in(&guest.boot(), "a mistake in /etc/default/vgrid-guest");
    }
}

#[test]
fn a_link_in_place_of_the_ssh_folder_is_replaced() {
    let repository = Repository::start(Certificate::Valid);
    let guest = repository.guest(Kit::Curl, "alice");
    fs::rename(guest.at("root/.ssh"), guest.at("elsewhere")).expect("a folder");
    symlink(guest.at("elsewhere"), guest.at("root/.ssh")).expect("a link");
    let output = guest.boot();
    guest.lets_in(ALICE, &output);
    assert!(!guest.at("root/.ssh").is_symlink());
    assert_eq!(fs::read_dir(guest.at("elsewhere")).expect("a folder").count(), 0);
    // A link in place of the file: its target stays as it is.
    write(&guest.at("precious"), "precious");
    fs::remove_file(guest.keys()).expect("a key");
    symlink(guest.at("precious"), guest.keys()).expect("a link");
    let output = guest.boot();
    guest.lets_in(ALICE, &output);
    assert_eq!(fs::read_to_string(guest.at("precious")).expect("a file"), "precious");
}

#[test]
fn a_key_that_cannot_be_removed_raises_an_alarm() {
    let repository = Repository::start(Certificate::Valid);
    let guest = repository.guest(Kit::Wget, "alice");
    // The disk is read-only, in a mount namespace of its own.
    let script = guest.command(&["start"]);
    let output = Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-ec"])
        .arg("mount --bind \"$0\" \"$0\"; mount -o remount,bind,ro \"$0\"; exec \"$@\"")
        .arg(guest.at("root"))
        .arg(script.get_program())
        .args(script.get_args())
        .output()
        .expect("unshare can be started");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(guest.console().contains("ALARM"), "{}", guest.console());
    assert_eq!(repository.apache.requests("GET"), 0);
}

#[test]
fn it_works_under_a_service_manager() {
    let repository = Repository::start(Certificate::Valid);
    let guest = repository.guest(Kit::Wget, "alice");
    let code = |words: &[&str]| guest.command(words).output().expect("the shell runs").status.code();
    assert_eq!((code(&["stop"]), code(&["status"]), code(&["sing"])), (Some(0), Some(3), Some(2)));
    assert!(guest.keys().exists(), "only a start changes anything");
    assert_eq!((code(&["force-reload"]), code(&["status"])), (Some(0), Some(0)));
    guest.lets_in(ALICE, "");
}
