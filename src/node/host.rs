//! The state of the host, and which resources are free.

use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::{self, Common, VmType};
use crate::model::fault::Fault;
use crate::model::names::VmId;
use crate::model::size::Amount;
use crate::model::stage::Order;
use crate::model::wire::{DeployOrder, HostFacts, Volume};
use crate::system::clock;
use crate::system::log::{self, Level};

use super::hypervisor::{Listed, Memory};
use super::image;
use super::jobs::{Durability, Jobs, NodeLock, Record};
use super::storage::prepared::Key;
use super::storage::{Disk, Space};

/// The host's state, as determined by the helper.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostState {
    /// When the query began, in milliseconds since 1970. Later changes are not included.
    pub taken: u64,
    /// The result of querying the toolstack.
    pub machines: Result<Machines, Fault>,
    /// The result of querying the storage.
    pub storage: Result<Storage, Fault>,
}

/// The toolstack's part of the state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machines {
    /// The toolstack, such as `xl`; several with `+` between them.
    pub toolstack: String,
    /// The host's memory.
    pub memory: Memory,
    /// The memory that a machine takes in addition to its own; with several toolstacks, the most.
    pub overhead: Amount,
    /// All domains, including the control domain.
    pub domains: Vec<Listed>,
}

/// The storage's part of the state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Storage {
    /// Its size, and what is free.
    pub space: Space,
    /// All its volumes.
    pub volumes: Vec<Volume>,
    /// Whether it can take snapshots.
    #[serde(default)]
    pub snapshots: bool,
    /// What images of this host could be prepared from, and are not.
    #[serde(default)]
    pub unprepared: Vec<Key>,
}

impl Storage {
    /// Finds a disk of a machine.
    pub fn disk(&self, id: VmId, disk: Disk) -> Option<&Volume> {
        self.volumes.iter().find(|volume| volume.machine == Some(id) && Disk::of(volume) == Some(disk))
    }
}

/// Memory and disk space that unfinished operations are going to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reserved {
    /// Memory of domains that do not exist yet.
    pub memory: Amount,
    /// Space of volumes that do not exist yet.
    pub disk: Amount,
}

impl HostState {
    /// Returns what these machines have been promised and do not have yet, according to this state.
    pub fn reserved(&self, records: &[Record]) -> Reserved {
        let mut reserved = Reserved::default();
        for record in records {
            let Some(order) = &record.order else { continue };
            reserved.disk = reserved.disk.plus(self.growth(record, order));
            let coming = !record.done
                && record.failed.is_none()
                && matches!(record.work, Order::Deploy | Order::Start | Order::Reboot);
            // If it was finished or abandoned after this state was taken, its resources are not
            // included in it.
            if !(coming || record.done && !record.stopped && record.changed >= self.taken) {
                continue;
            }
            if let Ok(storage) = &self.storage {
                for (disk, size) in [(Disk::Root, order.spec.disk.amount()), (Disk::Swap, record.swap)] {
                    if storage.disk(record.id, disk).is_none() {
                        reserved.disk = reserved.disk.plus(storage.space.rounded(size));
                    }
                }
            }
            if let Ok(machines) = &self.machines {
                let machine = record.target();
                // A domain under construction already has some of it.
                let has: Amount = machines
                    .domains
                    .iter()
                    .filter(|domain| domain.is(&machine, true))
                    .map(|domain| domain.memory)
                    .sum();
                let needs = order.spec.memory.amount().plus(machines.overhead);
                reserved.memory = reserved.memory.plus(if has == Amount::default() {
                    needs
                } else {
                    order.spec.memory.amount().minus(has)
                });
            }
        }
        reserved
    }

    /// Returns by how much the root disk of a machine is still going to grow, according to this state.
    fn growth(&self, record: &Record, order: &DeployOrder) -> Amount {
        let has_grown = record.done && record.changed < self.taken;
        let Ok(storage) = &self.storage else { return Amount::default() };
        if record.work != Order::Resize || has_grown {
            return Amount::default();
        }
        let size = record.resizing.map_or(order.spec.disk, |sizes| sizes.disk.max(order.spec.disk));
        let root = storage
            .volumes
            .iter()
            .find(|volume| volume.machine == Some(record.id) && Disk::of(volume) == Some(Disk::Root));
        root.map_or(Amount::default(), |root| storage.space.rounded(size.amount()).minus(root.size))
    }

    /// Returns the facts about the host for the server, with what its configuration says. Promised
    /// resources do not count as free; unknown values are zero.
    pub fn facts(&self, records: &[Record], config: &config::Node, common: &Common) -> HostFacts {
        let reserved = self.reserved(records);
        let memory = self.machines.as_ref().map(|machines| machines.memory).ok();
        let space = self.storage.as_ref().map(|storage| &storage.space).ok();
        HostFacts {
            memory_free: memory.map_or(Amount::default(), |m| m.free.minus(reserved.memory)),
            memory_total: memory.map_or(Amount::default(), |m| m.total),
            disk_free: space.map_or(Amount::default(), |g| g.free.minus(reserved.disk)),
            disk_total: space.map_or(Amount::default(), |g| g.size),
            version: crate::VERSION.to_owned(),
            common_digest: common.digest.clone(),
            max_cpus: config.general.max_cpus,
            images: Some(image::deployable(config, common)),
            pool: space.and_then(|space| space.fill),
            snapshots: self.storage.as_ref().is_ok_and(|storage| storage.snapshots),
            emulated: config.general.allow_emulation && config.vm_types().contains(&VmType::Kvm),
        }
    }
}

/// Returns the host's state as of `since` (in milliseconds since 1970) or later.
///
/// The state is cached in a file, so that simultaneous orders and the reports of workers do not
/// each cause a query; the lock ensures that only one does. `since` is taken before waiting for the
/// lock, so a caller that waited for another's query can use its result. `ask` makes the helper
/// query the host.
pub fn state(
    jobs: &Jobs,
    lock: &NodeLock,
    since: u64,
    ask: impl FnOnce() -> Result<HostState, Fault>,
) -> Result<HostState, Fault> {
    if let Some(known) = known(jobs, lock, since) {
        return Ok(known);
    }
    let state = ask()?;
    if let Err(error) = keep(jobs, &state) {
        log::event(Level::Error, "host.not-kept", &[("why", &error)]);
    }
    Ok(state)
}

/// Returns the last known state of the host, if it is as of `since` or later.
pub fn known(jobs: &Jobs, _lock: &NodeLock, since: u64) -> Option<HostState> {
    kept(jobs).filter(|kept| (since..=clock::millis()).contains(&kept.taken))
}

/// Returns the time that long ago, in milliseconds since 1970.
pub fn ago(span: Duration) -> u64 {
    clock::millis().saturating_sub(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
}

fn kept(jobs: &Jobs) -> Option<HostState> {
    serde_json::from_slice(&std::fs::read(jobs.host_file()).ok()?).ok()
}

fn keep(jobs: &Jobs, state: &HostState) -> io::Result<()> {
    jobs.write(&jobs.host_file(), &serde_json::to_vec(state)?, Durability::Unsynced)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::lease::Moment;
    use crate::model::names::{DomainNumber, MachineName};
    use crate::model::size::Cpus;
    use crate::model::spec::{Sizes, Spec};
    use crate::model::stage::OrderNumber;
    use crate::node::hypervisor::DomainState;

    fn record(id: VmId, work: Order, done: bool) -> Record {
        let order = DeployOrder {
            number: OrderNumber::default(),
            id,
            user: "alice".parse().unwrap(),
            physical_host: "xenhost".parse().unwrap(),
            virtual_host: "vm1".parse().unwrap(),
            spec: Spec {
                image: "tiny".parse().unwrap(),
                memory: "128".parse().unwrap(),
                cpus: Cpus::default(),
                disk: "1".parse().unwrap(),
                saved: None,
                snapshot: None,
            },
        };
        let machine = MachineName::new(&order.user, &order.virtual_host).unwrap();
        Record {
            work,
            done,
            changed: 50,
            ..Record::new(
                order,
                machine,
                None,
                Amount::from_mib(61),
                "r".parse().unwrap(),
                Moment::from_unix(1),
            )
        }
    }

    fn state(domains: Vec<Listed>, volumes: Vec<Volume>) -> HostState {
        let mib = Amount::from_mib;
        HostState {
            taken: 100,
            machines: Ok(Machines {
                toolstack: "xl".to_owned(),
                memory: Memory { total: mib(2000), free: mib(1000) },
                overhead: mib(4),
                domains,
            }),
            storage: Ok(Storage {
                space: Space { size: mib(9000), free: mib(8000), extent: mib(4), fill: None },
                volumes,
                snapshots: false,
                unprepared: vec![],
            }),
        }
    }

    #[test]
    fn promised_resources_are_counted_until_they_exist() {
        let id = VmId::generate();
        let deploying = [record(id, Order::Deploy, false)];
        let reserved = state(vec![], vec![]).reserved(&deploying);
        assert_eq!((reserved.memory.mib(), reserved.disk.mib()), (132, 1024 + 64));

        let volume = |name: &str| Volume {
            name: name.to_owned(),
            size: Amount::from_mib(1024),
            machine: Some(id),
            open: false,
            snapshot: None,
        };
        let domain = |memory| Listed {
            name: "alice_vm1".to_owned(),
            number: DomainNumber::new(3),
            memory: Amount::from_mib(memory),
            state: DomainState::Paused,
            used: 0,
            uuid: uuid::Uuid::try_parse(&id.to_string()).ok(),
        };
        let half = state(vec![domain(100)], vec![volume("xen-root-alice_vm1")]).reserved(&deploying);
        assert_eq!((half.memory.mib(), half.disk.mib()), (28, 64));
        let empty = state(vec![domain(0)], vec![]).reserved(&deploying);
        assert_eq!(empty.memory.mib(), 132);
        let volumes = vec![volume("xen-root-alice_vm1"), volume("xen-swap-alice_vm1")];
        assert_eq!(state(vec![domain(128)], volumes).reserved(&deploying), Reserved::default());
    }

    #[test]
    fn only_machines_newer_than_the_state_are_counted() {
        let running = Record { changed: 100, ..record(VmId::generate(), Order::Deploy, true) };
        assert_eq!(state(vec![], vec![]).reserved(&[running]).memory.mib(), 132);
        let older = record(VmId::generate(), Order::Deploy, true);
        assert_eq!(state(vec![], vec![]).reserved(&[older]), Reserved::default());
        let terminating = record(VmId::generate(), Order::Terminate, false);
        assert_eq!(state(vec![], vec![]).reserved(&[terminating]), Reserved::default());
    }

    #[test]
    fn what_a_disk_is_to_grow_by_is_promised_until_it_has_grown() {
        let id = VmId::generate();
        let volume = |size| Volume {
            name: "xen-root-alice_vm1".to_owned(),
            size: Amount::from_mib(size),
            machine: Some(id),
            open: false,
            snapshot: None,
        };
        let reserved = |record: &Record, size| {
            let Reserved { memory, disk } =
                state(vec![], vec![volume(size)]).reserved(std::slice::from_ref(record));
            assert_eq!(memory, Amount::default(), "it does not run");
            disk.mib()
        };
        let mut record = Record { stopped: true, ..record(id, Order::Resize, false) };
        let order = record.order.as_mut().unwrap();
        let sizes = Sizes { disk: "3".parse().unwrap(), ..order.spec.sizes() };
        record.resizing = Some(sizes);
        assert_eq!((reserved(&record, 1024), reserved(&record, 3072)), (2048, 0));
        // It has grown since the host was asked, or the order has failed.
        let grown = |changed, disk: &str| {
            let mut record = Record { done: true, resizing: None, changed, ..record.clone() };
            record.order.as_mut().unwrap().spec.disk = disk.parse().unwrap();
            record
        };
        assert_eq!(reserved(&grown(100, "3"), 1024), 2048);
        assert_eq!(reserved(&grown(100, "1"), 1024), 0);
        assert_eq!(reserved(&grown(50, "3"), 3072), 0);
    }

    #[test]
    fn memory_is_promised_to_starting_machines_but_not_to_stopped_ones() {
        let id = VmId::generate();
        let volume = |name: &str| Volume {
            name: name.to_owned(),
            size: Amount::from_mib(1024),
            machine: Some(id),
            open: false,
            snapshot: None,
        };
        let volumes = vec![volume("xen-root-alice_vm1"), volume("xen-swap-alice_vm1")];
        let reserved = |record: Record| state(vec![], volumes.clone()).reserved(&[record]);
        let memory_only = Reserved { memory: Amount::from_mib(132), disk: Amount::default() };
        assert_eq!(reserved(record(id, Order::Start, false)), memory_only);
        assert_eq!(reserved(record(id, Order::Reboot, false)), memory_only);
        let stopped = Record { stopped: true, changed: 100, ..record(id, Order::Stop, true) };
        assert_eq!(reserved(stopped), Reserved::default());
    }
}
