//! The libvirt host of a scenario, with vGrid installed. It ends with the scenario, and with this
//! process, however that ends.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use crate::support::stage::Stage;
use crate::support::visited::Visited;
use crate::support::{eventually, lock};

/// The fields of a small machine that boots within seconds.
pub const TINY: &str = "vmImage=kvm-tiny&vmMemory=128&vmPartition=1";

/// The one program that www-data may run as root.
pub const HELPER: &str = "/usr/lib/vgrid/vgrid-helper";

/// Everyone's password on the host.
const PASSWORD: &str = "for-tests-only";

/// The longest that a machine may take to boot. Idle, it takes 8 s.
const BOOT: Duration = Duration::from_secs(150);

/// Emulation uses a processor per guest, so scenarios run one at a time.
static TURN: Mutex<()> = Mutex::new(());
/// The guest images are built once per test run.
static IMAGES: OnceLock<()> = OnceLock::new();

/// The root of the project.
fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A script of `tests/virthost`.
pub fn script(name: &str) -> PathBuf {
    project().join("tests/virthost").join(name)
}

/// Runs a command whose output goes to the test's log: it may leave descendants, so a pipe would
/// never end.
fn run(command: &mut Command) -> Result<Option<ChildStdin>, String> {
    let folder = project().join("target/virthost");
    std::fs::create_dir_all(&folder).expect("target is writable");
    let log = folder.join("test.log");
    let out = File::options().create(true).append(true).open(&log).expect("target is writable");
    let mut child = command
        .stdout(out.try_clone().expect("a descriptor"))
        .stderr(out)
        .spawn()
        .map_err(|error| format!("{command:?}: {error}"))?;
    // Waiting would close it.
    let input = child.stdin.take();
    let status = child.wait().map_err(|error| error.to_string())?;
    if status.success() { Ok(input) } else { Err(format!("{command:?}: {status}; see {}", log.display())) }
}

/// Runs a scenario on a fresh host.
pub fn scenario(name: &str, act: impl FnOnce(&VirtHost)) {
    scenario_with(name, &[], act);
}

/// Runs a scenario on a fresh host with options of `tests/virthost/up`.
pub fn scenario_with(name: &str, options: &[&str], act: impl FnOnce(&VirtHost)) {
    let _turn = lock(&TURN);
    act(&VirtHost::start(name, options));
}

/// A running host.
pub struct VirtHost {
    pub dir: PathBuf,
    /// The id of its first process.
    pub init: u32,
    portal: String,
    /// The other end is the first process's standard input. The host ends when it does.
    tie: Option<ChildStdin>,
    /// The host runs the programs in there.
    _stage: Arc<Stage>,
}

/// Everything on a host that a machine might leave behind, by kind.
pub type Inventory = BTreeMap<&'static str, String>;

/// A finished command's exit status and output.
pub struct Finished {
    pub status: i32,
    pub out: String,
}

impl VirtHost {
    /// Starts a fresh host with vGrid on it.
    pub fn start(name: &str, options: &[&str]) -> Self {
        IMAGES.get_or_init(|| {
            run(Command::new(script("build")).stdin(Stdio::null())).expect("images for guests");
        });
        let stage = Stage::shared();
        let dir = project().join("target/virthost").join(format!("test-{name}"));
        // Left by a test that was killed.
        run(Command::new(script("down")).arg(&dir).stdin(Stdio::null())).expect("nothing is in the way");
        let mut up = Command::new(script("up"));
        up.arg(&dir).arg("--stage").arg(stage.path("/")).arg("--tied").args(options);
        let tie = run(up.env("VGRID_PASSWORD", PASSWORD).stdin(Stdio::piped())).expect("the host starts");
        let read = |file: &str| std::fs::read_to_string(dir.join(file)).expect("up records it");
        Self {
            init: read("init").trim().parse().expect("a process id"),
            portal: format!("http://127.0.0.1:{}", read("port").trim()),
            dir,
            tie,
            _stage: stage,
        }
    }

    /// Makes it a node of an emulated Xen host, with the other end of its cable.
    pub fn join(&self, xenhost: &Path, link: &str) {
        let mut join = Command::new(script("join"));
        join.arg(&self.dir).env("XENHOST_RUN", xenhost).env("XENHOST_LINK", link).stdin(Stdio::null());
        run(&mut join).expect("the hosts are on one network");
    }

    /// Where a file of the host is for this machine.
    pub fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.init))
    }

    /// A shell command to be run as root, with empty standard input.
    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new(script("sh"));
        command.arg(&self.dir).args(["timeout", "300", "bash", "-c", line]).stdin(Stdio::null());
        command
    }

    /// Runs a shell command as root.
    pub fn try_sh(&self, line: &str) -> Finished {
        let output = self.command(line).output().expect("tests/virthost/sh runs");
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

    /// Waits until a machine answers pings at its address.
    pub fn must_answer_ping(&self, name: &str) {
        self.sh(&format!(
            "for i in $(seq 30); do fping -q -r 0 -t 2000 {name} && exit; sleep 1; done; exit 1"
        ));
    }

    /// The whole log of a machine's console.
    pub fn console_log(&self, machine: &str) -> String {
        let file = self.path(&format!("/var/log/libvirt/qemu/guest-{machine}.log"));
        String::from_utf8_lossy(&std::fs::read(file).unwrap_or_default()).replace('\r', "")
    }

    /// Waits until a machine's console has shown words so many times. Returns the console's log.
    pub fn wait_for_console(&self, machine: &str, words: &str, times: usize) -> String {
        let shown = || Some(self.console_log(machine)).filter(|log| log.matches(words).count() >= times);
        eventually(BOOT, shown)
            .unwrap_or_else(|| panic!("{machine} never said {words:?}:\n{}", self.console_log(machine)))
    }

    /// Runs a command as root in a machine, with the key of a person. Returns its output, or `None`
    /// if the key is refused. For a while, a refused connection is no answer: cloud-init restarts sshd
    /// once it has forbidden passwords.
    pub fn ssh(&self, person: &str, address: &str, command: &str) -> Option<String> {
        let line = format!(
            "ssh -F none -o IdentitiesOnly=yes -o BatchMode=yes -o StrictHostKeyChecking=no -o LogLevel=ERROR \
             -o UserKnownHostsFile=/dev/null -o ConnectTimeout=30 -i /root/keys/{person} root@{address} {}",
            quote(command)
        );
        let answered = || {
            let output = self.try_sh(&line);
            (!output.out.contains("Connection refused")).then_some(output)
        };
        let output = eventually(Duration::from_secs(60), answered)
            .unwrap_or_else(|| panic!("{address} refuses connections"));
        if output.status == 0 {
            return Some(output.out);
        }
        let refused = output.out.contains("Permission denied");
        assert!(refused, "neither logged in nor refused: {}: {}", output.status, output.out);
        None
    }

    /// Asserts that the owner can log in to a machine, and nobody else.
    pub fn lets_in_only(&self, owner: &str, address: &str) {
        for person in ["alice", "bob", "stranger"] {
            let gets_in = self.ssh(person, address, "true").is_some();
            assert_eq!(gets_in, person == owner, "{person} at {address}, which is {owner}'s");
        }
    }

    /// Takes stock of everything a machine might leave behind.
    pub fn inventory(&self) -> Inventory {
        [
            ("domains", "virsh -q list --all --uuid --name | sort"),
            // QEMU's own logs stay, as libvirt leaves them.
            (
                "libvirt's files",
                "find /etc/libvirt /var/lib/libvirt /run/libvirt/qemu -not -path '*/capabilities/*' | sort; \
                 find /var/log/libvirt -name 'guest-*' | sort",
            ),
            ("network", "ls /sys/class/net | sort"),
            ("mounts", "cat /proc/[0-9]*/mounts 2>/dev/null | grep vgrid | sort -u"),
            // Those of other hosts are listed, too.
            (
                "loop devices",
                "disk=$(mountpoint -d /var/lib/vgrid; mountpoint -qd /var/lib/vgrid-machines); \
                 losetup -nO BACK-MAJ:MIN,BACK-FILE | grep -F \"$disk\"",
            ),
            ("configuration", "find /etc/vgrid | sort"),
            // The jobs folder, the node's locks and its last view of the host belong to no machine.
            (
                "machines, jobs and records",
                "cd /var/lib/vgrid; find . -not -name 'registry*' -not -path ./node/jobs -not -name 'node.lock' \
                 -not -name 'slot-*.lock' -not -name 'image-*.lock' -not -name 'saved-*.lock' -not -name 'ahead.*' -not -path ./node/host.json -not -path './node/seen*' \
                 | sort",
            ),
            // The boot loader is every machine's, and so are prepared disks, if they are complete.
            (
                "disks",
                "cd /var/lib/vgrid-machines; find . -mindepth 1 -not -name pcgrub.img -not -path ./prepared \
                 -not -path './prepared/[!.]*.raw' -not -path './prepared/[!.]*.saved' -not -path ./prepared/.lock | sort",
            ),
            (
                "temporary files and locks",
                "find /tmp /var/tmp /run/vgrid /dev/shm -mindepth 1 -not -name start.lock 2>/dev/null | sort",
            ),
            ("processes", "pgrep -a 'vgrid-|qemu|mkfs|tar|virsh' | cut -d' ' -f2- | sort"),
        ]
        .into_iter()
        .map(|(kind, line)| (kind, self.try_sh(line).out))
        .collect()
    }

    /// Asserts that the host has exactly what it had before. Whatever is about to disappear has a
    /// minute to do so.
    pub fn must_be_as(&self, before: &Inventory) {
        let end = Instant::now() + Duration::from_secs(60);
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
            std::thread::sleep(Duration::from_millis(500));
        }
    }
}

impl Visited for VirtHost {
    fn portal(&self) -> &str {
        &self.portal
    }

    fn password(&self) -> &str {
        PASSWORD
    }

    fn patience(&self) -> u64 {
        300
    }

    fn log(&self) -> String {
        // Failures, however long ago, and what came last.
        self.try_sh(
            "grep vgrid /var/log/syslog > /tmp/log; grep -E '\\.(err|warning) |event=exec.failed' /tmp/log | tail -n 60; \
             echo ...; tail -n 60 /tmp/log; rm /tmp/log",
        )
        .out
    }
}

impl Drop for VirtHost {
    fn drop(&mut self) {
        if let Err(error) = run(Command::new(script("down")).arg(&self.dir).stdin(Stdio::null())) {
            eprintln!("{error}");
        }
    }
}

/// Quotes a word for the shell.
pub fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::apache::programs_of;

    const SERIAL: &str = "/var/log/libvirt/qemu/guest-alice_vm1.log";

    /// The loop devices of a host, as this machine sees them.
    fn loop_devices(dir: &Path) -> String {
        let output = Command::new("/usr/sbin/losetup").arg("-a").output().expect("losetup runs");
        let all = String::from_utf8_lossy(&output.stdout).into_owned();
        all.lines().filter(|line| line.contains(&dir.display().to_string())).collect()
    }

    fn mounts() -> String {
        std::fs::read_to_string("/proc/self/mounts").expect("mounts")
    }

    /// Unpacks an image into files of a machine, and defines its domain, as a node will.
    fn define(host: &VirtHost, image: &str) {
        host.sh("/usr/lib/vgrid/vgrid-pcgrub");
        let folder = "/var/lib/vgrid-machines/one";
        host.sh(&format!(
            "mkdir -m 711 {folder}; cd {folder}; truncate -s 1G root.raw; truncate -s 64M swap.raw; chmod 600 *.raw
             mkfs.ext4 -q -F root.raw; mkswap -q swap.raw 2> /dev/null
             mount -o loop root.raw /mnt; tar -C /mnt -xzf /var/lib/vgrid/images/{image}.tar.gz; umount /mnt"
        ));
        let parameters = "root=/dev/vda ro vgrid_username=alice ip=10.0.3.21::10.0.3.1:255.255.255.0:vm1:eth0:off \
                          net.ifnames=0 console=ttyS0";
        let disk = |file: &str, device: &str| {
            format!(
                "<disk type='file' device='disk'><driver name='qemu' type='raw' cache='none'/>\
                 <source file='{folder}/{file}'/><target dev='{device}' bus='virtio'/></disk>"
            )
        };
        let domain = format!(
            "<domain type='qemu'><name>alice_vm1</name><memory unit='MiB'>128</memory><vcpu>1</vcpu>\
             <sysinfo type='smbios'><oemStrings><entry>{parameters}</entry></oemStrings></sysinfo>\
             <os><type arch='x86_64' machine='pc'>hvm</type><kernel>/var/lib/vgrid-machines/pcgrub.img</kernel>\
             <smbios mode='sysinfo'/></os><features><acpi/><apic/></features>\
             <on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot><on_crash>destroy</on_crash>\
             <devices>{}{}<interface type='bridge'><source bridge='br0'/><model type='virtio'/></interface>\
             <serial type='pty'><log file='{SERIAL}' append='on'/><target port='0'/></serial>\
             <controller type='usb' model='none'/><memballoon model='none'/>\
             <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng></devices></domain>",
            disk("root.raw", "vda"),
            disk("swap.raw", "vdb"),
        );
        host.sh(&format!(
            "echo {} > {folder}/domain.xml; virsh -q define {folder}/domain.xml",
            quote(&domain)
        ));
    }

    fn remove(host: &VirtHost) {
        host.sh(&format!("virsh -q undefine alice_vm1; rm -r {SERIAL} /var/lib/vgrid-machines/one"));
    }

    #[test]
    fn a_host_runs_a_machine_and_leaves_nothing() {
        let mounts_before = mounts();
        let mut dir = PathBuf::new();
        scenario_with("host", &["--machines", "xfs"], |host| {
            dir.clone_from(&host.dir);
            assert!(
                !loop_devices(&dir).is_empty() && !programs_of(&dir).is_empty(),
                "this test shows nothing"
            );
            let before = host.inventory();
            define(host, "kvm-tiny");
            host.sh("virsh -q start alice_vm1");
            let console = host.wait_for_console("alice_vm1", "GUEST ROOT: /dev/vda SWAP: /dev/vdb", 1);
            assert!(
                console
                    .contains("GUEST READY: BOOT_IMAGE=/boot/vmlinuz root=/dev/vda ro vgrid_username=alice")
            );
            assert!(console.contains("HOST: vm1 ADDRESS: 10.0.3.21/24"), "{console}");
            host.must_answer_ping("vm1");
            host.lets_in_only("alice", "vm1");
            // It obeys its own order, and the power button.
            host.ssh("alice", "vm1", "(sleep 1; reboot) > /dev/null 2>&1 &");
            host.wait_for_console("alice_vm1", "GUEST ROOT:", 2);
            assert!(host.inventory() != before, "it is in no list");
            host.sh("virsh -q shutdown alice_vm1");
            let off = || {
                (host.sh("virsh -q domstate --reason alice_vm1").trim() == "shut off (shutdown)")
                    .then_some(())
            };
            eventually(Duration::from_secs(60), off).expect("it obeys the power button");
            assert!(host.console_log("alice_vm1").contains("GUEST LEAVES: poweroff"));
            host.sh("e2fsck -fn /var/lib/vgrid-machines/one/root.raw");
            remove(host);
            host.must_be_as(&before);
        });
        assert!(!dir.exists(), "{} is still there", dir.display());
        assert_eq!(
            (loop_devices(&dir), programs_of(&dir), mounts()),
            (String::new(), Vec::new(), mounts_before)
        );
    }

    #[test]
    fn a_menu_speaks_at_once() {
        scenario("menu", |host| {
            let before = host.inventory();
            define(host, "menu");
            host.sh("virsh -q start alice_vm1");
            host.wait_for_console("alice_vm1", "GUEST READY: root=/dev/vda", 1);
            host.sh("virsh -q destroy alice_vm1");
            remove(host);
            host.must_be_as(&before);
        });
    }

    #[test]
    fn a_host_has_a_portal_and_root_only_by_the_helper() {
        scenario("portal", |host| {
            let (status, text) = host.ask("alice", "list", "format=text");
            assert!(status == 200 && text.contains("virthost"), "{status}: {text}");
            assert_eq!(host.ask("mallory", "list", "format=text").0, 401);
            let rules = host.sh("sudo -l -U www-data");
            assert_eq!(rules.matches("NOPASSWD").count(), 1, "{rules}");
            assert_ne!(host.as_www_data("sudo -n /bin/true").status, 0);
            // Whatever it has to tell, it tells as JSON, and the log has it.
            let info = host.as_www_data(&format!("sudo -n {HELPER} info 2> /dev/null")).out;
            serde_json::from_str::<serde_json::Value>(&info)
                .unwrap_or_else(|error| panic!("{error}: {info}"));
            assert!(host.log().contains("program=helper"), "{}", host.log());
            for how in ["", "-r"] {
                let virsh = host.as_www_data(&format!("virsh -c qemu:///system {how} list"));
                assert!(virsh.status != 0 && virsh.out.contains("Permission denied"), "{}", virsh.out);
            }
        });
    }

    #[test]
    fn the_scripts_pass_shellcheck() {
        let scripts = ["build", "up", "inner", "down", "sh", "host/boot", "image/guest-tiny", "cloud"];
        let mut check = Command::new("shellcheck");
        check.arg("-x").args(scripts).args(["image/initrd-init", "image/tiny-init"]);
        let output = check.current_dir(script("")).output().expect("shellcheck can be started");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }

    #[test]
    fn a_host_ends_with_its_test() {
        let _turn = lock(&TURN);
        let mut host = VirtHost::start("tied", &[]);
        drop(host.tie.take());
        let gone = || (loop_devices(&host.dir).is_empty() && programs_of(&host.dir).is_empty()).then_some(());
        eventually(Duration::from_secs(10), gone).expect("the host is gone");
    }
}
