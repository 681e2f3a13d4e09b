//! What was found on hosts that this portal did not order, or no longer knows. Nothing is decided by it: an
//! administrator looks and acts.

use std::collections::{BTreeMap, BTreeSet};

use strum::{EnumString, IntoStaticStr};

use crate::model::lease::Moment;
use crate::model::names::{MachineName, PhysicalHost, VOLUME_PREFIXES, VirtualHost};
use crate::server::registry::{Cells, Reader, RegistryError, Writer, all};

/// What kind of thing it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, EnumString, IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum StrayKind {
    /// A domain that runs.
    Domain,
    /// A logical volume with vGrid's prefix.
    Volume,
    /// A host's own record of a machine.
    Record,
    /// A saved image's file.
    Image,
}

impl StrayKind {
    /// Its name in the registry, and in forms.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// Something unknown on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stray {
    /// What it is.
    pub kind: StrayKind,
    /// Its name there.
    pub name: String,
    /// More about it, for people.
    pub detail: String,
}

impl Stray {
    /// What tells it from the others on its host.
    fn key(&self) -> (StrayKind, &str) {
        (self.kind, &self.name)
    }

    /// The name in the DNS that it has, or had, if it is called as vGrid calls a machine or a machine's volume.
    pub fn virtual_host(&self) -> Option<VirtualHost> {
        let machine = match self.kind {
            StrayKind::Domain => self.name.as_str(),
            StrayKind::Volume => VOLUME_PREFIXES.iter().find_map(|prefix| self.name.strip_prefix(prefix))?,
            StrayKind::Record | StrayKind::Image => return None,
        };
        let machine: MachineName = machine.parse().ok()?;
        machine.parts().map(|(_, host)| host)
    }
}

/// Something unknown on a host, and since when it is known to be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The host.
    pub host: PhysicalHost,
    /// What was found.
    pub stray: Stray,
    /// When it was first seen.
    pub since: Moment,
}

fn found(mut cells: Cells<'_>) -> Result<Found, RegistryError> {
    Ok(Found {
        host: cells.parsed()?,
        stray: Stray { kind: cells.parsed()?, name: cells.get()?, detail: cells.get()? },
        since: Moment::from_unix(cells.get()?),
    })
}

impl Reader<'_> {
    /// All that is unknown on hosts.
    ///
    /// # Errors
    /// [`RegistryError`] when SQLite refuses or a row is not what this program writes.
    pub fn strays(&self) -> Result<Vec<Found>, RegistryError> {
        const SQL: &str = "SELECT host, kind, name, detail, since FROM stray ORDER BY host, kind, name";
        all(self.connection, SQL, [], found)
    }

    /// The names that something unknown has, and on which host. Who gets such a name gets an address that may be in use.
    ///
    /// # Errors
    /// As for [`strays`](Self::strays).
    pub fn names_on_hosts(&self) -> Result<BTreeMap<VirtualHost, PhysicalHost>, RegistryError> {
        let named = |found: Found| Some((found.stray.virtual_host()?, found.host));
        Ok(self.strays()?.into_iter().filter_map(named).collect())
    }

    /// The host on which something unknown has that name.
    ///
    /// # Errors
    /// As for [`strays`](Self::strays).
    pub fn name_on_hosts(&self, name: &VirtualHost) -> Result<Option<PhysicalHost>, RegistryError> {
        Ok(self.names_on_hosts()?.remove(name))
    }

    /// What is unknown on one host.
    ///
    /// # Errors
    /// [`RegistryError`] when SQLite refuses or a row is not what this program writes.
    pub fn strays_on(&self, host: &PhysicalHost) -> Result<Vec<Found>, RegistryError> {
        const SQL: &str =
            "SELECT host, kind, name, detail, since FROM stray WHERE host = ?1 ORDER BY kind, name";
        all(self.connection, SQL, [host.as_str()], found)
    }
}

impl Writer<'_> {
    /// Forgets that something is unknown on a host. Whether it is still there, upkeep will see.
    ///
    /// # Errors
    /// [`RegistryError`] when SQLite refuses.
    pub fn forget_stray(
        &self,
        host: &PhysicalHost,
        kind: StrayKind,
        name: &str,
    ) -> Result<(), RegistryError> {
        self.connection.execute(
            "DELETE FROM stray WHERE host = ?1 AND kind = ?2 AND name = ?3",
            (host.as_str(), kind.as_str(), name),
        )?;
        Ok(())
    }

    /// Replaces what is known to be unknown on a host, as far as it has changed. Gives back what was not there the last time.
    ///
    /// # Errors
    /// [`RegistryError`] when SQLite refuses.
    pub fn keep_strays(&self, host: &PhysicalHost, found: &[&Stray]) -> Result<Vec<Stray>, RegistryError> {
        let known = self.strays_on(host)?;
        let known: BTreeMap<(StrayKind, &str), &str> =
            known.iter().map(|known| (known.stray.key(), known.stray.detail.as_str())).collect();
        let there: BTreeSet<(StrayKind, &str)> = found.iter().map(|stray| stray.key()).collect();
        for (kind, name) in known.keys().filter(|key| !there.contains(*key)) {
            self.forget_stray(host, *kind, name)?;
        }
        let mut new = Vec::new();
        let mut statement = self.connection.prepare(
            "INSERT INTO stray (host, kind, name, detail, since) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (host, kind, name) DO UPDATE SET detail = excluded.detail",
        )?;
        for stray in found {
            match known.get(&stray.key()) {
                Some(detail) if *detail == stray.detail => continue,
                Some(_) => {}
                None => new.push((*stray).clone()),
            }
            let (kind, since) = (stray.kind.as_str(), self.now().unix());
            statement.execute((host.as_str(), kind, &stray.name, &stray.detail, since))?;
        }
        Ok(new)
    }
}
