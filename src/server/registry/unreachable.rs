//! Owners who can't be reached: there was mail for them, but they have no address.

use crate::model::lease::Moment;
use crate::server::registry::user::Owner;
use crate::server::registry::{Reader, RegistryError, Writer, all};

impl Reader<'_> {
    /// Returns all of them by name, with the time since when.
    pub fn unreachable(&self) -> Result<Vec<(String, Moment)>, RegistryError> {
        const SQL: &str = "SELECT owner, since FROM unreachable ORDER BY owner";
        all(self.connection, SQL, [], |mut cells| Ok((cells.get()?, Moment::from_unix(cells.get()?))))
    }
}

impl Writer<'_> {
    /// Records that an owner can't be reached. Returns `false` if that was known.
    pub fn note_unreachable(&self, owner: &Owner) -> Result<bool, RegistryError> {
        const SQL: &str = "INSERT INTO unreachable (owner, since) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
        Ok(self.connection.execute(SQL, (owner.as_str(), self.now().unix()))? == 1)
    }

    /// Records that an owner can be reached again.
    pub fn note_reachable(&self, owner: &Owner) -> Result<(), RegistryError> {
        self.connection.execute("DELETE FROM unreachable WHERE owner = ?1", [owner.as_str()])?;
        Ok(())
    }
}
