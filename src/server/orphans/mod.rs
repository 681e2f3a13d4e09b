//! Orphans: what hosts have and the registry does not, and its removal on an administrator's order,
//! one at a time. Only [`super::pages::admin`] calls that; upkeep only looks.
//!
//! What upkeep found may have changed since. So the host is asked again, and its answer, together
//! with the current registry, decides whether the thing still is an orphan and how to remove it:
//! anything with a machine's id as that machine (`node/terminate`), an image as an image
//! (`node/image`), and everything else as a stranger (`node/discard`), which root on the host must
//! have allowed.

pub mod adopt;
pub mod find;

use std::collections::BTreeSet;

use crate::cgi::reply::Refusal;
use crate::cgi::request::Fields;
use crate::model::fault::Fault;
use crate::model::names::{ForeignDomain, ForeignVolume, MachineName, PhysicalHost, SavedImage, VmId};
use crate::model::stage::{Order, OrderNumber};
use crate::model::text::one_line;
use crate::model::wire::{Domain, Foreign, ImageAct, ImageOrder, Job, MachineOrder, NodeInfo};
use crate::server::audit;
use crate::server::nodes::{CallFailure, Nodes};
use crate::server::registry::orphan::OrphanKind;
use crate::server::registry::vm::{OnNode, Scope, Vm};
use crate::server::registry::{Reader, Registry, RegistryError};
use crate::system::clock;
use crate::system::log::Level;

/// The events of a removal in the history: about to be tried, done, failed.
const ORDERED: &str = "stray removal ordered";
const REMOVED: &str = "stray removed";
const FAILED: &str = "stray removal failed";

/// An orphan named in a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    kind: OrphanKind,
    /// Its host.
    pub host: PhysicalHost,
    /// Its name on the host.
    pub name: String,
}

/// The state of a removal when the request is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// The orphan is gone.
    Done,
    /// The host has accepted the order.
    UnderWay,
}

/// How an orphan is removed.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Way {
    /// Together with everything its host has of that machine.
    Machine(MachineOrder),
    /// As an image.
    Image(ImageOrder),
    /// As something that vGrid did not create.
    Foreign(Foreign),
}

/// Returns what removing an orphan does, in sentences; `None` if the portal can't remove it.
pub fn effect(kind: OrphanKind, name: &str) -> Option<&'static str> {
    match kind {
        OrphanKind::Domain => name
            .parse::<ForeignDomain>()
            .is_ok()
            .then_some("The machine is ended at once, as if its power was cut. Its disks stay."),
        OrphanKind::Volume => name.parse::<ForeignVolume>().is_ok().then_some(
            "The host looks once more. If the volume carries the tag of a machine, all that the host has of that \
             machine goes: domain, configuration, both volumes, record. Else this volume goes, with all that is on it.",
        ),
        OrphanKind::Record => name.parse::<VmId>().is_ok().then_some(
            "All that the host has of that machine goes: domain, configuration, both volumes with all that is on \
             them, record.",
        ),
        OrphanKind::Image => SavedImage::from_stem(name)
            .is_some()
            .then_some("The file is deleted. No machine can be made from it any more."),
    }
}

/// Returns the name of an orphan in sentences.
fn label(kind: OrphanKind, name: &str) -> String {
    format!("{} {}", kind.as_str(), one_line(name))
}

impl Target {
    /// Reads the fields `kind`, `host` and `name`.
    ///
    /// # Errors
    /// 400 if a field is missing or malformed.
    pub fn read(fields: &Fields) -> Result<Self, Refusal> {
        let kind = fields.get("kind").and_then(|kind| kind.trim().parse().ok()).ok_or_else(|| {
            Refusal::bad_request("What is unknown on hosts is of the kind domain, volume, record or image.")
        })?;
        let name = fields.get("name").unwrap_or_default();
        if name.is_empty() {
            return Err(Refusal::bad_request("The field name is missing: what is meant is called so."));
        }
        Ok(Self { kind, host: fields.required("host")?, name: name.to_owned() })
    }

    fn label(&self) -> String {
        label(self.kind, &self.name)
    }

    /// Returns the machine that a record is about.
    pub fn machine(&self) -> Option<VmId> {
        self.name.parse().ok().filter(|_| self.kind == OrphanKind::Record)
    }

    /// Checks that upkeep has listed this as an orphan.
    ///
    /// # Errors
    /// 404 if it has not, and the refusal for a [`RegistryError`].
    pub fn must_be_listed(&self, reader: Reader<'_>) -> Result<(), Refusal> {
        let Self { kind, host, name } = self;
        let listed = reader.strays_on(host)?;
        if listed.iter().any(|found| found.stray.kind == *kind && found.stray.name == *name) {
            return Ok(());
        }
        Err(Refusal::not_found(format!(
            "There is no {} among what is unknown on {host} (any more). Look at the page again.",
            self.label()
        )))
    }

    /// Returns the refusal for an orphan that can't be removed, with the reason.
    fn left_alone(&self, why: &str) -> Refusal {
        Refusal::conflict(format!("The {} on {} was not removed: {why}", self.label(), self.host))
    }

    /// Returns the refusal for an order that the host did not carry out.
    fn not_done(&self, trouble: &CallFailure) -> Refusal {
        // If it was carried out after all, upkeep will notice.
        let known = if trouble.taken == OnNode::Maybe { ", as far as is known" } else { "" };
        let fault = match &trouble.fault {
            Fault::StrangersProtected | Fault::StrangerKept { .. } => {
                format!("{} The command: {}", trouble.fault, removal(self.kind, &self.name))
            }
            fault => fault.to_string(),
        };
        Refusal::new(
            trouble.fault.status(),
            format!("The {} on {} was not removed{known}. {fault}", self.label(), self.host),
        )
    }
}

/// Removes an orphan from a host.
///
/// # Errors
/// 404 if it is not listed as an orphan, 409 if it no longer is one or can't be removed, with the
/// reason (possibly the host's own); 502 if the host is unavailable; 503.
pub fn remove(registry: &mut Registry, nodes: &Nodes<'_>, target: &Target) -> Result<Removal, Refusal> {
    let (host, label) = (&target.host, target.label());
    registry.read(|reader| target.must_be_listed(reader))?;
    let info = nodes.info(host).map_err(|trouble| target.not_done(&trouble))?;
    let way = registry.write(|writer| {
        writer.keep_facts(host, &info.host)?;
        // Read after the host has answered: by now everything it was ordered to create is on
        // record.
        let way = judge(writer.reader(), target, &info)?;
        writer.order_removal(host, target.kind, &target.name)?;
        writer.record_about(host.as_str(), ORDERED, &label)?;
        Ok::<_, Refusal>(way)
    })?;
    audit::act(Level::Info, "stray.removal-ordered", host.as_str(), registry.actor(), &label);
    let done = match &way {
        Way::Machine(order) => nodes
            .order(Order::Terminate, host, order)
            .map(|accepted| (Removal::UnderWay, Some(accepted.host))),
        Way::Image(order) => nodes.image(host, order).map(|done| (Removal::Done, Some(done.host))),
        Way::Foreign(stranger) => nodes.discard(host, stranger).map(|_| (Removal::Done, None)),
    };
    match done {
        Ok((removal, facts)) => {
            registry.write(|writer| {
                if let Some(facts) = &facts {
                    writer.keep_facts(host, facts)?;
                }
                if removal == Removal::Done {
                    writer.forget_stray(host, target.kind, &target.name)?;
                    writer.record_about(host.as_str(), REMOVED, &label)?;
                }
                Ok::<_, RegistryError>(())
            })?;
            if removal == Removal::Done {
                audit::act(Level::Info, "stray.removed", host.as_str(), registry.actor(), &label);
            }
            Ok(removal)
        }
        Err(trouble) => {
            let detail = format!("{label}: {}", trouble.fault);
            registry.write(|writer| {
                writer.removal_failed(host, target.kind, &target.name)?;
                writer.record_about(host.as_str(), FAILED, &detail)
            })?;
            audit::act(Level::Warning, "stray.removal-failed", host.as_str(), registry.actor(), &detail);
            Err(target.not_done(&trouble))
        }
    }
}

/// Decides how an orphan is removed, if it still is one according to its host and the registry.
fn judge(reader: Reader<'_>, target: &Target, info: &NodeInfo) -> Result<Way, Refusal> {
    let host = &target.host;
    if target.kind.part().is_some_and(|part| !info.knows(part)) {
        return Err(target.left_alone("its host can't tell what is there. Try again when it can."));
    }
    let live = reader.live(Scope::All, u32::MAX, 0)?;
    let here: Vec<&Vm> = live.iter().filter(|vm| vm.physical_host == *host).collect();
    let images = reader.images()?;
    let stems: BTreeSet<String> =
        images.iter().filter(|image| image.host == *host).map(|image| image.id().stem()).collect();
    let strays = find::unexpected(&here, &stems, info).strays;
    if !strays.iter().any(|stray| stray.kind == target.kind && stray.name == target.name) {
        return Err(target.left_alone(
            "it is gone, or belongs to the portal by now. Look at the page again after the next upkeep.",
        ));
    }
    let way = way(target, info).map_err(|why| target.left_alone(&why))?;
    match &way {
        Way::Machine(order) => {
            // The machine is on another host, which reports about it; reports from this one would
            // be rejected again and again.
            if let Some(vm) = reader.vm(order.id)?
                && vm.physical_host != *host
            {
                return Err(target.left_alone(&format!(
                    "the portal knows the machine {}, on {}. Look what it does here, and type the command.",
                    vm.id, vm.physical_host
                )));
            }
        }
        Way::Image(order) => {
            if let Some(machine) = reader.being_saved_as(&order.image, None)? {
                return Err(target.left_alone(&format!(
                    "the disk of {machine} is being saved under that name. Wait until that is over."
                )));
            }
        }
        Way::Foreign(Foreign::Volume { name }) => {
            let owner = name.machine();
            if let Some(vm) = here.iter().find(|vm| owner.is_some() && vm.machine_name().ok() == owner) {
                return Err(target.left_alone(&format!(
                    "it lacks a machine's tag, but its name is of {}, which is the portal's.",
                    vm.virtual_host
                )));
            }
        }
        Way::Foreign(Foreign::Domain { .. }) => {}
    }
    Ok(way)
}

/// Decides how an orphan is removed according to its host's answer, or why it can't be.
fn way(target: &Target, info: &NodeInfo) -> Result<Way, String> {
    let name = target.name.as_str();
    match target.kind {
        OrphanKind::Record => match info.jobs.iter().find(|job| job.id.to_string() == name) {
            Some(Job { id, machine, number, .. }) => terminate(*id, machine, *number),
            None => Err("it is gone.".to_owned()),
        },
        OrphanKind::Volume => {
            let volume: ForeignVolume = name
                .parse()
                .map_err(|fault| format!("its name {fault}. Type the command on its host, as root."))?;
            let Some(id) = info.volumes.iter().find(|one| one.name == name).and_then(|one| one.machine)
            else {
                return Ok(Way::Foreign(Foreign::Volume { name: volume }));
            };
            let job = info.jobs.iter().find(|job| job.id == id);
            let (recorded, last) =
                (job.map(|job| &job.machine), job.map(|job| job.number).unwrap_or_default());
            match volume.machine() {
                Some(machine) if recorded.is_none_or(|recorded| *recorded == machine) => {
                    terminate(id, &machine, last)
                }
                _ => Err(format!(
                    "it carries the tag of the machine {id} under a name that is not that machine's. Type the \
                     command on its host, as root."
                )),
            }
        }
        OrphanKind::Domain => {
            if let Some(job) = info.jobs.iter().find(|job| job.machine.as_str() == name) {
                return Err(format!(
                    "it is the machine of the record {}. Remove that, and all of the machine goes.",
                    job.id
                ));
            }
            let parsed: ForeignDomain = name
                .parse()
                .map_err(|fault| format!("its name {fault}. Type the command on its host, as root."))?;
            let named: Vec<&Domain> = info.domains.iter().filter(|domain| domain.name == name).collect();
            match named[..] {
                [domain] => Ok(Way::Foreign(Foreign::Domain { name: parsed, number: domain.id })),
                _ => {
                    Err("there is more than one of that name. Type the command on its host, as root."
                        .to_owned())
                }
            }
        }
        OrphanKind::Image => match SavedImage::from_stem(name) {
            Some(image) => Ok(Way::Image(ImageOrder { image, act: ImageAct::Delete })),
            None => Err("no user's image is called so. Type the command on its host, as root.".to_owned()),
        },
    }
}

fn terminate(id: VmId, machine: &MachineName, last: OrderNumber) -> Result<Way, String> {
    let (user, virtual_host) = machine.parts().ok_or_else(|| {
        format!("{machine} is not how vGrid calls a machine. Type the command on its host, as root.")
    })?;
    Ok(Way::Machine(MachineOrder { id, number: last.next(clock::millis()), user, virtual_host }))
}

/// Returns the command that removes an orphan when typed as root on its host. Only an administrator
/// who has looked at it ever runs it.
pub fn removal(kind: OrphanKind, name: &str) -> String {
    match kind {
        // Nor does it know the toolstack, because a host may have two.
        OrphanKind::Domain => {
            let name = shell_word(name);
            format!("xl destroy {name}   # with libvirt: virsh destroy {name}")
        }
        OrphanKind::Volume if file_owner(name).is_some() => {
            format!("rm /var/lib/vgrid-machines/{}   # in machineDirectory of node.cfg", shell_word(name))
        }
        OrphanKind::Volume if name.contains('/') => format!("lvremove {}", shell_word(name)),
        // The server does not know the host's volume group; LVM finds the volume by its name
        // (lvmreport(7)) and asks for confirmation.
        OrphanKind::Volume => format!("lvremove --select {}", shell_word(&format!("lv_name={name}"))),
        OrphanKind::Record => {
            format!("grep -l {} /var/lib/vgrid/node/jobs/*.json   # then rm what it names", shell_word(name))
        }
        OrphanKind::Image => {
            let folder = "$(sed -n 's/^imageDirectory *= *\"\\(.*\\)\".*/\\1/p' /etc/vgrid/node.cfg)";
            let pattern = shell_word(&format!("{name}*"));
            format!("find \"{folder}\" -type f -name {pattern}   # then rm what it names")
        }
    }
}

/// Returns the machine of a disk that is a file, by its name below the host's `machineDirectory`.
fn file_owner(name: &str) -> Option<VmId> {
    name.split_once('/')?.0.parse().ok()
}

/// Quotes a text, whatever a host made of it, so that a shell reads it as a literal word.
fn shell_word(text: &str) -> String {
    let text = one_line(text);
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '+' | ':' | '=' | '-');
    if !text.is_empty() && !text.starts_with('-') && text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::find::tests::info;
    use super::*;
    use crate::model::lease::Moment;
    use crate::model::names::DomainNumber;
    use crate::model::size::Amount;
    use crate::model::wire::{Part, SavedFile, Volume};
    use crate::server::registry::Registry;
    use crate::server::registry::vm::tests::entered;

    #[test]
    fn a_command_to_copy_says_what_it_seems_to_say() {
        let file = format!("{}/root.raw", VmId::generate());
        let removed = format!("rm /var/lib/vgrid-machines/{file}   # in machineDirectory of node.cfg");
        for (name, word) in
            [("alice_vm1", "alice_vm1"), ("a b;reboot", "'a b;reboot'"), ("it's\nx", "'it'\\''s x'")]
        {
            let command = format!("xl destroy {word}   # with libvirt: virsh destroy {word}");
            assert_eq!(removal(OrphanKind::Domain, name), command);
        }
        for (kind, name, command) in [
            (OrphanKind::Volume, file.as_str(), removed.as_str()),
            (OrphanKind::Volume, "vg1/xen-root-x", "lvremove vg1/xen-root-x"),
            (OrphanKind::Volume, "xen-root-x", "lvremove --select lv_name=xen-root-x"),
            (OrphanKind::Volume, "$(reboot)", "lvremove --select 'lv_name=$(reboot)'"),
        ] {
            assert_eq!(removal(kind, name), command);
        }
        for kind in [OrphanKind::Record, OrphanKind::Image] {
            assert!(removal(kind, "x';reboot").contains(r"'x'\'';reboot"), "{}", removal(kind, "x';reboot"));
        }
    }

    fn target(kind: OrphanKind, name: &str) -> Target {
        Target { kind, host: "node1".parse().unwrap(), name: name.to_owned() }
    }

    fn domain(name: &str, id: u32) -> Domain {
        Domain {
            name: name.to_owned(),
            id: DomainNumber::new(id),
            memory: Amount::default(),
            state: "running".to_owned(),
        }
    }

    fn volume(name: &str, machine: Option<VmId>) -> Volume {
        Volume { name: name.to_owned(), size: Amount::default(), machine, open: false, snapshot: None }
    }

    fn job(id: VmId, machine: &str) -> Job {
        let machine = machine.parse().unwrap();
        Job {
            id,
            machine,
            work: None,
            stage: None,
            stopped: false,
            since: Moment::from_unix(0),
            number: OrderNumber::default(),
            order: None,
        }
    }

    fn of_machine(id: VmId, user: &str) -> Way {
        let (user, virtual_host) = (user.parse().unwrap(), "vm9".parse().unwrap());
        Way::Machine(MachineOrder { id, number: OrderNumber::default(), user, virtual_host })
    }

    #[test]
    fn each_thing_is_removed_as_what_it_is() {
        let (id, other) = (VmId::generate(), VmId::generate());
        let mut told = info();
        told.jobs.push(job(id, "J+C3+BC_vm9"));
        told.domains.extend([domain("somebody", 4), domain("J+C3+BC_vm9", 5), domain("a b", 6)]);
        told.volumes.extend([
            volume("xen-root-old", None),
            volume("xen-root-J+C3+BC_vm9", Some(id)),
            volume("xen-root-carol_vm9", Some(other)),
            volume("xen-swap-carol_vm9", Some(id)),
            volume("moved", Some(other)),
            volume("xen-root-old.bak", Some(other)),
        ]);
        told.saved.push(SavedFile { stem: "alice_web".to_owned(), bytes: 1 });
        let find = |kind, name: &str| {
            way(&target(kind, name), &told).map(|way| match way {
                // Order numbers come from the time, so this one is higher than all before.
                Way::Machine(order) if order.number > OrderNumber::default() => {
                    Way::Machine(MachineOrder { number: OrderNumber::default(), ..order })
                }
                other => other,
            })
        };
        assert_eq!(find(OrphanKind::Record, &id.to_string()), Ok(of_machine(id, "Jü")));
        assert_eq!(find(OrphanKind::Volume, "xen-root-J+C3+BC_vm9"), Ok(of_machine(id, "Jü")));
        assert_eq!(find(OrphanKind::Volume, "xen-root-carol_vm9"), Ok(of_machine(other, "carol")));
        let old = Foreign::Volume { name: "xen-root-old".parse().unwrap() };
        assert_eq!(find(OrphanKind::Volume, "xen-root-old"), Ok(Way::Foreign(old)));
        let somebody = Foreign::Domain { name: "somebody".parse().unwrap(), number: DomainNumber::new(4) };
        assert_eq!(find(OrphanKind::Domain, "somebody"), Ok(Way::Foreign(somebody)));
        let image = SavedImage::from_stem("alice_web").unwrap();
        assert_eq!(
            find(OrphanKind::Image, "alice_web"),
            Ok(Way::Image(ImageOrder { image, act: ImageAct::Delete }))
        );
        for (kind, name, why) in [
            (OrphanKind::Record, other.to_string().as_str(), "gone"),
            (OrphanKind::Volume, "xen-swap-carol_vm9", "not that machine's"),
            (OrphanKind::Volume, "xen-root-old.bak", "not that machine's"),
            (OrphanKind::Volume, "moved", "does not begin with xen-root-"),
            (OrphanKind::Domain, "J+C3+BC_vm9", "Remove that"),
            (OrphanKind::Domain, "a b", "must not contain a blank"),
            (OrphanKind::Domain, "none", "more than one"),
            (OrphanKind::Image, "web", "no user's image"),
        ] {
            let said = find(kind, name).unwrap_err();
            assert!(said.contains(why), "{name}: {said}");
        }
    }

    #[test]
    fn what_a_host_can_not_find_out_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::create(&dir.path().join("registry.sqlite")).unwrap();
        let mut told = NodeInfo { unknown: vec![Part::Volumes], ..info() };
        told.domains.push(domain("somebody", 4));
        let judged = |kind, name: &str| registry.read(|reader| judge(reader, &target(kind, name), &told));
        let refusal = judged(OrphanKind::Volume, "xen-root-old").unwrap_err();
        assert!(refusal.sentence.contains("can't tell what is there"), "{}", refusal.sentence);
        assert!(judged(OrphanKind::Domain, "somebody").is_ok());
    }

    #[test]
    fn what_has_become_the_portal_s_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let mut registry = Registry::create(&dir.path().join("registry.sqlite")).unwrap();
        let here = entered(&mut registry, "alice", "node1", "vm1");
        let there = entered(&mut registry, "bob", "node2", "vm2");
        let mut told = info();
        told.jobs.extend([job(here.id, "alice_vm1"), job(there.id, "bob_vm2")]);
        told.domains.extend([domain("alice_vm1", 3), domain("somebody", 4)]);
        told.volumes.extend([
            volume("xen-root-alice_vm1", None),
            volume("xen-swap-bob_vm2", Some(there.id)),
            volume("xen-root-old", None),
        ]);
        let judged = |kind, name: &str| {
            registry.read(|reader| judge(reader, &target(kind, name), &told)).map_err(|refusal| {
                assert_eq!(refusal.status, 409);
                refusal.sentence
            })
        };
        for (kind, name, why) in [
            (OrphanKind::Domain, "alice_vm1", "belongs to the portal by now"),
            (OrphanKind::Domain, "gone", "it is gone"),
            (OrphanKind::Record, here.id.to_string().as_str(), "belongs to the portal by now"),
            (OrphanKind::Record, there.id.to_string().as_str(), "on node2"),
            (OrphanKind::Volume, "xen-swap-bob_vm2", "on node2"),
            (OrphanKind::Volume, "xen-root-alice_vm1", "its name is of vm1"),
        ] {
            let said = judged(kind, name).unwrap_err();
            assert!(said.contains(why), "{name}: {said}");
        }
        assert!(
            judged(OrphanKind::Domain, "somebody").is_ok()
                && judged(OrphanKind::Volume, "xen-root-old").is_ok()
        );
    }

    #[test]
    fn what_can_t_be_named_can_t_be_removed() {
        let id = VmId::generate().to_string();
        for (kind, name, possible) in [
            (OrphanKind::Domain, "somebody", true),
            (OrphanKind::Domain, "(null)", false),
            (OrphanKind::Domain, "o'dd <one>", false),
            (OrphanKind::Volume, "xen-root-old", true),
            (OrphanKind::Volume, "moved", false),
            (OrphanKind::Record, id.as_str(), true),
            (OrphanKind::Record, "x", false),
            (OrphanKind::Image, "alice_web", true),
            (OrphanKind::Image, "web", false),
        ] {
            assert_eq!(effect(kind, name).is_some(), possible, "{name}");
        }
    }
}
