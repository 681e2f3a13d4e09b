//! The file for logrotate, carried out by the real one on logs that somebody goes on writing to.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::Path;
use std::process::Command;

use crate::support::apache::web_user;
use crate::support::stage::{Stage, public_folder};

/// Runs logrotate once by the installed file, with its folders below another root.
fn rotate(root: &Path) {
    // Held while it is read: the last who lets go of it removes it.
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
fn long_logs_are_rotated_while_they_are_written() {
    let root = public_folder();
    let web = web_user().expect("www-data");
    let (consoles, own) = (root.path().join("var/log/xen/console"), root.path().join("var/lib/vgrid"));
    for folder in [&consoles, &own] {
        fs::create_dir_all(folder).expect("a folder");
    }
    chown(&own, Some(web.uid.as_raw()), Some(web.gid.as_raw())).expect("the web server's folder");
    let long = [consoles.join("guest-alice_vm1.log"), own.join("node.log")];
    let short = [consoles.join("guest-bob_vm2.log"), consoles.join("hypervisor.log")];
    let mut writers = Vec::new();
    for path in long.iter().chain(&short) {
        let mut writer = OpenOptions::new().append(true).create(true).open(path).expect("a log");
        let lines = if long.contains(path) { 1 << 20 } else { 1 };
        writer.write_all("seventeen letters\n".repeat(lines).as_bytes()).expect("written");
        writers.push(writer);
    }
    chown(&long[1], Some(web.uid.as_raw()), Some(web.gid.as_raw())).expect("the web server's log");
    rotate(root.path());
    for (path, writer) in long.iter().zip(&mut writers) {
        let rotated = path.with_extension("log.1");
        assert_eq!(fs::metadata(&rotated).expect("the old one").len(), 18 << 20);
        writer.write_all(b"after\n").expect("written");
        assert_eq!(fs::read_to_string(path).expect("the log"), "after\n", "{}", path.display());
        assert_eq!(fs::metadata(path).unwrap().uid(), fs::metadata(&rotated).unwrap().uid());
    }
    for path in &short {
        assert!(fs::metadata(path).is_ok_and(|facts| facts.len() == 18), "{}", path.display());
    }
}
