//! Owners who can't be told anything: there was mail for them, and they have no address.

use crate::model::lease::Moment;
use crate::server::registry::user::Owner;
use crate::server::registry::{Reader, RegistryError, Writer, all};

impl Reader<'_> {
    /// All of them, by name, and since when.
    ///
    /// # Errors
    /// [`RegistryError`] when SQLite refuses or a row is not what this program writes.
    pub fn unreachable(&self) -> Result<Vec<(String, Moment)>, RegistryError> {
        const SQL: &str = "SELECT owner, since FROM unreachable ORDER BY owner";
        all(self.connection, SQL, [], |mut cells| Ok((cells.get()?, Moment::from_unix(cells.get()?))))
    }
}

impl Writer<'_> {
    /// Remembers that an owner can't be told anything. `false` if that was known.
    ///
    /// # Errors
    /// [`RegistryError`] when SQLite refuses.
    pub fn note_unreachable(&self, owner: &Owner) -> Result<bool, RegistryError> {
        const SQL: &str = "INSERT INTO unreachable (owner, since) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
        Ok(self.connection.execute(SQL, (owner.as_str(), self.now().unix()))? == 1)
    }

    /// Remembers that an owner can be told things again.
    ///
    /// # Errors
    /// [`RegistryError`] when SQLite refuses.
    pub fn note_reachable(&self, owner: &Owner) -> Result<(), RegistryError> {
        self.connection.execute("DELETE FROM unreachable WHERE owner = ?1", [owner.as_str()])?;
        Ok(())
    }
}
