//! `node/resize`: has a worker give a stopped machine other sizes.

use crate::cgi::reply::{Refusal, Reply};
use crate::cgi::serve::NodeCall;
use crate::model::fault::Fault;
use crate::model::size::Cpus;
use crate::model::spec::Sizes;
use crate::model::stage::Order;
use crate::model::wire::ResizeOrder;
use crate::node::host::HostState;
use crate::node::jobs::Record;
use crate::node::storage::Disk;

use super::handover::{self, Detail};
use super::order;

/// Responds to an order with 202 if it is accepted or had been before; otherwise with 409 or 503
/// and the [`Fault`]. The machine must not run, its disk can't become smaller, and the host must
/// have what is needed more.
pub fn handle(call: &NodeCall<'_>) -> Result<Reply, Refusal> {
    let ResizeOrder { machine, sizes }: ResizeOrder = order(call)?;
    let detail = Detail { resizing: Some(sizes), ..Detail::default() };
    let most = call.config.general.max_cpus;
    handover::to_worker(call, &machine, Order::Resize, detail, |state, records, known| {
        check(state, records, known, sizes, most)
    })
}

/// Checks that a machine can be given these sizes, by what the host has and has already promised.
fn check(
    state: &HostState,
    records: &[Record],
    known: &Record,
    new: Sizes,
    most: Option<Cpus>,
) -> Result<(), Fault> {
    let storage = state.storage.as_ref().map_err(Clone::clone)?;
    let machines = state.machines.as_ref().map_err(Clone::clone)?;
    let machine = known.target();
    let missing = || Fault::MachineMissing { machine: known.machine.clone() };
    let old = known.order.as_ref().map(|order| order.spec.sizes()).ok_or_else(missing)?;
    if machines.domains.iter().any(|domain| domain.is(&machine, !known.stopped)) {
        return Err(Fault::MachineRuns { machine: known.machine.clone() });
    }
    if new.disk < old.disk {
        return Err(Fault::DiskTooSmall { size: old.disk.amount() });
    }
    if let Some(most) = most.filter(|most| new.cpus > old.cpus && new.cpus > *most) {
        return Err(Fault::TooManyCpus { asked: new.cpus, most });
    }
    let reserved = state.reserved(records);
    let root = storage.disk(known.id, Disk::Root).ok_or_else(missing)?;
    let needed = storage.space.rounded(new.disk.amount()).minus(root.size);
    let free = storage.space.free.minus(reserved.disk);
    if new.disk > old.disk && needed > free {
        return Err(Fault::NotEnoughSpace { needed, free });
    }
    let needed = new.memory.amount().plus(machines.overhead);
    let free = machines.memory.free.minus(reserved.memory);
    if new.memory > old.memory && needed > free {
        return Err(Fault::NotEnoughMemory { needed, free });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::lease::Moment;
    use crate::model::names::{DomainNumber, VmId};
    use crate::model::size::{Amount, GiB, MiB};
    use crate::model::spec::Spec;
    use crate::model::stage::OrderNumber;
    use crate::model::wire::{DeployOrder, Volume};
    use crate::node::host::{Machines, Storage};
    use crate::node::hypervisor::{DomainState, Listed, Memory};
    use crate::node::storage::Space;

    fn mib(amount: u64) -> Amount {
        Amount::from_mib(amount)
    }

    fn sizes(memory: u32, cpus: u32, disk: u32) -> Sizes {
        Sizes {
            memory: MiB::new(memory).unwrap(),
            cpus: Cpus::new(cpus).unwrap(),
            disk: GiB::new(disk).unwrap(),
        }
    }

    /// A stopped machine with 128 MiB, 2 processors and 2 GiB.
    fn machine(name: &str) -> Record {
        let order = DeployOrder {
            id: VmId::generate(),
            number: OrderNumber::default(),
            user: "alice".parse().unwrap(),
            physical_host: "node1".parse().unwrap(),
            virtual_host: name.parse().unwrap(),
            spec: Spec {
                image: "tiny".parse().unwrap(),
                memory: MiB::new(128).unwrap(),
                cpus: Cpus::new(2).unwrap(),
                disk: GiB::new(2).unwrap(),
                saved: None,
                snapshot: None,
            },
        };
        let (name, request) = (format!("alice_{name}").parse().unwrap(), "r".parse().unwrap());
        let record = Record::new(order, name, None, mib(64), request, Moment::from_unix(1));
        Record { done: true, told: true, stopped: true, work: Order::Stop, ..record }
    }

    /// A host with 512 MiB of memory and 3 GiB of disk free.
    fn host(machines: &[&Record]) -> HostState {
        let root = |record: &&Record| Volume {
            name: format!("xen-root-{}", record.machine),
            size: mib(2048),
            machine: Some(record.id),
            open: false,
            snapshot: None,
        };
        HostState {
            taken: 100,
            machines: Ok(Machines {
                toolstack: "xl".to_owned(),
                memory: Memory { total: mib(2048), free: mib(512) },
                overhead: mib(8),
                domains: Vec::new(),
            }),
            storage: Ok(Storage {
                space: Space { size: mib(9000), free: mib(3072), extent: mib(4), fill: None },
                volumes: machines.iter().map(root).collect(),
                snapshots: false,
                unprepared: vec![],
            }),
        }
    }

    #[test]
    fn a_machine_gets_what_there_is_and_no_more() {
        let known = machine("vm1");
        let state = host(&[&known]);
        let check = |new| check(&state, std::slice::from_ref(&known), &known, new, Cpus::new(3).ok());
        for (memory, cpus, disk) in [(504, 3, 5), (16, 1, 2), (128, 2, 2)] {
            check(sizes(memory, cpus, disk)).unwrap();
        }
        for (new, fault) in [
            (sizes(505, 3, 5), Fault::NotEnoughMemory { needed: mib(513), free: mib(512) }),
            (sizes(504, 3, 6), Fault::NotEnoughSpace { needed: mib(4096), free: mib(3072) }),
            (
                sizes(128, 4, 2),
                Fault::TooManyCpus { asked: Cpus::new(4).unwrap(), most: Cpus::new(3).unwrap() },
            ),
            (sizes(128, 2, 1), Fault::DiskTooSmall { size: mib(2048) }),
        ] {
            assert_eq!(check(new), Err(fault));
        }
    }

    #[test]
    fn a_full_host_still_gives_less() {
        let known = machine("vm1");
        let mut state = host(&[&known]);
        state.machines.as_mut().unwrap().memory.free = Amount::default();
        state.storage.as_mut().unwrap().space.free = Amount::default();
        let check = |new| check(&state, &[], &known, new, Cpus::new(1).ok());
        check(sizes(64, 1, 2)).unwrap();
        check(sizes(128, 2, 2)).unwrap();
        assert!(check(sizes(129, 2, 2)).is_err() && check(sizes(128, 2, 3)).is_err());
    }

    #[test]
    fn what_others_are_promised_is_not_given_twice() {
        let (known, other) = (machine("vm1"), machine("vm2"));
        let other = Record { work: Order::Resize, done: false, resizing: Some(sizes(128, 2, 4)), ..other };
        let state = host(&[&known, &other]);
        let records = [known.clone(), other];
        let check = |new| check(&state, &records, &known, new, None);
        check(sizes(128, 2, 3)).unwrap();
        let full = Fault::NotEnoughSpace { needed: mib(2048), free: mib(1024) };
        assert_eq!(check(sizes(128, 2, 4)), Err(full));
    }

    #[test]
    fn only_a_machine_that_is_there_and_does_not_run_is_changed() {
        let known = machine("vm1");
        let mut state = host(&[&known]);
        let new = sizes(64, 1, 2);
        state.machines.as_mut().unwrap().domains.push(Listed {
            name: "alice_vm1".to_owned(),
            number: DomainNumber::new(3),
            memory: mib(128),
            state: DomainState::Running,
            used: 0,
            uuid: uuid::Uuid::try_parse(&known.id.to_string()).ok(),
        });
        let runs = Fault::MachineRuns { machine: known.machine.clone() };
        assert_eq!(check(&state, &[], &known, new, None), Err(runs));
        let missing = Err(Fault::MachineMissing { machine: known.machine.clone() });
        assert_eq!(check(&host(&[]), &[], &known, new, None), missing);
        let unmade = Record { order: None, ..known };
        assert_eq!(check(&host(&[&unmade]), &[], &unmade, new, None), missing);
    }
}
