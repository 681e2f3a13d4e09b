//! Reading machines.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::fault::Fault;
use crate::model::lease::Moment;
use crate::model::names::{PhysicalHost, SavedImage, UserName, VirtualHost, VmId};
use crate::model::size::{Cpus, GiB, MiB};
use crate::model::spec::{Sizes, SnapshotOf, Spec};
use crate::model::stage::{OrderNumber, Percent, Stage};
use crate::model::state::State;
use crate::server::registry::user::Owner;
use crate::server::registry::vm::{Saving, Scope, Usage, Vm, Which};
use crate::server::registry::{Cells, Reader, RegistryError, all};

/// Builds a `SELECT` with the columns that [`read_vm`] reads, in its order.
macro_rules! select_vm {
    ($rest:literal) => {
        concat!(
            "SELECT id, owner, virtual_host, physical_host, image, memory_mib, cpus, disk_gib, from_owner, from_name, \
             from_vm, from_snapshot, \
             label, lease, state, \
             stage, percent, place, fault, last_order, order_number, sequence, created, changed, expires, deadline, \
             on_node, was_deployed, wanted, protected, deletion, save_as, then_terminate, \
             silent, placed, new_memory_mib, new_cpus, new_disk_gib FROM vm WHERE ",
            $rest
        )
    };
}

fn read_vm(mut cells: Cells<'_>) -> Result<Vm, RegistryError> {
    let cells = &mut cells;
    let moment = |cells: &mut Cells<'_>| cells.get().map(Moment::from_unix);
    let perhaps =
        |cells: &mut Cells<'_>| Ok::<_, RegistryError>(cells.get::<Option<i64>>()?.map(Moment::from_unix));
    Ok(Vm {
        id: cells.parsed()?,
        owner: Owner::of(&cells.parsed::<UserName>()?),
        virtual_host: cells.parsed()?,
        physical_host: cells.parsed()?,
        spec: spec(cells)?,
        label: cells.parsed()?,
        lease: cells.parsed()?,
        state: cells.word(State::from_name)?,
        stage: stage(cells)?,
        percent: percent(cells)?,
        place: cells.get()?,
        fault: fault(cells)?,
        order: cells.parsed()?,
        number: cells.whole(OrderNumber::of)?,
        sequence: cells.number()?,
        created: moment(cells)?,
        changed: moment(cells)?,
        expires: perhaps(cells)?,
        deadline: perhaps(cells)?,
        on_node: cells.parsed()?,
        was_deployed: cells.get()?,
        wanted: cells.parsed()?,
        protected: cells.get()?,
        deletion: perhaps(cells)?,
        saving: {
            let (name, then_terminate) = (cells.perhaps()?, cells.get()?);
            name.map(|name| Saving { name, then_terminate })
        },
        silent: cells.number()?,
        placed: cells.parsed()?,
        resizing: resizing(cells)?,
    })
}

fn spec(cells: &mut Cells<'_>) -> Result<Spec, RegistryError> {
    Ok(Spec {
        image: cells.parsed()?,
        memory: cells.number().and_then(|n: u32| MiB::new(n).map_err(|_| cells.corrupt(&n)))?,
        cpus: cells.number().and_then(|n: u32| Cpus::new(n).map_err(|_| cells.corrupt(&n)))?,
        disk: cells.number().and_then(|n: u32| GiB::new(n).map_err(|_| cells.corrupt(&n)))?,
        saved: {
            let (owner, name) = (cells.perhaps()?, cells.perhaps()?);
            owner.zip(name).map(|(owner, name)| SavedImage { owner, name })
        },
        snapshot: {
            let (machine, name) = (cells.perhaps()?, cells.perhaps()?);
            machine.zip(name).map(|(machine, name)| SnapshotOf { machine, name })
        },
    })
}

fn resizing(cells: &mut Cells<'_>) -> Result<Option<Sizes>, RegistryError> {
    let [memory, cpus, disk] = [cells.get::<Option<u32>>()?, cells.get()?, cells.get()?];
    let (Some(memory), Some(cpus), Some(disk)) = (memory, cpus, disk) else { return Ok(None) };
    Ok(Some(Sizes {
        memory: MiB::new(memory).map_err(|_| cells.corrupt(&memory))?,
        cpus: Cpus::new(cpus).map_err(|_| cells.corrupt(&cpus))?,
        disk: GiB::new(disk).map_err(|_| cells.corrupt(&disk))?,
    }))
}

// A stage or fault written by another version must not keep the whole machine from being shown.

fn stage(cells: &mut Cells<'_>) -> Result<Option<Stage>, RegistryError> {
    Ok(cells.get::<Option<String>>()?.and_then(|name| name.parse().ok()))
}

fn percent(cells: &mut Cells<'_>) -> Result<Option<Percent>, RegistryError> {
    Ok(cells.get::<Option<u8>>()?.and_then(|percent| percent.try_into().ok()))
}

fn fault(cells: &mut Cells<'_>) -> Result<Option<Fault>, RegistryError> {
    Ok(cells.get::<Option<String>>()?.and_then(|json| serde_json::from_str(&json).ok()))
}

impl Reader<'_> {
    /// Returns a machine, even one that has ended; `None` if there never was one with this id.
    pub fn vm(&self, id: VmId) -> Result<Option<Vm>, RegistryError> {
        let found = all(self.connection, select_vm!("id = ?1"), [id.to_string()], read_vm)?;
        Ok(found.into_iter().next())
    }

    /// Returns the live machine that occupies a name.
    pub fn vm_named(&self, name: &VirtualHost) -> Result<Option<Vm>, RegistryError> {
        const SQL: &str = select_vm!("virtual_host = ?1 AND state <> 'notDeployed'");
        Ok(all(self.connection, SQL, [name.as_str()], read_vm)?.into_iter().next())
    }

    /// Returns the machine that is named like that.
    pub fn vm_of(&self, which: &Which) -> Result<Option<Vm>, RegistryError> {
        match which {
            Which::Id(id) => self.vm(*id),
            Which::Named(name) => self.vm_named(name),
        }
    }

    /// Returns live machines, newest first.
    pub fn live(&self, scope: Scope<'_>, limit: u32, offset: u32) -> Result<Vec<Vm>, RegistryError> {
        match scope {
            Scope::Of(owner) => all(
                self.connection,
                select_vm!("owner = ?1 AND state <> 'notDeployed' ORDER BY id DESC LIMIT ?2 OFFSET ?3"),
                (owner.as_str(), limit, offset),
                read_vm,
            ),
            Scope::All => all(
                self.connection,
                select_vm!("state <> 'notDeployed' ORDER BY id DESC LIMIT ?1 OFFSET ?2"),
                (limit, offset),
                read_vm,
            ),
        }
    }

    /// Returns the number of live machines.
    pub fn count(&self, scope: Scope<'_>) -> Result<u32, RegistryError> {
        let count = match scope {
            Scope::Of(owner) => self.connection.query_row(
                "SELECT count(*) FROM vm WHERE owner = ?1 AND state <> 'notDeployed'",
                [owner.as_str()],
                |row| row.get(0),
            ),
            Scope::All => {
                self.connection
                    .query_row("SELECT count(*) FROM vm WHERE state <> 'notDeployed'", [], |row| row.get(0))
            }
        };
        Ok(count?)
    }

    /// Returns what an owner's live machines use.
    pub fn usage(&self, owner: &Owner) -> Result<Usage, RegistryError> {
        const SQL: &str = "SELECT count(*), coalesce(sum(max(memory_mib, coalesce(new_memory_mib, 0))), 0),
                               coalesce(sum(max(cpus, coalesce(new_cpus, 0))), 0),
                               coalesce(sum(max(disk_gib, coalesce(new_disk_gib, 0))), 0)
                           FROM vm WHERE owner = ?1 AND state <> 'notDeployed'";
        let found = all(self.connection, SQL, [owner.as_str()], |mut cells| {
            Ok(Usage {
                machines: cells.number()?,
                memory_mib: cells.number()?,
                cpus: cells.number()?,
                disk_gib: cells.number()?,
            })
        })?;
        Ok(found.into_iter().next().unwrap_or_default())
    }

    /// Returns the number of live machines per host; hosts without any are left out.
    pub fn live_by_host(&self) -> Result<BTreeMap<PhysicalHost, u32>, RegistryError> {
        const SQL: &str = "SELECT physical_host, count(*) FROM vm
                           WHERE state <> 'notDeployed' GROUP BY physical_host";
        let counts = all(self.connection, SQL, [], |mut cells| Ok((cells.parsed()?, cells.number()?)))?;
        Ok(counts.into_iter().collect())
    }

    /// Returns the names that live machines occupy.
    pub fn names_taken(&self) -> Result<BTreeSet<VirtualHost>, RegistryError> {
        const SQL: &str = "SELECT virtual_host FROM vm WHERE state <> 'notDeployed'";
        Ok(all(self.connection, SQL, [], |mut cells| cells.parsed())?.into_iter().collect())
    }
}
