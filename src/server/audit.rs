//! The audit log: orders and their outcomes, all in one format.

use std::fmt::Display;

use crate::model::names::MachineName;
use crate::model::stage::Order;
use crate::server::registry::event::Actor;
use crate::server::registry::vm::Vm;
use crate::system::log::{self, Level};

/// Logs what was done about a machine, with who did it and from where.
pub fn record(level: Level, event: &str, vm: &Vm, actor: &Actor, detail: &str) {
    about(level, event, vm, actor, &[("detail", &detail)]);
}

/// Logs an order about a machine, or its outcome, with who gave it and from where.
pub fn order(level: Level, event: &str, order: Order, vm: &Vm, actor: &Actor, detail: &str) {
    about(level, event, vm, actor, &[("order", &order), ("detail", &detail)]);
}

/// Logs what a host reported about a machine.
pub fn report(vm: &Vm, actor: &Actor, what: &str, detail: &str) {
    log::event(
        Level::Info,
        "report.received",
        &[
            ("user", &actor.who),
            ("from", &actor.from),
            ("vm", &vm.id),
            ("machine", &machine_name(vm)),
            ("owner", &vm.owner.as_str()),
            ("name", &vm.virtual_host),
            ("host", &vm.physical_host),
            ("what", &what),
            ("detail", &detail),
        ],
    );
}

/// Logs what an administrator did about a host, a name or the portal, or what came of it.
pub fn act(level: Level, event: &str, about: &str, actor: &Actor, detail: &str) {
    log::event(
        level,
        event,
        &[("user", &actor.who), ("from", &actor.from), ("about", &about), ("detail", &detail)],
    );
}

fn about(level: Level, event: &str, vm: &Vm, actor: &Actor, more: &[(&str, &dyn Display)]) {
    let facts: [(&str, &dyn Display); 12] = [
        ("user", &actor.who),
        ("from", &actor.from),
        ("vm", &vm.id),
        ("machine", &machine_name(vm)),
        ("owner", &vm.owner.as_str()),
        ("name", &vm.virtual_host),
        ("host", &vm.physical_host),
        ("image", &vm.spec.image),
        ("memory", &vm.spec.memory),
        ("cpus", &vm.spec.cpus.get()),
        ("disk", &vm.spec.disk),
        ("state", &vm.state),
    ];
    log::event(level, event, &[&facts, more].concat());
}

/// The machine's name on its host; `-` if no host would make it under that name.
fn machine_name(vm: &Vm) -> String {
    let name = MachineName::new(vm.owner.user_name(), &vm.virtual_host);
    name.map_or_else(|_| "-".to_owned(), |name| name.to_string())
}
