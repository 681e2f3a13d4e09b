//! Snapshots of machines' disks, on a file system that can clone files: a machine gets back the disk that
//! it had, or that of its image, and whatever is killed meanwhile, its disk is either of both.

use vgrid::model::stage::Order;

use super::host::{HELPER, TINY, VirtHost, quote, scenario_with};
use crate::support::visited::Visited as _;

const READY: &str = "GUEST READY: ";

const MACHINES: &str = "/var/lib/vgrid-machines";

const XFS: [&str; 4] = ["--machines", "xfs", "--size", "20G"];

impl VirtHost {
    fn snapshots(&self, user: &str, fields: &str) -> (u16, String) {
        self.ask(user, "snapshots", &format!("format=text&{fields}"))
    }

    /// Does something with a snapshot, and returns the names of those that there are then.
    fn snapshot(&self, id: &str, act: &str, name: &str) -> Vec<String> {
        let (status, lines) = self.snapshots("alice", &format!("id={id}&do={act}&name={name}"));
        assert_eq!(status, 202, "{act} {name}: {lines}\n{}", self.log());
        names(&lines)
    }

    /// What the host says is free, in MiB.
    fn space_free(&self) -> u64 {
        let state: serde_json::Value =
            serde_json::from_str(&self.sh("/usr/lib/vgrid/vgrid-helper info")).expect("JSON");
        state["storage"]["Ok"]["space"]["free"].as_u64().expect("a number")
    }

    /// How much a disk, or a snapshot, takes for itself or together with others, in MiB.
    fn taken(&self, file: &str) -> u64 {
        let blocks: u64 = self.sh(&format!("stat -c %b {file}")).trim().parse().expect("blocks");
        blocks.div_ceil(2048)
    }

    /// How much of a disk may be shared with a prepared one, in MiB.
    fn shared_at_most(&self, disk: &str) -> u64 {
        let read = format!("import os; print(os.getxattr(\"{disk}\", \"user.vgrid.shared\").decode())");
        let finished = self.try_sh(&format!("python3 -c {}", quote(&read)));
        // There is none if the image has just been made.
        if finished.status == 0 { finished.out.trim().parse().expect("a number") } else { 0 }
    }
}

fn names(lines: &str) -> Vec<String> {
    let first = |line: &str| line.split('\t').next().unwrap_or_default().to_owned();
    lines.lines().filter(|line| !line.starts_with('#')).map(first).collect()
}

#[test]
fn a_machine_goes_back_to_what_it_was() {
    scenario_with("snapshots", &XFS, |host| {
        host.sh("printf '[Quotas]\\nsnapshots = 2\\n' >> /etc/vgrid/server.cfg");
        let before = host.inventory();
        let id = host.deployed("alice", &format!("{TINY}&vmHostname=vm1"));
        host.wait_for_console("alice_vm1", READY, 1);
        let inside =
            |command: &str| host.ssh("alice", "vm1", command).expect("alice gets in").trim().to_owned();
        let disk = format!("{MACHINES}/{id}/root.raw");

        // Of a machine that runs.
        inside(
            "echo one > /mark; dd if=/dev/urandom of=/large bs=1M count=50 2> /dev/null; md5sum /large > /sum; sync",
        );
        let (free, shared) = (host.space_free(), host.shared_at_most(&disk));
        assert_eq!(host.snapshot(&id, "take", "one"), ["one"]);
        let holds = host.taken(&format!("{MACHINES}/{id}/one.snapshot"));
        assert!((50..1024).contains(&holds), "{holds}");
        // All that it has and does not share with its image may have to be written again, elsewhere.
        let (more, now) = (holds - shared, host.space_free());
        assert!((more - 8..=more + 8).contains(&(free - now)), "{free} {now} {holds} {shared}");
        // Once it is deleted, the disk has what it had.
        host.snapshot(&id, "delete", "one");
        let again = host.space_free();
        assert!((free - 8..=free + 8).contains(&again), "{free} {now} {again}");
        assert_eq!(host.snapshot(&id, "take", "one"), ["one"]);
        let (status, lines) = host.snapshots("alice", &format!("id={id}"));
        let fields: Vec<&str> = lines.trim_end().split('\t').collect();
        assert!(status == 200 && fields[0] == "one" && fields[2] == holds.to_string(), "{lines}");
        inside("echo two > /mark; rm /large; echo more > /more; sync");

        // It goes back only once it is stopped, and a name is given once.
        let refused = |fields: &str, expected: u16, why: &str| {
            let (status, sentence) = host.snapshots("alice", fields);
            assert!(status == expected && sentence.contains(why), "{fields}: {status} {sentence}");
        };
        refused("vmHostname=vm1&do=roll-back&name=one", 409, "Stop it first");
        refused("vmHostname=vm1&do=take&name=one", 409, "of that name already");
        refused("vmHostname=vm1&do=take&name=O_ne", 400, "Must not contain");
        refused("vmHostname=vm1&do=roll-back&name=other", 409, "Stop it first");
        assert_eq!(host.snapshots("bob", &format!("id={id}&do=take&name=x")).0, 403);
        host.carry_out("alice", Order::Stop, &id, "stopped");
        refused("vmHostname=vm1&do=roll-back&name=other", 404, "no snapshot called other");

        // Of one that is stopped. The quota counts all of its owner's.
        assert_eq!(host.snapshot(&id, "take", "two"), ["two", "one"]);
        refused("vmHostname=vm1&do=take&name=three", 409, "the limit is 2");
        // Its host looks for itself whether it runs.
        host.sh("virsh -q start alice_vm1");
        let (status, sentence) = host.snapshots("alice", &format!("id={id}&do=roll-back&name=one"));
        assert!(status == 409 && sentence.contains("alice_vm1 runs on its host"), "{status} {sentence}");
        host.sh("virsh -q destroy alice_vm1");

        // A larger disk stays as large.
        host.order("alice", Order::Resize, &format!("id={id}&vmPartition=2"));
        host.wait_for("alice", &id, "stopped", 120);
        assert_eq!(host.snapshot(&id, "roll-back", "one"), ["two", "one"]);
        assert_eq!(host.sh(&format!("stat -c '%s %a %U' {disk}")).trim(), format!("{} 600 root", 2u64 << 30));
        assert_eq!(host.machine("alice", &id)["state"], "stopped");
        host.carry_out("alice", Order::Start, &id, "deployed");
        host.wait_for_console("alice_vm1", READY, 1);
        assert_eq!(inside("cat /mark; ls /more 2> /dev/null; md5sum -c /sum"), "one\n/large: OK");
        // And to the other, from which nothing has been taken.
        inside("echo three > /mark; sync");
        host.carry_out("alice", Order::Stop, &id, "stopped");
        assert_eq!(host.snapshot(&id, "roll-back", "two"), ["two", "one"]);
        host.carry_out("alice", Order::Start, &id, "deployed");
        host.wait_for_console("alice_vm1", READY, 1);
        assert_eq!(inside("cat /mark; ls /large 2> /dev/null; cat /more"), "two\nmore");

        // What is removed on the host is gone from the portal, too, once upkeep has looked.
        host.sh(&format!("rm {MACHINES}/{id}/two.snapshot"));
        host.as_www_data("/usr/bin/vgrid-upkeep");
        assert_eq!(names(&host.snapshots("alice", &format!("id={id}")).1), ["one"]);
        assert_eq!(host.snapshot(&id, "delete", "one"), Vec::<String>::new());
        assert_eq!(host.snapshot(&id, "delete", "one"), Vec::<String>::new());
        assert_eq!(host.snapshot(&id, "take", "last"), ["last"]);
        let history = host.sh("cat /var/log/syslog");
        assert!(history.contains("snapshot.done"), "{history}");

        // With the machine, all of them are gone.
        host.terminate("alice", &id);
        host.must_be_as(&before);
    });
}

/// The system calls by which the helper changes something when it takes a snapshot, goes back to one or
/// deletes one.
const CALLS: [&str; 7] = ["fsetxattr", "ioctl", "ftruncate", "fsync", "linkat", "rename", "unlink"];

#[test]
fn a_killed_helper_leaves_one_disk_or_the_other() {
    scenario_with("snapshots-killed", &XFS, |host| {
        let before = host.inventory();
        let id = host.deployed("alice", "vmImage=menu&vmMemory=64&vmPartition=1&vmHostname=vm1");
        host.carry_out("alice", Order::Stop, &id, "stopped");
        let folder = format!("{MACHINES}/{id}");
        let mark = |text: &str| {
            host.sh(&format!(
                "printf %-8s {text} | dd of={folder}/root.raw bs=8 seek=100000000 conv=notrunc 2> /dev/null"
            ));
        };
        let marked = |file: &str| {
            host.sh(&format!("dd if={folder}/{file} bs=8 skip=100000000 count=1 2> /dev/null"))
                .trim()
                .to_owned()
        };
        mark("old");
        host.snapshot(&id, "take", "old");
        // It, or a program of its, is killed as it enters the nth call of a kind; whether it has failed.
        let killed = |verb: &str, name: &str, call: &str, n: usize| {
            let reserved = if verb == "take-snapshot" { "0" } else { "" };
            let run = host.try_sh(&format!(
                "strace -f -o /dev/null -e trace={call} -e inject={call}:signal=KILL:when={n} \
                 {HELPER} {verb} {id} alice_vm1 {name} {reserved} > /dev/null 2>&1"
            ));
            run.status != 0
        };
        let mut deaths = 0;
        for call in CALLS {
            for n in 1.. {
                assert!(n < 30, "{call}: it never succeeds");
                mark("new");
                let has_died = killed("roll-back", "old", call, n);
                // Whoever comes next finds a whole disk.
                host.sh(&format!("{HELPER} info > /dev/null"));
                let now = marked("root.raw");
                assert!(now == "old" || has_died && now == "new", "{call} {n}: {now:?}");
                assert_eq!(marked("old.snapshot"), "old", "{call} {n}");
                assert_eq!(host.sh(&format!("stat -c '%s %U' {folder}/root.raw")).trim(), "1073741824 root");
                if !has_died {
                    break;
                }
                deaths += 1;
            }
            for n in 1.. {
                assert!(n < 30, "{call}: it never succeeds");
                mark("new");
                let has_died = killed("take-snapshot", "new", call, n);
                let is_there = host.try_sh(&format!("test -e {folder}/new.snapshot")).status == 0;
                assert!(is_there || has_died, "{call} {n}");
                // A snapshot is whole, or there is none.
                assert!(!is_there || marked("new.snapshot") == "new", "{call} {n}");
                assert_eq!(marked("root.raw"), "new");
                let again = killed("delete-snapshot", "new", call, n);
                let is_there = host.try_sh(&format!("test -e {folder}/new.snapshot")).status == 0;
                assert!(!is_there || again && marked("new.snapshot") == "new", "{call} {n}");
                host.sh(&format!("{HELPER} delete-snapshot {id} alice_vm1 new > /dev/null"));
                if !has_died && !again {
                    break;
                }
                deaths += 1;
            }
        }
        assert!(deaths > 12, "{deaths}");
        let left = host.sh(&format!("ls -A {folder}"));
        eprintln!("{deaths} deaths; {left}");
        // The next orders succeed, and nothing is left of those that did not.
        assert_eq!(host.snapshot(&id, "roll-back", "old"), ["old"]);
        assert_eq!(marked("root.raw"), "old");
        host.carry_out("alice", Order::Start, &id, "deployed");
        host.terminate("alice", &id);
        host.must_be_as(&before);
    });
}

/// The time after which an image's file counts as unchanged, so that it is prepared, and a little more.
const SETTLED: std::time::Duration = std::time::Duration::from_millis(3500);

impl VirtHost {
    /// Has a machine go back to its image. Returns the names of its snapshots then.
    fn as_new(&self, id: &str) -> Vec<String> {
        let (status, lines) = self.snapshots("alice", &format!("id={id}&do=as-new"));
        assert_eq!(status, 202, "{lines}\n{}", self.log());
        names(&lines)
    }

    /// Asserts that its host has a reason not to do so.
    fn not_as_new(&self, id: &str, why: &str) {
        let (status, sentence) = self.snapshots("alice", &format!("id={id}&do=as-new"));
        assert!(status == 409 && sentence.contains(why), "{status} {sentence}\n{}", self.log());
    }

    /// The UUID of the file system on a disk.
    fn uuid_of(&self, disk: &str) -> String {
        self.sh(&format!("blkid -p -o value -s UUID {disk}")).trim().to_owned()
    }

    /// The path of the prepared disk of an image, which must be the only one.
    fn prepared_disk(&self, image: &str) -> String {
        let all = self.sh(&format!("ls {MACHINES}/prepared/{image}.*.raw"));
        assert_eq!(all.lines().count(), 1, "{all}");
        all.trim().to_owned()
    }
}

#[test]
fn a_machine_goes_back_to_its_image() {
    scenario_with("snapshots-as-new", &XFS, |host| {
        host.sh("sed -i '/^\\[General\\]/a shutdownTimeout = 20' /etc/vgrid/node.cfg");
        let before = host.inventory();
        std::thread::sleep(SETTLED);
        let id = host.deployed("alice", &format!("{TINY}&vmHostname=vm1"));
        host.wait_for_console("alice_vm1", READY, 1);
        let inside =
            |command: &str| host.ssh("alice", "vm1", command).expect("alice gets in").trim().to_owned();
        let (disk, prepared) = (format!("{MACHINES}/{id}/root.raw"), host.prepared_disk("kvm-tiny"));
        inside("echo mine > /mark; sync");
        host.not_as_new(&id, "Stop it first");
        host.carry_out("alice", Order::Stop, &id, "stopped");
        assert_eq!(host.snapshots("bob", &format!("id={id}&do=as-new")).0, 403);
        assert_eq!(host.snapshot(&id, "take", "mine"), ["mine"]);
        host.order("alice", Order::Resize, &format!("id={id}&vmPartition=2"));
        host.wait_for("alice", &id, "stopped", 120);
        // Its host looks for itself whether it runs.
        host.sh("virsh -q start alice_vm1");
        host.not_as_new(&id, "alice_vm1 runs on its host");
        host.sh("virsh -q destroy alice_vm1");

        let (old, free) = (host.uuid_of(&disk), host.space_free());
        assert_eq!(host.as_new(&id), ["mine"]);
        assert_eq!(host.sh(&format!("stat -c '%s %a %U' {disk}")).trim(), format!("{} 600 root", 2u64 << 30));
        let new = host.uuid_of(&disk);
        assert!(new != old && new != host.uuid_of(&prepared) && !new.is_empty(), "{old} {new}");
        let check = host.try_sh(&format!("e2fsck -fn {disk}"));
        assert_eq!(check.status, 0, "{}", check.out);
        // What it shares may have to be written again, elsewhere; what it had is free again but for what the
        // snapshot has.
        assert!(host.shared_at_most(&disk) > 0 && host.space_free() + 8 >= free, "{free}");
        assert_eq!(host.machine("alice", &id)["state"], "stopped");
        host.carry_out("alice", Order::Start, &id, "deployed");
        host.wait_for_console("alice_vm1", READY, 1);
        let seen = inside("ls /mark 2> /dev/null; df -m / | tail -n 1 | awk '{ print $2 }'");
        assert!(
            seen.parse::<u64>().is_ok_and(|size| size > 1800),
            "it has no mark, and fills its disk: {seen}"
        );
        host.lets_in_only("alice", "vm1");
        host.carry_out("alice", Order::Stop, &id, "stopped");
        // It has its snapshot back, which stays, and goes the other way as well.
        let mark = || host.sh(&format!("debugfs -R 'cat /mark' {disk} 2> /dev/null"));
        assert_eq!(
            (mark(), host.snapshot(&id, "roll-back", "mine")),
            (String::new(), vec!["mine".to_owned()])
        );
        assert_eq!((mark(), host.uuid_of(&disk)), ("mine\n".to_owned(), old));
        assert_eq!((host.as_new(&id), mark()), (vec!["mine".to_owned()], String::new()));
        assert_eq!(host.snapshot(&id, "delete", "mine"), Vec::<String>::new());
        assert!(host.sh("cat /var/log/syslog").contains("what=\"as-new\""), "{}", host.log());

        // A file system that grows only while it is mounted.
        host.sh("grep -q '^menu = .*mkfs' /etc/vgrid/node.cfg || \
                 sed -i '/^\\[XenDeployerFSCreateCmd\\]/a menu = \"/sbin/mkfs.xfs -q\"' /etc/vgrid/node.cfg");
        let menu = |name: &str, gib: u32| {
            host.deployed("alice", &format!("vmImage=menu&vmMemory=64&vmPartition={gib}&vmHostname={name}"))
        };
        let small = menu("vm2", 1);
        host.carry_out("alice", Order::Stop, &small, "stopped");
        host.order("alice", Order::Resize, &format!("id={small}&vmPartition=2"));
        host.wait_for("alice", &small, "stopped", 120);
        let disk = format!("{MACHINES}/{small}/root.raw");
        let (old, prepared) = (host.uuid_of(&disk), host.prepared_disk("menu"));
        assert_eq!(host.as_new(&small), Vec::<String>::new());
        let new = host.uuid_of(&disk);
        assert!(new != old && new != host.uuid_of(&prepared), "{old} {new}");
        let blocks = host.sh(&format!("xfs_db -r -c 'sb 0' -c 'print dblocks' {disk}"));
        assert_eq!(blocks.trim(), format!("dblocks = {}", (2u64 << 30) / 4096));
        let check = host.try_sh(&format!("xfs_repair -n {disk}"));
        assert_eq!(check.status, 0, "{}", check.out);
        host.carry_out("alice", Order::Start, &small, "deployed");
        host.carry_out("alice", Order::Stop, &small, "stopped");

        // What it can't go back to.
        host.sh(&format!("rm {prepared}"));
        host.not_as_new(&small, "keeps no prepared disk of the image menu");
        let large = menu("vm3", 3);
        host.not_as_new(&small, "has 3.0 GiB on this host, and the disk of this machine only 2.0 GiB");
        assert_eq!(host.uuid_of(&disk), new, "its disk is what it was");
        let left = host.sh(&format!("ls -A {MACHINES}/{small}"));
        assert!(!left.contains("unfinished"), "{left}");

        for id in [id, small, large] {
            host.terminate("alice", &id);
        }
        host.must_be_as(&before);
    });
}

#[test]
fn a_killed_helper_leaves_the_old_disk_or_the_images() {
    /// Where the helper, or one of its programs, changes something. The last is that of resize2fs and tune2fs.
    const CALLS: [&str; 7] = ["fsetxattr", "ioctl", "ftruncate", "fsync", "rename", "unlink", "pwrite64"];
    scenario_with("as-new-killed", &XFS, |host| {
        let before = host.inventory();
        std::thread::sleep(SETTLED);
        let id = host.deployed("alice", "vmImage=menu&vmMemory=64&vmPartition=1&vmHostname=vm1");
        host.carry_out("alice", Order::Stop, &id, "stopped");
        host.order("alice", Order::Resize, &format!("id={id}&vmPartition=2"));
        host.wait_for("alice", &id, "stopped", 120);
        let (disk, prepared) = (format!("{MACHINES}/{id}/root.raw"), host.prepared_disk("menu"));
        let original = host.uuid_of(&prepared);
        let sum = host.sh(&format!("md5sum {prepared}"));
        let mark = || {
            host.sh(&format!("printf marked | dd of={disk} bs=8 seek=100000000 conv=notrunc 2> /dev/null"))
        };
        let is_marked =
            || host.sh(&format!("dd if={disk} bs=8 skip=100000000 count=1 2> /dev/null")).contains("marked");
        let run = |call: &str, n: usize| {
            host.try_sh(&format!(
                "strace -f -o /dev/null -e trace={call} -e inject={call}:signal=KILL:when={n} \
                 {HELPER} as-new {id} alice_vm1 menu 0 > /dev/null 2>&1"
            ))
        };
        let mut deaths = 0;
        for call in CALLS {
            for n in 1.. {
                mark();
                let old = host.uuid_of(&disk);
                let has_died = run(call, n).status != 0;
                // Whoever comes next finds a whole disk.
                host.sh(&format!("{HELPER} info > /dev/null"));
                let (now, is_old) = (host.uuid_of(&disk), is_marked());
                assert_eq!(now == old, is_old, "{call} {n}: a mixture");
                assert!(!is_old || has_died, "{call} {n}: it is as it was");
                // The first machine's disk is what is kept of it.
                assert!(is_old || now != original, "{call} {n}: the UUID is not its own");
                assert_eq!(host.sh(&format!("stat -c '%s %a %U' {disk}")).trim(), "2147483648 600 root");
                let check = host.try_sh(&format!("e2fsck -fn {disk}"));
                assert_eq!(check.status, 0, "{call} {n}: {}", check.out);
                if !has_died || call == "pwrite64" && n > 3 {
                    break;
                }
                assert!(n < 30, "{call}: it never succeeds");
                deaths += 1;
            }
        }
        eprintln!("{deaths} deaths; {}", host.sh(&format!("ls -A {MACHINES}/{id}")));
        assert!(deaths > 8, "{deaths}");
        assert_eq!(host.sh(&format!("md5sum {prepared}")), sum, "nothing writes to what is prepared");
        // The next order succeeds, and nothing is left of those that did not.
        mark();
        assert_eq!(host.as_new(&id), Vec::<String>::new());
        assert!(!is_marked());
        host.carry_out("alice", Order::Start, &id, "deployed");
        host.terminate("alice", &id);
        host.must_be_as(&before);
    });
}

/// What tells a machine from its copies, where distributions keep it.
const IDENTITY: &str = "cat /etc/ssh/ssh_host_ed25519_key /etc/machine-id 2> /dev/null; true";

#[test]
fn a_copy_is_a_machine_of_its_own() {
    scenario_with("snapshots-copied", &XFS, |host| {
        host.sh("sed -i 's/^virthost = .*/virthost = 8/' /etc/vgrid/common.cfg");
        let before = host.inventory();
        let id = host.deployed("alice", &format!("{TINY}&vmHostname=vm1"));
        host.wait_for_console("alice_vm1", READY, 1);
        let inside = |name: &str, command: &str| {
            host.ssh("alice", name, command).expect("alice gets in").trim().to_owned()
        };
        // It runs and writes when the snapshot is taken.
        inside(
            "vm1",
            "mkdir -p /srv; dd if=/dev/urandom of=/srv/data bs=1M count=20 2> /dev/null; sync; \
             md5sum /srv/data > /srv/sum; mkdir -p /etc/ssh; echo key > /etc/ssh/ssh_host_ed25519_key; \
             echo id > /etc/machine-id; sync",
        );
        host.snapshot(&id, "take", "one");
        inside("vm1", "rm /srv/data; echo gone > /srv/sum; sync");

        // One is deployed from it while the first goes on running.
        let copy = host
            .deployed("alice", &format!("fromSnapshot={id}/one&vmMemory=128&vmPartition=2&vmHostname=vm2"));
        host.wait_for_console("alice_vm2", READY, 1);
        assert_eq!(inside("vm2", "md5sum -c /srv/sum"), "/srv/data: OK");
        assert_eq!((&*inside("vm1", IDENTITY), &*inside("vm2", IDENTITY)), ("key\nid", ""));
        host.lets_in_only("alice", "vm2");
        let uuid = |id: &str| host.sh(&format!("blkid -p -o value -s UUID {MACHINES}/{id}/root.raw"));
        assert_ne!(uuid(&id), uuid(&copy));
        assert_eq!(host.machine("alice", &copy)["from_snapshot"], format!("{id}/one"));
        // The first is what it was.
        assert_eq!(inside("vm1", "cat /srv/sum"), "gone");

        // Others can't, and a snapshot that is gone is missed.
        let try_it = |user: &str, fields: &str| {
            let (status, answer) = host.try_deploy(user, &format!("vmMemory=128&vmPartition=2&{fields}"));
            (status, answer.to_string())
        };
        let (status, answer) = try_it("bob", &format!("fromSnapshot={id}/one&vmHostname=vm3"));
        assert!(status == 400 && answer.contains("You have no machine with a snapshot"), "{status} {answer}");
        host.sh(&format!("rm {MACHINES}/{id}/one.snapshot"));
        // At once, or, if the host has looked a moment ago, by its worker.
        let (status, answer) = try_it("alice", "fromSnapshot=vm1/one&vmHostname=vm3");
        assert!([202, 409].contains(&status), "{status} {answer}");
        let id_of = |name: &str| host.named(name).expect(name)["id"].as_str().expect("an id").to_owned();
        let failed = host.wait_for("alice", &id_of("vm3"), "failed", 60);
        let reason = failed["reason"].as_str().unwrap_or_default();
        assert!(reason.contains("no snapshot called one"), "{failed}");
        host.terminate("alice", &id_of("vm3"));

        // A worker or a helper that is killed while it copies leaves nothing.
        host.snapshot(&id, "take", "two");
        for victim in ["/usr/lib/vgrid/vgrid-worker", HELPER] {
            host.hold("/usr/bin/tar");
            let fields =
                format!("format=json&fromSnapshot={id}/two&vmMemory=128&vmPartition=2&vmHostname=vm3");
            let (status, answer) = host.ask("alice", "deploy", &fields);
            assert_eq!(status, 202, "{answer}");
            host.wait_until_held("/usr/bin/tar");
            host.sh(&format!("pkill -KILL -f ^{victim}"));
            host.let_go("/usr/bin/tar");
            let machine = || host.named("vm3").expect("the machine");
            for _ in 0..60 {
                host.as_www_data("/usr/bin/vgrid-upkeep");
                if machine()["state"] == "failed" {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_secs(1));
            }
            let machine = machine();
            assert_eq!(machine["state"], "failed", "{victim}: {machine}\n{}", host.log());
            host.terminate("alice", machine["id"].as_str().expect("an id"));
        }
        let again = host
            .deployed("alice", &format!("fromSnapshot={id}/two&vmMemory=128&vmPartition=1&vmHostname=vm3"));
        host.wait_for_console("alice_vm3", READY, 1);
        assert_eq!(inside("vm3", "cat /srv/sum"), "gone");
        for id in [id, copy, again] {
            host.terminate("alice", &id);
        }
        host.must_be_as(&before);
    });
}
