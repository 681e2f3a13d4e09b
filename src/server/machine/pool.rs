//! The pool of hosts, as configuration and registry know it: how full each is, and what speaks against it.

use std::collections::BTreeMap;

use super::placement::{self, Known, Load};
use crate::config::Common;
use crate::model::lease::Moment;
use crate::model::names::PhysicalHost;
use crate::server::registry::closed::{self, Kind};
use crate::server::registry::{Reader, RegistryError};

/// How full each host of the pool is, and whether it is disabled, in the order of the file.
///
/// # Errors
/// [`RegistryError`] when the counts can't be read.
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

/// How old what a host said of its memory and space, or its silence, may be to speak against it, in seconds.
const FRESH: i64 = 3600;

/// What is known of each host that may speak against placing a machine there.
///
/// # Errors
/// [`RegistryError`] when it can't be read.
pub fn known(reader: Reader<'_>, now: Moment) -> Result<BTreeMap<PhysicalHost, Known>, RegistryError> {
    let mut known: BTreeMap<PhysicalHost, Known> = BTreeMap::new();
    for host in reader.hosts()? {
        let one = known.entry(host.name).or_default();
        if now.since(host.seen).abs() <= FRESH {
            one.memory_free = Some(host.facts.memory_free);
            one.disk_free = Some(host.facts.disk_free);
        }
        one.images = host.images;
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
