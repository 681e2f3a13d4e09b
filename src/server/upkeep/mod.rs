//! `vgrid-upkeep`: the portal keeps its own house. Started by cron; safe to kill and safe to repeat.
//!
//! One run asks every host what it has and brings what the server believes in line ([`compare`]), does what leases call
//! for ([`lease`]), pings machines ([`ping`]), and sends mail that waits. All that is to be done about a machine is first
//! found out, as data ([`plan`]), and then carried out under the write lock if the machine still is as it was.
//! A dead host costs its own time limit and nobody else's.

pub mod compare;
mod contact;
pub mod lease;
mod notify;
mod parallel;
pub mod ping;
pub mod plan;
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

/// A clock that is set back by more than this was wrong before, in seconds.
const SET_BACK: i64 = 3600;

/// Why upkeep could not do its work.
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
    /// It was started by root, whose files the web server's user could not use afterwards.
    #[error("run it as the user whom the registry belongs to: sudo -u {owner} vgrid-upkeep")]
    WrongUser {
        /// That user's name, or number.
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
    /// Another one is at work.
    Busy,
    /// It did what there was to do, or says what it would do.
    Done(Summary),
}

/// Does all there is to do, or with `dry` finds it out and does nothing. `shown` has a bar of progress drawn, on a
/// terminal.
///
/// # Errors
/// [`UpkeepError`], when nothing, or not everything, could be done. What was done is whole, and the next run does the rest.
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

/// Lets root through only where the registry is root's.
fn not_as_root(registry: &Path) -> Result<(), UpkeepError> {
    let place = if registry.exists() { Some(registry) } else { registry.parent() };
    // What can't be looked at is told by who opens it.
    let Some(facts) = place.and_then(|place| std::fs::metadata(place).ok()) else { return Ok(()) };
    if !Uid::effective().is_root() || facts.uid() == 0 {
        return Ok(());
    }
    let owner = User::from_uid(Uid::from_raw(facts.uid())).ok().flatten();
    let owner = owner.map_or_else(|| format!("'#{}'", facts.uid()), |user| user.name);
    Err(UpkeepError::WrongUser { owner })
}
