//! What is ordered, and what becomes of it, in the log: one form for all orders.

use crate::server::registry::event::Actor;
use crate::server::registry::vm::Vm;
use crate::system::log::{self, Level};

/// Logs an order about a machine, or its outcome, with who gave it and from where.
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

/// Logs what an administrator did about a host, a name or the portal.
pub fn act(what: &str, about: &str, actor: &Actor, detail: &str) {
    log::event(
        Level::Info,
        // The log's words for events have no blanks.
        &what.replace(' ', "-"),
        &[("user", &actor.who), ("from", &actor.from), ("about", &about), ("detail", &detail)],
    );
}
