//! `internal/status`: takes nodes' reports about machines.

use crate::cgi::reply::{Refusal, Reply};
use crate::cgi::serve::InternalCall;
use crate::config::{self, Common};
use crate::model::fault::Fault;
use crate::model::stage::Order;
use crate::model::wire::{News, Report, StatusReply, Verdict};
use crate::server::audit;
use crate::server::machine::failures;
use crate::server::machine::moving::Mover;
use crate::server::machine::report;
use crate::server::mail::Post;
use crate::server::nodes::Nodes;
use crate::server::registry::event::Actor;
use crate::server::registry::{Registry, RegistryError};
use crate::system::address;
use crate::system::log::{self, Level};

/// Serves `internal/status`: takes a [`Report`], returns a [`StatusReply`]. The signature has
/// already been checked.
///
/// # Errors
/// 409 for a host that obeys another registry, 400 for an invalid report, 403 for a report that
/// does not come from the address of the machine's host, 503 if the registry stays locked for too
/// long, in which case the node repeats the report.
pub fn handle(call: &InternalCall<'_>) -> Result<Reply, Refusal> {
    let registry = Registry::open(&call.config.general.registry_file)?;
    let identity = registry.read(|reader| reader.identity())?;
    if let Some(obeyed) = call.registry.filter(|obeyed| *obeyed != identity) {
        return Err(Refusal::conflict(format!(
            "This server has the registry {identity}, and this host obeys {obeyed}. If the registry was lost, restore \
             it from a backup (vgrid-registry restore). Nothing is changed on the host."
        )));
    }
    let answer = |reply: &StatusReply| Ok(Reply::json(200, reply)?.of_registry(identity));
    let report: Report = serde_json::from_slice(&call.request.body)
        .map_err(|error| Refusal::bad_request(format!("This is not a report: {error}.")))?;
    let known = registry.read(|reader| reader.vm(report.id))?;
    let from = call.request.from();
    let Some(vm) = known else {
        log::event(Level::Warning, "machine.unknown", &[("vm", &report.id), ("from", &from)]);
        return answer(&StatusReply { verdict: Verdict::Unknown, next: None });
    };
    // A failed deploy that has been superseded: the machine has been given to another host since,
    // so this changes nothing. Before the address check, because the sender is no longer the
    // machine's host.
    let is_past = matches!((report.order, &report.news), (Order::Deploy, News::Failed { .. }));
    if is_past && vm.order == Order::Deploy && report.number < vm.number {
        return answer(&StatusReply { verdict: Verdict::Continue, next: None });
    }
    // Outside any transaction, since it may query the DNS.
    if !call.request.remote.is_some_and(|sender| address::belongs_to(sender, vm.physical_host.as_str())) {
        return Err(Refusal::forbidden(format!(
            "Refused: machine {} is on {}, and {from} is not its address.",
            vm.id, vm.physical_host
        )));
    }
    let mut registry =
        registry.acting(Actor { who: format!("host {}", vm.physical_host), from: from.clone() });
    if let (Order::Deploy, News::Failed { fault }) = (report.order, &report.news)
        && has_moved_on(call, &mut registry, &report, fault)?
    {
        return answer(&StatusReply { verdict: Verdict::Continue, next: None });
    }
    let outcome = registry.write(|writer| {
        let outcome = report::take(writer, &report, call.config.leases.grace)?;
        if let (true, News::Failed { fault }) = (outcome.deploy_failed, &report.news) {
            failures::deploy_failed(writer, &Post::new(&call.config), &vm, fault)?;
        }
        Ok::<_, RegistryError>(outcome)
    })?;
    if let Some((what, detail)) = &outcome.news {
        audit::report(&vm, registry.actor(), what, detail);
    }
    answer(&outcome.reply)
}

/// If a host reports that it could not make a machine and that nothing of it is there, moves the
/// machine to another host that has room for it and sends the order there. Returns whether it did.
fn has_moved_on(
    call: &InternalCall<'_>,
    registry: &mut Registry,
    report: &Report,
    fault: &Fault,
) -> Result<bool, Refusal> {
    let common = Common::load(&config::directory())?;
    // Before anything is recorded: if this fails, no node can be called.
    let nodes = Nodes::new(&call.config, &call.request.id)?;
    let mover = Mover::new(&call.config, &common);
    let moved = registry.write(|writer| {
        let Some(vm) = writer.vm(report.id)? else { return Ok(None) };
        if !report::leaves_nothing(&vm, report) {
            return Ok(None);
        }
        if let Some(facts) = &report.host {
            writer.keep_facts(&vm.physical_host, facts)?;
        }
        mover.elsewhere(writer, &vm, fault)
    });
    let Some(moved) = moved? else { return Ok(false) };
    audit::record(Level::Warning, "deploy.moved", &moved, registry.actor(), &fault.to_string());
    // If this process dies before the order is sent, upkeep notices.
    mover.deploy(registry, &nodes, moved)?;
    Ok(true)
}
