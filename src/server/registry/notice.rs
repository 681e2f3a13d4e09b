//! Notices to owners about their machines, each given once per lease.

use rusqlite::OptionalExtension as _;

use crate::model::lease::Moment;
use crate::model::names::VmId;
use crate::server::registry::{Reader, RegistryError, Writer};

/// A notice that was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Given {
    /// When it was given.
    pub at: Moment,
    /// How long the portal had been alive by then, in seconds (see [`super::upkeep`]).
    pub lived: i64,
}

impl Reader<'_> {
    /// Returns when the owner of a machine was given a notice about the lease that ends (or ended)
    /// at `lease_end`, if they were.
    pub fn notice(&self, id: VmId, kind: &str, lease_end: Moment) -> Result<Option<Given>, RegistryError> {
        const SQL: &str = "SELECT at, lived FROM notice WHERE vm = ?1 AND kind = ?2 AND lease_end = ?3";
        let given = self
            .connection
            .query_row(SQL, (id.to_string(), kind, lease_end.unix()), |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        Ok(given.map(|(at, lived)| Given { at: Moment::from_unix(at), lived }))
    }
}

impl Writer<'_> {
    /// Records a notice given now, after the portal has been alive for `lived` seconds. Returns
    /// `false` and changes nothing if it was given before.
    pub fn note(&self, id: VmId, kind: &str, lease_end: Moment, lived: i64) -> Result<bool, RegistryError> {
        let rows = self.connection.execute(
            "INSERT OR IGNORE INTO notice (vm, kind, lease_end, at, lived) VALUES (?1, ?2, ?3, ?4, ?5)",
            (id.to_string(), kind, lease_end.unix(), self.now().unix(), lived),
        )?;
        Ok(rows == 1)
    }

    /// Forgets one kind of notice about a machine, so that it can be given again.
    pub fn forget_notice(&self, id: VmId, kind: &str) -> Result<(), RegistryError> {
        self.connection.execute("DELETE FROM notice WHERE vm = ?1 AND kind = ?2", (id.to_string(), kind))?;
        Ok(())
    }

    /// Forgets notices dated after `moment`: the clock was ahead then and has been set back.
    /// Returns how many.
    pub fn forget_notices_after(&self, moment: Moment) -> Result<usize, RegistryError> {
        Ok(self.connection.execute("DELETE FROM notice WHERE at > ?1", [moment.unix()])?)
    }
}
