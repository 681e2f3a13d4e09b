//! What happened to each machine, in order. For people to read; nothing is decided by it.

use crate::model::lease::Moment;
use crate::model::names::VmId;
use crate::server::registry::user::Owner;
use crate::server::registry::{Reader, RegistryError, Writer, all};

/// Who did something, and from where: what the log and the history say of every change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// A user's name, or `host` and the name of a node.
    pub who: String,
    /// The address that the request came from.
    pub from: String,
}

impl Actor {
    /// The portal itself, by one of its programs.
    pub fn portal() -> Self {
        Self { who: "vgrid".to_owned(), from: "-".to_owned() }
    }
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

/// Which events of the portal's history are meant.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only those by this user or host.
    pub who: Option<String>,
    /// Only those whose name contains this.
    pub what: Option<String>,
    /// Only those about the machine, host or image of this name.
    pub about: Option<String>,
    /// Not before.
    pub since: Option<Moment>,
    /// Before.
    pub until: Option<Moment>,
    /// Only those of machines of this owner.
    pub owner: Option<Owner>,
}

/// One thing that happened in the portal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The machine, if it was one.
    pub vm: Option<VmId>,
    /// What it was about: a machine's name, or what else it was.
    pub about: String,
    /// The machine's owner; empty if it was no machine.
    pub owner: String,
    /// What happened.
    pub happening: Happening,
}

impl Reader<'_> {
    /// All that happened, the newest first.
    ///
    /// # Errors
    /// [`RegistryError`] when SQLite refuses.
    pub fn events(&self, filter: &Filter, limit: u32, offset: u32) -> Result<Vec<Told>, RegistryError> {
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
            Ok(Told {
                vm: cells.perhaps()?,
                about: cells.get()?,
                owner: cells.get()?,
                happening: Happening {
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
    /// Adds to the portal's history what is about no machine: a host, a name, an image, the portal.
    ///
    /// # Errors
    /// [`RegistryError`] when SQLite refuses.
    pub fn record_about(&self, subject: &str, what: &str, detail: &str) -> Result<(), RegistryError> {
        let Actor { who, from } = self.actor;
        self.connection.execute(
            "INSERT INTO event (subject, at, who, origin, what, detail) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            (subject, self.now().unix(), who, from, what, detail),
        )?;
        Ok(())
    }

    /// Removes what happened before `before`, but for what happened to machines that are there.
    ///
    /// # Errors
    /// [`RegistryError`] when SQLite refuses.
    pub fn prune_events(&self, before: Moment) -> Result<usize, RegistryError> {
        Ok(self.connection.execute(
            "DELETE FROM event WHERE at < ?1 AND (vm IS NULL OR vm IN
                (SELECT id FROM vm WHERE state = 'notDeployed'))",
            [before.unix()],
        )?)
    }

    /// Adds to a machine's history.
    ///
    /// # Errors
    /// [`RegistryError`] when SQLite refuses.
    pub fn record(&self, id: VmId, what: &str, detail: &str) -> Result<(), RegistryError> {
        let Actor { who, from } = self.actor;
        self.connection.execute(
            "INSERT INTO event (vm, at, who, origin, what, detail) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            (id.to_string(), self.now().unix(), who, from, what, detail),
        )?;
        Ok(())
    }
}
