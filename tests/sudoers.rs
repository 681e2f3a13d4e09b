//! sudo's configuration as it is shipped.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use crate::support::stage::Stage;

/// What sudo-rs 0.2 knows as settings (its `src/defaults/mod.rs`); at any other it gives the whole file up, and of the
/// tags of a rule it takes only those for the password without a complaint.
const KNOWN: [&str; 4] = ["env_reset", "use_pty", "secure_path", "env_keep"];

#[test]
fn visudo_finds_nothing_wrong() {
    let stage = Stage::shared();
    let file = stage.path("/etc/sudoers.d/vgrid");
    let said = Command::new("/usr/sbin/visudo").args(["--check", "--file"]).arg(&file).output();
    let said = said.expect("visudo is installed (tests/xenhost/packages)");
    let text = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
    assert!(said.status.success() && text.ends_with(": parsed OK\n"), "{text}");
}

#[test]
fn sudo_rs_knows_all_that_is_set() {
    let text = fs::read_to_string(Stage::shared().path("etc/sudoers.d/vgrid")).expect("the rule");
    let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    let [defaults, rule] = lines.as_slice() else { panic!("{lines:?}") };
    let settings =
        defaults.strip_prefix("Defaults!/usr/lib/vgrid/vgrid-helper ").expect("of the helper alone");
    let set: BTreeSet<&str> = settings
        .split(',')
        .map(|setting| setting.trim().trim_start_matches('!').split('=').next().unwrap_or_default())
        .collect();
    let unknown: Vec<_> = set.iter().filter(|setting| !KNOWN.contains(setting)).collect();
    assert!(unknown.is_empty(), "sudo-rs refuses the whole file for {unknown:?}");
    assert_eq!(*rule, "www-data ALL=(root) NOPASSWD: /usr/lib/vgrid/vgrid-helper");
}
