//! What administrators have closed: the portal, hosts, virtual host names.

use crate::model::lease::Moment;

use super::{Reader, RegistryError, Writer, all};

/// What can be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The portal: nobody but administrators changes anything.
    Portal,
    /// A host: no new machines.
    Host,
    /// A virtual host name: no machine gets it.
    Name,
}

impl Kind {
    /// Its name in the registry, and in forms.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Portal => "portal",
            Self::Host => "host",
            Self::Name => "name",
        }
    }

    /// The kind with that name, if there is one.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Portal, Self::Host, Self::Name].into_iter().find(|kind| kind.as_str() == name)
    }
}

/// Something that is closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// What.
    pub kind: Kind,
    /// Its name; empty for the portal.
    pub name: String,
    /// Why, in an administrator's words.
    pub reason: String,
    /// By whom.
    pub who: String,
    /// Since when.
    pub since: Moment,
}

impl Reader<'_> {
    /// All that is closed.
    ///
    /// # Errors
    /// [`RegistryError`] when SQLite refuses or a row is not what this program writes.
    pub fn closed(&self) -> Result<Vec<Closed>, RegistryError> {
        const SQL: &str = "SELECT kind, name, reason, who, since FROM closed ORDER BY kind, name";
        all(self.connection, SQL, [], |mut cells| {
            Ok(Closed {
                kind: cells.word(Kind::from_name)?,
                name: cells.get()?,
                reason: cells.get()?,
                who: cells.get()?,
                since: Moment::from_unix(cells.get()?),
            })
        })
    }
}

impl Writer<'_> {
    /// Closes something, or changes the reason for which it is closed.
    ///
    /// # Errors
    /// [`RegistryError`] when SQLite refuses.
    pub fn close(&self, closed: &Closed) -> Result<(), RegistryError> {
        self.connection.execute(
            "INSERT OR REPLACE INTO closed (kind, name, reason, who, since) VALUES (?1, ?2, ?3, ?4, ?5)",
            (closed.kind.as_str(), &closed.name, &closed.reason, &closed.who, closed.since.unix()),
        )?;
        Ok(())
    }

    /// Opens something again. `false` if it was not closed.
    ///
    /// # Errors
    /// [`RegistryError`] when SQLite refuses.
    pub fn reopen(&self, kind: Kind, name: &str) -> Result<bool, RegistryError> {
        let sql = "DELETE FROM closed WHERE kind = ?1 AND name = ?2";
        Ok(self.connection.execute(sql, (kind.as_str(), name))? > 0)
    }
}
