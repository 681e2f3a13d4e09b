//! Deploys that fail: what is remembered of their host, and who hears of it.

use crate::model::fault::Fault;
use crate::model::lease::Moment;

use super::mail::Post;
use super::placement::pause;
use super::registry::vm::Vm;
use super::registry::{RegistryError, Writer};

/// Remembers that a machine could not be deployed, within the transaction that records it. Administrators are told if the reason
/// concerns them; of a host that fails again and again they hear once.
///
/// # Errors
/// [`RegistryError`] when SQLite refuses.
pub fn deploy_failed(
    writer: &Writer<'_>,
    post: &Post<'_>,
    machine: &Vm,
    fault: &Fault,
    now: Moment,
) -> Result<(), RegistryError> {
    let is_news = !fault.is_the_hosts_own() || writer.host_failed(&machine.physical_host, now, pause)?;
    if is_news { post.deploy_failed(writer, machine, fault, now) } else { Ok(()) }
}
