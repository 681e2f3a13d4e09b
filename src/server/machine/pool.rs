//! The pool of hosts according to configuration and registry: how full each host is, and what rules
//! it out.

use std::collections::{BTreeMap, BTreeSet};

use super::placement::{self, Known, Load};
use crate::config::Common;
use crate::model::lease::Moment;
use crate::model::names::PhysicalHost;
use crate::server::registry::closed::{self, Kind};
use crate::server::registry::{Reader, RegistryError};

/// Returns how full each host of the pool is and whether it is disabled, in configuration order.
pub fn loads(reader: Reader<'_>, common: &Common) -> Result<Vec<Load>, RegistryError> {
    let live = reader.live_by_host()?;
    let closed = reader.closed()?;
    Ok(common
        .physical_hosts
        .iter()
        .map(|(host, maximum)| Load {
            host: host.clone(),
            machines: live.get(host).copied().unwrap_or_default(),
            maximum: *maximum,
            disabled: closed::find(&closed, Kind::Host, host.as_str()).map(|one| one.reason.clone()),
        })
        .collect())
}

/// How long a host's last report of what it has, or its silence, counts for placement, in seconds.
const FRESH: i64 = 3600;

/// Returns what is known about each host that matters for placement.
pub fn known(reader: Reader<'_>, now: Moment) -> Result<BTreeMap<PhysicalHost, Known>, RegistryError> {
    let mut known: BTreeMap<PhysicalHost, Known> = BTreeMap::new();
    for host in reader.hosts()? {
        let one = known.entry(host.name).or_default();
        if now.since(host.seen).abs() <= FRESH {
            one.memory_free = Some(host.facts.memory_free);
            one.disk_free = Some(host.facts.disk_free);
            one.max_cpus = host.facts.max_cpus;
            one.deployable = host.facts.images.map(BTreeSet::from_iter);
        }
        // What it says itself is newer, and says more.
        one.images = host.images.filter(|_| one.deployable.is_none());
    }
    for contact in reader.contacts()? {
        let is_fresh = now.since(contact.tried).abs() <= FRESH;
        known.entry(contact.name).or_default().silent = contact.fault.is_some() && is_fresh;
    }
    for (host, failures) in reader.failures()? {
        let until = failures.last.plus_seconds(placement::pause(failures.count));
        known.entry(host).or_default().failing_until = Some(until);
    }
    Ok(known)
}
