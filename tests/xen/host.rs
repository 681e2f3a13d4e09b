//! The emulated Xen hosts of a scenario: resumed from a saved state that has vGrid installed, and
//! stopped when the scenario ends, however it ends.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::support::visited::Visited;

/// The fields of a small machine that boots within seconds.
pub const TINY: &str = "vmImage=tiny&vmMemory=96&vmPartition=1";

/// The one program that www-data may run as root.
pub const HELPER: &str = "/usr/lib/vgrid/vgrid-helper";

/// The id of a machine that no portal knows.
pub const UNKNOWN_ID: &str = "019dd5a3-2f3a-7c11-9d9b-0123456789ab";

/// Everyone's password on the test host.
pub const PASSWORD: &str = "for-tests-only";

/// Emulation uses both processors of a small machine, so scenarios run one at a time. Two at once
/// take twice as long and run into time limits.
static TURN: Mutex<()> = Mutex::new(());
/// The saved state is built once per test run, from the current programs.
static STATE: OnceLock<()> = OnceLock::new();
static STATE_WITH_LIBVIRT: OnceLock<()> = OnceLock::new();

/// The root of the project.
pub fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn folder() -> PathBuf {
    project().join("target/xenhost")
}

/// What a host is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Build {
    /// What Xen hosts have.
    Usual,
    /// And libvirt, with its driver for Xen, which is not running yet.
    Libvirt,
}

impl Build {
    /// The packages besides the usual ones, for `XENHOST_EXTRA`.
    fn packages(self) -> &'static str {
        match self {
            Self::Usual => "",
            Self::Libvirt => "libvirt-daemon-system,libvirt-daemon-driver-xen,libvirt-clients",
        }
    }

    /// The saved state with vGrid.
    fn state(self) -> &'static str {
        match self {
            Self::Usual => "vgrid",
            Self::Libvirt => "vgrid-libvirt",
        }
    }
}

/// Runs a script from `tests/xenhost` on a run folder, with the wiring of eth1 in `link`. Its
/// output goes to a file: QEMU keeps inherited descriptors open, so a pipe would never end.
fn script(run: &Path, build: Build, link: &str, args: &[&str], limit: Duration) -> Result<(), String> {
    let log = folder().join("test.log");
    std::fs::create_dir_all(folder()).expect("target is writable");
    let out = File::options().create(true).append(true).open(&log).expect("target is writable");
    let mut child = Command::new(project().join("tests/xenhost").join(args[0]))
        .args(&args[1..])
        .env("XENHOST_RUN", run)
        .env("XENHOST_STATES", folder().join("test-states"))
        .env("XENHOST_RESTRICT", "on")
        .env("XENHOST_LINK", link)
        .env("XENHOST_EXTRA", build.packages())
        .env("VGRID_PASSWORD", PASSWORD)
        .stdin(Stdio::null())
        .stdout(out.try_clone().expect("a descriptor"))
        .stderr(out)
        .spawn()
        .map_err(|error| format!("{args:?}: {error}"))?;
    let end = Instant::now() + limit;
    loop {
        match child.try_wait().map_err(|error| error.to_string())? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(format!("{args:?}: {status}; see {}", log.display())),
            None if Instant::now() > end => {
                // init reaps it when this process ends.
                let _ = child.kill();
                return Err(format!("{args:?} took more than {limit:?}; see {}", log.display()));
            }
            None => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// Runs a scenario on a fresh host. Emulation sometimes crashes a program for no fault of ours. The
/// outcome, good or bad, then means nothing, and the scenario is run again.
pub fn scenario(name: &str, act: impl Fn(&Host)) {
    scenario_on(Build::Usual, name, act);
}

/// The same on a host of another build.
pub fn scenario_on(build: Build, name: &str, act: impl Fn(&Host)) {
    run_valid(build, name, |name| [Host::start(name, build, "")], |[host]| act(host));
}

/// Runs a scenario on two hosts resumed from the same state, so with the same name and addresses. A
/// cable connects their eth1 interfaces, which have no addresses yet.
pub fn scenario_of_two(name: &str, act: impl Fn(&Host, &Host)) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let ends = [dir.path().join("one"), dir.path().join("other")].map(|end| end.display().to_string());
    let start = |name: &str| {
        [
            Host::start(&format!("{name}-1"), Build::Usual, &format!("{} {}", ends[0], ends[1])),
            Host::start(&format!("{name}-2"), Build::Usual, &format!("{} {}", ends[1], ends[0])),
        ]
    };
    run_valid(Build::Usual, name, start, |[one, other]| act(one, other));
}

/// Runs a scenario on a fresh host whose eth1 is a cable for another kind of host. It gets the
/// cable's two ends, as `tests/xenhost` names them.
pub fn linked_scenario(name: &str, act: impl Fn(&Host, &str)) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let link = ["one", "other"].map(|end| dir.path().join(end).display().to_string()).join(" ");
    run_valid(Build::Usual, name, |name| [Host::start(name, Build::Usual, &link)], |[host]| act(host, &link));
}

/// Runs a scenario until no program on its hosts crashed meanwhile.
fn run_valid<const N: usize>(
    build: Build,
    name: &str,
    start: impl Fn(&str) -> [Host; N],
    act: impl Fn(&[Host; N]),
) {
    const TRIES: u32 = 3;
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    make_state(build);
    for attempt in 1..=TRIES {
        let hosts = start(name);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| act(&hosts)));
        let faults: u32 = hosts.iter().map(Host::faults).sum();
        if faults > 0 && attempt < TRIES {
            eprintln!("{name}: void: {faults} programs crashed on the emulated host; running it again");
            continue;
        }
        assert_eq!(faults, 0, "{name}: void {TRIES} times");
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
        return;
    }
}

fn make_state(build: Build) {
    let state = match build {
        Build::Usual => &STATE,
        Build::Libvirt => &STATE_WITH_LIBVIRT,
    };
    state.get_or_init(|| {
        let run = folder().join("test-install");
        let minutes = |n: u64| Duration::from_secs(n * 60);
        let script = |args: &[&str], limit| script(&run, build, "", args, limit);
        let made = script(&["build"], minutes(20))
            .and_then(|()| script(&["up"], minutes(10)))
            // A scenario runs upkeep itself, and must not collide with cron. Nor may the saved portal
            // know more of the host when its installation ran into the next five minutes.
            .and_then(|()| script(&["sh", "systemctl", "-q", "disable", "--now", "cron"], minutes(1)))
            .and_then(|()| script(&["install-vgrid"], minutes(10)))
            .and_then(|()| script(&["save", build.state()], minutes(5)));
        if let Err(error) = made {
            // Report this error, not that of the clean-up.
            let _ = script(&["down"], minutes(1));
            panic!("the emulated host can't be built: {error}");
        }
    });
}

/// A running host.
pub struct Host {
    run: PathBuf,
    build: Build,
    link: String,
    pub portal: String,
    /// Crashed programs in the log when the current kernel started, and in earlier boots of this
    /// scenario.
    faults_before: AtomicU32,
    faults_earlier: AtomicU32,
    has_power: AtomicBool,
}

/// Everything on a host that a machine might leave behind, by kind.
pub type Inventory = BTreeMap<&'static str, String>;

/// A finished command's exit status and output.
pub struct Finished {
    pub status: i32,
    pub out: String,
}

impl Host {
    /// Resumes a fresh host with vGrid on it.
    fn start(name: &str, build: Build, link: &str) -> Self {
        let run = folder().join(format!("test-{name}"));
        script(&run, build, link, &["up", build.state()], Duration::from_secs(300))
            .expect("the emulated host resumes");
        watch(&run);
        let ports = std::fs::read_to_string(run.join("ports")).expect("up records its ports");
        let http = ports.split_whitespace().nth(1).expect("two ports");
        let host = Self {
            run,
            build,
            link: link.to_owned(),
            portal: format!("http://127.0.0.1:{http}"),
            faults_before: AtomicU32::new(0),
            faults_earlier: AtomicU32::new(0),
            has_power: AtomicBool::new(true),
        };
        host.faults_before.store(host.count_faults(), Ordering::Relaxed);
        host
    }

    fn count_faults(&self) -> u32 {
        let text = self.try_sh("dmesg | grep -c -e segfault -e 'general protection'").out;
        text.trim().parse().expect("dom0 counts")
    }

    /// How many programs have crashed since the scenario started.
    fn faults(&self) -> u32 {
        let earlier = self.faults_earlier.load(Ordering::Relaxed);
        if self.has_power.load(Ordering::Relaxed) {
            earlier + self.count_faults() - self.faults_before.load(Ordering::Relaxed)
        } else {
            earlier
        }
    }

    /// Saves the crash count before a reboot clears the kernel's log.
    fn keep_faults(&self) {
        self.faults_earlier.store(self.faults(), Ordering::Relaxed);
        self.faults_before.store(0, Ordering::Relaxed);
    }

    fn must(&self, words: &[&str], limit: Duration) {
        script(&self.run, self.build, &self.link, words, limit).unwrap_or_else(|error| panic!("{error}"));
    }

    /// The run folder, which the scripts of `tests/xenhost` know it by.
    pub fn run(&self) -> &Path {
        &self.run
    }

    /// Shuts the host down cleanly and boots it from its disks.
    pub fn reboot(&self) {
        self.keep_faults();
        self.has_power.store(false, Ordering::Relaxed);
        self.must(&["reboot"], Duration::from_secs(900));
        self.has_power.store(true, Ordering::Relaxed);
    }

    /// Cuts the power: only what was flushed to the disks is there after the next boot.
    pub fn cut_power(&self) {
        self.keep_faults();
        self.has_power.store(false, Ordering::Relaxed);
        self.must(&["cut"], Duration::from_secs(60));
    }

    /// Boots a host after a power cut.
    pub fn boot(&self) {
        self.must(&["up", "--again"], Duration::from_secs(900));
        self.has_power.store(true, Ordering::Relaxed);
    }

    /// A shell command to be run as root, with empty standard input.
    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new(project().join("tests/xenhost/sh"));
        command
            .arg(format!("timeout 900 bash -c {}", quote(line)))
            .env("XENHOST_RUN", &self.run)
            .stdin(Stdio::null());
        command
    }

    /// Runs a shell command as root.
    pub fn try_sh(&self, command: &str) -> Finished {
        let output = self.command(command).output().expect("tests/xenhost/sh runs");
        let out =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        Finished { status: output.status.code().unwrap_or(-1), out }
    }

    /// Runs a shell command as root, which must succeed. Returns its output.
    pub fn sh(&self, line: &str) -> String {
        let finished = self.try_sh(line);
        assert_eq!(finished.status, 0, "{line}\n{}", finished.out);
        finished.out
    }

    /// Runs a shell command as the web server's user.
    pub fn as_www_data(&self, line: &str) -> Finished {
        self.try_sh(&format!(
            "cd / && setpriv --reuid=www-data --regid=www-data --init-groups bash -c {}",
            quote(line)
        ))
    }

    /// Copies a file or folder from this machine to the host.
    pub fn put(&self, from: &Path, to: &str) {
        let from = from.to_str().expect("a readable path");
        self.must(&["put", from, to], Duration::from_secs(120));
    }

    /// Waits until a machine answers pings at its address.
    pub fn must_answer_ping(&self, name: &str) {
        self.sh(&format!(
            "for i in $(seq 100); do ping -q -c 1 -W 2 {name} > /dev/null && exit; sleep 1; done; exit 1"
        ));
    }

    /// Takes stock of everything a machine might leave behind.
    pub fn inventory(&self) -> Inventory {
        [
            ("domains", "xl list | awk 'NR > 1 {print $1}' | sort"),
            ("volumes", "lvs --noheadings -o lv_name,lv_size vg1 | sort"),
            ("device nodes", "ls /dev/mapper /dev/vg1 2>/dev/null | sort"),
            ("mounts", "cat /proc/[0-9]*/mounts 2>/dev/null | grep -e vg1 -e vgrid | sort -u"),
            ("loop devices", "losetup -a"),
            ("configuration", "find /etc/xen /etc/vgrid | sort"),
            // The jobs folder, the node's locks and its last view of the host belong to no machine.
            (
                "jobs and records",
                "cd /var/lib/vgrid; find . -not -name 'registry*' -not -path ./node/jobs -not -name 'node.lock' \
                 -not -name 'slot-*.lock' -not -name 'image-*.lock' -not -name 'saved-*.lock' -not -name 'ahead.*' -not -path ./node/host.json -not -path './node/seen*' | sort",
            ),
            (
                "temporary files",
                "find /tmp /var/tmp /run/vgrid /dev/shm -mindepth 1 -not -path '*/systemd-private*' \
                 -not -name start.lock 2>/dev/null | sort",
            ),
            ("consoles", "find /var/log/xen/console -type f | sort"),
            ("processes", "pgrep -a -f 'vgrid-|[x]l create|mkfs|lvcreate' | cut -d' ' -f2- | sort"),
        ]
        .into_iter()
        .map(|(kind, line)| (kind, self.try_sh(line).out))
        .collect()
    }

    /// Asserts that the host has exactly what it had before. Whatever is about to disappear has two
    /// minutes to do so.
    pub fn must_be_as(&self, before: &Inventory) {
        let end = Instant::now() + Duration::from_secs(120);
        loop {
            let now = self.inventory();
            if now == *before {
                return;
            }
            if Instant::now() > end {
                for (kind, was) in before {
                    assert_eq!(now.get(kind), Some(was), "left over: {kind}\n{}", self.log());
                }
            }
            std::thread::sleep(Duration::from_secs(1));
        }
    }
}

impl Visited for Host {
    fn portal(&self) -> &str {
        &self.portal
    }

    fn password(&self) -> &str {
        PASSWORD
    }

    fn patience(&self) -> u64 {
        900
    }

    fn log(&self) -> String {
        self.try_sh("journalctl -q --no-pager -n 60 -o cat -t vgrid").out
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Err(error) = script(&self.run, self.build, "", &["down"], Duration::from_secs(60)) {
            eprintln!("{error}");
        }
    }
}

/// Stops the host when this process is gone, in case it was killed before it could do so.
fn watch(run: &Path) {
    let down = project().join("tests/xenhost/down");
    let line = "while kill -0 \"$1\" 2>/dev/null; do sleep 2; done; exec \"$2\"";
    let spawned = Command::new("setsid")
        .args(["sh", "-c", line, "watch", &std::process::id().to_string()])
        .arg(down)
        .env("XENHOST_RUN", run)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    assert!(spawned.is_ok(), "setsid and sh can be started");
}

/// Quotes a word for the shell.
pub fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
