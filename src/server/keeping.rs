//! The work of `vgrid-registry`: creates the registry, backs it up, verifies it and restores it.

use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::config::{self, ConfigError};
use crate::model::names::RegistryId;
use crate::server::registry::file::{Restored, Summary};
use crate::server::registry::{Registry, RegistryError};

/// Why the registry could not be created, backed up, verified or restored.
#[derive(Debug, Error)]
pub enum KeepingError {
    /// The configuration can't be used.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// The registry, or the backup, can't be used.
    #[error("{0}")]
    Registry(#[from] RegistryError),
}

/// A registry that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// Its file.
    pub file: PathBuf,
    /// Its identity.
    pub identity: RegistryId,
    /// Whether it has just been created.
    pub made: bool,
}

fn file(dir: &Path) -> Result<PathBuf, KeepingError> {
    Ok(config::Server::load(dir)?.general.registry_file)
}

/// Creates the registry of a new portal, whose configuration is in `dir`.
///
/// # Errors
/// [`KeepingError`]; see [`Registry::init`].
pub fn init(dir: &Path) -> Result<Ready, KeepingError> {
    let file = file(dir)?;
    let (identity, made) = Registry::init(&file)?;
    Ok(Ready { file, identity, made })
}

/// Copies the registry to a new file.
///
/// # Errors
/// [`KeepingError`]; see [`Registry::backup`].
pub fn backup(dir: &Path, to: &Path) -> Result<Summary, KeepingError> {
    Ok(Registry::backup(&file(dir)?, to)?)
}

/// Verifies a backup, or the registry itself, completely.
///
/// # Errors
/// [`KeepingError`]; see [`Registry::verify`].
pub fn verify(dir: &Path, backup: Option<&Path>) -> Result<(PathBuf, Summary), KeepingError> {
    let file = match backup {
        Some(backup) => backup.to_owned(),
        None => file(dir)?,
    };
    let summary = Registry::verify(&file)?;
    Ok((file, summary))
}

/// Replaces the registry with a backup.
///
/// # Errors
/// [`KeepingError`]; see [`Registry::restore`].
pub fn restore(dir: &Path, from: &Path, force: bool) -> Result<Restored, KeepingError> {
    Ok(Registry::restore(&file(dir)?, from, force)?)
}
