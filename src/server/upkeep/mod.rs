//! `vgrid-upkeep`: the portal's housekeeping. Started by cron; safe to kill and to repeat.
//!
//! A run queries every host and updates the registry to match ([`compare`]), carries out what
//! leases call for ([`lease`]), pings machines ([`ping`]), and sends queued mail. What has to be
//! done about machines is first planned, as data ([`plan`]). Each step is then carried out under
//! the write lock if the machine has not changed since. A dead host costs its own time limit and
//! delays no other.

pub mod compare;
mod contact;
pub mod lease;
mod notify;
mod parallel;
pub mod ping;
pub mod plan;
mod pool;
mod run;
mod summary;

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, User};
use run::Run;
pub use summary::Summary;
use thiserror::Error;

use crate::config::{self, Common, ConfigError};
use crate::model::names::RequestId;
use crate::server::nodes::{Nodes, NodesError};
use crate::server::registry::event::Actor;
use crate::server::registry::{Registry, RegistryError};
use crate::system::log::{self, Level};
use crate::system::{clock, lock};

/// The clock was wrong before if it is set back by more than this, in seconds.
const SET_BACK: i64 = 3600;

/// Why upkeep failed.
#[derive(Debug, Error)]
pub enum UpkeepError {
    /// The configuration can't be used.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// The registry can't be used.
    #[error("{0}")]
    Registry(#[from] RegistryError),
    /// No node can be called.
    #[error("{0}")]
    Nodes(#[from] NodesError),
    /// It was started by root, whose files the web server's user could not use afterward.
    #[error("run it as the user whom the registry belongs to: sudo -u {owner} vgrid-upkeep")]
    WrongUser {
        /// The name, or number, of the user that it must run as.
        owner: String,
    },
    /// Its lock can't be taken.
    #[error("{}: {source}", file.display())]
    Lock {
        /// The lock's file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// How a run ended.
#[derive(Debug)]
pub enum Outcome {
    /// Another run is in progress.
    Busy,
    /// The run is complete, or the dry run.
    Done(Summary),
}

/// Does everything that is due, or with `dry` only plans it. `shown` draws a progress bar on a
/// terminal.
///
/// # Errors
/// [`UpkeepError`] if something, or everything, could not be done. What was done is complete, and
/// the next run does the rest.
pub fn run(dir: &Path, dry: bool, shown: bool) -> Result<Outcome, UpkeepError> {
    let config = config::Server::load(dir)?;
    let common = Common::load(dir)?;
    not_as_root(&config.general.registry_file)?;
    Registry::inspect(&config.general.registry_file)?;
    let request = RequestId::generate();
    log::start("upkeep", request.clone(), Some(&config.general.log_file));
    let nodes = Nodes::new(&config, &request)?;
    let file = config.general.registry_file.with_extension("upkeep.lock");
    let held = lock::try_take(&file).map_err(|source| UpkeepError::Lock { file, source })?;
    let Some(_held) = held else { return Ok(Outcome::Busy) };
    let now = clock::now();
    let file = &config.general.registry_file;
    let registry = if dry { Registry::open_to_read(file)? } else { Registry::open(file)? };
    let mut registry = registry.acting(Actor { who: "upkeep".to_owned(), from: "-".to_owned() });
    let life = if dry {
        registry.read(|reader| Ok::<_, RegistryError>(reader.life()?.at(now)))?
    } else {
        registry.write(|writer| {
            writer.forget_notices_after(now.plus_seconds(SET_BACK))?;
            writer.live_on()
        })?
    };
    let summary = Run::new(&config, &common, &nodes, registry, dry, now, life).everything(shown)?;
    log::event(
        Level::Info,
        "upkeep.done",
        &[
            ("hosts", &(summary.answered + summary.silent.len())),
            ("silent", &summary.silent.len()),
            ("steps", &summary.steps.len()),
            ("trouble", &summary.trouble.len()),
            ("dry", &dry),
        ],
    );
    Ok(Outcome::Done(summary))
}

/// Refuses to run as root unless the registry belongs to root.
fn not_as_root(registry: &Path) -> Result<(), UpkeepError> {
    let place = if registry.exists() { Some(registry) } else { registry.parent() };
    // If it can't be examined, opening it reports why.
    let Some(facts) = place.and_then(|place| std::fs::metadata(place).ok()) else { return Ok(()) };
    if !Uid::effective().is_root() || facts.uid() == 0 {
        return Ok(());
    }
    let owner = User::from_uid(Uid::from_raw(facts.uid())).ok().flatten();
    let owner = owner.map_or_else(|| format!("'#{}'", facts.uid()), |user| user.name);
    Err(UpkeepError::WrongUser { owner })
}
