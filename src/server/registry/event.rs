//! What happened to each machine, in order. For people to read; nothing is decided by it.

use crate::model::lease::Moment;
use crate::model::names::VmId;

use super::{Reader, RegistryError, Writer, all};

/// Who did something, and from where: what the log and the history say of every change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// A user's name, or `host` and the name of a node.
    pub who: String,
    /// The address that the request came from.
    pub from: String,
}

/// One thing that happened to a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Happening {
    /// When.
    pub at: Moment,
    /// By whom.
    pub actor: Actor,
    /// What, in a few words.
    pub what: String,
    /// More about it; may be empty.
    pub detail: String,
}

impl Reader<'_> {
    /// All that happened to a machine, the oldest first.
    ///
    /// # Errors
    /// [`RegistryError`] when SQLite refuses.
    pub fn history(&self, id: VmId) -> Result<Vec<Happening>, RegistryError> {
        const SQL: &str = "SELECT at, who, origin, what, detail FROM event WHERE vm = ?1 ORDER BY rowid";
        all(self.connection, SQL, [id.to_string()], |mut cells| {
            Ok(Happening {
                at: Moment::from_unix(cells.get()?),
                actor: Actor { who: cells.get()?, from: cells.get()? },
                what: cells.get()?,
                detail: cells.get()?,
            })
        })
    }
}

impl Writer<'_> {
    /// Adds to a machine's history.
    ///
    /// # Errors
    /// [`RegistryError`] when SQLite refuses.
    pub fn record(
        &self,
        id: VmId,
        now: Moment,
        actor: &Actor,
        what: &str,
        detail: &str,
    ) -> Result<(), RegistryError> {
        self.connection.execute(
            "INSERT INTO event (vm, at, who, origin, what, detail) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            (id.to_string(), now.unix(), &actor.who, &actor.from, what, detail),
        )?;
        Ok(())
    }
}
