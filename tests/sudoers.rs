//! The shipped sudo configuration.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use crate::support::stage::Stage;

/// The settings that sudo-rs 0.2 knows (`src/defaults/mod.rs`). It rejects a file with any other,
/// and of the tags of a rule it accepts only those about passwords without a warning.
const KNOWN: [&str; 4] = ["env_reset", "use_pty", "secure_path", "env_keep"];

#[test]
fn visudo_accepts_the_file() {
    let stage = Stage::shared();
    let file = stage.path("/etc/sudoers.d/vgrid");
    let output = Command::new("/usr/sbin/visudo").args(["--check", "--file"]).arg(&file).output();
    let output = output.expect("visudo is installed (tests/xenhost/packages)");
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && text.ends_with(": parsed OK\n"), "{text}");
}

#[test]
fn sudo_rs_knows_every_setting() {
    let text = fs::read_to_string(Stage::shared().path("etc/sudoers.d/vgrid")).expect("the rule");
    let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    let [defaults, rule] = lines.as_slice() else { panic!("{lines:?}") };
    let settings = defaults
        .strip_prefix("Defaults!/usr/lib/vgrid/vgrid-helper ")
        .expect("settings for the helper alone");
    let set: BTreeSet<&str> = settings
        .split(',')
        .map(|setting| setting.trim().trim_start_matches('!').split('=').next().unwrap_or_default())
        .collect();
    let unknown: Vec<_> = set.iter().filter(|setting| !KNOWN.contains(setting)).collect();
    assert!(unknown.is_empty(), "sudo-rs rejects the whole file because of {unknown:?}");
    assert_eq!(*rule, "www-data ALL=(root) NOPASSWD: /usr/lib/vgrid/vgrid-helper");
}
