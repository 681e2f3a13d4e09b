//! Programs that run as nobody, with few privileges.

use std::path::PathBuf;

use crate::system::exec::{self, Run};

/// Prepares a program that runs as nobody, with the single capability to read every file.
pub fn as_nobody(what: &str) -> Run {
    as_nobody_with("-all,+dac_read_search", what)
}

/// Prepares a program that runs as nobody, with these capabilities and no way to gain more:
/// setpriv(1), capabilities(7). User and group are given as numbers, because the group's name
/// differs between systems.
pub(super) fn as_nobody_with(rights: &str, what: &str) -> Run {
    let run = Run::new(program("setpriv")).args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    ["--inh-caps", "--ambient-caps", "--bounding-set"]
        .iter()
        .fold(run, |run, set| run.arg(format!("{set}={rights}")))
        .args(["--no-new-privs", "--"])
        .arg(program(what))
}

/// Returns the path of a program, or its bare name if it is not found.
pub(super) fn program(name: &str) -> PathBuf {
    exec::find(&[name]).unwrap_or_else(|| PathBuf::from(name))
}
