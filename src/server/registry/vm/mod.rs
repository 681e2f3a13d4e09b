//! Machines: the rows, the counts, and the one way in which a machine's state changes.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::named_params;

use crate::model::fault::Fault;
use crate::model::lease::{Moment, Term};
use crate::model::names::{
    ImageName, ImageTag, Label, MachineName, NameFault, PhysicalHost, SavedImage, UserName, VirtualHost, VmId,
};
use crate::model::size::{GiB, MiB};
use crate::model::stage::{Order, OrderNumber, Percent, Stage};
use crate::model::state::{self, Event, State};
use crate::server::registry::event::Actor;
use crate::server::registry::user::Owner;
use crate::server::registry::{Cells, Reader, RegistryError, Writer, all};
use crate::system::clock;

/// How long a machine may stay in a state of transition without a word from its node, in seconds, before
/// upkeep may declare it failed. Unpacking a large image is one stage, but reports its percentage.
const TRANSITION_LIMIT: i64 = 30 * 60;

/// Whether something of a machine may be at its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnNode {
    /// Surely not: it never got there, or the node said that nothing is left.
    No,
    /// Perhaps.
    Maybe,
}

/// What its owner wants a machine to be, whatever it is at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Running, for as long as its lease lasts.
    Running,
    /// Stopped.
    Stopped,
}

impl Wanted {
    fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stopped => "stopped",
        }
    }
}

/// Who chose the host of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placed {
    /// Its owner, or the saved image that it is made from, which is on one host only.
    AsAsked,
    /// vGrid, which may choose another host once.
    ByPortal,
    /// vGrid, because the first host that it chose could not make it.
    Again,
}

impl Placed {
    const ALL: [Self; 3] = [Self::AsAsked, Self::ByPortal, Self::Again];

    /// Its name in the registry and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AsAsked => "asked",
            Self::ByPortal => "chosen",
            Self::Again => "again",
        }
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

impl OnNode {
    fn as_str(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::Maybe => "maybe",
        }
    }
}

/// `SELECT` with the columns that [`read_vm`] reads, in its order.
macro_rules! select_vm {
    ($rest:literal) => {
        concat!(
            "SELECT id, owner, virtual_host, physical_host, image, memory_mib, disk_gib, label, lease, state, \
             stage, percent, place, fault, last_order, order_number, sequence, created, changed, expires, deadline, \
             on_node, was_deployed, wanted, protected, deletion, save_as, then_terminate, from_owner, from_name, \
             silent, placed FROM vm WHERE ",
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
        image: cells.parsed()?,
        memory: memory(cells)?,
        disk: disk(cells)?,
        label: cells.parsed()?,
        lease: cells.parsed()?,
        state: cells.word(State::from_name)?,
        stage: stage(cells)?,
        percent: percent(cells)?,
        place: cells.get()?,
        fault: fault(cells)?,
        order: cells.word(Order::from_name)?,
        number: cells.whole(OrderNumber::of)?,
        sequence: cells.number()?,
        created: moment(cells)?,
        changed: moment(cells)?,
        expires: perhaps(cells)?,
        deadline: perhaps(cells)?,
        on_node: cells.word(|text| match text {
            "no" => Some(OnNode::No),
            "maybe" => Some(OnNode::Maybe),
            _ => None,
        })?,
        was_deployed: cells.get()?,
        wanted: cells.word(|text| match text {
            "running" => Some(Wanted::Running),
            "stopped" => Some(Wanted::Stopped),
            _ => None,
        })?,
        protected: cells.get()?,
        deletion: perhaps(cells)?,
        saving: {
            let (name, then_terminate) = (cells.perhaps()?, cells.get()?);
            name.map(|name| Saving { name, then_terminate })
        },
        from: {
            let (owner, name) = (cells.perhaps()?, cells.perhaps()?);
            owner.zip(name).map(|(owner, name)| SavedImage { owner, name })
        },
        silent: cells.number()?,
        placed: cells.word(|text| Placed::ALL.into_iter().find(|placed| placed.as_str() == text))?,
    })
}

fn memory(cells: &mut Cells<'_>) -> Result<MiB, RegistryError> {
    cells.number::<u32>().and_then(|n| MiB::new(n).map_err(|_| cells.corrupt(&n)))
}

fn disk(cells: &mut Cells<'_>) -> Result<GiB, RegistryError> {
    cells.number::<u32>().and_then(|n| GiB::new(n).map_err(|_| cells.corrupt(&n)))
}

// A stage or a fault that another version wrote is no reason to show no machine at all.

fn stage(cells: &mut Cells<'_>) -> Result<Option<Stage>, RegistryError> {
    Ok(cells.get::<Option<String>>()?.and_then(|name| Stage::from_name(&name)))
}

fn percent(cells: &mut Cells<'_>) -> Result<Option<Percent>, RegistryError> {
    Ok(cells.get::<Option<u8>>()?.and_then(|percent| percent.try_into().ok()))
}

fn fault(cells: &mut Cells<'_>) -> Result<Option<Fault>, RegistryError> {
    Ok(cells.get::<Option<String>>()?.and_then(|json| serde_json::from_str(&json).ok()))
}

impl Reader<'_> {
    /// A machine, also one that has ended; `None` if there never was one with that id.
    ///
    /// # Errors
    /// [`RegistryError`] when SQLite refuses or the row is not what this program writes.
    pub fn vm(&self, id: VmId) -> Result<Option<Vm>, RegistryError> {
        let found = all(self.connection, select_vm!("id = ?1"), [id.to_string()], read_vm)?;
        Ok(found.into_iter().next())
    }

    /// The live machine that occupies a name.
    ///
    /// # Errors
    /// As for [`vm`](Self::vm).
    pub fn vm_named(&self, name: &VirtualHost) -> Result<Option<Vm>, RegistryError> {
        const SQL: &str = select_vm!("virtual_host = ?1 AND state <> 'notDeployed'");
        Ok(all(self.connection, SQL, [name.as_str()], read_vm)?.into_iter().next())
    }

    /// Live machines, the newest first.
    ///
    /// # Errors
    /// As for [`vm`](Self::vm).
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

    /// How many live machines there are.
    ///
    /// # Errors
    /// [`RegistryError`] when SQLite refuses.
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

    /// What the live machines of an owner take.
    ///
    /// # Errors
    /// As for [`vm`](Self::vm).
    pub fn usage(&self, owner: &Owner) -> Result<Usage, RegistryError> {
        const SQL: &str = "SELECT count(*), coalesce(sum(memory_mib), 0), coalesce(sum(disk_gib), 0) FROM vm
                           WHERE owner = ?1 AND state <> 'notDeployed'";
        let found = all(self.connection, SQL, [owner.as_str()], |mut cells| {
            Ok(Usage { machines: cells.number()?, memory_mib: cells.number()?, disk_gib: cells.number()? })
        })?;
        Ok(found.into_iter().next().unwrap_or_default())
    }

    /// How many live machines each host has; hosts without any are not in it.
    ///
    /// # Errors
    /// As for [`vm`](Self::vm).
    pub fn live_by_host(&self) -> Result<BTreeMap<PhysicalHost, u32>, RegistryError> {
        const SQL: &str = "SELECT physical_host, count(*) FROM vm
                           WHERE state <> 'notDeployed' GROUP BY physical_host";
        let counts = all(self.connection, SQL, [], |mut cells| Ok((cells.parsed()?, cells.number()?)))?;
        Ok(counts.into_iter().collect())
    }

    /// The names that live machines occupy.
    ///
    /// # Errors
    /// As for [`vm`](Self::vm).
    pub fn names_taken(&self) -> Result<BTreeSet<VirtualHost>, RegistryError> {
        const SQL: &str = "SELECT virtual_host FROM vm WHERE state <> 'notDeployed'";
        Ok(all(self.connection, SQL, [], |mut cells| cells.parsed())?.into_iter().collect())
    }
}

impl Writer<'_> {
    /// Enters a machine as `deploying`. That slot and name are free is the caller's to have checked, in
    /// the same transaction.
    ///
    /// # Errors
    /// [`RegistryError`] when SQLite refuses, also when the name is occupied after all.
    pub fn enter(&self, new: NewVm, now: Moment) -> Result<Vm, RegistryError> {
        self.enter_as(VmId::generate(), new, now)
    }

    /// As [`enter`](Self::enter), under an id that was given before.
    ///
    /// # Errors
    /// As for [`enter`](Self::enter), and when there is such a machine already.
    pub fn enter_as(&self, id: VmId, new: NewVm, now: Moment) -> Result<Vm, RegistryError> {
        let vm = Vm {
            id,
            owner: new.owner,
            virtual_host: new.virtual_host,
            physical_host: new.physical_host,
            placed: new.placed,
            image: new.image,
            memory: new.memory,
            disk: new.disk,
            label: new.label,
            lease: new.lease,
            state: State::Deploying,
            stage: None,
            percent: None,
            place: None,
            fault: None,
            order: Order::Deploy,
            number: OrderNumber::default().next(clock::millis()),
            sequence: 0,
            created: now,
            changed: now,
            expires: new.lease.end(now),
            deadline: Some(now.plus_seconds(TRANSITION_LIMIT)),
            // The call to the node follows, and this process may be killed right after it.
            on_node: OnNode::Maybe,
            was_deployed: false,
            wanted: Wanted::Running,
            protected: false,
            deletion: None,
            saving: None,
            from: new.from,
            silent: 0,
        };
        self.connection.execute(
            "INSERT INTO vm (id, owner, virtual_host, physical_host, image, memory_mib, disk_gib, label,
                lease, state, last_order, order_number, sequence, created, changed, expires, deadline, on_node,
                was_deployed, wanted, from_owner, from_name, placed)
             VALUES (:id, :owner, :virtual_host, :physical_host, :image, :memory, :disk, :label,
                :lease, :state, :order, :number, 0, :now, :now, :expires, :deadline, :on_node, 0, :wanted,
                :from_owner, :from_name, :placed)",
            named_params! {
                ":id": vm.id.to_string(),
                ":owner": vm.owner.as_str(),
                ":virtual_host": vm.virtual_host.as_str(),
                ":physical_host": vm.physical_host.as_str(),
                ":image": vm.image.as_str(),
                ":memory": vm.memory.get(),
                ":disk": vm.disk.get(),
                ":label": vm.label.as_str(),
                ":lease": vm.lease.to_string(),
                ":state": vm.state.as_str(),
                ":order": vm.order.as_str(),
                ":number": vm.number.get(),
                ":now": now.unix(),
                ":expires": vm.expires.map(Moment::unix),
                ":deadline": vm.deadline.map(Moment::unix),
                ":on_node": vm.on_node.as_str(),
                ":wanted": vm.wanted.as_str(),
                ":from_owner": vm.from.as_ref().map(|image| image.owner.as_str()),
                ":from_name": vm.from.as_ref().map(|image| image.name.as_str()),
                ":placed": vm.placed.as_str(),
            },
        )?;
        Ok(vm)
    }

    /// Makes of a machine what a change says, and adds to its history: the one way in which a machine is changed. A
    /// compare-and-set: `None`, and nothing is changed, if the machine is not what the change was made from.
    ///
    /// # Errors
    /// [`RegistryError`] when SQLite refuses.
    pub fn apply(
        &self,
        old: &Vm,
        change: Change,
        now: Moment,
        actor: &Actor,
    ) -> Result<Option<Vm>, RegistryError> {
        let Change { vm: new, history, .. } = change;
        if new != *old && !self.replace(old, &new)? {
            return Ok(None);
        }
        for (what, detail) in &history {
            self.record(new.id, now, actor, what, detail)?;
        }
        Ok(Some(new))
    }

    fn replace(&self, old: &Vm, new: &Vm) -> Result<bool, RegistryError> {
        let fault = new.fault.as_ref().and_then(|fault| serde_json::to_string(fault).ok());
        let rows = self.connection.execute(
            "UPDATE vm SET physical_host = :host, placed = :placed, lease = :lease, expires = :expires, state = :state,
                stage = :stage, percent = :percent, place = :place, fault = :fault, last_order = :order,
                order_number = :number, sequence = :sequence, changed = :changed, deadline = :deadline,
                on_node = :on_node, was_deployed = :was_deployed, wanted = :wanted, protected = :protected,
                deletion = :deletion, save_as = :save_as, then_terminate = :then_terminate, silent = :silent
             WHERE id = :id AND state = :old_state AND order_number = :old_number AND sequence = :old_sequence",
            named_params! {
                ":id": new.id.to_string(),
                ":old_state": old.state.as_str(),
                ":old_number": old.number.get(),
                ":old_sequence": old.sequence,
                ":host": new.physical_host.as_str(),
                ":placed": new.placed.as_str(),
                ":lease": new.lease.to_string(),
                ":expires": new.expires.map(Moment::unix),
                ":state": new.state.as_str(),
                ":stage": new.stage.map(Stage::as_str),
                ":percent": new.percent.map(Percent::get),
                ":place": new.place,
                ":fault": fault,
                ":order": new.order.as_str(),
                ":number": new.number.get(),
                ":sequence": new.sequence,
                ":changed": new.changed.unix(),
                ":deadline": new.deadline.map(Moment::unix),
                ":on_node": new.on_node.as_str(),
                ":was_deployed": new.was_deployed,
                ":wanted": new.wanted.as_str(),
                ":protected": new.protected,
                ":deletion": new.deletion.map(Moment::unix),
                ":save_as": new.saving.as_ref().map(|saving| saving.name.as_str()),
                ":then_terminate": new.saving.as_ref().is_some_and(|saving| saving.then_terminate),
                ":silent": new.silent,
            },
        )?;
        Ok(rows == 1)
    }

    /// Removes machines that have been gone since before `before`, with all that was noted about them.
    ///
    /// # Errors
    /// [`RegistryError`] when SQLite refuses.
    pub fn prune_gone(&self, before: Moment) -> Result<usize, RegistryError> {
        const GONE: &str = "SELECT id FROM vm WHERE state = 'notDeployed' AND changed < ?1";
        for table in ["event", "notice", "deploy_request"] {
            let sql = format!("DELETE FROM {table} WHERE vm IN ({GONE})");
            self.connection.execute(&sql, [before.unix()])?;
        }
        Ok(self
            .connection
            .execute("DELETE FROM vm WHERE state = 'notDeployed' AND changed < ?1", [before.unix()])?)
    }
}

#[cfg(test)]
pub(in crate::server) mod tests {
    use super::*;
    use crate::server::registry::Registry;
    use crate::server::registry::user::Registered;

    /// A machine of `owner` on `host` under `name`, for tests.
    pub fn entered(registry: &mut Registry, owner: &str, host: &str, name: &str) -> Vm {
        let now = Moment::from_unix(1000);
        let made: Result<Vm, RegistryError> = registry.write(|writer| {
            let Registered::Known(owner) = writer.register(&owner.parse().unwrap(), now)? else {
                panic!("{owner} is somebody else");
            };
            writer.enter(
                NewVm {
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
                },
                now,
            )
        });
        made.unwrap()
    }

    impl Writer<'_> {
        /// Lets an event happen to a machine, for tests.
        pub fn advance(
            &self,
            old: &Vm,
            event: Event,
            now: Moment,
            edit: impl FnOnce(&mut Vm),
        ) -> Result<Option<Vm>, RegistryError> {
            let mut new = old.clone();
            edit(&mut new);
            let Some(new) = new.after(event, now) else { return Ok(None) };
            let actor = Actor { who: "test".to_owned(), from: "-".to_owned() };
            self.apply(old, Change::silent(new), now, &actor)
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
            registry.write(|writer| writer.advance(vm, event, Moment::from_unix(2000), |_| {}));
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
            writer.enter(
                NewVm {
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
                },
                first.created,
            )
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
