//! The shipped logrotate file, run by the real logrotate on logs that are still being written.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use crate::support::apache::give_to_web_user;
use crate::support::stage::{Stage, public_folder};

/// Runs logrotate once with the installed file, its folders moved below another root.
fn rotate(root: &Path) {
    // Kept until the file is read: the last holder removes the installation.
    let stage = Stage::shared();
    let text = fs::read_to_string(stage.path("/etc/logrotate.d/vgrid")).expect("make install ships it");
    let file = root.join("vgrid.conf");
    let text = text.replace("/var/", &format!("{}/var/", root.display()));
    fs::write(&file, text).expect("its copy");
    let run = Command::new("/usr/sbin/logrotate").arg("-s").args([&root.join("state"), &file]).output();
    let run = run.expect("logrotate is installed (tests/xenhost/packages)");
    assert!(run.status.success() && run.stderr.is_empty(), "{}", String::from_utf8_lossy(&run.stderr));
}

#[test]
fn long_logs_are_rotated_while_in_use() {
    let root = public_folder();
    let (consoles, own) = (root.path().join("var/log/xen/console"), root.path().join("var/lib/vgrid"));
    for folder in [&consoles, &own] {
        fs::create_dir_all(folder).expect("a folder");
    }
    give_to_web_user(&own);
    let long = [consoles.join("guest-alice_vm1.log"), own.join("node.log")];
    let short = [consoles.join("guest-bob_vm2.log"), consoles.join("hypervisor.log")];
    let mut writers = Vec::new();
    for path in long.iter().chain(&short) {
        let mut writer = OpenOptions::new().append(true).create(true).open(path).expect("a log");
        let lines = if long.contains(path) { 1 << 20 } else { 1 };
        writer.write_all("seventeen letters\n".repeat(lines).as_bytes()).expect("written");
        writers.push(writer);
    }
    give_to_web_user(&long[1]);
    rotate(root.path());
    for (path, writer) in long.iter().zip(&mut writers) {
        let rotated = path.with_extension("log.1");
        assert_eq!(fs::metadata(&rotated).expect("the rotated log").len(), 18 << 20);
        writer.write_all(b"after\n").expect("written");
        assert_eq!(fs::read_to_string(path).expect("the log"), "after\n", "{}", path.display());
        assert_eq!(fs::metadata(path).unwrap().uid(), fs::metadata(&rotated).unwrap().uid());
    }
    for path in &short {
        assert!(fs::metadata(path).is_ok_and(|facts| facts.len() == 18), "{}", path.display());
    }
}
