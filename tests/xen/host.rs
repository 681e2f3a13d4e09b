//! The emulated Xen hosts of one scenario: resumed from a saved state with vGrid installed, stopped when
//! the scenario ends, however it ends.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// The passwords that the tests' host is installed with.
pub const PASSWORD: &str = "for-tests-only";

/// Emulation takes both processors of a small machine, so scenarios go one after the other: two at a time take
/// twice as long and meet time limits.
static TURN: Mutex<()> = Mutex::new(());
/// The saved state is made once a run, from the programs as they are now.
static STATE: OnceLock<()> = OnceLock::new();

/// The project's folder.
pub fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn folder() -> PathBuf {
    project().join("target/xenhost")
}

/// Runs a script of `tests/xenhost` for a run folder, with the host's cable; its output goes to a file, for
/// QEMU keeps what it is given open.
fn script(run: &Path, link: &str, words: &[&str], limit: Duration) -> Result<(), String> {
    let log = folder().join("test.log");
    std::fs::create_dir_all(folder()).expect("target can be written");
    let out = File::options().create(true).append(true).open(&log).expect("target can be written");
    let mut child = Command::new(project().join("tests/xenhost").join(words[0]))
        .args(&words[1..])
        .env("XENHOST_RUN", run)
        .env("XENHOST_STATES", folder().join("test-states"))
        .env("XENHOST_RESTRICT", "on")
        .env("XENHOST_LINK", link)
        .env("VGRID_PASSWORD", PASSWORD)
        .stdin(Stdio::null())
        .stdout(out.try_clone().expect("a descriptor"))
        .stderr(out)
        .spawn()
        .map_err(|error| format!("{words:?}: {error}"))?;
    let end = Instant::now() + limit;
    loop {
        match child.try_wait().map_err(|error| error.to_string())? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(format!("{words:?}: {status}; see {}", log.display())),
            None if Instant::now() > end => {
                // Reaped below, by init, when this process ends.
                let _ = child.kill();
                return Err(format!("{words:?} took more than {limit:?}; see {}", log.display()));
            }
            None => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// Runs a scenario on a fresh host. Emulation sometimes crashes a program for no reason of ours; then the
/// outcome, good or bad, says nothing, and the scenario is run again.
pub fn scenario(name: &str, act: impl Fn(&Host)) {
    rehearse(name, |name| [Host::start(name, "")], |[host]| act(host));
}

/// The same on two hosts that are one state twice, name, addresses and all, with a cable between their eth1,
/// on which neither has an address yet.
pub fn scenario_of_two(name: &str, act: impl Fn(&Host, &Host)) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let ends = [dir.path().join("one"), dir.path().join("other")].map(|end| end.display().to_string());
    let start = |name: &str| {
        [
            Host::start(&format!("{name}-1"), &format!("{} {}", ends[0], ends[1])),
            Host::start(&format!("{name}-2"), &format!("{} {}", ends[1], ends[0])),
        ]
    };
    rehearse(name, start, |[one, other]| act(one, other));
}

fn rehearse<const N: usize>(name: &str, start: impl Fn(&str) -> [Host; N], act: impl Fn(&[Host; N])) {
    const TRIES: u32 = 3;
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    make_state();
    for attempt in 1..=TRIES {
        let hosts = start(name);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| act(&hosts)));
        let faults: u32 = hosts.iter().map(Host::faults).sum();
        if faults > 0 && attempt < TRIES {
            eprintln!("{name}: void, {faults} programs on the emulated host crashed; once more");
            continue;
        }
        assert_eq!(faults, 0, "{name}: void {TRIES} times");
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
        return;
    }
}

fn make_state() {
    STATE.get_or_init(|| {
        let run = folder().join("test-install");
        let minutes = |n: u64| Duration::from_secs(n * 60);
        let made = script(&run, "", &["build"], minutes(20))
            .and_then(|()| script(&run, "", &["up"], minutes(10)))
            .and_then(|()| script(&run, "", &["install-vgrid"], minutes(10)))
            // A scenario runs upkeep when it wants to, and never meets another one.
            .and_then(|()| {
                script(&run, "", &["sh", "systemctl", "-q", "disable", "--now", "cron"], minutes(1))
            })
            .and_then(|()| script(&run, "", &["save", "vgrid"], minutes(5)));
        if let Err(error) = made {
            // The first fault is the one to tell.
            let _ = script(&run, "", &["down"], minutes(1));
            panic!("the emulated host can't be made: {error}");
        }
    });
}

/// A running host.
pub struct Host {
    run: PathBuf,
    link: String,
    pub portal: String,
    /// Crashed programs in the log when this run of its kernel began, and in the scenario's earlier runs.
    faults_before: AtomicU32,
    faults_earlier: AtomicU32,
    has_power: AtomicBool,
}

/// What a host has that a machine might leave behind, by kind.
pub type Inventory = BTreeMap<&'static str, String>;

/// How a command on the host ended.
pub struct Ended {
    pub status: i32,
    pub out: String,
}

impl Host {
    /// Resumes a fresh host with vGrid on it.
    fn start(name: &str, link: &str) -> Self {
        let run = folder().join(format!("test-{name}"));
        script(&run, link, &["up", "vgrid"], Duration::from_secs(300)).expect("the emulated host resumes");
        watch(&run);
        let ports = std::fs::read_to_string(run.join("ports")).expect("up tells its ports");
        let http = ports.split_whitespace().nth(1).expect("two ports");
        let host = Self {
            run,
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

    /// How many programs have crashed since the scenario began.
    fn faults(&self) -> u32 {
        let earlier = self.faults_earlier.load(Ordering::Relaxed);
        if self.has_power.load(Ordering::Relaxed) {
            earlier + self.count_faults() - self.faults_before.load(Ordering::Relaxed)
        } else {
            earlier
        }
    }

    /// Before the kernel's log goes.
    fn keep_faults(&self) {
        self.faults_earlier.store(self.faults(), Ordering::Relaxed);
        self.faults_before.store(0, Ordering::Relaxed);
    }

    fn must(&self, words: &[&str], limit: Duration) {
        script(&self.run, &self.link, words, limit).unwrap_or_else(|error| panic!("{error}"));
    }

    /// Stops the host as its administrator does, and boots it again from its disks.
    pub fn reboot(&self) {
        self.keep_faults();
        self.has_power.store(false, Ordering::Relaxed);
        self.must(&["reboot"], Duration::from_secs(900));
        self.has_power.store(true, Ordering::Relaxed);
    }

    /// Cuts the power: only what the disks had been made to keep is there when it boots again.
    pub fn cut_power(&self) {
        self.keep_faults();
        self.has_power.store(false, Ordering::Relaxed);
        self.must(&["cut"], Duration::from_secs(60));
    }

    /// Boots a host whose power was cut.
    pub fn boot(&self) {
        self.must(&["up", "--again"], Duration::from_secs(900));
        self.has_power.store(true, Ordering::Relaxed);
    }

    /// A shell line that runs as root; its input is empty.
    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new(project().join("tests/xenhost/sh"));
        command
            .arg(format!("timeout 900 bash -c {}", quote(line)))
            .env("XENHOST_RUN", &self.run)
            .stdin(Stdio::null());
        command
    }

    /// Runs a shell line as root and says how it ended.
    pub fn try_sh(&self, line: &str) -> Ended {
        let output = self.command(line).output().expect("tests/xenhost/sh runs");
        let out =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        Ended { status: output.status.code().unwrap_or(-1), out }
    }

    /// Runs a shell line as root that must succeed; returns what it printed.
    pub fn sh(&self, line: &str) -> String {
        let ended = self.try_sh(line);
        assert_eq!(ended.status, 0, "{line}\n{}", ended.out);
        ended.out
    }

    /// Runs a shell line as the web server's user.
    pub fn as_www_data(&self, line: &str) -> Ended {
        self.try_sh(&format!(
            "cd / && setpriv --reuid=www-data --regid=www-data --init-groups bash -c {}",
            quote(line)
        ))
    }

    /// Puts a file or a folder of this machine onto the host.
    pub fn put(&self, from: &Path, to: &str) {
        let from = from.to_str().expect("a readable path");
        self.must(&["put", from, to], Duration::from_secs(120));
    }

    /// What the portal answers to a script: status and text.
    pub fn ask(&self, user: &str, page: &str, query: &str) -> (u16, String) {
        self.try_ask(user, page, query).unwrap_or_else(|error| panic!("{page}?{query}: {error}"))
    }

    /// The same, of a portal that may be stopped while it answers.
    pub fn try_ask(&self, user: &str, page: &str, query: &str) -> Result<(u16, String), ureq::Error> {
        let portal = self.portal.replace("://", &format!("://{user}:{PASSWORD}@"));
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .timeout_global(Some(Duration::from_secs(180)))
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .build()
            .into();
        let mut response = agent.get(format!("{portal}/cgi-bin/user/{page}?{query}")).call()?;
        let status = response.status().as_u16();
        Ok((status, response.body_mut().read_to_string()?))
    }

    /// Deploys a machine; returns the status, and the machine or the error as JSON.
    pub fn deploy(&self, user: &str, fields: &str) -> (u16, serde_json::Value) {
        let (status, text) = self.ask(user, "deploy", &format!("format=json&{fields}"));
        (status, serde_json::from_str(&text).unwrap_or_else(|_| panic!("no JSON: {text}")))
    }

    /// One machine, as its page shows it.
    pub fn machine(&self, user: &str, id: &str) -> serde_json::Value {
        let (status, text) = self.ask(user, "show", &format!("format=json&id={id}"));
        assert_eq!(status, 200, "{text}");
        let page: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        page["machine"].clone()
    }

    /// Waits until a machine is in a state, or in one that can't become it any more.
    pub fn wait_for(&self, user: &str, id: &str, state: &str, limit: u64) -> serde_json::Value {
        let end = Instant::now() + Duration::from_secs(limit);
        loop {
            let machine = self.machine(user, id);
            if machine["state"] == state {
                return machine;
            }
            let settled = machine["moving"] == false;
            assert!(!settled && Instant::now() < end, "waited for {state}: {machine:#}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// Terminates a machine and waits until it is gone.
    pub fn terminate(&self, user: &str, id: &str) {
        let (status, text) = self.ask(user, "terminate", &format!("format=json&id={id}"));
        assert_eq!(status, 202, "{text}");
        self.wait_for(user, id, "notDeployed", 900);
    }

    /// vGrid's own lines of the host's log.
    pub fn log(&self) -> String {
        self.try_sh("journalctl -q --no-pager -n 60 -o cat -t vgrid").out
    }

    /// What is there that a machine might leave behind.
    pub fn inventory(&self) -> Inventory {
        [
            ("domains", "xl list | awk 'NR > 1 {print $1}' | sort"),
            ("volumes", "lvs --noheadings -o lv_name,lv_size vg1 | sort"),
            ("device nodes", "ls /dev/mapper /dev/vg1 2>/dev/null | sort"),
            ("mounts", "cat /proc/[0-9]*/mounts 2>/dev/null | grep -e vg1 -e vgrid | sort -u"),
            ("loop devices", "losetup -a"),
            ("configuration", "find /etc/xen /etc/vgrid | sort"),
            // The folder of jobs, the node's locks and what it last knew of itself belong to no machine.
            (
                "jobs and records",
                "cd /var/lib/vgrid; find . -not -name 'registry*' -not -path ./node/jobs -not -name 'node.lock' \
                 -not -name 'slot-*.lock' -not -path ./node/host.json -not -path './node/seen*' | sort",
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

    /// Fails unless the host has just what it had; what is about to go away has a little time for that.
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

impl Drop for Host {
    fn drop(&mut self) {
        if let Err(error) = script(&self.run, "", &["down"], Duration::from_secs(60)) {
            eprintln!("{error}");
        }
    }
}

/// Stops the host when this process is gone, for nobody else would after an interruption.
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
    assert!(spawned.is_ok(), "setsid and sh are there");
}

/// A word for the shell.
pub fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
