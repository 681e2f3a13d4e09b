//! The registry's identity. Nodes remember it and obey no other registry.

use rusqlite::Connection;

use crate::model::lease::Moment;
use crate::model::names::RegistryId;
use crate::server::registry::{Reader, RegistryError, Writer, all};
use crate::system::clock;

impl Reader<'_> {
    /// Returns the registry's identity, which is created with it and survives backup and restore.
    ///
    /// # Errors
    /// Also fails if there is none: then the file is not a registry.
    pub fn identity(&self) -> Result<RegistryId, RegistryError> {
        all(self.connection, "SELECT id FROM identity", [], |mut cells| cells.parsed())?
            .pop()
            .ok_or_else(|| RegistryError::Sql(rusqlite::Error::QueryReturnedNoRows))
    }
}

impl Reader<'_> {
    /// Returns whether the registry was restored from a backup and upkeep has not checked the hosts
    /// since. Until then, names and addresses that it takes for free may be in use.
    pub fn awaits_comparison(&self) -> Result<bool, RegistryError> {
        const SQL: &str = "SELECT count(*) FROM identity
                           WHERE restored IS NOT NULL AND (compared IS NULL OR compared < restored)";
        Ok(self.connection.query_row(SQL, [], |row| row.get::<_, u32>(0))? > 0)
    }
}

impl Writer<'_> {
    /// Records that the hosts have been checked.
    pub fn compared(&self) -> Result<(), RegistryError> {
        const SQL: &str = "UPDATE identity SET compared = ?1 WHERE restored IS NOT NULL";
        self.connection.execute(SQL, [self.now().unix()])?;
        Ok(())
    }
}

/// Marks a registry, about to replace another, as restored from a backup. Notices about leases are
/// forgotten: leases may have been extended since the backup, so each owner is told once more and
/// each grace period starts again.
pub(super) fn mark_restored(connection: &Connection, now: Moment) -> Result<(), RegistryError> {
    connection.execute("UPDATE identity SET restored = ?1, compared = NULL", [now.unix()])?;
    connection.execute("DELETE FROM notice", [])?;
    Ok(())
}

/// Assigns an identity, within the transaction that creates the registry.
pub(super) fn assign(connection: &Connection) -> Result<(), RegistryError> {
    connection.execute(
        "INSERT INTO identity (only, id, since) VALUES (1, ?1, ?2)",
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
