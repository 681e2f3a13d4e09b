//! Which registry this is. Nodes remember it and obey no other.

use rusqlite::Connection;

use crate::model::lease::Moment;
use crate::model::names::RegistryId;
use crate::server::registry::{Reader, RegistryError, Writer, all};
use crate::system::clock;

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

impl Reader<'_> {
    /// Whether the registry was put back from a backup and upkeep has not looked at the hosts since. Until then names and
    /// addresses may be in use that it takes for free.
    ///
    /// # Errors
    /// [`RegistryError`] when SQLite refuses.
    pub fn awaits_comparison(&self) -> Result<bool, RegistryError> {
        const SQL: &str = "SELECT count(*) FROM identity
                           WHERE restored IS NOT NULL AND (compared IS NULL OR compared < restored)";
        Ok(self.connection.query_row(SQL, [], |row| row.get::<_, u32>(0))? > 0)
    }
}

impl Writer<'_> {
    /// Remembers that the hosts have been looked at.
    ///
    /// # Errors
    /// [`RegistryError`] when SQLite refuses.
    pub fn compared(&self) -> Result<(), RegistryError> {
        const SQL: &str = "UPDATE identity SET compared = ?1 WHERE restored IS NOT NULL";
        self.connection.execute(SQL, [self.now().unix()])?;
        Ok(())
    }
}

/// Remembers, in a registry that is about to be put in another's place, that it comes from a backup. What owners were told of
/// leases is forgotten: leases may have been extended since, so each owner is told once more, and each grace begins anew.
pub(super) fn mark_restored(connection: &Connection, now: Moment) -> Result<(), RegistryError> {
    connection.execute("UPDATE identity SET restored = ?1, compared = NULL", [now.unix()])?;
    connection.execute("DELETE FROM notice", [])?;
    Ok(())
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
            let registry = Registry::create(&dir.path().join(name)).unwrap();
            registry.read(|reader| reader.identity()).unwrap()
        };
        let first = identity("registry.sqlite");
        assert_eq!(identity("registry.sqlite"), first);
        assert_ne!(identity("other.sqlite"), first);
    }
}
