//! Hosts: what each last reported about itself.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::fault::Fault;
use crate::model::lease::Moment;
use crate::model::names::{ImageTag, PhysicalHost};
use crate::model::size::{Amount, Cpus};
use crate::model::stage::Percent;
use crate::model::wire::{HostFacts, PoolFill};
use crate::server::registry::{Cells, Reader, RegistryError, Writer, all};

/// A host's last report, and when it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// The host.
    pub name: PhysicalHost,
    /// The reported facts.
    pub facts: HostFacts,
    /// When it last reported.
    pub seen: Moment,
    /// The images whose files it has, even if it can't deploy them; `None` if it never reported them.
    pub images: Option<BTreeSet<ImageTag>>,
}

/// Consecutive failed deploys that were the host's own fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failures {
    /// The number of failures.
    pub count: u32,
    /// The time of the last one.
    pub last: Moment,
}

/// How long administrators are not told of the same fault again, in seconds.
const EPISODE: i64 = 86_400;

fn amount(cells: &mut Cells<'_>) -> Result<Amount, RegistryError> {
    cells.number().map(Amount::from_mib)
}

/// Reads tags of images, separated by blanks.
fn tags<T: FromIterator<ImageTag>>(cells: &mut Cells<'_>) -> Result<Option<T>, RegistryError> {
    let tags = cells.get::<Option<String>>()?;
    // An image that has left the configuration is never requested.
    Ok(tags.map(|tags| tags.split_whitespace().filter_map(|tag| tag.parse().ok()).collect()))
}

fn pool(cells: &mut Cells<'_>) -> Result<Option<PoolFill>, RegistryError> {
    let percent = |cells: &mut Cells<'_>| {
        let found = cells.get::<Option<u8>>()?;
        found.map(|n| Percent::try_from(n).map_err(|_| cells.corrupt(&n))).transpose()
    };
    let both = percent(cells)?.zip(percent(cells)?);
    Ok(both.map(|(data, metadata)| PoolFill { data, metadata }))
}

/// Writes tags of images, separated by blanks.
fn joined<'a>(tags: impl IntoIterator<Item = &'a ImageTag>) -> String {
    tags.into_iter().map(ImageTag::as_str).collect::<Vec<_>>().join(" ")
}

impl Reader<'_> {
    /// Returns all hosts that have ever reported.
    pub fn hosts(&self) -> Result<Vec<Host>, RegistryError> {
        const SQL: &str = "SELECT name, memory_free, memory_total, disk_free, disk_total, version,
                               common_digest, max_cpus, deployable, emulated, snapshots, pool_data, pool_metadata, seen, images
                           FROM host";
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
                    max_cpus: cells
                        .get::<Option<u32>>()?
                        .map(|n| Cpus::new(n).map_err(|_| cells.corrupt(&n)))
                        .transpose()?,
                    images: tags(&mut cells)?,
                    emulated: cells.get()?,
                    snapshots: cells.get()?,
                    pool: pool(&mut cells)?,
                },
                seen: Moment::from_unix(cells.get()?),
                images: tags(&mut cells)?,
            })
        })
    }

    /// Returns whether a host said that it emulates processors.
    pub fn emulates(&self, host: &PhysicalHost) -> Result<bool, RegistryError> {
        const SQL: &str = "SELECT emulated FROM host WHERE name = ?1";
        Ok(all(self.connection, SQL, [host.as_str()], |mut cells| cells.get())?.pop().unwrap_or_default())
    }

    /// Returns whether administrators know that a host's thin pool is filling up.
    pub fn pool_told(&self, host: &PhysicalHost) -> Result<bool, RegistryError> {
        const SQL: &str = "SELECT pool_told FROM host WHERE name = ?1";
        Ok(all(self.connection, SQL, [host.as_str()], |mut cells| cells.get())?.pop().unwrap_or_default())
    }

    /// Returns whether a host said that it can take snapshots.
    pub fn takes_snapshots(&self, host: &PhysicalHost) -> Result<bool, RegistryError> {
        const SQL: &str = "SELECT snapshots FROM host WHERE name = ?1";
        Ok(all(self.connection, SQL, [host.as_str()], |mut cells| cells.get())?.pop().unwrap_or_default())
    }

    /// Returns the hosts on which deploys have failed through the hosts' own fault.
    pub fn failures(&self) -> Result<BTreeMap<PhysicalHost, Failures>, RegistryError> {
        let found =
            all(self.connection, "SELECT host, failures, last FROM host_failure", [], |mut cells| {
                let host = cells.parsed()?;
                Ok((host, Failures { count: cells.number()?, last: Moment::from_unix(cells.get()?) }))
            })?;
        Ok(found.into_iter().collect())
    }
}

/// The outcome of upkeep's last attempt to reach a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contact {
    /// The host.
    pub name: PhysicalHost,
    /// The time of the last attempt.
    pub tried: Moment,
    /// Why it did not answer; `None` if it did.
    pub fault: Option<String>,
    /// Since when the outcome has been the same, answer or not.
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
    /// Returns the outcome of the last attempt to reach each host.
    pub fn contacts(&self) -> Result<Vec<Contact>, RegistryError> {
        const SQL: &str = "SELECT host, tried, fault, since, told FROM contact ORDER BY host";
        all(self.connection, SQL, [], contact)
    }

    /// Returns the outcome of the last attempt to reach one host, if there was one.
    pub fn contact(&self, host: &PhysicalHost) -> Result<Option<Contact>, RegistryError> {
        const SQL: &str = "SELECT host, tried, fault, since, told FROM contact WHERE host = ?1";
        Ok(all(self.connection, SQL, [host.as_str()], contact)?.pop())
    }
}

impl Writer<'_> {
    /// Records the outcome of an attempt to reach a host.
    pub fn keep_contact(&self, contact: &Contact) -> Result<(), RegistryError> {
        self.connection.execute(
            "INSERT OR REPLACE INTO contact (host, tried, fault, since, told) VALUES (?1, ?2, ?3, ?4, ?5)",
            (contact.name.as_str(), contact.tried.unix(), &contact.fault, contact.since.unix(), contact.told),
        )?;
        Ok(())
    }

    /// Records whether administrators know that a host's thin pool is filling up. Returns whether that
    /// is new.
    pub fn keep_pool_told(&self, host: &PhysicalHost, told: bool) -> Result<bool, RegistryError> {
        let sql = "UPDATE host SET pool_told = ?2 WHERE name = ?1 AND pool_told <> ?2";
        Ok(self.connection.execute(sql, (host.as_str(), told))? == 1)
    }

    /// Records what a host reports about itself.
    pub fn keep_facts(&self, host: &PhysicalHost, facts: &HostFacts) -> Result<(), RegistryError> {
        // SQLite's integers are signed; no host has enough memory for that to matter.
        let mib = |amount: Amount| i64::try_from(amount.mib()).unwrap_or(i64::MAX);
        self.connection.execute(
            "INSERT INTO host
             (name, memory_free, memory_total, disk_free, disk_total, version, common_digest, seen, max_cpus,
              deployable, emulated, snapshots, pool_data, pool_metadata)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)
             ON CONFLICT (name) DO UPDATE SET memory_free = ?2, memory_total = ?3, disk_free = ?4, disk_total = ?5,
                version = ?6, common_digest = ?7, seen = ?8, max_cpus = ?9, deployable = ?10,
                emulated = ?11, snapshots = ?12, pool_data = ?13, pool_metadata = ?14",
            (
                host.as_str(),
                mib(facts.memory_free),
                mib(facts.memory_total),
                mib(facts.disk_free),
                mib(facts.disk_total),
                &facts.version,
                &facts.common_digest,
                self.now().unix(),
                facts.max_cpus.map(Cpus::get),
                facts.images.as_ref().map(joined),
                facts.emulated,
                facts.snapshots,
                facts.pool.map(|pool| pool.data.get()),
                facts.pool.map(|pool| pool.metadata.get()),
            ),
        )?;
        Ok(())
    }
}

impl Writer<'_> {
    /// Records the images that a host reports. The host must have reported itself before
    /// ([`keep_facts`](Self::keep_facts)).
    pub fn keep_images(&self, host: &PhysicalHost, images: &[&ImageTag]) -> Result<(), RegistryError> {
        self.connection.execute(
            "UPDATE host SET images = ?2 WHERE name = ?1 AND images IS NOT ?2",
            (host.as_str(), joined(images.iter().copied())),
        )?;
        Ok(())
    }

    /// Records a failed deploy that was the host's own fault. Failures within `pause` of the last
    /// one, which depends on their number so far, count as one: when many deploys fail together,
    /// the first is enough.
    pub fn host_failed(&self, host: &PhysicalHost, pause: impl Fn(u32) -> i64) -> Result<(), RegistryError> {
        let now = self.now();
        let before = self.failures()?.remove(host);
        let is_another = before.is_none_or(|before| now.since(before.last) >= pause(before.count));
        self.connection.execute(
            "INSERT INTO host_failure (host, failures, last) VALUES (?1, 1, ?2)
             ON CONFLICT (host) DO UPDATE SET failures = failures + ?3, last = ?2",
            (host.as_str(), now.unix(), is_another),
        )?;
        Ok(())
    }

    /// Records that administrators are told of a fault now. Returns whether it is news: in the last
    /// day they were told of no fault of the same kind, about the same image or name, on that host.
    pub fn note_fault(&self, host: &PhysicalHost, fault: &Fault) -> Result<bool, RegistryError> {
        let now = self.now();
        // Older entries no longer count, nor do those from a clock that was wrong.
        self.connection.execute("DELETE FROM told_fault WHERE abs(at - ?1) > ?2", (now.unix(), EPISODE))?;
        let rows = self.connection.execute(
            "INSERT INTO told_fault (host, kind, subject, at) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
            (host.as_str(), fault.code(), fault.subject(), now.unix()),
        )?;
        Ok(rows == 1)
    }

    /// Records a successful deploy on a host, which clears the faults that were its own.
    pub fn host_works(&self, host: &PhysicalHost) -> Result<(), RegistryError> {
        self.connection
            .execute("DELETE FROM told_fault WHERE host = ?1 AND subject = ''", [host.as_str()])?;
        self.connection.execute("DELETE FROM host_failure WHERE host = ?1", [host.as_str()])?;
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
            max_cpus: None,
            images: None,
            emulated: false,
            snapshots: false,
            pool: None,
        };
        let some = || Some(vec!["tiny".parse().unwrap(), "debian-12".parse().unwrap()]);
        for (free, most, images) in [(100, Some(8), some()), (7, Some(1), Some(vec![])), (0, None, None)] {
            facts.images = images;
            facts.emulated = free == 7;
            facts.memory_free = Amount::from_mib(free);
            facts.max_cpus = most.map(|most| Cpus::new(most).unwrap());
            let kept: Result<(), RegistryError> =
                registry.write_at(Moment::from_unix(5), |writer| writer.keep_facts(&name, &facts));
            kept.unwrap();
            let hosts = registry.read(|reader| reader.hosts()).unwrap();
            assert_eq!(hosts.len(), 1);
            let kept = HostFacts { memory_total: hosts[0].facts.memory_total, ..facts.clone() };
            assert_eq!((&hosts[0].facts, hosts[0].seen), (&kept, Moment::from_unix(5)));
            assert_eq!(registry.read(|reader| reader.emulates(&name)).unwrap(), facts.emulated);
        }
    }

    #[test]
    fn failures_are_one_episode_until_a_deploy_succeeds() {
        let dir = tempfile::tempdir().unwrap();
        let mut registry = Registry::create(&dir.path().join("registry.sqlite")).unwrap();
        let host: PhysicalHost = "node1".parse().unwrap();
        let at = Moment::from_unix;
        let fails = |registry: &mut Registry, now| {
            registry.write_at(at(now), |writer| writer.host_failed(&host, |_| 60)).unwrap();
            registry.read(|reader| reader.failures()).unwrap()[&host]
        };
        assert_eq!(fails(&mut registry, 100).count, 1);
        assert_eq!(fails(&mut registry, 200).count, 2);
        assert_eq!(fails(&mut registry, 300), Failures { count: 3, last: at(300) });
        assert_eq!(fails(&mut registry, 301).count, 3, "many at once are one");
        registry.write(|writer| writer.host_works(&host)).unwrap();
        assert!(registry.read(|reader| reader.failures()).unwrap().is_empty());
    }

    #[test]
    fn a_fault_is_news_once_a_day_by_its_kind_and_what_it_is_about() {
        let dir = tempfile::tempdir().unwrap();
        let mut registry = Registry::create(&dir.path().join("registry.sqlite")).unwrap();
        let host: PhysicalHost = "node1".parse().unwrap();
        let missing = |tag: &str| Fault::ImageMissing { tag: tag.parse().unwrap() };
        let internal = |request: &str| Fault::Internal { request: request.to_owned() };
        let mut is_news = |fault: &Fault, now| {
            registry.write_at(Moment::from_unix(now), |writer| writer.note_fault(&host, fault)).unwrap()
        };
        assert!(is_news(&internal("1"), 100) && !is_news(&internal("2"), 200));
        assert!(is_news(&Fault::PrivilegeRefused, 200), "another kind");
        assert!(is_news(&missing("a"), 200) && is_news(&missing("b"), 200) && !is_news(&missing("a"), 300));
        assert!(is_news(&internal("3"), 101 + EPISODE), "a day later they hear of it again");
        assert!(is_news(&internal("4"), 0), "the clock was a day ahead");
        registry.write(|writer| writer.host_works(&host)).unwrap();
        let mut is_news = |fault: &Fault, now| {
            registry.write_at(Moment::from_unix(now), |writer| writer.note_fault(&host, fault)).unwrap()
        };
        assert!(is_news(&internal("5"), 300) && !is_news(&missing("a"), 301));
    }
}
