//! Machines as the registry knows them: what there is to know ([`Vm`]), how it is read, and the one way in which it
//! changes ([`Writer::apply`](super::Writer::apply)).

mod read;
mod write;

use strum::{EnumString, IntoStaticStr};

use crate::model::fault::Fault;
use crate::model::lease::{Moment, Term};
use crate::model::names::{
    ImageName, ImageTag, Label, MachineName, NameFault, PhysicalHost, SavedImage, VirtualHost, VmId,
};
use crate::model::size::{GiB, MiB};
use crate::model::stage::{Order, OrderNumber, Percent, Stage};
use crate::model::state::{self, Event, State};
use crate::server::registry::user::Owner;

/// How long a machine may stay in a state of transition without a word from its node, in seconds, before
/// upkeep may declare it failed. Unpacking a large image is one stage, but reports its percentage.
const TRANSITION_LIMIT: i64 = 30 * 60;

/// Whether something of a machine may be at its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumString, IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum OnNode {
    /// Surely not: it never got there, or the node said that nothing is left.
    No,
    /// Perhaps.
    Maybe,
}

impl OnNode {
    fn as_str(self) -> &'static str {
        self.into()
    }
}

/// What its owner wants a machine to be, whatever it is at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumString, IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum Wanted {
    /// Running, for as long as its lease lasts.
    Running,
    /// Stopped.
    Stopped,
}

impl Wanted {
    fn as_str(self) -> &'static str {
        self.into()
    }
}

/// Who chose the host of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumString, IntoStaticStr)]
pub enum Placed {
    /// Its owner, or the saved image that it is made from, which is on one host only.
    #[strum(serialize = "asked")]
    AsAsked,
    /// vGrid, which may choose another host once.
    #[strum(serialize = "chosen")]
    ByPortal,
    /// vGrid, because the first host that it chose could not make it.
    #[strum(serialize = "again")]
    Again,
}

impl Placed {
    /// Its name in the registry and on the wire.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// What a disk is being saved as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saving {
    /// The image's name.
    pub name: ImageName,
    /// Whether the machine is to be terminated afterwards.
    pub then_terminate: bool,
}

/// A machine, as the registry knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vm {
    /// Its id.
    pub id: VmId,
    /// Whose it is.
    pub owner: Owner,
    /// The name it occupies while it is live.
    pub virtual_host: VirtualHost,
    /// The node it is for.
    pub physical_host: PhysicalHost,
    /// Who chose that node.
    pub placed: Placed,
    /// Its image.
    pub image: ImageTag,
    /// Its memory.
    pub memory: MiB,
    /// The size of its root partition.
    pub disk: GiB,
    /// What its owner calls it.
    pub label: Label,
    /// For how long it was asked for, or was last extended.
    pub lease: Term,
    /// Where it is in its life.
    pub state: State,
    /// How far its node is with the last order, or was when the machine failed.
    pub stage: Option<Stage>,
    /// How much of that stage is done.
    pub percent: Option<Percent>,
    /// Its place in its node's queue, from 1, while its deploy waits for others.
    pub place: Option<u32>,
    /// What went wrong last.
    pub fault: Option<Fault>,
    /// The order that its node was last given. Reports about an earlier one are late.
    pub order: Order,
    /// The number of that order.
    pub number: OrderNumber,
    /// The number of the last report about that order.
    pub sequence: u32,
    /// When it was asked for.
    pub created: Moment,
    /// When its state last changed.
    pub changed: Moment,
    /// When its lease ends; `None` for never.
    pub expires: Option<Moment>,
    /// Until when the present state of transition may last; there in those states alone.
    pub deadline: Option<Moment>,
    /// Whether something of it may be at its node.
    pub on_node: OnNode,
    /// Whether it ever ran.
    pub was_deployed: bool,
    /// What its owner wants it to be.
    pub wanted: Wanted,
    /// Whether its owner has guarded it against being terminated by hand.
    pub protected: bool,
    /// When its disk is removed, not before: there once its lease has ended.
    pub deletion: Option<Moment>,
    /// What its disk is being saved as, or was when that was given up without a last word from its node.
    pub saving: Option<Saving>,
    /// The saved image that it was made from, if it was.
    pub from: Option<SavedImage>,
    /// How many times in a row it did not answer.
    pub silent: u32,
}

/// What becomes of a machine, and what its history says of that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The machine as it is then.
    pub vm: Vm,
    /// What happened, and the details.
    pub history: Vec<(String, String)>,
    /// The order that its host must be told then.
    pub next: Option<Order>,
}

impl Change {
    /// One that is told in the machine's history.
    pub fn with(vm: Vm, what: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { history: vec![(what.into(), detail.into())], ..Self::silent(vm) }
    }

    /// One that is not.
    pub fn silent(vm: Vm) -> Self {
        Self { vm, history: Vec::new(), next: None }
    }

    /// This one, and what becomes of the machine after it, if something does.
    pub fn and(mut self, next: impl FnOnce(&Vm) -> Option<Self>) -> Self {
        let Some(after) = next(&self.vm) else { return self };
        self.history.extend(after.history);
        Self { vm: after.vm, history: self.history, next: after.next.or(self.next) }
    }
}

/// What somebody asks for, all of it checked and decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewVm {
    /// Whose it will be.
    pub owner: Owner,
    /// The name, free.
    pub virtual_host: VirtualHost,
    /// The node, with a free slot.
    pub physical_host: PhysicalHost,
    /// Who chose that node.
    pub placed: Placed,
    /// The image.
    pub image: ImageTag,
    /// The memory.
    pub memory: MiB,
    /// The size of the root partition.
    pub disk: GiB,
    /// What its owner calls it.
    pub label: Label,
    /// For how long.
    pub lease: Term,
    /// The saved image that it is made from, if it is.
    pub from: Option<SavedImage>,
}

/// What the live machines of somebody take together, whatever their states: one that is stopped, expired or failed
/// keeps its name, its disk and its place, and gets its memory back when it is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// How many there are.
    pub machines: u32,
    /// Their memory, in MiB.
    pub memory_mib: u64,
    /// Their partitions, in GiB.
    pub disk_gib: u64,
}

/// Which live machines are meant.
#[derive(Debug, Clone, Copy)]
pub enum Scope<'a> {
    /// Those of one owner.
    Of(&'a Owner),
    /// All.
    All,
}

impl Vm {
    /// Whether its host was seen not to have it any more.
    pub fn is_missing(&self) -> bool {
        matches!(self.fault, Some(Fault::MachineMissing { .. }))
    }

    /// It after an event, with all that its state alone decides; `None` if the event means nothing in its state.
    pub fn after(mut self, event: Event, now: Moment) -> Option<Self> {
        let before = self.state;
        self.state = state::next(before, event)?;
        if self.state != before {
            self.changed = now;
        }
        self.was_deployed |= self.state == State::Deployed;
        self.place = self.place.filter(|_| self.state == State::Deploying);
        if let Some(saving) = &mut self.saving {
            // A save that was given up may be carried out all the same; nothing is removed after it then.
            saving.then_terminate &= self.state == State::Saving;
        }
        self.deadline = self.state.is_transitional().then(|| now.plus_seconds(TRANSITION_LIMIT));
        Some(self)
    }

    /// Its name as a Xen domain, and in its volumes' names.
    ///
    /// # Errors
    /// None in practice: it was checked when the machine was entered.
    pub fn machine_name(&self) -> Result<MachineName, NameFault> {
        MachineName::new(self.owner.user_name(), &self.virtual_host)
    }
}

#[cfg(test)]
pub(in crate::server) mod tests {
    use super::*;
    use crate::server::registry::user::Registered;
    use crate::server::registry::{Registry, RegistryError, Writer};

    /// A machine of `owner` on `host` under `name`, for tests.
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
                image: "tiny".parse().unwrap(),
                memory: MiB::new(128).unwrap(),
                disk: GiB::new(1).unwrap(),
                label: Label::default(),
                lease: Term::Never,
                from: None,
            })
        });
        made.unwrap()
    }

    impl Writer<'_> {
        /// Lets an event happen to a machine, for tests.
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

        /// Sets the lease of a machine, for tests.
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
                image: first.image.clone(),
                memory: first.memory,
                disk: first.disk,
                label: Label::default(),
                lease: first.lease,
                from: None,
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
        let usage = Usage { machines: 4, memory_mib: 512, disk_gib: 4 };
        assert_eq!(registry.read(|r| r.usage(&alice)).unwrap(), usage, "what is gone takes nothing");
        let nobody = Owner::of(&"carol".parse().unwrap());
        assert_eq!(registry.read(|r| r.usage(&nobody)).unwrap(), Usage::default());
        let counts = registry.read(|r| r.live_by_host()).unwrap();
        assert_eq!(counts.values().copied().collect::<Vec<_>>(), [4, 1]);
        assert_eq!(registry.read(|r| r.names_taken()).unwrap().len(), 5);
    }
}
