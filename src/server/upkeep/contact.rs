//! Records whether hosts answer, and notifies administrators when one no longer does.

use crate::model::fault::Fault;
use crate::model::lease::{Lease, Moment};
use crate::model::names::PhysicalHost;
use crate::server::mail::{Notice, Post};
use crate::server::registry::host::Contact;
use crate::server::registry::{RegistryError, Writer};
use crate::server::upkeep::notify::note;

/// The result of an attempt to query a host.
pub(super) struct Attempt<'a> {
    pub(super) host: &'a PhysicalHost,
    /// The number of its machines.
    pub(super) machines: usize,
    /// Why the query failed; `None` if the host answered.
    pub(super) fault: Option<&'a Fault>,
    pub(super) now: Moment,
}

impl Attempt<'_> {
    /// Records the attempt. Notifies administrators if the host has now been silent for longer than
    /// `silence`, or is back.
    pub(super) fn keep(
        &self,
        writer: &Writer<'_>,
        silence: Lease,
        post: &Post<'_>,
    ) -> Result<(), RegistryError> {
        let Self { host, machines, fault, now } = *self;
        let before = writer.contact(host)?;
        let same = before.as_ref().filter(|before| before.fault.is_some() == fault.is_some());
        // If the clock was set back, start over rather than wait forever.
        let since = same.map(|before| before.since).filter(|since| *since <= now).unwrap_or(now);
        let was_told = before.as_ref().is_some_and(|before| before.told);
        let told = fault.is_some() && (was_told || now.since(since) >= silence.seconds());
        if told != was_told {
            let reason = fault.map(Fault::to_string).unwrap_or_default();
            let machines = u32::try_from(machines).unwrap_or(u32::MAX);
            let was_since = before.as_ref().map_or(since, |before| before.since);
            let (what, notice) = match fault {
                Some(_) => {
                    ("host does not answer", Notice::HostVanished { host, since, reason: &reason, machines })
                }
                None => ("host answers again", Notice::HostBack { host, since: was_since }),
            };
            writer.record_about(host.as_str(), what, &reason)?;
            note(post.to_administrators(writer, &notice)?, &"administrators");
        }
        let fault = fault.map(Fault::to_string);
        writer.keep_contact(&Contact { name: host.clone(), tried: now, fault, since, told })
    }
}
