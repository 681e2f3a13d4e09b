//! Machines in the registry: the record ([`Vm`]), how it is read, and the only way to change it
//! ([`Writer::apply`](super::Writer::apply)).

mod read;
mod write;

use std::fmt;
use std::str::FromStr;

use strum::{EnumString, IntoStaticStr};

use crate::model::fault::Fault;
use crate::model::lease::{Moment, Term};
use crate::model::names::{ImageName, Label, MachineName, NameFault, PhysicalHost, VirtualHost, VmId};
use crate::model::spec::{Sizes, Spec};
use crate::model::stage::{Order, OrderNumber, Percent, Stage};
use crate::model::state::{self, Event, State};
use crate::server::registry::user::Owner;

/// How long a machine may stay in a transitional state without a report from its node before upkeep
/// may declare it failed, in seconds. Unpacking a large image is one stage, but its percentage is
/// reported.
const TRANSITION_LIMIT: i64 = 30 * 60;

/// A machine as people and scripts name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// By its id.
    Id(VmId),
    /// By the name of a live machine.
    Named(VirtualHost),
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Named(name) => name.fmt(f),
        }
    }
}

impl FromStr for Which {
    type Err = NameFault;

    /// What is no id is a name.
    fn from_str(text: &str) -> Result<Self, NameFault> {
        text.parse().map(Self::Id).or_else(|_| text.parse().map(Self::Named))
    }
}

/// Whether anything of a machine may be on its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumString, IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum OnNode {
    /// Certainly not: nothing ever got there, or the node reported that nothing is left.
    No,
    /// Perhaps.
    Maybe,
}

impl OnNode {
    fn as_str(self) -> &'static str {
        self.into()
    }
}

/// The state that a machine's owner wants, whatever its current state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumString, IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum Wanted {
    /// Running until its lease ends.
    Running,
    /// Stopped.
    Stopped,
}

impl Wanted {
    fn as_str(self) -> &'static str {
        self.into()
    }
}

/// Who chose a machine's host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumString, IntoStaticStr)]
pub enum Placed {
    /// Its owner, or the saved image it is made from, which is on one host only.
    #[strum(serialize = "asked")]
    AsAsked,
    /// vGrid, which may choose another host once.
    #[strum(serialize = "chosen")]
    ByPortal,
    /// vGrid, after the first host that it chose could not create the machine.
    #[strum(serialize = "again")]
    Again,
}

impl Placed {
    /// Returns its name in the registry and on the wire.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// The image that a disk is being saved as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saving {
    /// The image's name.
    pub name: ImageName,
    /// Whether to terminate the machine afterward.
    pub then_terminate: bool,
}

/// A machine as recorded in the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vm {
    /// Its id.
    pub id: VmId,
    /// Its owner.
    pub owner: Owner,
    /// The name it occupies while it is live.
    pub virtual_host: VirtualHost,
    /// Its node.
    pub physical_host: PhysicalHost,
    /// Who chose that node.
    pub placed: Placed,
    /// What it is made of.
    pub spec: Spec,
    /// What its owner calls it.
    pub label: Label,
    /// The lease it was requested with, or that was set last.
    pub lease: Term,
    /// Its state.
    pub state: State,
    /// How far its node has got with the last order, or had when the machine failed.
    pub stage: Option<Stage>,
    /// How much of that stage is done.
    pub percent: Option<Percent>,
    /// Its place in its node's deploy queue, from 1, while it waits.
    pub place: Option<u32>,
    /// What went wrong last.
    pub fault: Option<Fault>,
    /// The last order given to its node. Reports about an earlier one are late.
    pub order: Order,
    /// The number of that order.
    pub number: OrderNumber,
    /// The sequence number of the last report about that order.
    pub sequence: u32,
    /// When it was requested.
    pub created: Moment,
    /// When its state last changed.
    pub changed: Moment,
    /// When its lease ends; `None` for never.
    pub expires: Option<Moment>,
    /// When the current transitional state times out; set only in such states.
    pub deadline: Option<Moment>,
    /// Whether anything of it may be on its node.
    pub on_node: OnNode,
    /// Whether it ever ran.
    pub was_deployed: bool,
    /// The state its owner wants.
    pub wanted: Wanted,
    /// Whether its owner has protected it against being terminated by hand.
    pub protected: bool,
    /// The earliest time at which its disk is removed; set once its lease has ended.
    pub deletion: Option<Moment>,
    /// The image that its disk is being saved as; kept after a save was given up without a final
    /// report from its node.
    pub saving: Option<Saving>,
    /// The sizes that it is being given; kept like `saving`, until it is known which it has. Until
    /// then, those of `spec` count.
    pub resizing: Option<Sizes>,
    /// How many pings in a row it has not answered.
    pub silent: u32,
}

/// A change to a machine, with its lines for the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The machine after the change.
    pub vm: Vm,
    /// What happened, and details, for each line of the history.
    pub history: Vec<(String, String)>,
    /// The order to send to its host afterward.
    pub next: Option<Order>,
}

impl Change {
    /// Creates a change that is recorded in the machine's history.
    pub fn with(vm: Vm, what: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { history: vec![(what.into(), detail.into())], ..Self::silent(vm) }
    }

    /// Creates a change that is not recorded in the history.
    pub fn silent(vm: Vm) -> Self {
        Self { vm, history: Vec::new(), next: None }
    }

    /// Appends the change that follows from this one, if any.
    pub fn and(mut self, next: impl FnOnce(&Vm) -> Option<Self>) -> Self {
        let Some(after) = next(&self.vm) else { return self };
        self.history.extend(after.history);
        Self { vm: after.vm, history: self.history, next: after.next.or(self.next) }
    }
}

/// A new machine, with everything checked and decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewVm {
    /// Its owner.
    pub owner: Owner,
    /// Its name, which is free.
    pub virtual_host: VirtualHost,
    /// Its node, which has a free slot.
    pub physical_host: PhysicalHost,
    /// Who chose that node.
    pub placed: Placed,
    /// What it will be made of.
    pub spec: Spec,
    /// What its owner calls it.
    pub label: Label,
    /// Its lease.
    pub lease: Term,
}

/// What a user's live machines use, whatever their state: a stopped, expired or failed machine
/// keeps its name, its disk and its slot, and gets its memory and processors back when it is
/// started. One that is being given other sizes uses the larger of both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// The number of machines.
    pub machines: u32,
    /// Their memory, in MiB.
    pub memory_mib: u64,
    /// Their processors.
    pub cpus: u64,
    /// Their partitions, in GiB.
    pub disk_gib: u64,
}

/// The live machines that a query covers.
#[derive(Debug, Clone, Copy)]
pub enum Scope<'a> {
    /// Those of one owner.
    Of(&'a Owner),
    /// All.
    All,
}

impl Vm {
    /// Returns whether its host was found to have lost it.
    pub fn is_missing(&self) -> bool {
        matches!(self.fault, Some(Fault::MachineMissing { .. }))
    }

    /// Returns the machine after an event, with everything that its state alone decides; `None` if
    /// the event is not valid in its state.
    pub fn after(mut self, event: Event, now: Moment) -> Option<Self> {
        let before = self.state;
        self.state = state::next(before, event)?;
        if self.state != before {
            self.changed = now;
        }
        self.was_deployed |= self.state == State::Deployed;
        self.place = self.place.filter(|_| self.state == State::Deploying);
        if let Some(saving) = &mut self.saving {
            // A save that was given up may still happen, but then nothing is removed after it.
            saving.then_terminate &= self.state == State::Saving;
        }
        self.deadline = self.state.is_transitional().then(|| now.plus_seconds(TRANSITION_LIMIT));
        Some(self)
    }

    /// Returns the machine's name as a Xen domain and in the names of its volumes.
    ///
    /// # Errors
    /// None in practice: the name was checked when the machine was recorded.
    pub fn machine_name(&self) -> Result<MachineName, NameFault> {
        MachineName::new(self.owner.user_name(), &self.virtual_host)
    }
}

#[cfg(test)]
pub(in crate::server) mod tests {
    use super::*;
    use crate::server::registry::user::Registered;
    use crate::server::registry::{Registry, RegistryError, Writer};

    /// Records a machine of `owner` on `host` under `name`, for tests.
    pub fn entered(registry: &mut Registry, owner: &str, host: &str, name: &str) -> Vm {
        let made: Result<Vm, RegistryError> = registry.write_at(Moment::from_unix(1000), |writer| {
            let Registered::Known(owner) = writer.register(&owner.parse().unwrap())? else {
                panic!("{owner} is somebody else");
            };
            writer.enter(NewVm {
                owner,
                virtual_host: name.parse().unwrap(),
                physical_host: host.parse().unwrap(),
                placed: Placed::ByPortal,
                spec: Spec {
                    image: "tiny".parse().unwrap(),
                    memory: "128".parse().unwrap(),
                    cpus: "2".parse().unwrap(),
                    disk: "1".parse().unwrap(),
                    saved: None,
                    snapshot: None,
                },
                label: Label::default(),
                lease: Term::Never,
            })
        });
        made.unwrap()
    }

    impl Writer<'_> {
        /// Applies an event to a machine, for tests.
        pub fn advance(
            &self,
            old: &Vm,
            event: Event,
            edit: impl FnOnce(&mut Vm),
        ) -> Result<Option<Vm>, RegistryError> {
            let mut new = old.clone();
            edit(&mut new);
            let Some(new) = new.after(event, self.now()) else { return Ok(None) };
            self.apply(old, Change::silent(new))
        }

        /// Sets a machine's lease, for tests.
        pub fn set_lease(&self, id: VmId, lease: Term, since: Moment) -> Result<(), RegistryError> {
            let old = self.vm(id)?.unwrap();
            let new = Vm { lease, expires: lease.end(since), deletion: None, ..old.clone() };
            assert!(self.replace(&old, &new)?);
            Ok(())
        }
    }

    fn registry() -> (tempfile::TempDir, Registry) {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::create(&dir.path().join("registry.sqlite")).unwrap();
        (dir, registry)
    }

    fn advance(registry: &mut Registry, vm: &Vm, event: Event) -> Option<Vm> {
        let done: Result<_, RegistryError> =
            registry.write_at(Moment::from_unix(2000), |writer| writer.advance(vm, event, |_| {}));
        done.unwrap()
    }

    #[test]
    fn a_machine_is_read_as_it_was_entered() {
        let (_dir, mut registry) = registry();
        let vm = entered(&mut registry, "Jürgen M", "node1", "vm1");
        assert_eq!(vm.owner.as_str(), "Jürgen_M");
        assert_eq!(registry.read(|r| r.vm(vm.id)).unwrap().as_ref(), Some(&vm));
        assert_eq!(registry.read(|r| r.vm_named(&vm.virtual_host)).unwrap(), Some(vm));
    }

    #[test]
    fn a_state_changes_once() {
        let (_dir, mut registry) = registry();
        let vm = entered(&mut registry, "alice", "node1", "vm1");
        let deployed = advance(&mut registry, &vm, Event::Deployed).unwrap();
        assert!(deployed.was_deployed && deployed.deadline.is_none());
        assert_eq!(advance(&mut registry, &vm, Event::Failed), None, "it is no longer deploying");
        assert_eq!(advance(&mut registry, &deployed, Event::Progress), None, "means nothing there");
        assert_eq!(registry.read(|r| r.vm(vm.id)).unwrap(), Some(deployed));
    }

    #[test]
    fn a_name_is_occupied_once_and_free_afterwards() {
        let (_dir, mut registry) = registry();
        let first = entered(&mut registry, "alice", "node1", "vm1");
        let again: Result<Vm, RegistryError> = registry.write(|writer| {
            writer.enter(NewVm {
                owner: first.owner.clone(),
                virtual_host: first.virtual_host.clone(),
                physical_host: first.physical_host.clone(),
                placed: first.placed,
                spec: first.spec.clone(),
                label: Label::default(),
                lease: first.lease,
            })
        });
        assert!(matches!(again, Err(RegistryError::Sql(_))));
        advance(&mut registry, &first, Event::Forget).unwrap();
        entered(&mut registry, "bob", "node1", "vm1");
        assert_eq!(registry.read(|r| r.vm(first.id)).unwrap().unwrap().state, State::NotDeployed);
    }

    #[test]
    fn pages_show_live_machines_newest_first() {
        let (_dir, mut registry) = registry();
        let machines: Vec<Vm> =
            (0..5).map(|n| entered(&mut registry, "alice", "node1", &format!("vm{n}"))).collect();
        entered(&mut registry, "bob", "node2", "vm9");
        advance(&mut registry, &machines[4], Event::Forget).unwrap();
        let alice = machines[0].owner.clone();
        let page = registry.read(|r| r.live(Scope::Of(&alice), 2, 1)).unwrap();
        assert_eq!(page.iter().map(|vm| vm.id).collect::<Vec<_>>(), [machines[2].id, machines[1].id]);
        assert_eq!(registry.read(|r| r.count(Scope::Of(&alice))).unwrap(), 4);
        assert_eq!(registry.read(|r| r.count(Scope::All)).unwrap(), 5);
        let usage = Usage { machines: 4, memory_mib: 512, cpus: 8, disk_gib: 4 };
        assert_eq!(registry.read(|r| r.usage(&alice)).unwrap(), usage, "what is gone takes nothing");
        let nobody = Owner::of(&"carol".parse().unwrap());
        assert_eq!(registry.read(|r| r.usage(&nobody)).unwrap(), Usage::default());
        let counts = registry.read(|r| r.live_by_host()).unwrap();
        assert_eq!(counts.values().copied().collect::<Vec<_>>(), [4, 1]);
        assert_eq!(registry.read(|r| r.names_taken()).unwrap().len(), 5);
    }
}
