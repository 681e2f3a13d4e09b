//! Which registry this is. Nodes remember it and obey no other.

use rusqlite::Connection;

use crate::model::names::RegistryId;
use crate::system::clock;

use super::{Reader, RegistryError, all};

impl Reader<'_> {
    /// The registry's identity: made with it, and the same for its whole life, through backup and restore.
    ///
    /// # Errors
    /// [`RegistryError`] when SQLite refuses, or when there is none: then it is no registry.
    pub fn identity(&self) -> Result<RegistryId, RegistryError> {
        all(self.connection, "SELECT id FROM identity", [], |mut cells| cells.parsed())?
            .pop()
            .ok_or_else(|| RegistryError::Sql(rusqlite::Error::QueryReturnedNoRows))
    }
}

/// Gives a registry that has no identity one, within the transaction that makes it or brings it up to date.
pub(super) fn ensure(connection: &Connection) -> Result<(), RegistryError> {
    connection.execute(
        "INSERT INTO identity (only, id, since) VALUES (1, ?1, ?2) ON CONFLICT (only) DO NOTHING",
        (RegistryId::generate().to_string(), clock::now().unix()),
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::server::registry::Registry;

    #[test]
    fn a_registry_keeps_its_identity_and_shares_it_with_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let identity = |name: &str| {
            let registry = Registry::open(&dir.path().join(name)).unwrap();
            registry.read(|reader| reader.identity()).unwrap()
        };
        let first = identity("registry.sqlite");
        assert_eq!(identity("registry.sqlite"), first);
        assert_ne!(identity("other.sqlite"), first);
    }
}
