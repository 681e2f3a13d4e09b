//! The helper against hostile arguments, and sudo against everything else.

use super::host::{HELPER, TINY, UNKNOWN_ID, quote, scenario};
use crate::support::visited::Visited as _;

#[test]
fn www_data_may_run_the_helper_and_nothing_else() {
    scenario("sudo", |host| {
        let rules = host.sh("sudo -l -U www-data");
        let allowed: Vec<&str> =
            rules.lines().filter(|line| line.contains("NOPASSWD")).map(str::trim).collect();
        assert_eq!(allowed, [format!("(root) NOPASSWD: {HELPER}")], "{rules}");
        for command in [
            "sudo -n /bin/sh -c id",
            "sudo -n xl list",
            "sudo -n lvs",
            "sudo -n /usr/lib/vgrid/../vgrid/vgrid-worker",
            "sudo -n /usr/lib/vgrid/vgrid-worker",
            "sudo -n -u nobody /usr/lib/vgrid/vgrid-helper info",
        ] {
            assert_ne!(host.as_www_data(command).status, 0, "{command} was allowed");
        }
        // The permitted program works, and does not inherit the environment.
        let output = host.as_www_data(&format!(
            "LD_PRELOAD=/tmp/x PATH=/tmp VGRID_CONFIG_DIR=/tmp /usr/bin/sudo -n {HELPER} info"
        ));
        assert_eq!(output.status, 0, "{}", output.out);
    });
}

/// The helper's verbs, each with well-formed arguments.
const VERBS: [(&str, &[&str]); 13] = [
    ("info", &[]),
    ("make-volumes", &[UNKNOWN_ID, "alice_vm1", "tiny", "1"]),
    ("make-filesystems", &[UNKNOWN_ID, "alice_vm1", "tiny"]),
    ("unpack", &[UNKNOWN_ID, "alice_vm1", "tiny"]),
    ("pack", &[UNKNOWN_ID, "alice_vm1"]),
    ("configure", &[UNKNOWN_ID, "alice_vm1", "tiny", "128", "10.0.2.21", "alice"]),
    ("start", &[UNKNOWN_ID, "alice_vm1", "128"]),
    ("verify", &[UNKNOWN_ID, "alice_vm1"]),
    ("undo", &[UNKNOWN_ID, "alice_vm1"]),
    ("console", &["alice_vm1", "1000"]),
    ("discard", &["volume", "xen-root-precious_vm1"]),
    ("discard", &["domain", "somebody", "7"]),
    ("no-such-verb", &[]),
];

#[test]
fn hostile_arguments_are_refused_and_nothing_is_touched() {
    scenario("hostile", |host| {
        // Root's volumes, with names like vGrid's but without its tag.
        host.sh("lvcreate -qq -y -L 8M -n xen-root-precious_vm1 vg1; lvcreate -qq -y -L 8M -n other vg1");
        let before = host.inventory();
        let hostile = [
            "--config=/tmp/x",
            "-f",
            "../../etc/passwd",
            "/dev/vda",
            "vg1/other",
            "precious_vm1/../other",
            "alice_vm1;reboot",
            "$(reboot)",
            "alice_vm1\nbob_vm2",
            "Domain-0",
            "",
            "alice_../vm1",
        ];
        let mut calls = Vec::new();
        for (verb, good) in VERBS {
            // Each argument hostile in turn, one too many, and one too few.
            for bad in hostile {
                let replaced = (0..good.len()).map(|at| {
                    let mut args = good.to_vec();
                    args[at] = bad;
                    args
                });
                for args in replaced.chain([[good, &[bad]].concat()]) {
                    calls.push((verb, args));
                }
            }
            if let Some((_, fewer)) = good.split_last() {
                calls.push((verb, fewer.to_vec()));
            }
        }
        // One call per line, all in one script. It prints every call that was not refused with a
        // sentence.
        let lines: Vec<String> = calls
            .iter()
            .map(|(verb, args)| {
                let words: Vec<String> = [*verb].iter().chain(args).map(|word| quote(word)).collect();
                format!("try {}\n", words.join(" "))
            })
            .collect();
        let script = format!(
            "cd /; export LC_ALL=C.UTF-8\n\
         try() {{ said=$(sudo -n {HELPER} \"$@\" 2>&1 < /dev/null); s=$?\n\
         case $s in 1|2) ;; *) echo \"status $s: $*\";; esac\n\
         case $said in *panicked*) echo \"panic: $*: $said\";; esac\n\
         [ ${{#said}} -gt 20 ] || echo \"no sentence: $*: $said\"; }}\n{}echo all {} tried\n",
            lines.concat(),
            lines.len()
        );
        let file = std::env::temp_dir().join(format!("vgrid-hostile-{}", std::process::id()));
        std::fs::write(&file, script).expect("a temporary file");
        host.put(&file, "/root/hostile.sh");
        std::fs::remove_file(&file).expect("the temporary file");
        let output = host.try_sh("setpriv --reuid=www-data --regid=www-data --init-groups bash < /root/hostile.sh; rm /root/hostile.sh");
        assert_eq!(output.out.trim(), format!("all {} tried", lines.len()));

        // Well-formed calls about something that is not theirs: a volume without the tag, an
        // unknown machine.
        for line in [
            format!("undo {UNKNOWN_ID} precious_vm1"),
            format!("start {UNKNOWN_ID} precious_vm1 128"),
            format!("unpack {UNKNOWN_ID} precious_vm1 tiny"),
            format!("pack {UNKNOWN_ID} precious_vm1"),
            // What vGrid did not create is not removed, unless root has allowed it.
            "discard volume xen-root-precious_vm1".to_owned(),
            "discard domain Domain-0 0".to_owned(),
        ] {
            host.as_www_data(&format!("sudo -n {HELPER} {line} < /dev/null"));
        }
        assert_eq!(host.inventory()["volumes"], before["volumes"]);
        host.must_be_as(&before);
    });
}

#[test]
fn links_planted_by_www_data_lead_nowhere() {
    scenario("links", |host| {
        let secret = host.sh("sha256sum /etc/shadow /etc/vgrid/node.cfg /etc/passwd");
        // Every folder that www-data can write to gets links with the names that vGrid uses there.
        host.sh(
        "for d in $(find / -xdev -type d \\( -user www-data -o -perm -o+w \\) 2>/dev/null); do \
           for n in node.lock key jobs.tmp alice_vm1.cfg alice_vm1.lock alice_vm1 guest-alice_vm1.log \
             019dd5a3-2f3a-7c11-9d9b-0123456789ab.lock 019dd5a3-2f3a-7c11-9d9b-0123456789ab.json; do \
             [ -e \"$d/$n\" ] || setpriv --reuid=www-data --regid=www-data --clear-groups ln -s /etc/shadow \"$d/$n\" 2>/dev/null || true; \
           done; done",
    );
        let (_, answer) = host.try_deploy("alice", &format!("{TINY}&vmHostname=vm1"));
        for line in [
            format!("undo {UNKNOWN_ID} alice_vm1"),
            "console alice_vm1 1000".to_owned(),
            format!("undo {UNKNOWN_ID} alice_vm1 --forget-console"),
        ] {
            let output = host.as_www_data(&format!("sudo -n {HELPER} {line} < /dev/null"));
            assert!(!output.out.contains("root:"), "{line}: {}", output.out);
        }
        assert_eq!(host.sh("sha256sum /etc/shadow /etc/vgrid/node.cfg /etc/passwd"), secret, "{answer}");
    });
}
