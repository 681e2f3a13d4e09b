//! Giving a stopped machine other sizes: memory, processors, a larger disk.

use std::collections::BTreeMap;

use serde::Serialize;

use super::declined::{Declined, Part, When};
use super::placement::{Known, check_cpus};
use super::power::{self, Meaning};
use super::{life, orders, pool, quota};
use crate::config::Quota;
use crate::model::fault::Fault;
use crate::model::size::{Amount, Cpus, GiB, MiB};
use crate::model::spec::Sizes;
use crate::model::stage::Order;
use crate::model::state::State;
use crate::server::mail::Post;
use crate::server::nodes::Nodes;
use crate::server::registry::vm::{Usage, Vm};
use crate::server::registry::{Reader, Registry, RegistryError, Writer};

/// The sizes that somebody asks for; what is absent stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wish {
    /// The memory.
    pub memory: Option<MiB>,
    /// The processors.
    pub cpus: Option<Cpus>,
    /// The root partition.
    pub disk: Option<GiB>,
}

impl Wish {
    /// Returns whether nothing is asked for.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// Returns all sizes, given the present ones.
    pub fn of(self, present: Sizes) -> Sizes {
        Sizes {
            memory: self.memory.unwrap_or(present.memory),
            cpus: self.cpus.unwrap_or(present.cpus),
            disk: self.disk.unwrap_or(present.disk),
        }
    }
}

/// What a request for other sizes means for a machine as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Its host must be told.
    Tell(Sizes),
    /// It has these sizes already.
    Already,
}

/// Returns what a wish means for a machine, by its state.
///
/// # Errors
/// Why its sizes can't be changed now, and what to do about it.
pub fn request(vm: &Vm, wish: Wish) -> Result<Request, String> {
    let present = vm.spec.sizes();
    let wanted = wish.of(present);
    match (vm.state, vm.resizing) {
        (State::Resizing, Some(coming)) if wanted == coming => Ok(Request::Tell(coming)),
        (State::Resizing, Some(coming)) => {
            let change = present.changed_to(coming);
            Err(format!(
                "The sizes of this machine are being changed ({change}). Wait until that is over, and try again."
            ))
        }
        _ => match state_obstacle(vm) {
            Some(sentence) => Err(sentence),
            None if wanted == present && vm.resizing.is_none() => Ok(Request::Already),
            None => Ok(Request::Tell(wanted)),
        },
    }
}

/// Returns why a machine's sizes can't be changed in its state, and what to do about it; `None` if
/// they can.
pub fn state_obstacle(vm: &Vm) -> Option<String> {
    match (vm.state, power::meaning(Order::Resize, vm.state)) {
        (State::Deployed, _) => Some(
            "This machine runs, and only the sizes of a stopped one can be changed. Stop it first."
                .to_owned(),
        ),
        (_, Meaning::Not(sentence)) => Some(sentence),
        (_, Meaning::Already(sentence)) => Some(sentence.to_owned()),
        (_, Meaning::Tell) => None,
    }
}

/// How much a machine can be given at present: what its owner's quota and its host leave.
#[derive(Debug, Clone)]
pub struct Room {
    /// What is known of the host.
    pub host: Known,
    quota: Quota,
    /// What the owner's other machines use.
    others: Usage,
}

impl Room {
    /// Finds out what there is for a machine whose owner has this quota.
    pub fn of(reader: Reader<'_>, quota: Quota, vm: &Vm) -> Result<Self, RegistryError> {
        let now = crate::system::clock::now();
        let host = pool::known(reader, now)?.remove(&vm.physical_host).unwrap_or_default();
        let Usage { machines, memory_mib, cpus, disk_gib } = reader.usage(&vm.owner)?;
        // As `Reader::usage` counts it.
        let own = vm.spec.sizes();
        let coming = vm.resizing.unwrap_or(own);
        let others = Usage {
            machines: machines.saturating_sub(1),
            memory_mib: memory_mib.saturating_sub(own.memory.max(coming.memory).get().into()),
            cpus: cpus.saturating_sub(own.cpus.max(coming.cpus).get().into()),
            disk_gib: disk_gib.saturating_sub(own.disk.max(coming.disk).get().into()),
        };
        Ok(Self { host, quota, others })
    }

    /// Checks that a machine can be given these sizes. What gets no larger is always there.
    ///
    /// # Errors
    /// What is wrong with each size.
    pub fn check(&self, vm: &Vm, new: Sizes) -> Result<(), Declined> {
        let old = vm.spec.sizes();
        if new.disk < old.disk {
            let sentence = format!(
                "This machine's disk has {} and can't become smaller: what is on it could be cut off. Leave it as it \
                 is; or deploy another machine with a smaller disk, copy what you need, and terminate this one.",
                old.disk
            );
            return Err(Declined::one(When::Ever, Part::Disk, sentence));
        }
        let mut faults = self.lacking(vm, old, new);
        // What nobody may have comes before what is not there just now.
        faults.extend(quota::resize_exceeded(self.quota, self.others, &vm.owner, old, new));
        if faults.is_empty() { Ok(()) } else { Err(Declined { when: When::Now, faults }) }
    }

    /// Returns what the host lacks.
    fn lacking(&self, vm: &Vm, old: Sizes, new: Sizes) -> BTreeMap<Part, String> {
        let host = &vm.physical_host;
        let mut faults = BTreeMap::new();
        let memory =
            self.host.memory_free.filter(|free| new.memory > old.memory && *free < new.memory.amount());
        if let Some(free) = memory {
            let sentence = format!(
                "The host {host} has only {free} of memory free. Ask for less, or try again when there is more."
            );
            faults.insert(Part::Memory, sentence);
        }
        if new.cpus > old.cpus {
            let known = BTreeMap::from([(host.clone(), self.host.clone())]);
            faults.extend(check_cpus(host, &known, new.cpus).err());
        }
        let more = new.disk.amount().minus(old.disk.amount());
        if let Some(free) = self.host.disk_free.filter(|free| *free < more) {
            let sentence = format!(
                "The host {host} has only {free} of disk space free, and the disk would need {more} more. Ask for less, \
                 or try again when there is more."
            );
            faults.insert(Part::Disk, sentence);
        }
        faults
    }

    /// Returns the largest sizes that a machine can be given at present, each by itself.
    pub fn most(&self, vm: &Vm) -> Most {
        let present = vm.spec.sizes();
        let left = |limit: u64, used: u64| (limit != 0).then(|| limit.saturating_sub(used));
        let least = |limits: [Option<u64>; 2], present: u32, most: u32| {
            let least = limits.into_iter().flatten().min()?;
            Some(u32::try_from(least).unwrap_or(u32::MAX).clamp(present, most))
        };
        let memory =
            [left(self.quota.memory, self.others.memory_mib), self.host.memory_free.map(Amount::mib)];
        let cpus =
            [left(self.quota.cpus, self.others.cpus), self.host.max_cpus.map(|most| most.get().into())];
        let free = self.host.disk_free.map(|free| u64::from(present.disk.get()) + free.mib() / 1024);
        let disk = [left(self.quota.disk, self.others.disk_gib), free];
        Most {
            memory_mib: least(memory, present.memory.get(), MiB::MAX),
            cpus: least(cpus, present.cpus.get(), Cpus::MAX),
            disk_gib: least(disk, present.disk.get(), GiB::MAX),
        }
    }
}

/// The most of each that a machine can be given at present; absent where no limit is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Most {
    /// The memory, in MiB.
    pub memory_mib: Option<u32>,
    /// The processors.
    #[serde(rename = "vmCPUs")]
    pub cpus: Option<u32>,
    /// The root partition, in GiB.
    pub disk_gib: Option<u32>,
}

/// Records that a machine is to be given these sizes, within a transaction. Returns `None` and
/// changes nothing if its state does not allow it.
pub fn begin(writer: &Writer<'_>, vm: &Vm, sizes: Sizes) -> Result<Option<Vm>, RegistryError> {
    let Some(change) = life::resize_ordered(vm, sizes, writer.at()) else { return Ok(None) };
    writer.apply(vm, change)
}

/// Sends the host the order that [`begin`] recorded, and records the answer. Returns the machine as
/// it is now, and the fault to show to its owner.
pub fn carry_out(
    registry: &mut Registry,
    nodes: &Nodes<'_>,
    post: &Post<'_>,
    vm: Vm,
) -> Result<(Vm, Option<Fault>), RegistryError> {
    let detail = vm.resizing.map_or(String::new(), |sizes| vm.spec.sizes().changed_to(sizes));
    orders::carry_out(registry, nodes, post, vm, Order::Resize, &detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::registry::vm::tests::entered;

    fn machine() -> Vm {
        let dir = tempfile::tempdir().unwrap();
        let mut registry = Registry::create(&dir.path().join("registry.sqlite")).unwrap();
        Vm { state: State::Stopped, ..entered(&mut registry, "alice", "node1", "vm1") }
    }

    fn sizes(memory: u32, cpus: u32, disk: u32) -> Sizes {
        Sizes {
            memory: MiB::new(memory).unwrap(),
            cpus: Cpus::new(cpus).unwrap(),
            disk: GiB::new(disk).unwrap(),
        }
    }

    fn most(memory: u32, cpus: u32, disk: u32) -> Most {
        Most { memory_mib: Some(memory), cpus: Some(cpus), disk_gib: Some(disk) }
    }

    fn room(known: Known, quota: Quota) -> Room {
        let others = Usage { machines: 1, memory_mib: 100, cpus: 1, disk_gib: 10 };
        Room { host: known, quota, others }
    }

    #[test]
    fn each_state_has_its_answer() {
        let wish = Wish { memory: Some(MiB::new(256).unwrap()), ..Wish::default() };
        for state in State::ALL {
            let resizing = (state == State::Resizing).then(|| sizes(256, 2, 1));
            let vm = Vm { state, resizing, ..machine() };
            match request(&vm, wish) {
                Ok(Request::Tell(told)) => {
                    assert!(matches!(state, State::Stopped | State::Resizing), "{state}");
                    assert_eq!(told, sizes(256, 2, 1));
                }
                Ok(Request::Already) => panic!("{state}"),
                Err(sentence) => {
                    assert!(!matches!(state, State::Stopped | State::Resizing), "{state}");
                    assert!(sentence.ends_with('.') && sentence.contains(' '), "{sentence}");
                }
            }
        }
        let other = Wish { cpus: Some(Cpus::new(1).unwrap()), ..Wish::default() };
        let vm = Vm { state: State::Resizing, resizing: Some(sizes(256, 2, 1)), ..machine() };
        assert!(request(&vm, other).unwrap_err().contains("memory from 128 MiB to 256 MiB"));
        let same = Wish { cpus: Some(Cpus::new(2).unwrap()), ..Wish::default() };
        assert_eq!(request(&machine(), same), Ok(Request::Already));
        // Which sizes it has is not known.
        let open = Vm { state: State::Stopped, ..vm };
        assert_eq!(request(&open, same), Ok(Request::Tell(sizes(128, 2, 1))));
    }

    #[test]
    fn what_the_host_has_is_enough_and_no_more_is() {
        let vm = machine();
        let known = Known {
            memory_free: Some(Amount::from_mib(512)),
            disk_free: Some(Amount::from_mib(2048)),
            max_cpus: Cpus::new(3).ok(),
            ..Known::default()
        };
        let room = room(known, Quota::default());
        assert_eq!(room.most(&vm), most(512, 3, 3));
        room.check(&vm, sizes(512, 3, 3)).unwrap();
        for (wanted, part, word) in [
            (sizes(513, 3, 3), Part::Memory, "only 512 MiB of memory free"),
            (sizes(512, 4, 3), Part::Cpus, "at most 3 processors"),
            (
                sizes(512, 3, 4),
                Part::Disk,
                "only 2.0 GiB of disk space free, and the disk would need 3.0 GiB more",
            ),
        ] {
            let declined = room.check(&vm, wanted).unwrap_err();
            assert_eq!(declined.when, When::Now);
            assert!(declined.faults.len() == 1 && declined.faults[&part].contains(word), "{declined:?}");
        }
        let declined =
            room.check(&Vm { spec: vm.spec.clone().with(sizes(128, 1, 4)), ..vm }, sizes(128, 1, 3));
        let declined = declined.unwrap_err();
        assert_eq!(declined.when, When::Ever);
        assert!(declined.faults[&Part::Disk].contains("deploy another machine with a smaller disk"));
    }

    #[test]
    fn a_full_host_and_a_lowered_quota_keep_nobody_from_less() {
        let vm = machine();
        let nothing = Known {
            memory_free: Some(Amount::default()),
            disk_free: Some(Amount::default()),
            max_cpus: Cpus::new(1).ok(),
            ..Known::default()
        };
        let quota = Quota { machines: 1, memory: 50, cpus: 1, disk: 1, ..Quota::default() };
        let room = room(nothing, quota);
        assert_eq!(room.most(&vm), most(128, 2, 1));
        for less in [sizes(128, 2, 1), sizes(64, 1, 1)] {
            room.check(&vm, less).unwrap();
        }
        assert_eq!(room.check(&vm, sizes(129, 3, 2)).unwrap_err().faults.len(), 3);
    }

    #[test]
    fn what_is_not_known_is_no_limit() {
        let room = room(Known::default(), Quota::default());
        assert_eq!(room.most(&machine()), Most { memory_mib: None, cpus: None, disk_gib: None });
        room.check(&machine(), sizes(MiB::MAX, Cpus::MAX, GiB::MAX)).unwrap();
    }

    #[test]
    fn a_quota_is_for_all_machines_together() {
        let vm = machine();
        let quota = Quota { memory: 612, cpus: 4, disk: 13, ..Quota::default() };
        let room = room(Known::default(), quota);
        assert_eq!(room.most(&vm), most(512, 3, 3));
        room.check(&vm, sizes(512, 3, 3)).unwrap();
        let faults = room.check(&vm, sizes(513, 4, 4)).unwrap_err().faults;
        assert_eq!(faults.keys().copied().collect::<Vec<_>>(), [Part::Memory, Part::Cpus, Part::Disk]);
        assert_eq!(
            faults[&Part::Memory],
            "The other machines of alice have 100 MiB of memory together, and the limit is 612 MiB: 512 MiB are left for \
             this one. Ask for less, terminate a machine, or ask an administrator for more."
        );
        assert!(faults[&Part::Cpus].contains("have 1 processor together, and the limit is 4: 3 are left"));
    }
}
