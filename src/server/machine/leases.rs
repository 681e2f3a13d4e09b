//! The rules of leases: when one is over, and what happens then.

use crate::model::lease::{Lease, Moment};
use crate::model::state::Event;

use crate::server::registry::event::Actor;
use crate::server::registry::vm::Vm;
use crate::server::registry::{RegistryError, Writer};

/// Whether the lease of a machine is over.
pub fn is_over(vm: &Vm, now: Moment) -> bool {
    vm.expires.is_some_and(|end| end <= now)
}

/// Records that the lease of a machine that is stopped has ended: its disk is kept for the grace at least.
///
/// # Errors
/// [`RegistryError`] when SQLite refuses.
pub fn expire(
    writer: &Writer<'_>,
    vm: &Vm,
    grace: Lease,
    now: Moment,
    actor: &Actor,
) -> Result<Option<Vm>, RegistryError> {
    // A date that was given once holds: it is not put off by saving the disk, for instance.
    let deletion = vm.deletion.unwrap_or_else(|| now.plus_seconds(grace.seconds()));
    let expired = writer.advance(vm, Event::Expire, now, |vm| vm.deletion = Some(deletion))?;
    if expired.is_some() {
        let detail = format!("it is stopped; its disk is kept until {deletion} at least");
        writer.record(vm.id, now, actor, "lease ended", &detail)?;
    }
    Ok(expired)
}
