//! The audit log: orders and their outcomes, all in one format.

use crate::server::registry::event::Actor;
use crate::server::registry::vm::Vm;
use crate::system::log::{self, Level};

/// Logs an order about a machine, or its outcome, with the actor and their address.
pub fn record(level: Level, what: &str, vm: &Vm, actor: &Actor, detail: &str) {
    log::event(
        level,
        what,
        &[
            ("user", &actor.who),
            ("from", &actor.from),
            ("machine", &vm.id),
            ("owner", &vm.owner.as_str()),
            ("name", &vm.virtual_host),
            ("host", &vm.physical_host),
            ("image", &vm.spec.image),
            ("memory", &vm.spec.memory),
            ("disk", &vm.spec.disk),
            ("state", &vm.state),
            ("detail", &detail),
        ],
    );
}

/// Logs an administrator's action on a host, a name or the portal.
pub fn act(what: &str, about: &str, actor: &Actor, detail: &str) {
    log::event(
        Level::Info,
        // Event names in the log contain no blanks.
        &what.replace(' ', "-"),
        &[("user", &actor.who), ("from", &actor.from), ("about", &about), ("detail", &detail)],
    );
}
