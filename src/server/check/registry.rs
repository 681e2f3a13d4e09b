//! Checks the registry and upkeep.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::check::rights::{self, WEB_USER};
use crate::check::{OrElse as _, Problem, Seen, Verdict};
use crate::model::names::RegistryId;
use crate::model::text::ago;
use crate::server::registry::upkeep::LONGEST_GAP;
use crate::server::registry::{Registry, RegistryError};
use crate::system::clock;

/// Checks that the registry is there, intact, writable by the web server's user, and closed to
/// others.
pub fn is_usable(file: &Path, web: &nix::unistd::User) -> Verdict<()> {
    rights::private_folder(file.parent().unwrap_or(Path::new("/")), web)?;
    let path = file.display();
    let facts = match std::fs::metadata(file) {
        Ok(facts) => facts,
        Err(error) => {
            return Err(Problem::new(
                format!("{path}: {}", rights::words(&error)),
                "mount its disk, or bring it back: vgrid-registry restore FILE; only for a new portal: vgrid-registry init",
            ));
        }
    };
    if facts.is_file() && facts.uid() != web.uid.as_raw() || facts.mode() & 0o600 != 0o600 {
        return Err(Problem::new(
            format!("{WEB_USER} can't write {path}"),
            format!("chown {WEB_USER}: {path}* && chmod u+rw {path}*"),
        ));
    }
    let version = Registry::inspect(file).map_err(|error| {
        let remedy = match error {
            RegistryError::TooNew { .. } => "install the newer vGrid again",
            RegistryError::TooOld { .. } | RegistryError::NotRegistry { .. } => {
                "move it away, then: vgrid-registry restore FILE"
            }
            _ => "bring back a backup: vgrid-registry restore FILE",
        };
        let why = match &error {
            RegistryError::NotRegistry { what, .. } => format!("{path} is no registry: {what}"),
            RegistryError::TooOld { found, .. } => {
                format!("{path} has version {found}, from before vGrid's first release")
            }
            error => format!("{path}: {error}"),
        };
        Problem::new(why, remedy)
    })?;
    if facts.mode() & 0o027 != 0 {
        return Err(Problem::new(
            format!("{path} can be read by everybody, or written by its group"),
            format!("chmod 640 {path}"),
        ));
    }
    let alike = Registry::names_alike(file).or_else_do("bring back a backup: vgrid-registry restore FILE")?;
    let alike = alike.iter().map(|(known, later)| {
        format!(
            "; {known:?} and {later:?} are two people here, though only capitals or encoding tell them apart"
        )
    });
    Ok(Seen::well((), format!("{path}, version {version}{}", alike.collect::<String>())))
}

/// Checks that upkeep has run recently enough for the portal's own clock to go on (see
/// [`LONGEST_GAP`]).
pub fn upkeep_runs(file: &Path) -> Verdict<()> {
    const REMEDY: &str =
        "apt-get install cron, and see /etc/cron.d/vgrid; to try it: sudo -u www-data vgrid-upkeep";
    if !file.exists() {
        return Err(Problem::new("there is no registry to keep", "see the line about the registry"));
    }
    let life =
        Registry::inspect(file).and_then(|_| Registry::open_to_read(file)?.read(|reader| reader.life()));
    let life = life.or_else_do("see the line about the registry")?;
    let Some(last) = life.last else {
        return Err(Problem::new("it never ran: no lease ends, no mail is sent", REMEDY));
    };
    let since = clock::now().since(last);
    if since > LONGEST_GAP {
        return Err(Problem::new(
            format!("it last ran {}: no lease ends, no mail is sent", ago(since)),
            REMEDY,
        ));
    }
    Ok(Seen::well((), format!("it ran {}", ago(since))))
}

/// Returns the registry's identity. Inspects the file first, so that opening it creates or migrates
/// nothing.
pub fn identity(file: &Path) -> Result<RegistryId, RegistryError> {
    Registry::inspect(file)?;
    Registry::open_to_read(file)?.read(|reader| reader.identity())
}
