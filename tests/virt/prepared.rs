//! Images and saved images that are prepared once per host, on a file system that can clone files: clones
//! are whole machines of their own, and whatever happens to an image, a worker or a disk meanwhile, no
//! machine gets a mixture.

use std::collections::BTreeSet;
use std::time::Duration;

use vgrid::model::stage::Order;

use super::host::{VirtHost, quote, scenario_with};
use crate::support::eventually;
use crate::support::visited::Visited as _;

const MACHINES: &str = "/var/lib/vgrid-machines";

/// A machine that starts at once and rests.
const MENU: &str = "vmImage=menu&vmMemory=64";

/// The time after which a file counts as unchanged, and a little more.
const SETTLED: Duration = Duration::from_millis(3500);

fn disk(id: &str) -> String {
    format!("{MACHINES}/{id}/root.raw")
}

/// Whether a line of sudo's in the log says that an image is unpacked to prepare it.
fn is_unpacking(line: &str) -> bool {
    line.contains("COMMAND=") && line.contains(" unpack-image ")
}

/// Has upkeep look after a machine whose worker was killed.
fn until_failed(host: &VirtHost, id: &str) {
    let upkeep = || {
        host.as_www_data("/usr/bin/vgrid-upkeep");
        (host.machine("alice", id)["state"] == "failed").then_some(())
    };
    eventually(Duration::from_secs(200), upkeep).unwrap_or_else(|| panic!("{}", host.log()));
}

impl VirtHost {
    /// The prepared disks of an image.
    fn prepared(&self, image: &str) -> Vec<String> {
        self.prepared_files(&format!("{image}.*.raw"))
    }

    /// The prepared disks of saved images of an image.
    fn prepared_of_saved(&self, image: &str) -> Vec<String> {
        self.prepared_files(&format!("{image}.*.saved"))
    }

    fn prepared_files(&self, pattern: &str) -> Vec<String> {
        let found = self.sh(&format!("find {MACHINES}/prepared -name '{pattern}' 2> /dev/null | sort"));
        found.lines().map(str::to_owned).collect()
    }

    /// A file on the disk of a machine, whether or not it runs.
    fn content(&self, id: &str, file: &str) -> String {
        self.sh(&format!("debugfs -c -R 'cat {file}' {} 2> /dev/null", disk(id)))
    }

    fn uuid(&self, disk: &str) -> String {
        self.sh(&format!("blkid -p -o value -s UUID {disk}"))
    }

    /// How many MiB of a disk are shared with another file.
    fn shared(&self, id: &str) -> u64 {
        let sum = "awk -F: '/shared/ { blocks += $4 } END { print int(blocks / 256) }'";
        let shared = self.sh(&format!("filefrag -v -b4096 {} | {sum}", disk(id)));
        shared.trim().parse().expect("a number")
    }

    /// What the host says is free, in MiB.
    fn free(&self) -> u64 {
        let state: serde_json::Value =
            serde_json::from_str(&self.sh("/usr/lib/vgrid/vgrid-helper info")).expect("JSON");
        state["storage"]["Ok"]["space"]["free"].as_u64().expect("a number")
    }

    /// Makes a new file of the image `menu` beside the old one, which has this as its file `/mark`.
    fn make_menu(&self, mark: &str) {
        self.sh(&format!(
            "cd /var/lib/vgrid/images; rm -rf /root/menu; mkdir /root/menu; tar -xzf menu.tar.gz -C /root/menu; \
             echo {mark} > /root/menu/mark; tar -C /root/menu -cf - . | gzip -1n > menu.new; rm -r /root/menu"
        ));
    }

    /// Gives it the image's name.
    fn replace_menu(&self) {
        self.sh("cd /var/lib/vgrid/images; mv menu.new menu.tar.gz");
    }

    fn menu(&self, name: &str, gib: u32) -> String {
        self.deployed("alice", &format!("{MENU}&vmPartition={gib}&vmHostname={name}"))
    }

    /// Has a program of the host wait before it does its work, until it is let go.
    pub(super) fn hold(&self, program: &str) {
        let script = "#!/bin/sh\nwhile [ -e /run/hold ]; do sleep 0.05; done\nexec \"$0.real\" \"$@\"\n";
        self.sh(&format!(
            "touch /run/hold; rm -f {program}.real; mv {program} {program}.real; printf %s {} > {program}; chmod 755 {program}",
            quote(script)
        ));
    }

    pub(super) fn wait_until_held(&self, program: &str) {
        let is_held = || (self.try_sh(&format!("pgrep -f '^/bin/sh {program}'")).status == 0).then_some(());
        eventually(Duration::from_secs(30), is_held).expect("it is held");
    }

    /// What began to wait a moment ago still finds the other name.
    pub(super) fn let_go(&self, program: &str) {
        self.sh(&format!(
            "rm /run/hold; while pgrep -f '^/bin/sh {program}'; do sleep 0.05; done; \
             ln {program}.real {program}.new; mv {program}.new {program}"
        ));
    }

    /// How often an image has been unpacked to prepare it.
    fn unpacked(&self) -> usize {
        self.sh("cat /var/log/syslog").lines().filter(|line| is_unpacking(line)).count()
    }

    /// Waits until one of these machines prepares its image.
    fn wait_until_prepared_by(&self, ids: &[String]) {
        let is_one = |line: &str| is_unpacking(line) && ids.iter().any(|id| line.contains(id.as_str()));
        let begun = || self.sh("cat /var/log/syslog").lines().any(is_one).then_some(());
        eventually(Duration::from_secs(60), begun).unwrap_or_else(|| panic!("{}", self.log()));
    }

    fn upkeep(&self) {
        self.as_www_data("/usr/bin/vgrid-upkeep");
    }

    /// How often an image has been begun to be prepared without a deploy.
    fn begun_ahead(&self) -> usize {
        let log = self.sh("cat /var/log/syslog");
        log.lines().filter(|line| line.contains("COMMAND=") && line.contains(" prepare-image ")).count()
    }

    /// Has upkeep come by until the image has one prepared disk, other than this one.
    fn prepared_ahead(&self, image: &str, old: &[String]) -> Vec<String> {
        let prepared = || {
            self.upkeep();
            let there = self.prepared(image);
            (there.len() == 1 && there != old).then_some(there)
        };
        eventually(Duration::from_secs(120), prepared).unwrap_or_else(|| panic!("{}", self.log()))
    }

    /// Whether a machine's disk is a clone, into which nothing has been unpacked.
    fn is_clone(&self, id: &str) -> bool {
        let log = self.sh("cat /var/log/syslog");
        let is_unpacked = |line: &str| line.contains("COMMAND=") && line.contains(" unpack");
        !log.lines().filter(|line| line.contains(id)).any(is_unpacked)
    }

    /// Deploys the image, which must be a clone at once.
    fn cloned_menu(&self, name: &str, gib: u32) -> String {
        let id = self.menu(name, gib);
        assert!(self.is_clone(&id), "{name} is no clone\n{}", self.log());
        id
    }

    /// Orders a machine of alice's saved image.
    fn deploy_saved(&self, image: &str, name: &str, gib: u32) -> String {
        let fields = format!("savedImage={image}&vmMemory=128&vmPartition={gib}&vmHostname={name}");
        self.deploy("alice", &fields)
    }

    /// Saves a machine that has been stopped, and waits until its file is old enough.
    fn save(&self, id: &str, image: &str) {
        self.order("alice", Order::Save, &format!("id={id}&name={image}"));
        self.wait_for("alice", id, "stopped", 300);
        std::thread::sleep(SETTLED);
    }

    fn terminate_all(&self, ids: &[String]) {
        for id in ids {
            self.order("admin", Order::Terminate, &format!("id={id}"));
        }
        for id in ids {
            self.wait_for("admin", id, "notDeployed", 300);
        }
    }
}

#[test]
fn a_machine_gets_a_clone_that_is_its_own() {
    scenario_with("prepared", &["--machines", "xfs", "--size", "20G"], |host| {
        // No machine is asked to shut down for long.
        host.sh("sed -i '/^\\[General\\]/a shutdownTimeout = 2' /etc/vgrid/node.cfg
                 sed -i 's/^virthost = .*/virthost = 8/' /etc/vgrid/common.cfg");
        let before = host.inventory();
        std::thread::sleep(SETTLED);
        let tiny = |name: &str, gib: u32| {
            let fields = format!("vmImage=kvm-tiny&vmMemory=128&vmPartition={gib}&vmHostname={name}");
            host.deployed("alice", &fields)
        };
        let first = tiny("vm1", 1);
        let prepared = host.prepared("kvm-tiny");
        assert_eq!(prepared.len(), 1, "{prepared:?}\n{}", host.log());
        let (free, used) = (host.free(), host.sh(&format!("df --output=used -m {MACHINES} | tail -n 1")));
        let second = tiny("vm2", 3);

        // It shares its content, and takes next to nothing; but what it may need is promised to it.
        assert!(host.shared(&second) >= 20, "{}", host.sh(&format!("filefrag -v {}", disk(&second))));
        let grown = host.sh(&format!("df --output=used -m {MACHINES} | tail -n 1"));
        let megabytes = |text: &str| text.trim().parse::<u64>().expect("a number");
        assert!(megabytes(&grown) - megabytes(&used) < 20, "{used} {grown}");
        assert!(free - host.free() >= 3 * 1024 + 64, "{free}, then {}", host.free());
        let sizes = [&first, &second].map(|id| host.sh(&format!("stat -c %s {}", disk(id))));
        assert_eq!(sizes.map(|size| megabytes(&size) >> 30), [1, 3]);

        // It is a system of its own.
        let uuids: BTreeSet<_> = [&first, &second].map(|id| host.uuid(&disk(id))).into();
        assert_eq!(uuids.len(), 2);
        host.wait_for_console("alice_vm2", "GUEST READY: ", 1);
        let seen = host.ssh(
            "alice",
            "vm2",
            "hostname; df -m / | tail -n 1; md5sum < /boot/vmlinuz; echo saved > /mark; sync",
        );
        let seen = seen.expect("alice gets in");
        let lines: Vec<&str> = seen.lines().collect();
        assert_eq!(lines[0], "vm2");
        let size: u64 = lines[1].split_whitespace().nth(1).expect("a size").parse().expect("a number");
        assert!(size > 2800, "{seen}");
        let kernel = host.sh("tar -xzOf /var/lib/vgrid/images/kvm-tiny.tar.gz ./boot/vmlinuz | md5sum");
        assert_eq!(lines[2], kernel.trim());
        host.lets_in_only("alice", "vm2");

        // What it writes is seen by no other, and a saved image with the tag of an image is another.
        host.carry_out("alice", Order::Stop, &second, "stopped");
        let checked = host.try_sh(&format!("e2fsck -fn {}", disk(&second)));
        assert_eq!(checked.status, 0, "{}", checked.out);
        host.order("alice", Order::Save, &format!("id={second}&name=kvm-tiny"));
        host.wait_for("alice", &second, "stopped", 300);
        std::thread::sleep(SETTLED);
        let saved = host.deploy("alice", "savedImage=kvm-tiny&vmMemory=128&vmPartition=3&vmHostname=vm3");
        let third = tiny("vm4", 1);
        host.wait_for("alice", &saved, "deployed", 300);
        assert_eq!(
            (host.content(&saved, "/mark"), host.content(&third, "/mark")),
            ("saved\n".into(), String::new())
        );
        assert_eq!((host.prepared("kvm-tiny"), host.prepared_of_saved("kvm-tiny").len()), (prepared, 1));

        // The administrator may remove it at any time.
        host.sh(&format!("rm -r {MACHINES}/prepared"));
        // A disk that is smaller than the prepared one is filled as ever, and replaces it.
        let large = host.menu("vm5", 2);
        let small = host.menu("vm6", 1);
        assert_eq!(host.shared(&large) + host.shared(&small), 0, "they are small, and were made apart");
        let there = host.prepared("menu");
        assert_eq!(there.len(), 1);
        assert_eq!(megabytes(&host.sh(&format!("stat -c %s {}", there[0]))) >> 30, 1);
        let check = host.try_sh("vgrid-check --node");
        assert_eq!(check.status, 0, "{}", check.out);

        host.terminate_all(&[first, second, third, saved, large, small].map(|id| id));
        host.delete_image("alice", "kvm-tiny");
        host.must_be_as(&before);
    });
}

#[test]
fn an_image_is_never_mixed_with_another() {
    scenario_with("mixed", &["--machines", "xfs", "--size", "40G"], |host| {
        host.sh("sed -i '/^\\[General\\]/a shutdownTimeout = 2\\nparallelDeploys = 16' /etc/vgrid/node.cfg
            for n in 9 10; do echo \"10.0.3.$((20 + n)) vm$n\" >> /etc/hosts
                sed -i \"/^\\[VirtualHostsPool\\]/a vm$n = \\\"\\\"\" /etc/vgrid/common.cfg; done
            sed -i 's/^virthost = .*/virthost = 12/' /etc/vgrid/common.cfg");
        let before = host.inventory();
        host.make_menu("one");
        host.replace_menu();

        // It has just been changed, so it is not kept.
        let first = host.menu("vm1", 1);
        assert_eq!((host.content(&first, "/mark"), host.prepared("menu")), ("one\n".into(), vec![]));

        // A worker, with its helper, is killed while it prepares the image.
        std::thread::sleep(SETTLED);
        host.hold("/usr/sbin/e2fsck");
        let killed = host.deploy("alice", &format!("{MENU}&vmPartition=1&vmHostname=vm2"));
        host.wait_until_held("/usr/sbin/e2fsck");
        host.sh(&format!("test -e {MACHINES}/prepared/.unfinished; pkill -KILL 'vgrid-(worker|helper)'"));
        host.let_go("/usr/sbin/e2fsck");
        assert_eq!(host.prepared("menu"), [""; 0]);
        until_failed(host, &killed);

        // Many at once: one prepares the image, and the others wait. It is killed, and another does it
        // anew. All others run, each on a disk of its own.
        let is_waiting = |id: &String| {
            host.machine("alice", id)["stage"] == "waiting until the image is prepared on the host"
        };
        let unpacked = host.unpacked();
        host.hold("/usr/sbin/e2fsck");
        let mut many: Vec<String> = (3..=10)
            .map(|n| host.deploy("alice", &format!("{MENU}&vmPartition=1&vmHostname=vm{n}")))
            .collect();
        host.wait_until_held("/usr/sbin/e2fsck");
        let all_but_one_wait = || {
            let (waiting, others): (Vec<_>, Vec<_>) = many.iter().partition(|id| is_waiting(id));
            (waiting.len() + 1 == many.len()).then(|| others[0].clone())
        };
        let preparing = eventually(Duration::from_secs(60), all_but_one_wait);
        let preparing = preparing.unwrap_or_else(|| panic!("{}", host.log()));
        assert_eq!(host.unpacked(), unpacked + 1);
        host.sh(&format!("pkill -KILL -f '[v]grid-worker begin {preparing}|[v]grid-helper .*{preparing}'"));
        many.retain(|id| *id != preparing);
        host.wait_until_prepared_by(&many);
        host.let_go("/usr/sbin/e2fsck");
        for id in &many {
            host.wait_for("alice", id, "deployed", 300);
            assert_eq!(host.content(id, "/mark"), "one\n");
        }
        assert_eq!(host.unpacked(), unpacked + 2, "{}", host.log());
        let uuids: BTreeSet<_> = many.iter().map(|id| host.uuid(&disk(id))).collect();
        assert_eq!((uuids.len(), host.prepared("menu").len()), (many.len(), 1));
        assert!(!host.path(&format!("{MACHINES}/prepared/.unfinished")).exists());
        let old = host.prepared("menu");
        until_failed(host, &preparing);
        host.terminate_all(&[&many[..], &[first, killed, preparing]].concat());

        // Replaced while it is unpacked: the machine gets the old one, whole, which is not kept.
        host.make_menu("two");
        host.replace_menu();
        std::thread::sleep(SETTLED);
        host.hold("/usr/bin/tar");
        let second = host.deploy("alice", &format!("{MENU}&vmPartition=1&vmHostname=vm3"));
        host.wait_until_held("/usr/bin/tar");
        // As make_menu, without tar.
        host.sh("cd /var/lib/vgrid/images; cp -p menu.tar.gz menu.kept; cp menu.kept menu.new; mv menu.new menu.tar.gz");
        host.let_go("/usr/bin/tar");
        host.wait_for("alice", &second, "deployed", 300);
        assert_eq!((host.content(&second, "/mark"), host.prepared("menu")), ("two\n".into(), vec![]));
        assert!(!old.is_empty());

        // Written over while it is unpacked, and its time set back.
        std::thread::sleep(SETTLED);
        host.hold("/usr/bin/tar");
        let third = host.deploy("alice", &format!("{MENU}&vmPartition=1&vmHostname=vm4"));
        host.wait_until_held("/usr/bin/tar");
        // One byte of gzip's header, which does not matter: the operating system.
        host.sh("cd /var/lib/vgrid/images; touch -r menu.tar.gz /root/time; \
                 printf '\\012' | dd of=menu.tar.gz bs=1 seek=9 conv=notrunc status=none; touch -r /root/time menu.tar.gz");
        host.let_go("/usr/bin/tar");
        host.wait_for("alice", &third, "deployed", 300);
        assert_eq!(host.prepared("menu"), [""; 0]);

        // Left alone, it is kept, and cloned.
        std::thread::sleep(SETTLED);
        let fourth = host.menu("vm5", 1);
        assert_eq!(host.prepared("menu").len(), 1);
        host.make_menu("three");
        host.replace_menu();
        let fifth = host.menu("vm6", 1);
        assert_eq!(
            (host.content(&fourth, "/mark"), host.content(&fifth, "/mark")),
            ("two\n".into(), "three\n".into())
        );
        assert_eq!(host.prepared("menu"), [""; 0], "the old one is of no use");

        host.terminate_all(&[second, third, fourth, fifth]);
        host.sh("rm /var/lib/vgrid/images/menu.kept");
        host.must_be_as(&before);
    });
}

#[test]
fn a_host_prepares_its_images_before_they_are_deployed() {
    scenario_with("ahead", &["--machines", "xfs", "--size", "20G"], |host| {
        host.sh("sed -i '/^kvm-tiny/d; s/^prepareAhead = .*/prepareAhead = true\\nshutdownTimeout = 2/' /etc/vgrid/node.cfg");
        let before = host.inventory();
        host.make_menu("one");
        host.replace_menu();
        std::thread::sleep(SETTLED);
        let unfinished = host.path(&format!("{MACHINES}/prepared/.ahead"));
        let begun_again = |times: usize| {
            let is_begun = || (host.begun_ahead() == times).then_some(());
            eventually(Duration::from_secs(60), is_begun).unwrap_or_else(|| panic!("{}", host.log()));
            host.wait_until_held("/usr/bin/tar");
        };

        // What is not complete takes space, and is nothing else, whatever is killed.
        let free = host.free();
        host.hold("/usr/bin/tar");
        host.upkeep();
        begun_again(1);
        assert!(unfinished.exists() && host.prepared("menu").is_empty());
        assert!(free - host.free() >= 1000, "{free}, then {}", host.free());
        let (_, orphans) = host.ask("admin", "admin", "");
        assert!(!orphans.contains(".ahead"), "{orphans}");
        host.upkeep();
        assert_eq!(host.begun_ahead(), 1, "there is one worker");
        host.sh("pkill -KILL 'vgrid-(worker|helper)'");
        assert_eq!(host.prepared("menu"), [""; 0]);
        // The helper alone.
        host.upkeep();
        begun_again(2);
        host.sh("pkill -KILL vgrid-helper");
        // The worker alone: its helper is ended by the next.
        let next = || {
            host.upkeep();
            (host.begun_ahead() == 3).then_some(())
        };
        eventually(Duration::from_secs(60), next).unwrap_or_else(|| panic!("{}", host.log()));
        begun_again(3);
        host.sh("pkill -KILL -f '[v]grid-worker prepare'");
        host.upkeep();
        let ended = || host.sh("cat /var/log/syslog").contains("event=helper.killed").then_some(());
        eventually(Duration::from_secs(60), ended).unwrap_or_else(|| panic!("{}", host.log()));
        begun_again(4);

        // A deploy waits for it.
        let first = host.deploy("alice", &format!("{MENU}&vmPartition=1&vmHostname=vm1"));
        let waits = || {
            let stage = host.machine("alice", &first)["stage"].clone();
            (stage == "waiting until the image is prepared on the host").then_some(())
        };
        eventually(Duration::from_secs(60), waits).unwrap_or_else(|| panic!("{}", host.log()));
        host.let_go("/usr/bin/tar");
        host.wait_for("alice", &first, "deployed", 300);
        assert_eq!((host.content(&first, "/mark"), host.unpacked()), ("one\n".into(), 0));
        let one = host.prepared("menu");
        assert!(one.len() == 1 && !unfinished.exists(), "{one:?}");
        host.upkeep();
        assert_eq!(host.begun_ahead(), 4, "it is prepared");

        // Another file of the image.
        host.make_menu("two");
        host.replace_menu();
        std::thread::sleep(SETTLED);
        let two = host.prepared_ahead("menu", &one);
        let second = host.cloned_menu("vm2", 1);
        assert_eq!(host.content(&second, "/mark"), "two\n");

        // A damaged one is tried once, until it is another.
        let begun = host.begun_ahead();
        host.sh("cd /var/lib/vgrid/images; cp menu.tar.gz /root/menu.kept; head -c -500 /root/menu.kept > menu.new");
        host.replace_menu();
        std::thread::sleep(SETTLED);
        host.upkeep();
        let failed = || host.sh("cat /var/log/syslog").matches("event=ahead.failed").count();
        eventually(Duration::from_secs(60), || (failed() == 1).then_some(()))
            .unwrap_or_else(|| panic!("{}", host.log()));
        let check = host.try_sh("vgrid-check --node");
        assert!(
            check.status == 1 && check.out.contains("the image menu could not be prepared"),
            "{}",
            check.out
        );
        for _ in 0..3 {
            host.upkeep();
        }
        assert_eq!((failed(), host.begun_ahead()), (1, begun + 1));
        assert!(!unfinished.exists());

        // One that does not fit on the smallest disk.
        host.sh("cd /var/lib/vgrid/images; mkdir /root/menu; tar -xzf /root/menu.kept -C /root/menu; \
                 head -c 1200M /dev/zero > /root/menu/zeros; tar -C /root/menu -cf - . | gzip -1n > menu.new; \
                 rm -r /root/menu /root/menu.kept");
        host.replace_menu();
        std::thread::sleep(SETTLED);
        let three = host.prepared_ahead("menu", &two);
        assert_eq!(host.sh(&format!("stat -c %s {}", three[0])).trim(), (2_u64 << 30).to_string());
        let third = host.cloned_menu("vm3", 2);
        let check = host.try_sh("vgrid-check --node");
        assert_eq!(check.status, 0, "{}", check.out);

        host.terminate_all(&[first, second, third]);
        host.must_be_as(&before);
    });
}

#[test]
fn a_saved_image_is_prepared_by_its_first_deploy() {
    scenario_with("saved", &["--machines", "xfs", "--size", "20G"], |host| {
        host.sh("sed -i '/^\\[General\\]/a shutdownTimeout = 2' /etc/vgrid/node.cfg
                 sed -i 's/^virthost = .*/virthost = 8/' /etc/vgrid/common.cfg");
        let before = host.inventory();
        let mark = |address: &str, text: &str| {
            let marked = host.ssh("alice", address, &format!("echo {text} > /mark; sync"));
            assert!(marked.is_some(), "alice gets in\n{}", host.log());
        };
        let teacher = host.deployed("alice", "vmImage=kvm-tiny&vmMemory=128&vmPartition=1&vmHostname=vm1");
        host.wait_for_console("alice_vm1", "GUEST READY: ", 1);
        mark("vm1", "one");
        host.carry_out("alice", Order::Stop, &teacher, "stopped");
        host.save(&teacher, "course");

        // A worker, with its helper, is killed while it keeps the disk.
        host.hold("/usr/sbin/e2fsck");
        let killed = host.deploy_saved("course", "vm2", 1);
        host.wait_until_held("/usr/sbin/e2fsck");
        host.sh(&format!("test -e {MACHINES}/prepared/.unfinished; pkill -KILL 'vgrid-(worker|helper)'"));
        host.let_go("/usr/sbin/e2fsck");
        assert_eq!(host.prepared_of_saved("kvm-tiny"), [""; 0]);
        until_failed(host, &killed);

        // Two at once: one prepares it, and the other waits for that.
        let unpacked = host.unpacked();
        host.hold("/usr/sbin/e2fsck");
        let two = ["vm3", "vm4"].map(|name| host.deploy_saved("course", name, 1));
        host.wait_until_held("/usr/sbin/e2fsck");
        let is_waiting = |id: &&String| {
            host.machine("alice", id)["stage"] == "waiting until the image is prepared on the host"
        };
        let waits = || (two.iter().filter(is_waiting).count() == 1).then_some(());
        eventually(Duration::from_secs(60), waits).unwrap_or_else(|| panic!("{}", host.log()));
        host.let_go("/usr/sbin/e2fsck");
        for (id, name) in two.iter().zip(["vm3", "vm4"]) {
            host.wait_for("alice", id, "deployed", 300);
            host.wait_for_console(&format!("alice_{name}"), "GUEST READY: ", 1);
            assert_eq!(host.ssh("alice", name, "cat /mark").as_deref().map(str::trim), Some("one"));
        }
        assert_eq!(host.unpacked(), unpacked + 1);
        assert_eq!(two.iter().filter(|id| host.is_clone(id)).count(), 1, "{}", host.log());
        assert!(two.iter().all(|id| host.shared(id) >= 20));
        let one = host.prepared_of_saved("kvm-tiny");
        assert_eq!(one.len(), 1, "{one:?}");
        assert!(!host.path(&format!("{MACHINES}/prepared/.unfinished")).exists());

        // A larger one is a clone, too, and a system of its own.
        let larger = host.deploy_saved("course", "vm5", 2);
        host.wait_for("alice", &larger, "deployed", 300);
        host.wait_for_console("alice_vm5", "GUEST READY: ", 1);
        assert!(host.is_clone(&larger), "{}", host.log());
        let size = host.ssh("alice", "vm5", "df -m / | tail -n 1 | awk '{ print $2 }'").expect("a size");
        assert!(size.trim().parse::<u64>().expect("a number") > 1800, "{size}");
        let uuids: BTreeSet<_> = [&teacher, &two[0], &two[1], &larger].map(|id| host.uuid(&disk(id))).into();
        assert_eq!(uuids.len(), 4);

        // Renamed, it is another file. What is saved under its old name is another image.
        let renaming = "format=json&do=rename&name=course&newName=lesson";
        let (status, text) = host.ask("alice", "images", renaming);
        assert_eq!(status, 202, "{text}");
        mark("vm5", "two");
        host.carry_out("alice", Order::Stop, &larger, "stopped");
        host.save(&larger, "course");
        let of_new = host.deploy_saved("course", "vm6", 2);
        let of_old = host.deploy_saved("lesson", "vm7", 1);
        for (id, content) in [(&of_new, "two\n"), (&of_old, "one\n")] {
            host.wait_for("alice", id, "deployed", 300);
            assert_eq!((host.content(id, "/mark"), host.is_clone(id)), (content.into(), false));
        }
        let both = host.prepared_of_saved("kvm-tiny");
        assert!(both.len() == 2 && !both.contains(&one[0]), "{one:?}, then {both:?}");

        // Deleted, and saved again.
        host.delete_image("alice", "lesson");
        host.upkeep();
        let rest = host.prepared_of_saved("kvm-tiny");
        assert!(rest.len() == 1 && both.contains(&rest[0]), "{rest:?}");
        host.save(&larger, "lesson");
        host.terminate_all(&[of_old]);
        let again = host.deploy_saved("lesson", "vm7", 2);
        host.wait_for("alice", &again, "deployed", 300);
        assert_eq!(host.content(&again, "/mark"), "two\n");
        assert_eq!(host.prepared_of_saved("kvm-tiny").len(), 2);
        let (_, orphans) = host.ask("admin", "admin", "");
        assert!(!orphans.contains(".saved"), "{orphans}");

        // One that is a day old is of no use, and neither is one whose image is gone.
        host.sh(&format!("touch -d '25 hours ago' {}", rest[0]));
        host.upkeep();
        assert!(!host.prepared_of_saved("kvm-tiny").contains(&rest[0]));
        for image in ["course", "lesson"] {
            host.delete_image("alice", image);
        }
        host.upkeep();
        assert_eq!(host.prepared_of_saved("kvm-tiny"), [""; 0]);
        let check = host.try_sh("vgrid-check --node");
        assert_eq!(check.status, 0, "{}", check.out);

        let [third, fourth] = two;
        host.terminate_all(&[teacher, killed, third, fourth, larger, of_new, again]);
        host.must_be_as(&before);
    });
}
