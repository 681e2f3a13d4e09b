//! What administrators have closed: the portal, hosts, virtual host names.

use strum::{EnumString, IntoStaticStr};

use crate::model::lease::Moment;
use crate::server::registry::{Cells, Reader, RegistryError, Writer, all};

/// The kinds of things that can be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, EnumString, IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum Kind {
    /// The portal: only administrators can change anything.
    Portal,
    /// A host: it gets no new machines.
    Host,
    /// A virtual host name: no new machine gets it.
    Name,
}

impl Kind {
    /// Returns its name in the registry and in forms.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// A closed portal, host or name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// The kind of thing.
    pub kind: Kind,
    /// Its name; empty for the portal.
    pub name: String,
    /// The reason, in an administrator's words.
    pub reason: String,
    /// The administrator who closed it.
    pub who: String,
    /// When it was closed.
    pub since: Moment,
}

/// Finds one thing among all that are closed.
pub fn find<'c>(closed: &'c [Closed], kind: Kind, name: &str) -> Option<&'c Closed> {
    closed.iter().find(|one| one.kind == kind && one.name == name)
}

impl Reader<'_> {
    /// Returns the entry of the portal, if it is closed.
    pub fn portal_closed(&self) -> Result<Option<Closed>, RegistryError> {
        const SQL: &str = "SELECT kind, name, reason, who, since FROM closed WHERE kind = 'portal'";
        Ok(all(self.connection, SQL, [], read_closed)?.into_iter().next())
    }

    /// Returns everything that is closed.
    pub fn closed(&self) -> Result<Vec<Closed>, RegistryError> {
        const SQL: &str = "SELECT kind, name, reason, who, since FROM closed ORDER BY kind, name";
        all(self.connection, SQL, [], read_closed)
    }
}

fn read_closed(mut cells: Cells<'_>) -> Result<Closed, RegistryError> {
    Ok(Closed {
        kind: cells.parsed()?,
        name: cells.get()?,
        reason: cells.get()?,
        who: cells.get()?,
        since: Moment::from_unix(cells.get()?),
    })
}

impl Writer<'_> {
    /// Closes something in the actor's name, as of now, or updates the reason.
    pub fn close(&self, kind: Kind, name: &str, reason: &str) -> Result<(), RegistryError> {
        self.connection.execute(
            "INSERT OR REPLACE INTO closed (kind, name, reason, who, since) VALUES (?1, ?2, ?3, ?4, ?5)",
            (kind.as_str(), name, reason, &self.actor().who, self.now().unix()),
        )?;
        Ok(())
    }

    /// Reopens something. Returns `false` if it was not closed.
    pub fn reopen(&self, kind: Kind, name: &str) -> Result<bool, RegistryError> {
        let sql = "DELETE FROM closed WHERE kind = ?1 AND name = ?2";
        Ok(self.connection.execute(sql, (kind.as_str(), name))? > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::registry::Registry;

    #[test]
    fn what_is_closed_is_known_once_and_can_be_opened() {
        let dir = tempfile::tempdir().unwrap();
        let mut registry = Registry::create(&dir.path().join("registry.sqlite")).unwrap();
        let close = |kind, name: &str, reason: &str| Closed {
            kind,
            name: name.to_owned(),
            reason: reason.to_owned(),
            who: "vgrid".to_owned(),
            since: Moment::from_unix(5),
        };
        let portal = close(Kind::Portal, "", "moving");
        let host = close(Kind::Host, "node1", "a disk is broken");
        let done: Result<(), RegistryError> = registry.write_at(Moment::from_unix(5), |writer| {
            assert_eq!(writer.portal_closed()?, None);
            writer.close(Kind::Host, "node1", "?")?;
            writer.close(Kind::Host, "node1", "a disk is broken")?;
            writer.close(Kind::Portal, "", "moving")?;
            writer.close(Kind::Name, "node1", "a name that is also a host's")?;
            assert_eq!(writer.portal_closed()?.as_ref(), Some(&portal));
            let all = writer.closed()?;
            assert_eq!((all.len(), find(&all, Kind::Host, "node1")), (3, Some(&host)));
            assert!(writer.reopen(Kind::Host, "node1")? && !writer.reopen(Kind::Host, "node1")?);
            assert!(find(&writer.closed()?, Kind::Name, "node1").is_some());
            Ok(())
        });
        done.unwrap();
    }
}
