//! A host, as pages show it.

use serde::Serialize;

use super::TimeView;
use crate::config::Common;
use crate::model::lease::Moment;
use crate::model::size::Amount;
use crate::model::stage::Percent;
use crate::model::text::{Row, ago, one_line};
use crate::model::wire::PoolFill;
use crate::server::machine::placement::Load;
use crate::server::registry::host::Host;

/// A host.
#[derive(Debug, Clone, Serialize)]
pub struct HostView {
    /// Its name.
    pub name: String,
    /// Its live machines.
    pub machines: u32,
    /// The most machines it may have.
    pub maximum: u32,
    /// Whether it has as many machines as it may have.
    pub full: bool,
    /// Why it gets no new machines, if an administrator closed it.
    pub disabled: Option<String>,
    /// Its free memory; like the following fields, absent until there has been contact.
    pub memory_free: Option<String>,
    /// Its total memory.
    pub memory_total: Option<String>,
    /// The free space of its volume group.
    pub disk_free: Option<String>,
    /// The size of its volume group.
    pub disk_total: Option<String>,
    /// How much of its memory is in use, 0 to 100.
    pub memory_percent_used: Option<u8>,
    /// How much of its volume group is in use, 0 to 100.
    pub disk_percent_used: Option<u8>,
    /// The last contact.
    pub seen: Option<TimeView>,
    /// How long ago that is.
    pub seen_ago: Option<String>,
    /// The version of its node part.
    pub version: Option<String>,
    /// Whether its common.cfg differs from the server's.
    pub differs: bool,
    /// The images that it says it can't deploy.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unable: Vec<String>,
    /// Whether it emulates the processors of its machines, so that they are slow.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub emulated: bool,
    /// How full its thin pool is, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<PoolFill>,
}

impl HostView {
    /// Describes a host with its load and, once there has been contact, its `facts`.
    pub fn new(load: &Load, facts: Option<&Host>, common: &Common, now: Moment) -> Self {
        let text = |pick: fn(&Host) -> Amount| facts.map(|host| pick(host).to_string());
        let used = |free: fn(&Host) -> Amount, total: fn(&Host) -> Amount| {
            facts.and_then(|host| percent_used(free(host), total(host)))
        };
        Self {
            name: load.host.to_string(),
            machines: load.machines,
            maximum: load.maximum,
            full: load.is_full(),
            disabled: load.disabled.clone(),
            memory_free: text(|h| h.facts.memory_free),
            memory_total: text(|h| h.facts.memory_total),
            disk_free: text(|h| h.facts.disk_free),
            disk_total: text(|h| h.facts.disk_total),
            memory_percent_used: used(|h| h.facts.memory_free, |h| h.facts.memory_total),
            disk_percent_used: used(|h| h.facts.disk_free, |h| h.facts.disk_total),
            seen: facts.map(|host| host.seen.into()),
            seen_ago: facts.map(|host| ago(now.since(host.seen))),
            version: facts.map(|host| one_line(&host.facts.version)),
            differs: facts.is_some_and(|host| host.facts.common_digest != common.digest),
            emulated: facts.is_some_and(|host| host.facts.emulated),
            pool: facts.and_then(|host| host.facts.pool),
            unable: facts.and_then(|host| host.facts.images.as_ref()).map_or(Vec::new(), |images| {
                let tags = common.images.iter().map(|(tag, _)| tag);
                tags.filter(|tag| !images.contains(tag)).map(ToString::to_string).collect()
            }),
        }
    }

    /// Returns the host as a comment line for scripts: `# host`, name, machines, maximum, free and
    /// total memory, free and total disk space, last contact (RFC 3339), version, `differs` if its
    /// common.cfg differs from the server's, and `disabled` if it gets no new machines;
    /// tab-separated, `-` for what is unknown or does not apply.
    pub fn line(&self) -> String {
        Row::of(&[&"# host", &self.name, &self.machines, &self.maximum])
            .or_dash(self.memory_free.as_ref())
            .or_dash(self.memory_total.as_ref())
            .or_dash(self.disk_free.as_ref())
            .or_dash(self.disk_total.as_ref())
            .or_dash(self.seen.as_ref().map(|seen| &seen.iso))
            .or_dash(self.version.as_ref())
            .or_dash(self.differs.then_some("differs"))
            .or_dash(self.disabled.as_ref().map(|_| "disabled"))
            .line()
    }
}

fn percent_used(free: Amount, total: Amount) -> Option<u8> {
    if total == Amount::default() {
        return None;
    }
    Some(Percent::of(total.minus(free).mib(), total.mib()).get())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_never_leave_their_bounds() {
        let mib = Amount::from_mib;
        assert_eq!(percent_used(mib(0), mib(0)), None);
        assert_eq!(percent_used(mib(900), mib(100)), Some(0));
        assert_eq!(percent_used(mib(25), mib(100)), Some(75));
    }
}
