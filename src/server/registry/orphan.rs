//! Orphans: things found on hosts that this portal did not order or no longer has on record.
//! Nothing acts on them automatically; an administrator looks and decides.

use std::collections::{BTreeMap, BTreeSet};

use strum::{EnumString, IntoStaticStr};

use crate::model::lease::Moment;
use crate::model::names::{MachineName, PhysicalHost, VOLUME_PREFIXES, VirtualHost};
use crate::model::wire::Part;
use crate::server::registry::{Cells, Reader, RegistryError, Writer, all};

/// The kinds of orphans.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, EnumString, IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum OrphanKind {
    /// A running domain.
    Domain,
    /// A logical volume with vGrid's prefix.
    Volume,
    /// A host's own record of a machine.
    Record,
    /// The file of a saved image.
    Image,
}

impl OrphanKind {
    /// Returns its name in the registry and in forms.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// Returns the list of a host's answer that orphans of this kind are found in; `None` for
    /// records, which every host knows.
    pub fn part(self) -> Option<Part> {
        match self {
            Self::Domain => Some(Part::Domains),
            Self::Volume => Some(Part::Volumes),
            Self::Image => Some(Part::Saved),
            Self::Record => None,
        }
    }
}

/// An orphan on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphan {
    /// Its kind.
    pub kind: OrphanKind,
    /// Its name on the host.
    pub name: String,
    /// Details, for people.
    pub detail: String,
}

impl Orphan {
    /// Returns the key that identifies it on its host.
    fn key(&self) -> (OrphanKind, &str) {
        (self.kind, &self.name)
    }

    /// Returns the DNS name that it has or had, if its own name follows vGrid's scheme for a
    /// machine or a machine's volume.
    pub fn virtual_host(&self) -> Option<VirtualHost> {
        let machine = match self.kind {
            OrphanKind::Domain => self.name.as_str(),
            OrphanKind::Volume => VOLUME_PREFIXES.iter().find_map(|prefix| self.name.strip_prefix(prefix))?,
            OrphanKind::Record | OrphanKind::Image => return None,
        };
        let machine: MachineName = machine.parse().ok()?;
        machine.parts().map(|(_, host)| host)
    }
}

/// An orphan on a host, and since when it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The host.
    pub host: PhysicalHost,
    /// What was found.
    pub stray: Orphan,
    /// When it was first seen.
    pub since: Moment,
    /// Who ordered its removal and when, unless that is known to have failed.
    pub ordered: Option<Ordered>,
}

/// An order to remove an orphan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ordered {
    /// Who gave it.
    pub by: String,
    /// When it was given.
    pub at: Moment,
}

fn found(mut cells: Cells<'_>) -> Result<Found, RegistryError> {
    Ok(Found {
        host: cells.parsed()?,
        stray: Orphan { kind: cells.parsed()?, name: cells.get()?, detail: cells.get()? },
        since: Moment::from_unix(cells.get()?),
        ordered: {
            let (by, at): (Option<String>, Option<i64>) = (cells.get()?, cells.get()?);
            by.zip(at).map(|(by, at)| Ordered { by, at: Moment::from_unix(at) })
        },
    })
}

const COLUMNS: &str = "SELECT host, kind, name, detail, since, ordered_by, ordered_at FROM stray";

impl Reader<'_> {
    /// Returns the orphans on all hosts.
    pub fn strays(&self) -> Result<Vec<Found>, RegistryError> {
        all(self.connection, &format!("{COLUMNS} ORDER BY host, kind, name"), [], found)
    }

    /// Returns the names that orphans have, each with its host. A machine given such a name would
    /// get an address that may be in use.
    pub fn names_on_hosts(&self) -> Result<BTreeMap<VirtualHost, PhysicalHost>, RegistryError> {
        let named = |found: Found| Some((found.stray.virtual_host()?, found.host));
        Ok(self.strays()?.into_iter().filter_map(named).collect())
    }

    /// Returns the host on which an orphan has this name.
    pub fn name_on_hosts(&self, name: &VirtualHost) -> Result<Option<PhysicalHost>, RegistryError> {
        Ok(self.names_on_hosts()?.remove(name))
    }

    /// Returns the orphans on one host.
    pub fn strays_on(&self, host: &PhysicalHost) -> Result<Vec<Found>, RegistryError> {
        all(
            self.connection,
            &format!("{COLUMNS} WHERE host = ?1 ORDER BY kind, name"),
            [host.as_str()],
            found,
        )
    }
}

impl Writer<'_> {
    /// Records that the removal of an orphan is ordered by the actor, now.
    pub fn order_removal(
        &self,
        host: &PhysicalHost,
        kind: OrphanKind,
        name: &str,
    ) -> Result<(), RegistryError> {
        self.connection.execute(
            "UPDATE stray SET ordered_by = ?4, ordered_at = ?5 WHERE host = ?1 AND kind = ?2 AND name = ?3",
            (host.as_str(), kind.as_str(), name, &self.actor().who, self.now().unix()),
        )?;
        Ok(())
    }

    /// Records that the removal of an orphan failed.
    pub fn removal_failed(
        &self,
        host: &PhysicalHost,
        kind: OrphanKind,
        name: &str,
    ) -> Result<(), RegistryError> {
        self.connection.execute(
            "UPDATE stray SET ordered_by = NULL, ordered_at = NULL WHERE host = ?1 AND kind = ?2 AND name = ?3",
            (host.as_str(), kind.as_str(), name),
        )?;
        Ok(())
    }

    /// Forgets an orphan. If it is still there, upkeep will find it again.
    pub fn forget_stray(
        &self,
        host: &PhysicalHost,
        kind: OrphanKind,
        name: &str,
    ) -> Result<(), RegistryError> {
        self.connection.execute(
            "DELETE FROM stray WHERE host = ?1 AND kind = ?2 AND name = ?3",
            (host.as_str(), kind.as_str(), name),
        )?;
        Ok(())
    }

    /// Replaces the orphans known on a host, as far as they have changed. Returns the new ones. Those
    /// that could only be found in a list that is `unknown` to the host stay.
    pub fn keep_strays(
        &self,
        host: &PhysicalHost,
        found: &[&Orphan],
        unknown: &[Part],
    ) -> Result<Vec<Orphan>, RegistryError> {
        let known = self.strays_on(host)?;
        let known: BTreeMap<(OrphanKind, &str), &str> =
            known.iter().map(|known| (known.stray.key(), known.stray.detail.as_str())).collect();
        let there: BTreeSet<(OrphanKind, &str)> = found.iter().map(|stray| stray.key()).collect();
        for (kind, name) in known.keys().filter(|key| !there.contains(*key)) {
            if kind.part().is_none_or(|part| !unknown.contains(&part)) {
                self.forget_stray(host, *kind, name)?;
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::registry::Registry;

    #[test]
    fn an_order_is_shown_until_it_is_known_to_have_failed() {
        let dir = tempfile::tempdir().unwrap();
        let mut registry = Registry::create(&dir.path().join("registry.sqlite")).unwrap();
        let host: PhysicalHost = "node1".parse().unwrap();
        let volume =
            |name: &str| Orphan { kind: OrphanKind::Volume, name: name.to_owned(), detail: String::new() };
        let (a, ab) = (volume("a"), volume("ab"));
        let mut happens = |work: &dyn Fn(&Writer<'_>) -> Result<(), RegistryError>| {
            registry.write(|writer| work(writer)).unwrap();
            let all = registry.read(|reader| reader.strays()).unwrap();
            all.into_iter().map(|one| (one.stray.name, one.ordered.map(|it| it.by))).collect::<Vec<_>>()
        };
        let shown = |a: bool, ab: bool| {
            let by = |ordered: bool| ordered.then(|| "vgrid".to_owned());
            vec![("a".to_owned(), by(a)), ("ab".to_owned(), by(ab))]
        };
        let keep = |found: &[&Orphan], writer: &Writer<'_>| writer.keep_strays(&host, found, &[]).map(drop);
        let kind = OrphanKind::Volume;
        assert_eq!(happens(&|writer| keep(&[&a, &ab], writer)), shown(false, false));
        assert_eq!(happens(&|writer| writer.order_removal(&host, kind, "a")), shown(true, false));
        assert_eq!(happens(&|writer| keep(&[&a, &ab], writer)), shown(true, false), "it is still there");
        assert_eq!(happens(&|writer| writer.removal_failed(&host, kind, "a")), shown(false, false));
        assert_eq!(happens(&|writer| writer.order_removal(&host, kind, "ab")), shown(false, true));
        assert_eq!(happens(&|writer| writer.order_removal(&host, kind, "a")), shown(true, true));
        let silent = |parts: &'static [Part]| {
            let host = &host;
            move |writer: &Writer<'_>| writer.keep_strays(host, &[], parts).map(drop)
        };
        assert_eq!(happens(&silent(&[Part::Volumes])), shown(true, true), "nobody looked");
        assert_eq!(happens(&|writer| keep(&[&ab], writer)).len(), 1, "it is gone");
        assert_eq!(
            happens(&|writer| keep(&[&a, &ab], writer)),
            shown(false, true),
            "it is another of that name"
        );
    }
}
