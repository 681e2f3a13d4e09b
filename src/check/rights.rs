//! File ownership and permissions.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::unistd::User;

use super::{Problem, WithRemedy as _};
use crate::system::exec::{self, Run};

/// The user that Apache's programs run as on Debian, and the user in the sudo rule.
pub const WEB_USER: &str = "www-data";

/// Reads a file's metadata without following symlinks. An error becomes a problem with this remedy.
pub fn facts(path: &Path, remedy: &str) -> Result<Metadata, Problem> {
    std::fs::symlink_metadata(path)
        .map_err(|error| format!("{}: {}", path.display(), describe(&error)))
        .with_remedy(remedy)
}

/// Describes an I/O error in a few words.
pub fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "is not there".to_owned(),
        io::ErrorKind::PermissionDenied => "may not be read by you".to_owned(),
        _ => error.to_string(),
    }
}

/// Returns whether only root can change the file.
pub fn is_roots_alone(facts: &Metadata) -> bool {
    facts.uid() == 0 && facts.mode() & 0o022 == 0
}

/// Prepares a run as the web server's user, to which the command is appended. Requires root.
pub fn as_web_user() -> Run {
    let setpriv = exec::find(&["setpriv"]).unwrap_or_else(|| "setpriv".into());
    Run::new(setpriv).args([
        format!("--reuid={WEB_USER}"),
        format!("--regid={WEB_USER}"),
        "--init-groups".to_owned(),
        "--".to_owned(),
    ])
}

/// Returns whether the web server's user can read a file. Requires root.
pub fn web_user_reads(path: &Path) -> bool {
    as_web_user().args(["/usr/bin/test", "-r"]).arg(path).run().is_ok()
}

/// Returns whether the web server's user can write to a directory. Requires root.
pub fn web_user_writes(folder: &Path) -> bool {
    let can = |what: &str| as_web_user().args(["/usr/bin/test", what]).arg(folder).run().is_ok();
    can("-d") && can("-w") && can("-x")
}

/// Checks that a directory belongs to the web server's user and is accessible to no one else.
pub fn private_folder(folder: &Path, web: &User) -> Result<(), Problem> {
    let path = folder.display();
    let make = format!("install -d -o {WEB_USER} -g {WEB_USER} -m 700 {path}");
    let facts = facts(folder, &make)?;
    if !facts.is_dir() {
        return Err(Problem::new(format!("{path} is no folder"), format!("remove it, then: {make}")));
    }
    if facts.uid() != web.uid.as_raw() {
        return Err(Problem::new(
            format!("{path} does not belong to {WEB_USER}"),
            format!("chown {WEB_USER}: {path}"),
        ));
    }
    let mode = facts.mode() & 0o7777;
    if mode != 0o700 {
        return Err(Problem::new(format!("{path} has mode {mode:o}, not 700"), format!("chmod 700 {path}")));
    }
    Ok(())
}
