//! Adoption: a machine that exists on a host but not in the registry, which was restored from a
//! backup older than the machine, is recorded. An administrator decides for each machine; nothing
//! on the host is changed.

use super::Target;
use crate::cgi::reply::Refusal;
use crate::model::lease::{Lease, Term};
use crate::model::names::{Label, ROOT_PREFIX, SWAP_PREFIX, VmId};
use crate::model::stage::OrderNumber;
use crate::model::wire::{DeployOrder, Job, NodeInfo, Part};
use crate::server::audit;
use crate::server::machine::life;
use crate::server::nodes::Nodes;
use crate::server::registry::orphan::OrphanKind;
use crate::server::registry::user::{Owner, Registered};
use crate::server::registry::vm::{NewVm, Placed, Vm};
use crate::server::registry::{Registry, RegistryError, Writer};
use crate::system::log::Level;

/// A host's record of a machine that can be adopted.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    order: DeployOrder,
    number: OrderNumber,
    runs: bool,
}

/// Returns whether an orphan can be adopted: it must be a host's record of a machine, which says
/// what the machine is.
pub fn can_be(kind: OrphanKind, name: &str) -> bool {
    kind == OrphanKind::Record && name.parse::<VmId>().is_ok()
}

/// Records an orphaned machine, with `lease` from now.
///
/// # Errors
/// 400 if it is not the record of a machine, 404 if it is not listed as an orphan, 409 with the
/// reason if it can't be adopted, 502 if the host is unavailable, 503.
pub fn adopt(
    registry: &mut Registry,
    nodes: &Nodes<'_>,
    target: &Target,
    lease: Lease,
) -> Result<(), Refusal> {
    let Some(id) = target.machine() else {
        return Err(Refusal::bad_request(
            "A machine is adopted by the record that its host has of it: kind=record, and its id as name.",
        ));
    };
    registry.read(|reader| target.must_be_listed(reader))?;
    let refused =
        |why: &str| Refusal::conflict(format!("The machine {id} on {} was not adopted: {why}", target.host));
    let info = nodes.info(&target.host).map_err(|trouble| {
        Refusal::new(trouble.fault.status(), format!("Nothing was adopted. {}", trouble.fault))
    })?;
    let found = find(id, &info).map_err(refused)?;
    let lease = Term::For(lease);
    let vm = registry.write(|writer| {
        if let Some(known) = writer.vm(id)? {
            let state = known.state;
            return Err(refused(&format!("the portal knows it ({state}). Look at its page.")));
        }
        if let Some(other) = writer.vm_named(&found.order.virtual_host)? {
            return Err(refused(&format!(
                "its name {} is that of another machine, of {}. Terminate one of them.",
                other.virtual_host,
                other.owner.as_str()
            )));
        }
        let owner = match writer.register_owner(&found.order.user)? {
            Registered::Known(owner) => owner,
            Registered::Taken(other) => {
                let user = &found.order.user;
                return Err(refused(&format!(
                    "its owner {user} can't be told from {other}, who is known here."
                )));
            }
        };
        Ok(enter(writer, owner, &found, target, lease)?)
    })?;
    audit::record(Level::Info, "machine.adopted", &vm, registry.actor(), "it was unknown");
    Ok(())
}

/// Returns the host's record of the machine, or why it can't be adopted.
fn find(id: VmId, info: &NodeInfo) -> Result<Found, &'static str> {
    let job = info.jobs.iter().find(|job| job.id == id).ok_or("it is gone.")?;
    let Job { order: Some(order), work, number, machine, .. } = job else {
        return Err("its host does not say how it was made. Remove it, or leave it as it is.");
    };
    if work.is_some() {
        return Err("its host is working on it. Try again when that is over.");
    }
    if !info.knows(Part::Domains) {
        return Err("its host can't tell whether it runs. Try again when the hypervisor there answers.");
    }
    if !info.knows(Part::Volumes) {
        return Err(
            "its host can't tell whether its disks are there. Try again when the storage there answers.",
        );
    }
    if !info.volumes.iter().any(|volume| volume.machine == Some(id)) {
        return Err("its host has no disk of it any more. Have it removed.");
    }
    let runs = info.domains.iter().any(|domain| domain.name == machine.as_str());
    Ok(Found { order: order.clone(), number: *number, runs })
}

fn enter(
    writer: &Writer<'_>,
    owner: Owner,
    found: &Found,
    target: &Target,
    lease: Term,
) -> Result<Vm, RegistryError> {
    let order = &found.order;
    let new = NewVm {
        owner,
        virtual_host: order.virtual_host.clone(),
        physical_host: target.host.clone(),
        placed: Placed::AsAsked,
        spec: order.spec.clone(),
        label: Label::default(),
        lease,
    };
    let vm = writer.enter_as(order.id, new)?;
    let adopted = match life::adopted(&vm, found.number, found.runs, writer.at()) {
        Some(change) => writer.apply(&vm, change)?,
        None => None,
    };
    writer.forget_stray(&target.host, OrphanKind::Record, &target.name)?;
    if let Ok(machine) = vm.machine_name() {
        writer.forget_stray(&target.host, OrphanKind::Domain, machine.as_str())?;
        for prefix in [ROOT_PREFIX, SWAP_PREFIX] {
            writer.forget_stray(&target.host, OrphanKind::Volume, &format!("{prefix}{machine}"))?;
        }
    }
    Ok(adopted.unwrap_or(vm))
}
