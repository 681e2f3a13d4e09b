//! What administrators close and open again: the portal, hosts, names.

use thiserror::Error;

use crate::config::Common;
use crate::model::names::{PhysicalHost, Reason, VirtualHost};
use crate::server::audit;
use crate::server::registry::closed::{self, Kind};
use crate::server::registry::{Registry, RegistryError, Writer};
use crate::system::log::Level;

/// What can be closed and opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Thing {
    /// The portal: nobody but administrators changes anything.
    Portal,
    /// A host: no new machines.
    Host(PhysicalHost),
    /// A name: no machine gets it.
    Name(VirtualHost),
}

/// What is to be done with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Close it, or change the reason for which it is closed.
    Close(Reason),
    /// Open it.
    Open,
}

/// Why nothing was closed or opened.
#[derive(Debug, Error)]
pub enum NotDone {
    /// The pool has no such host or name.
    #[error("there is no {} {} in the pool", .0.kind().as_str(), .0.name())]
    NotInPool(Thing),
    /// The registry refused.
    #[error("{0}")]
    Registry(#[from] RegistryError),
}

impl Thing {
    /// What kind of thing it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Portal => Kind::Portal,
            Self::Host(_) => Kind::Host,
            Self::Name(_) => Kind::Name,
        }
    }

    /// Its name; empty for the portal.
    pub fn name(&self) -> &str {
        match self {
            Self::Portal => "",
            Self::Host(host) => host.as_str(),
            Self::Name(name) => name.as_str(),
        }
    }

    /// The subject under which the history has it.
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
    /// The event's name in the log; the history has a blank for the dot.
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

/// Closes or opens something. What is so already stays as it is, and nothing is recorded.
///
/// # Errors
/// [`NotDone::NotInPool`]; what has left the pool since it was closed can still be opened.
pub fn carry_out(registry: &mut Registry, common: &Common, thing: &Thing, act: &Act) -> Result<(), NotDone> {
    if registry.write(|writer| apply(writer, common, thing, act))? {
        audit::act(Level::Info, act.event(thing), thing.subject(), registry.actor(), act.detail());
    }
    Ok(())
}

/// Says whether that changed something.
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
