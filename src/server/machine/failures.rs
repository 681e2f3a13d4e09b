//! Failed deploys: what is recorded about the host, and who hears about it.

use crate::model::fault::Fault;
use crate::server::machine::placement::pause;
use crate::server::mail::{Notice, Post, Posted};
use crate::server::registry::vm::Vm;
use crate::server::registry::{RegistryError, Writer};
use crate::system::log::{self, Level};

/// Records that a machine could not be deployed, within the transaction that records the failure.
/// Administrators are told if the reason concerns them, but only once if the same fault recurs.
pub fn deploy_failed(
    writer: &Writer<'_>,
    post: &Post<'_>,
    machine: &Vm,
    fault: &Fault,
) -> Result<(), RegistryError> {
    if fault.is_the_hosts_own() {
        writer.host_failed(&machine.physical_host, pause)?;
    }
    if fault.concerns_administrators() && writer.note_fault(&machine.physical_host, fault)? {
        let posted = post.to_administrators(writer, &Notice::DeployFailed { machine, fault })?;
        if posted == Posted::NoAddress {
            log::event(Level::Warning, "mail.address-missing", &[("whom", &"administrators")]);
        }
    }
    Ok(())
}
