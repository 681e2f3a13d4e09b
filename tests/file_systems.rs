//! The file system commands in the shipped configuration.

use std::io::Read as _;
use std::process::Command;

use vgrid::node::filesystem::{self, Kind};

/// The commands in `etc/node.cfg`, including those commented out: key and words.
fn commands() -> Vec<(String, Vec<String>)> {
    let text = include_str!("../etc/node.cfg");
    let (_, section) = text.split_once("[XenDeployerFSCreateCmd]\n").expect("the section");
    section
        .lines()
        .take_while(|line| !line.trim_start_matches('#').starts_with('['))
        .filter_map(|line| line.trim_start_matches('#').split_once(" = \""))
        .map(|(key, value)| {
            let words = value.trim_end_matches('"').split_whitespace();
            (key.to_owned(), words.map(str::to_owned).collect())
        })
        .collect()
}

/// The features of the file system that a command makes.
fn made_by(words: &[String]) -> Vec<&'static str> {
    let disk = tempfile::NamedTempFile::new().expect("a file");
    disk.as_file().set_len(320 << 20).expect("its size");
    let output =
        Command::new(&words[0]).args(&words[1..]).arg(disk.path()).output().expect("it is installed");
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    let mut head = Vec::new();
    disk.as_file().take(filesystem::HEAD as u64).read_to_end(&mut head).expect("read");
    assert_eq!(filesystem::kind(&head), Some(Kind::Ext), "{words:?}");
    filesystem::features(&head).into_iter().map(|feature| feature.name).collect()
}

#[test]
fn the_shipped_commands_make_file_systems_as_old_as_they_say() {
    let commands = commands();
    let keys: Vec<&str> = commands.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(keys, ["default", "debian", "debian13", "slc5"]);
    let made: Vec<Vec<&str>> = commands.iter().map(|(_, words)| made_by(words)).collect();
    // Whatever this machine's mke2fs enables by default.
    assert_eq!(made[0], ["extent"]);
    assert_eq!(made[1], ["metadata_csum", "64bit", "extent"]);
    assert!(made[2].starts_with(&["metadata_csum_seed", "orphan_file"]), "{:?}", made[2]);
    assert_eq!(made[3], [""; 0]);
}
