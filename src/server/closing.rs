//! Closing and reopening the portal, hosts and names.

use thiserror::Error;

use crate::config::Common;
use crate::model::names::{PhysicalHost, Reason, VirtualHost};
use crate::server::audit;
use crate::server::registry::closed::{self, Kind};
use crate::server::registry::{Registry, RegistryError, Writer};
use crate::system::log::Level;

/// A thing that can be closed and reopened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Thing {
    /// The portal: only administrators can change anything.
    Portal,
    /// A host: it gets no new machines.
    Host(PhysicalHost),
    /// A name: no new machine gets it.
    Name(VirtualHost),
}

/// An action on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Close it, or update the reason.
    Close(Reason),
    /// Reopen it.
    Open,
}

/// Why nothing was closed or reopened.
#[derive(Debug, Error)]
pub enum NotDone {
    /// The pool has no such host or name.
    #[error("there is no {} {} in the pool", .0.kind().as_str(), .0.name())]
    NotInPool(Thing),
    /// The registry failed.
    #[error("{0}")]
    Registry(#[from] RegistryError),
}

impl Thing {
    /// Returns its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Portal => Kind::Portal,
            Self::Host(_) => Kind::Host,
            Self::Name(_) => Kind::Name,
        }
    }

    /// Returns its name; empty for the portal.
    pub fn name(&self) -> &str {
        match self {
            Self::Portal => "",
            Self::Host(host) => host.as_str(),
            Self::Name(name) => name.as_str(),
        }
    }

    /// Returns its subject in the history.
    fn subject(&self) -> &str {
        match self {
            Self::Portal => "portal",
            _ => self.name(),
        }
    }

    fn is_in_pool(&self, common: &Common) -> bool {
        match self {
            Self::Portal => true,
            Self::Host(host) => common.maximum(host).is_some(),
            Self::Name(name) => common.extra(name).is_some(),
        }
    }
}

impl Act {
    /// Returns the event's name in history and log.
    fn event(&self, thing: &Thing) -> &'static str {
        match (thing, self) {
            (Thing::Portal, Self::Close(_)) => "portal.closed",
            (Thing::Portal, Self::Open) => "portal.opened",
            (Thing::Host(_), Self::Close(_)) => "host.disabled",
            (Thing::Host(_), Self::Open) => "host.enabled",
            (Thing::Name(_), Self::Close(_)) => "name.disabled",
            (Thing::Name(_), Self::Open) => "name.enabled",
        }
    }

    fn detail(&self) -> &str {
        match self {
            Self::Close(reason) => reason.as_str(),
            Self::Open => "",
        }
    }
}

/// Closes or reopens something. Idempotent: if nothing changes, nothing is recorded.
///
/// # Errors
/// [`NotDone::NotInPool`], except when reopening something that has left the pool since it was
/// closed.
pub fn carry_out(registry: &mut Registry, common: &Common, thing: &Thing, act: &Act) -> Result<(), NotDone> {
    if registry.write(|writer| apply(writer, common, thing, act))? {
        audit::act(Level::Info, act.event(thing), thing.subject(), registry.actor(), act.detail());
    }
    Ok(())
}

/// Applies the action. Returns whether it changed anything.
fn apply(writer: &Writer<'_>, common: &Common, thing: &Thing, act: &Act) -> Result<bool, NotDone> {
    let all = writer.closed()?;
    let present = closed::find(&all, thing.kind(), thing.name());
    if !thing.is_in_pool(common) && (*act != Act::Open || present.is_none()) {
        return Err(NotDone::NotInPool(thing.clone()));
    }
    let changes = match act {
        Act::Open => writer.reopen(thing.kind(), thing.name())?,
        Act::Close(reason) if present.is_some_and(|one| one.reason == reason.as_str()) => false,
        Act::Close(reason) => {
            writer.close(thing.kind(), thing.name(), reason.as_str())?;
            true
        }
    };
    if changes {
        writer.record_about(thing.subject(), &act.event(thing).replace('.', " "), act.detail())?;
    }
    Ok(changes)
}
