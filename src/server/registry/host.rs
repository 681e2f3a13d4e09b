//! Hosts: what each last said about itself.

use crate::model::lease::Moment;
use crate::model::names::PhysicalHost;
use crate::model::size::Amount;
use crate::model::wire::HostFacts;

use super::{Cells, Reader, RegistryError, Writer, all};

/// What a host last said, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// The host.
    pub name: PhysicalHost,
    /// What it said.
    pub facts: HostFacts,
    /// When it said so.
    pub seen: Moment,
}

fn amount(cells: &mut Cells<'_>) -> Result<Amount, RegistryError> {
    cells.number().map(Amount::from_mib)
}

impl Reader<'_> {
    /// All hosts that were ever heard of.
    ///
    /// # Errors
    /// [`RegistryError`] when SQLite refuses or a row is not what this program writes.
    pub fn hosts(&self) -> Result<Vec<Host>, RegistryError> {
        const SQL: &str = "SELECT name, memory_free, memory_total, disk_free, disk_total, version,
                               common_digest, seen FROM host";
        all(self.connection, SQL, [], |mut cells| {
            Ok(Host {
                name: cells.parsed()?,
                facts: HostFacts {
                    memory_free: amount(&mut cells)?,
                    memory_total: amount(&mut cells)?,
                    disk_free: amount(&mut cells)?,
                    disk_total: amount(&mut cells)?,
                    version: cells.get()?,
                    common_digest: cells.get()?,
                },
                seen: Moment::from_unix(cells.get()?),
            })
        })
    }
}

/// How the last attempt of upkeep to reach a host ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contact {
    /// The host.
    pub name: PhysicalHost,
    /// When it was last tried.
    pub tried: Moment,
    /// Why it could not be asked; `None` if it answered.
    pub fault: Option<String>,
    /// Since when it is so, answering or not.
    pub since: Moment,
    /// Whether administrators were told that it does not answer.
    pub told: bool,
}

fn contact(mut cells: Cells<'_>) -> Result<Contact, RegistryError> {
    Ok(Contact {
        name: cells.parsed()?,
        tried: Moment::from_unix(cells.get()?),
        fault: cells.get()?,
        since: Moment::from_unix(cells.get()?),
        told: cells.get()?,
    })
}

impl Reader<'_> {
    /// How the last attempt to reach each host ended.
    ///
    /// # Errors
    /// [`RegistryError`] when SQLite refuses or a row is not what this program writes.
    pub fn contacts(&self) -> Result<Vec<Contact>, RegistryError> {
        const SQL: &str = "SELECT host, tried, fault, since, told FROM contact ORDER BY host";
        all(self.connection, SQL, [], contact)
    }

    /// How the last attempt to reach one host ended, if there was one.
    ///
    /// # Errors
    /// [`RegistryError`] when SQLite refuses or the row is not what this program writes.
    pub fn contact(&self, host: &PhysicalHost) -> Result<Option<Contact>, RegistryError> {
        const SQL: &str = "SELECT host, tried, fault, since, told FROM contact WHERE host = ?1";
        Ok(all(self.connection, SQL, [host.as_str()], contact)?.pop())
    }
}

impl Writer<'_> {
    /// Keeps how an attempt to reach a host ended.
    ///
    /// # Errors
    /// [`RegistryError`] when SQLite refuses.
    pub fn keep_contact(&self, contact: &Contact) -> Result<(), RegistryError> {
        self.connection.execute(
            "INSERT OR REPLACE INTO contact (host, tried, fault, since, told) VALUES (?1, ?2, ?3, ?4, ?5)",
            (contact.name.as_str(), contact.tried.unix(), &contact.fault, contact.since.unix(), contact.told),
        )?;
        Ok(())
    }

    /// Keeps what a host says of itself.
    ///
    /// # Errors
    /// [`RegistryError`] when SQLite refuses.
    pub fn keep_facts(
        &self,
        host: &PhysicalHost,
        facts: &HostFacts,
        now: Moment,
    ) -> Result<(), RegistryError> {
        // SQLite's numbers have a sign; no host has so much memory that it matters.
        let mib = |amount: Amount| i64::try_from(amount.mib()).unwrap_or(i64::MAX);
        self.connection.execute(
            "INSERT OR REPLACE INTO host
             (name, memory_free, memory_total, disk_free, disk_total, version, common_digest, seen)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            (
                host.as_str(),
                mib(facts.memory_free),
                mib(facts.memory_total),
                mib(facts.disk_free),
                mib(facts.disk_total),
                &facts.version,
                &facts.common_digest,
                now.unix(),
            ),
        )?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::registry::Registry;

    #[test]
    fn the_last_word_of_a_host_counts() {
        let dir = tempfile::tempdir().unwrap();
        let mut registry = Registry::create(&dir.path().join("registry.sqlite")).unwrap();
        let name: PhysicalHost = "node1".parse().unwrap();
        let mut facts = HostFacts {
            memory_free: Amount::from_mib(100),
            memory_total: Amount::from_mib(u64::MAX),
            disk_free: Amount::from_mib(3),
            disk_total: Amount::from_mib(4),
            version: "0.1.0".to_owned(),
            common_digest: "abc".to_owned(),
        };
        for free in [100, 0] {
            facts.memory_free = Amount::from_mib(free);
            let kept: Result<(), RegistryError> =
                registry.write(|writer| writer.keep_facts(&name, &facts, Moment::from_unix(5)));
            kept.unwrap();
        }
        let hosts = registry.read(|reader| reader.hosts()).unwrap();
        assert_eq!(hosts.len(), 1);
        assert_eq!(hosts[0].facts.memory_free, Amount::default());
        assert_eq!(hosts[0].seen, Moment::from_unix(5));
    }
}
