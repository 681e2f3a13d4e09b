//! Who may read and write what.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::unistd::User;

use super::{OrElse as _, Problem};
use crate::system::exec::{self, Run};

/// The user that Apache's programs run as, on Debian, and the one in the sudo rule.
pub const WEB_USER: &str = "www-data";

/// Something's owner and mode, or what is wrong with finding out.
pub fn facts(path: &Path, remedy: &str) -> Result<Metadata, Problem> {
    std::fs::symlink_metadata(path)
        .map_err(|error| format!("{}: {}", path.display(), words(&error)))
        .or_else_do(remedy)
}

/// The system's reason in a few words.
pub fn words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "is not there".to_owned(),
        io::ErrorKind::PermissionDenied => "may not be read by you".to_owned(),
        _ => error.to_string(),
    }
}

/// Whether nobody but root can change it.
pub fn is_roots_alone(facts: &Metadata) -> bool {
    facts.uid() == 0 && facts.mode() & 0o022 == 0
}

/// A program that runs commands as the web server's user: all but the command. Only root can use it.
pub fn as_web_user() -> Run {
    let setpriv = exec::find(&["setpriv"]).unwrap_or_else(|| "setpriv".into());
    Run::new(setpriv).args([
        format!("--reuid={WEB_USER}"),
        format!("--regid={WEB_USER}"),
        "--init-groups".to_owned(),
        "--".to_owned(),
    ])
}

/// Whether the web server's user can read a file. Only root can find out.
pub fn web_user_reads(path: &Path) -> bool {
    as_web_user().args(["/usr/bin/test", "-r"]).arg(path).run().is_ok()
}

/// Whether the web server's user can write to a folder. Only root can find out.
pub fn web_user_writes(folder: &Path) -> bool {
    let can = |what: &str| as_web_user().args(["/usr/bin/test", what]).arg(folder).run().is_ok();
    can("-d") && can("-w") && can("-x")
}

/// Checks a folder that belongs to the web server's user, and to nobody else.
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
