//! Recording machines, and the only way to change one.

use rusqlite::named_params;

use crate::model::lease::Moment;
use crate::model::names::VmId;
use crate::model::stage::{Order, OrderNumber, Percent, Stage};
use crate::model::state::State;
use crate::server::registry::vm::{Change, NewVm, OnNode, TRANSITION_LIMIT, Vm, Wanted};
use crate::server::registry::{At, RegistryError, Writer};

impl Writer<'_> {
    /// Records a machine as `deploying`. The caller has checked in the same transaction that slot
    /// and name are free.
    ///
    /// # Errors
    /// Also fails if the name is occupied after all.
    pub fn enter(&self, new: NewVm) -> Result<Vm, RegistryError> {
        self.enter_as(VmId::generate(), new)
    }

    /// Like [`enter`](Self::enter), with a given id.
    ///
    /// # Errors
    /// Also fails if there is a machine with this id already.
    pub fn enter_as(&self, id: VmId, new: NewVm) -> Result<Vm, RegistryError> {
        let At { moment: now, millis } = self.at();
        let vm = Vm {
            id,
            owner: new.owner,
            virtual_host: new.virtual_host,
            physical_host: new.physical_host,
            placed: new.placed,
            spec: new.spec,
            label: new.label,
            lease: new.lease,
            state: State::Deploying,
            stage: None,
            percent: None,
            place: None,
            fault: None,
            order: Order::Deploy,
            number: OrderNumber::default().next(millis),
            sequence: 0,
            created: now,
            changed: now,
            expires: new.lease.end(now),
            deadline: Some(now.plus_seconds(TRANSITION_LIMIT)),
            // The call to the node comes next, and this process may be killed right after it.
            on_node: OnNode::Maybe,
            was_deployed: false,
            wanted: Wanted::Running,
            protected: false,
            deletion: None,
            saving: None,
            resizing: None,
            silent: 0,
        };
        self.connection.execute(
            "INSERT INTO vm (id, owner, virtual_host, physical_host, image, memory_mib, disk_gib, label,
                lease, state, last_order, order_number, sequence, created, changed, expires, deadline, on_node,
                was_deployed, wanted, from_owner, from_name, placed, cpus, from_vm, from_snapshot)
             VALUES (:id, :owner, :virtual_host, :physical_host, :image, :memory, :disk, :label,
                :lease, :state, :order, :number, 0, :now, :now, :expires, :deadline, :on_node, 0, :wanted,
                :from_owner, :from_name, :placed, :cpus, :from_vm, :from_snapshot)",
            named_params! {
                ":id": vm.id.to_string(),
                ":owner": vm.owner.as_str(),
                ":virtual_host": vm.virtual_host.as_str(),
                ":physical_host": vm.physical_host.as_str(),
                ":image": vm.spec.image.as_str(),
                ":memory": vm.spec.memory.get(),
                ":disk": vm.spec.disk.get(),
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
                ":from_owner": vm.spec.saved.as_ref().map(|image| image.owner.as_str()),
                ":from_name": vm.spec.saved.as_ref().map(|image| image.name.as_str()),
                ":placed": vm.placed.as_str(),
                ":cpus": vm.spec.cpus.get(),
                ":from_vm": vm.spec.snapshot.as_ref().map(|snapshot| snapshot.machine.to_string()),
                ":from_snapshot": vm.spec.snapshot.as_ref().map(|snapshot| snapshot.name.as_str()),
            },
        )?;
        Ok(vm)
    }

    /// Applies a change to a machine and adds to its history. This is the only way to change a
    /// machine. It works by compare-and-set: returns `None` and changes nothing if the machine is
    /// no longer the one from which the change was computed.
    pub fn apply(&self, old: &Vm, change: Change) -> Result<Option<Vm>, RegistryError> {
        let Change { vm: new, history, .. } = change;
        if new != *old && !self.replace(old, &new)? {
            return Ok(None);
        }
        for (what, detail) in &history {
            self.record(new.id, what, detail)?;
        }
        Ok(Some(new))
    }

    pub(super) fn replace(&self, old: &Vm, new: &Vm) -> Result<bool, RegistryError> {
        let fault = new.fault.as_ref().and_then(|fault| serde_json::to_string(fault).ok());
        let rows = self.connection.execute(
            "UPDATE vm SET physical_host = :host, placed = :placed, lease = :lease, expires = :expires, state = :state,
                stage = :stage, percent = :percent, place = :place, fault = :fault, last_order = :order,
                order_number = :number, sequence = :sequence, changed = :changed, deadline = :deadline,
                on_node = :on_node, was_deployed = :was_deployed, wanted = :wanted, protected = :protected,
                deletion = :deletion, save_as = :save_as, then_terminate = :then_terminate, silent = :silent,
                memory_mib = :memory, cpus = :cpus, disk_gib = :disk,
                new_memory_mib = :new_memory, new_cpus = :new_cpus, new_disk_gib = :new_disk
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
                ":memory": new.spec.memory.get(),
                ":cpus": new.spec.cpus.get(),
                ":disk": new.spec.disk.get(),
                ":new_memory": new.resizing.map(|sizes| sizes.memory.get()),
                ":new_cpus": new.resizing.map(|sizes| sizes.cpus.get()),
                ":new_disk": new.resizing.map(|sizes| sizes.disk.get()),
            },
        )?;
        Ok(rows == 1)
    }

    /// Removes machines that ended before `before`, with everything recorded about them.
    pub fn prune_gone(&self, before: Moment) -> Result<usize, RegistryError> {
        const GONE: &str = "SELECT id FROM vm WHERE state = 'notDeployed' AND changed < ?1";
        for table in ["event", "notice", "deploy_request", "snapshot"] {
            let sql = format!("DELETE FROM {table} WHERE vm IN ({GONE})");
            self.connection.execute(&sql, [before.unix()])?;
        }
        Ok(self
            .connection
            .execute("DELETE FROM vm WHERE state = 'notDeployed' AND changed < ?1", [before.unix()])?)
    }
}
