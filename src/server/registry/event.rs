//! The history of each machine and of the portal. It is there to be read; nothing depends on it.

use crate::model::lease::Moment;
use crate::model::names::VmId;
use crate::server::registry::user::Owner;
use crate::server::registry::{Reader, RegistryError, Writer, all};

/// The actor behind a change, as log and history record it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// A user name, or `host` and the name of a node.
    pub who: String,
    /// The address of the request.
    pub from: String,
}

impl Actor {
    /// Returns the portal itself, acting through one of its programs.
    pub fn portal() -> Self {
        Self { who: "vgrid".to_owned(), from: "-".to_owned() }
    }
}

/// An event in a machine's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Occurrence {
    /// When it happened.
    pub at: Moment,
    /// Who caused it.
    pub actor: Actor,
    /// What happened, in a few words.
    pub what: String,
    /// Details; may be empty.
    pub detail: String,
}

impl Reader<'_> {
    /// Returns the history of a machine, oldest first.
    pub fn history(&self, id: VmId) -> Result<Vec<Occurrence>, RegistryError> {
        const SQL: &str = "SELECT at, who, origin, what, detail FROM event WHERE vm = ?1 ORDER BY rowid";
        all(self.connection, SQL, [id.to_string()], |mut cells| {
            Ok(Occurrence {
                at: Moment::from_unix(cells.get()?),
                actor: Actor { who: cells.get()?, from: cells.get()? },
                what: cells.get()?,
                detail: cells.get()?,
            })
        })
    }
}

/// A filter on the portal's history.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only events caused by this user or host.
    pub who: Option<String>,
    /// Only events whose name contains this text.
    pub what: Option<String>,
    /// Only events about the machine, host or image with this name.
    pub about: Option<String>,
    /// Only events at or after this time.
    pub since: Option<Moment>,
    /// Only events before this time.
    pub until: Option<Moment>,
    /// Only events of this owner's machines.
    pub owner: Option<Owner>,
}

/// An event in the portal's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    /// The machine, if it is about one.
    pub vm: Option<VmId>,
    /// Its subject: the name of a machine or of whatever else it is about.
    pub about: String,
    /// The machine's owner; empty if it is not about a machine.
    pub owner: String,
    /// The event.
    pub occurrence: Occurrence,
}

impl Reader<'_> {
    /// Returns the portal's history, newest first.
    pub fn events(
        &self,
        filter: &Filter,
        limit: u32,
        offset: u32,
    ) -> Result<Vec<HistoryEntry>, RegistryError> {
        const SQL: &str = "SELECT event.vm, coalesce(vm.virtual_host, event.subject, ''),
                coalesce(vm.owner, ''), at, who, origin, what, detail
            FROM event LEFT JOIN vm ON vm.id = event.vm
            WHERE (?1 IS NULL OR who = ?1) AND (?2 IS NULL OR instr(what, ?2) > 0)
                AND (?3 IS NULL OR vm.virtual_host = ?3 OR event.subject = ?3 OR event.vm = ?3)
                AND (?4 IS NULL OR at >= ?4) AND (?5 IS NULL OR at < ?5)
                AND (?6 IS NULL OR vm.owner = ?6)
            ORDER BY at DESC, event.rowid DESC LIMIT ?7 OFFSET ?8";
        let params = (
            &filter.who,
            &filter.what,
            &filter.about,
            filter.since.map(Moment::unix),
            filter.until.map(Moment::unix),
            filter.owner.as_ref().map(Owner::as_str),
            limit,
            offset,
        );
        all(self.connection, SQL, params, |mut cells| {
            Ok(HistoryEntry {
                vm: cells.perhaps()?,
                about: cells.get()?,
                owner: cells.get()?,
                occurrence: Occurrence {
                    at: Moment::from_unix(cells.get()?),
                    actor: Actor { who: cells.get()?, from: cells.get()? },
                    what: cells.get()?,
                    detail: cells.get()?,
                },
            })
        })
    }
}

impl Writer<'_> {
    /// Records an event that is not about a machine: about a host, a name, an image or the portal.
    pub fn record_about(&self, subject: &str, what: &str, detail: &str) -> Result<(), RegistryError> {
        let Actor { who, from } = self.actor;
        self.connection.execute(
            "INSERT INTO event (subject, at, who, origin, what, detail) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            (subject, self.now().unix(), who, from, what, detail),
        )?;
        Ok(())
    }

    /// Removes events older than `before`, except those of live machines. Returns how many.
    pub fn prune_events(&self, before: Moment) -> Result<usize, RegistryError> {
        Ok(self.connection.execute(
            "DELETE FROM event WHERE at < ?1 AND (vm IS NULL OR vm IN
                (SELECT id FROM vm WHERE state = 'notDeployed'))",
            [before.unix()],
        )?)
    }

    /// Records an event of a machine.
    pub fn record(&self, id: VmId, what: &str, detail: &str) -> Result<(), RegistryError> {
        let Actor { who, from } = self.actor;
        self.connection.execute(
            "INSERT INTO event (vm, at, who, origin, what, detail) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            (id.to_string(), self.now().unix(), who, from, what, detail),
        )?;
        Ok(())
    }
}
