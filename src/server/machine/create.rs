//! Creating machines: picks a host and a name and checks the owner's quota, all under one write
//! lock.

use std::collections::BTreeMap;

use super::declined::{Declined, Part, When};
use super::image::{self, Named};
use super::placement::{Known, Load, Need, Obstacle, check_cpus, check_possible, choose, first_free};
use super::pool::{known, loads};
use super::quota;
use super::snapshots::NamedSnapshot;
use crate::config::{Common, Quota};
use crate::model::digest::digest;
use crate::model::folding::Folding;
use crate::model::lease::{Lease, Moment, Term};
use crate::model::names::{
    ImageTag, Label, MachineName, NameFault, OrderName, PhysicalHost, SavedImage, UserName, VirtualHost, VmId,
};
use crate::model::size::{Cpus, GiB, MiB};
use crate::model::spec::{SnapshotOf, Spec};
use crate::model::text::with_period;
use crate::server::registry::closed::{self, Kind};
use crate::server::registry::image::Image;
use crate::server::registry::request::Given;
use crate::server::registry::user::{Owner, Registered};
use crate::server::registry::vm::{NewVm, Placed, Vm};
use crate::server::registry::{Reader, Registry, RegistryError, Writer};

/// Why [`create`] created no machine.
#[derive(Debug)]
pub enum NotCreated {
    /// The registry failed.
    Registry(RegistryError),
    /// The request can't be granted.
    Declined(Declined),
    /// The user name is too close to that of another person, known by this name.
    SomebodyElse(String),
    /// The same mark was used before, for a different request.
    Used(Box<Vm>),
    /// The registry was restored from a backup, and upkeep has not compared the hosts with it yet.
    Restored,
}

impl From<(Part, String)> for NotCreated {
    /// Declines a request for something that may become possible.
    fn from((part, sentence): (Part, String)) -> Self {
        Self::Declined(Declined::one(When::Now, part, sentence))
    }
}

impl From<RegistryError> for NotCreated {
    fn from(error: RegistryError) -> Self {
        Self::Registry(error)
    }
}

/// The idempotency key of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mark {
    /// The request came from a form, which carries the id of the machine to create.
    Form(VmId),
    /// The name that a script gave its order.
    Script(OrderName),
}

impl Mark {
    /// Returns the id for the new machine.
    pub fn machine(&self) -> VmId {
        match self {
            Self::Form(id) => *id,
            Self::Script(_) => VmId::generate(),
        }
    }

    /// Returns the key as the registry stores it. A form and a script never produce the same text.
    pub fn text(&self) -> String {
        match self {
            Self::Form(id) => format!("form {id}"),
            Self::Script(name) => format!("script {name}"),
        }
    }
}

/// A request for a machine, each field valid on its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineRequest {
    /// The source of its disk.
    pub source: Source,
    /// Its memory.
    pub memory: MiB,
    /// Its processors.
    pub cpus: Cpus,
    /// Its root partition.
    pub disk: GiB,
    /// The requested host; `None` lets vGrid choose.
    pub host: Option<PhysicalHost>,
    /// The requested name; `None` lets vGrid choose.
    pub name: Option<VirtualHost>,
    /// What its owner calls it.
    pub label: Label,
    /// How long the machine is wanted.
    pub lease: Lease,
}

/// The source of a machine's disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// An image from the configuration.
    Tag(ImageTag),
    /// A saved image. If a configured image is given too, the saved image must derive from it.
    Saved(Named, Option<ImageTag>),
    /// A snapshot of the disk of another machine.
    Snapshot(NamedSnapshot),
}

impl MachineRequest {
    /// Returns a digest that tells this request from any other.
    fn digest(&self) -> String {
        let Self { source, memory, cpus, disk, host, name, label, lease } = self;
        // Registries contain digests of this text. They are from when a request was called a wish,
        // and every machine had one processor.
        let mut text = format!(
            "Wish {{ source: {source:?}, memory: {memory:?}, disk: {disk:?}, host: {host:?}, name: {name:?}, label: \
             {label:?}, lease: {lease:?} }}"
        );
        if !cpus.is_default() {
            text.push_str(&format!(" with {cpus}"));
        }
        digest(text.as_bytes())
    }
}

/// The user who requests a machine, and the rules that apply to them.
#[derive(Debug, Clone, Copy)]
pub struct Requester<'a> {
    /// The user.
    pub user: &'a UserName,
    /// How user names are compared.
    pub folding: Folding,
    /// The user's quota.
    pub quota: Quota,
    /// The request's idempotency key, if it has one.
    pub mark: Option<&'a Mark>,
}

/// The outcome of a request for a machine.
#[derive(Debug)]
pub enum Created {
    /// A new machine was recorded.
    New(Vm),
    /// The machine that an earlier copy of the same request created.
    Before(Vm),
}

/// Picks a host and a name and records the machine, all under one write lock: when several requests
/// compete for the last slot, the same name or the last of a user's quota, exactly one succeeds.
///
/// This is the only way to create a machine, so quotas are checked here and nowhere else. Starting
/// a stopped machine needs no check: it counted all along.
pub fn create(
    registry: &mut Registry,
    common: &Common,
    asking: Requester<'_>,
    wish: MachineRequest,
) -> Result<Created, NotCreated> {
    let Requester { user, folding, quota, mark } = asking;
    let digest = wish.digest();
    registry.write(|writer| {
        let (reader, now) = (writer.reader(), writer.now());
        let owner = match writer.register_with(user, folding)? {
            Registered::Known(owner) => owner,
            Registered::Taken(known) => return Err(NotCreated::SomebodyElse(known)),
        };
        // First of all: a request that was accepted before must not be declined when it is
        // repeated.
        if let Some(mark) = mark
            && let Some(Given { vm, wish }) = writer.given(&owner, &mark.text())?
        {
            return if wish == digest {
                Ok(Created::Before(vm))
            } else {
                Err(NotCreated::Used(Box::new(vm)))
            };
        }
        if writer.awaits_comparison()? {
            return Err(NotCreated::Restored);
        }
        let faults = quota::exceeded(quota, writer.usage(&owner)?, wish.memory, wish.cpus, wish.disk);
        if !faults.is_empty() {
            return Err(NotCreated::Declined(Declined { when: When::Now, faults }));
        }
        let (loads, known) = (loads(reader, common)?, known(reader, now)?);
        let (image, saved, snapshot, physical_host, placed) = match &wish.source {
            Source::Tag(tag) => {
                let need = Need {
                    memory: wish.memory.amount(),
                    cpus: wish.cpus,
                    disk: wish.disk.amount(),
                    image: tag,
                };
                let host = place(&loads, wish.host.as_ref(), &known, need, now)?;
                let placed = if wish.host.is_none() { Placed::ByPortal } else { Placed::AsAsked };
                (tag.clone(), None, None, host, placed)
            }
            Source::Saved(named, base) => {
                let named = named.clone().resolved(reader, folding)?;
                let image = saved(writer, common, &owner, &named, base.as_ref(), &wish)?;
                // Its host needs no file of the configured image, so it may not list that.
                let host = place_of(&image, &loads)?;
                check_cpus(&host, &known, wish.cpus)?;
                (image.base.clone(), Some(image.id()), None, host, Placed::AsAsked)
            }
            Source::Snapshot(origin) => {
                let (vm, snapshot) = snapshot(reader, common, &owner, origin, &wish)?;
                let what = format!("The snapshot {}", snapshot.name);
                let host = place_at(&what, &vm.physical_host, &loads)?;
                check_cpus(&host, &known, wish.cpus)?;
                (vm.spec.image, None, Some(snapshot), host, Placed::AsAsked)
            }
        };
        let virtual_host = name(writer, common, &owner, wish.name)?;
        let new = NewVm {
            owner,
            virtual_host,
            physical_host,
            placed,
            spec: Spec { image, memory: wish.memory, cpus: wish.cpus, disk: wish.disk, saved, snapshot },
            label: wish.label,
            lease: Term::For(wish.lease),
        };
        let vm = writer.enter_as(mark.map_or_else(VmId::generate, Mark::machine), new)?;
        if let Some(mark) = mark {
            writer.remember(&vm.owner, &mark.text(), &digest, vm.id)?;
        }
        let mut detail = format!("{} on {}", vm.virtual_host, vm.physical_host);
        if let Some(SavedImage { owner, name }) = &vm.spec.saved {
            detail = format!("{detail}, from the saved image {owner}/{name}");
        }
        if let Some(snapshot) = &vm.spec.snapshot {
            detail = format!("{detail}, from the snapshot {snapshot}");
        }
        writer.record(vm.id, "deploy ordered", &detail)?;
        Ok(Created::New(vm))
    })
}

/// Returns the requested saved image if the user may use it and the rest of the request is
/// compatible with it.
fn saved(
    writer: &Writer<'_>,
    common: &Common,
    owner: &Owner,
    named: &Named,
    base: Option<&ImageTag>,
    wish: &MachineRequest,
) -> Result<Image, NotCreated> {
    let declined = |when, sentence: String| NotCreated::Declined(Declined::one(when, Part::Image, sentence));
    let Some(image) = image::usable(writer.reader(), &named.clone().by(owner), owner)? else {
        return Err(declined(When::Ever, format!("There is no saved image {named} that you may use.")));
    };
    if let Some(obstacle) = image::obstacle(&image, common) {
        return Err(declined(When::Now, obstacle));
    }
    let mut faults = BTreeMap::new();
    if base.is_some_and(|base| *base != image.base) {
        let sentence = format!(
            "The saved image {named} goes back to the image {}. Leave vmImage empty, or choose that.",
            image.base
        );
        faults.insert(Part::Base, sentence);
    }
    if wish.host.as_ref().is_some_and(|host| *host != image.host) {
        let sentence = format!(
            "The saved image {named} is on the host {} only. Choose that, or leave the choice to vGrid.",
            image.host
        );
        faults.insert(Part::Host, sentence);
    }
    if wish.disk < image.disk {
        let sentence = format!("The saved image {named} needs a partition of {} at least.", image.disk);
        faults.insert(Part::Disk, sentence);
    }
    if faults.is_empty() {
        Ok(image)
    } else {
        Err(NotCreated::Declined(Declined { when: When::Ever, faults }))
    }
}

/// Returns the machine that a request for a copy of its disk names, and the snapshot, if the user may
/// have that and the rest of the request is compatible with it.
fn snapshot(
    reader: Reader<'_>,
    common: &Common,
    owner: &Owner,
    origin: &NamedSnapshot,
    wish: &MachineRequest,
) -> Result<(Vm, SnapshotOf), NotCreated> {
    let declined =
        |when, part, sentence: String| Err(NotCreated::Declined(Declined::one(when, part, sentence)));
    let Some(vm) = origin.find(reader, owner)? else {
        return declined(
            When::Ever,
            Part::Snapshot,
            format!("You have no machine with a snapshot {origin}."),
        );
    };
    let host = &vm.physical_host;
    if !common.has_image(&vm.spec.image) {
        let sentence = format!(
            "{} was made from the image {}, which is not offered any more. Choose an image, or tell an administrator.",
            vm.virtual_host, vm.spec.image
        );
        return declined(When::Now, Part::Snapshot, sentence);
    }
    if wish.host.as_ref().is_some_and(|wanted| wanted != host) {
        let sentence = format!(
            "The snapshot {origin} is on the host {host} only. Choose that, or leave the choice to vGrid."
        );
        return declined(When::Ever, Part::Host, sentence);
    }
    if wish.disk < vm.spec.disk {
        let sentence = format!("The snapshot {origin} needs a partition of {} at least.", vm.spec.disk);
        return declined(When::Ever, Part::Disk, sentence);
    }
    let snapshot = SnapshotOf { machine: vm.id, name: origin.name.clone() };
    Ok((vm, snapshot))
}

/// Returns the host of a saved image, unless that host is full or disabled.
fn place_of(image: &Image, loads: &[Load]) -> Result<PhysicalHost, NotCreated> {
    place_at(&format!("The saved image {}", image.name), &image.host, loads)
}

/// Returns the only host that has something, unless that host is full or disabled.
fn place_at(what: &str, host: &PhysicalHost, loads: &[Load]) -> Result<PhysicalHost, NotCreated> {
    if let Some(Load { disabled: Some(reason), .. }) = loads.iter().find(|load| load.host == *host) {
        let sentence = format!(
            "{what} is on the host {host} only, and that gets no new machines at present: {} Choose another image.",
            with_period(reason)
        );
        return Err(NotCreated::Declined(Declined::one(When::Now, Part::Host, sentence)));
    }
    if loads.iter().any(|load| load.host == *host && load.is_full()) {
        let sentence = format!(
            "{what} is on the host {host} only, and that host is full. Choose another image, or terminate a machine \
             there."
        );
        return Err(NotCreated::Declined(Declined::one(When::Now, Part::Host, sentence)));
    }
    place_on(loads, host)
}

/// Returns the requested host or, without one, the host that [`choose`] picks.
fn place(
    loads: &[Load],
    wanted: Option<&PhysicalHost>,
    known: &BTreeMap<PhysicalHost, Known>,
    need: Need<'_>,
    now: Moment,
) -> Result<PhysicalHost, NotCreated> {
    check_possible(loads, wanted, known, need)?;
    let against = |load: &Load| known.get(&load.host).and_then(|known| known.against(need, now));
    match wanted {
        Some(wanted) => place_on(loads, wanted),
        None => match choose(loads, against) {
            Ok(load) => Ok(load.host.clone()),
            Err(reasons) => Err(nowhere(loads, &reasons)),
        },
    }
}

/// Builds the refusal for a machine that no host can take.
fn nowhere(loads: &[Load], reasons: &[(&PhysicalHost, Obstacle)]) -> NotCreated {
    let sentence = if reasons.is_empty() {
        let state =
            if loads.iter().any(|load| load.disabled.is_some()) { "full or disabled" } else { "full" };
        format!("All hosts are {state}. Terminate a machine, or try again later.")
    } else {
        let mut reasons: Vec<String> = reasons.iter().map(|(host, why)| format!("{host} {why}")).collect();
        let closed = loads.iter().filter(|load| load.maximum > 0 && !load.takes_more());
        reasons.extend(closed.map(|load| {
            let state = if load.disabled.is_some() { "is disabled" } else { "is full" };
            format!("{} {state}", load.host)
        }));
        format!("No host can take it at present: {}. Ask for less, or try again later.", reasons.join("; "))
    };
    NotCreated::Declined(Declined::one(When::Now, Part::Host, sentence))
}

/// Returns the requested host, unless it is full or disabled.
fn place_on(loads: &[Load], wanted: &PhysicalHost) -> Result<PhysicalHost, NotCreated> {
    let full = |sentence: String| NotCreated::Declined(Declined::one(When::Now, Part::Host, sentence));
    let load = loads.iter().find(|load| load.host == *wanted);
    match load {
        Some(load) if load.takes_more() => Ok(wanted.clone()),
        Some(Load { disabled: Some(reason), .. }) => Err(full(format!(
            "The host {wanted} gets no new machines at present: {} Choose another, or leave the choice to vGrid.",
            with_period(reason)
        ))),
        _ => {
            let count = load.map_or(0, |load| load.maximum);
            Err(full(format!(
                "The host {wanted} is full: it has all of its {count} machines. Choose another host, or \
                 terminate a machine."
            )))
        }
    }
}

/// Returns the requested name or, without one, the first free name of the pool. Either must form a
/// valid [`MachineName`] with the owner's name.
fn name(
    writer: &Writer<'_>,
    common: &Common,
    owner: &Owner,
    wanted: Option<VirtualHost>,
) -> Result<VirtualHost, NotCreated> {
    let declined = |when, sentence: String| NotCreated::Declined(Declined::one(when, Part::Name, sentence));
    let fits = |host: &VirtualHost| MachineName::new(owner.user_name(), host);
    let closed = writer.closed()?;
    let disabled = |name: &VirtualHost| closed::find(&closed, Kind::Name, name.as_str());
    if let Some(wanted) = wanted {
        if writer.vm_named(&wanted)?.is_some() {
            return Err(declined(
                When::Now,
                format!("The name {wanted} is taken. Choose another, or leave the choice to vGrid."),
            ));
        }
        if let Some(closed) = disabled(&wanted) {
            return Err(declined(
                When::Now,
                format!(
                    "The name {wanted} is not given out at present: {} Choose another, or leave the choice to vGrid.",
                    with_period(&closed.reason)
                ),
            ));
        }
        if let Some(found) = writer.name_on_hosts(&wanted)? {
            return Err(declined(
                When::Now,
                format!(
                    "The name {wanted} is in use on {found}, by something that the portal does not know; an administrator \
                     has to look at it first. Choose another, or leave the choice to vGrid."
                ),
            ));
        }
        return match fits(&wanted) {
            Ok(_) => Ok(wanted),
            Err(fault) => Err(declined(When::Ever, misfit(&fault))),
        };
    }
    let mut taken = writer.names_taken()?;
    taken.extend(writer.names_on_hosts()?.into_keys());
    let pool = || common.virtual_hosts.iter().map(|(name, _)| name).filter(|name| disabled(name).is_none());
    if let Some(free) = first_free(pool(), &taken, |host| fits(host).is_ok()) {
        return Ok(free.clone());
    }
    if let Some(Err(fault)) = first_free(pool(), &taken, |_| true).map(fits) {
        return Err(declined(When::Ever, misfit(&fault)));
    }
    let state = if closed.iter().any(|one| one.kind == Kind::Name) { "taken or disabled" } else { "taken" };
    Err(declined(When::Now, format!("All names are {state}. Terminate a machine, or try again later.")))
}

fn misfit(fault: &NameFault) -> String {
    format!(
        "With your user name this would make a machine whose name {fault}. Choose a shorter or another name."
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::fault::Fault;
    use crate::model::size::Amount;
    use crate::model::stage::Order;
    use crate::model::state::State;
    use crate::model::wire::HostFacts;
    use crate::server::machine::fixture::without_mail;
    use crate::server::machine::orders;
    use crate::server::mail::Post;
    use crate::server::nodes::CallFailure;
    use crate::server::registry::vm::{OnNode, Scope};

    fn common(hosts: &[(&str, u32)], names: u32) -> Common {
        Common {
            images: vec![("tiny".parse().unwrap(), "A tiny Linux".to_owned())],
            physical_hosts: hosts.iter().map(|(name, max)| (name.parse().unwrap(), *max)).collect(),
            virtual_hosts: (0..names).map(|n| (format!("vm{n}").parse().unwrap(), String::new())).collect(),
            digest: String::new(),
        }
    }

    fn wish() -> MachineRequest {
        MachineRequest {
            source: Source::Tag("tiny".parse().unwrap()),
            memory: MiB::new(128).unwrap(),
            cpus: Cpus::default(),
            disk: GiB::new(1).unwrap(),
            host: None,
            name: None,
            label: Label::default(),
            lease: "1d".parse().unwrap(),
        }
    }

    fn create(
        registry: &mut Registry,
        common: &Common,
        user: &UserName,
        quota: Quota,
        wish: MachineRequest,
    ) -> Result<Vm, NotCreated> {
        match super::create(
            registry,
            common,
            Requester { user, folding: Folding::Off, quota, mark: None },
            wish,
        ) {
            Ok(Created::New(vm) | Created::Before(vm)) => Ok(vm),
            Err(not_taken) => Err(not_taken),
        }
    }

    fn alice() -> UserName {
        "alice".parse().unwrap()
    }

    /// Returns how many of `attempts` simultaneous requests succeed; all others must be declined
    /// with 409.
    fn race(attempts: usize, common: &Common, wish: &MachineRequest) -> usize {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("registry.sqlite");
        drop(Registry::create(&file).unwrap());
        let start = std::sync::Barrier::new(attempts);
        let taken = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..attempts)
                .map(|n| {
                    let (file, start) = (&file, &start);
                    scope.spawn(move || {
                        let user: UserName = format!("user{n}").parse().unwrap();
                        start.wait();
                        let mut registry = Registry::open(file).unwrap();
                        match create(&mut registry, common, &user, Quota::default(), wish.clone()) {
                            Ok(_) => 1,
                            Err(NotCreated::Declined(declined)) => {
                                assert_eq!(declined.when, When::Now, "{declined:?}");
                                0
                            }
                            Err(other) => panic!("{other:?}"),
                        }
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        let live = Registry::open(&file).unwrap().read(|reader| reader.count(Scope::All)).unwrap();
        assert_eq!(live as usize, taken, "the registry agrees");
        taken
    }

    #[test]
    fn of_a_hundred_who_want_the_last_slot_one_gets_it() {
        assert_eq!(race(100, &common(&[("node1", 1)], 200), &wish()), 1);
    }

    #[test]
    fn of_a_hundred_who_want_a_name_one_gets_it() {
        let wish = MachineRequest { name: Some("vm7".parse().unwrap()), ..wish() };
        assert_eq!(race(100, &common(&[("node1", 1000)], 200), &wish), 1);
    }

    #[test]
    fn names_and_hosts_are_given_out_once_each() {
        assert_eq!(race(30, &common(&[("node1", 7), ("node2", 4), ("node3", 0)], 200), &wish()), 11);
        assert_eq!(race(20, &common(&[("node1", 100)], 3), &wish()), 3);
    }

    fn declined(result: Result<Vm, NotCreated>) -> Declined {
        match result {
            Err(NotCreated::Declined(declined)) => declined,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_request_that_an_earlier_version_recorded_is_recognized() {
        let text = "Wish { source: Tag(ImageTag(\"tiny\")), memory: MiB(128), disk: GiB(1), host: None, name: None, \
                    label: Label(\"\"), lease: Lease { minutes: 1440 } }";
        assert_eq!(wish().digest(), digest(text.as_bytes()));
        let with = |cpus| MachineRequest { cpus: Cpus::new(cpus).unwrap(), ..wish() }.digest();
        assert!(with(1) == wish().digest() && with(2) != with(1) && with(2) != with(3));
    }

    #[test]
    fn what_is_full_or_taken_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let mut registry = Registry::create(&dir.path().join("registry.sqlite")).unwrap();
        let common = common(&[("node1", 1), ("node2", 1)], 3);
        let mut ask = |host: Option<&str>, name: Option<&str>| {
            let wish = MachineRequest {
                host: host.map(|host| host.parse().unwrap()),
                name: name.map(|name| name.parse().unwrap()),
                ..wish()
            };
            create(&mut registry, &common, &alice(), Quota::default(), wish)
        };
        let first = ask(None, None).unwrap();
        assert_eq!((first.physical_host.as_str(), first.virtual_host.as_str()), ("node1", "vm0"));
        let full = declined(ask(Some("node1"), None));
        assert!(full.when == When::Now && full.faults[&Part::Host].contains("node1 is full"), "{full:?}");
        let taken = declined(ask(None, Some("vm0")));
        assert!(taken.when == When::Now && taken.faults[&Part::Name].contains("vm0 is taken"), "{taken:?}");
        assert_eq!(ask(None, Some("vm2")).unwrap().physical_host.as_str(), "node2");
        let full = declined(ask(None, None));
        assert_eq!(full.faults[&Part::Host], "All hosts are full. Terminate a machine, or try again later.");
    }

    #[test]
    fn a_saved_image_decides_on_the_host_and_is_for_those_who_may_use_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut registry = Registry::create(&dir.path().join("registry.sqlite")).unwrap();
        let common = common(&[("node1", 9), ("node2", 1)], 9);
        let (alice, bob) = (alice(), "bob".parse::<UserName>().unwrap());
        let image = Image {
            owner: Owner::of(&alice),
            name: "web".parse().unwrap(),
            host: "node2".parse().unwrap(),
            base: "tiny".parse().unwrap(),
            bytes: 5,
            disk: GiB::new(3).unwrap(),
            shared: false,
            saved: crate::system::clock::now(),
        };
        let kept: Result<(), RegistryError> = registry.write(|writer| {
            writer.register(&alice)?;
            writer.keep_image(&image)
        });
        kept.unwrap();
        let ask =
            |registry: &mut Registry, common: &Common, user: &UserName, named: &str, more: MachineRequest| {
                let source = Source::Saved(named.parse().unwrap(), None);
                create(registry, common, user, Quota::default(), MachineRequest { source, ..more })
            };
        let large = || MachineRequest { disk: GiB::new(3).unwrap(), ..wish() };
        for named in ["web", "alice/web", "alice/nothing"] {
            let refused = declined(ask(&mut registry, &common, &bob, named, large()));
            let sentence = format!("There is no saved image {named} that you may use.");
            assert_eq!((refused.when, &refused.faults[&Part::Image]), (When::Ever, &sentence));
        }
        let elsewhere = MachineRequest { host: Some("node1".parse().unwrap()), ..wish() };
        let refused = declined(ask(&mut registry, &common, &alice, "web", elsewhere));
        let told: Vec<_> = refused.faults.keys().copied().collect();
        assert_eq!((refused.when, told), (When::Ever, vec![Part::Disk, Part::Host]));
        let source = Source::Saved("web".parse().unwrap(), Some("other".parse().unwrap()));
        let other = MachineRequest { source, ..large() };
        let refused = declined(create(&mut registry, &common, &alice, Quota::default(), other));
        assert!(refused.faults[&Part::Base].contains("goes back to the image tiny"), "{refused:?}");
        for changed in [
            Common { images: vec![("other".parse().unwrap(), String::new())], ..common.clone() },
            Common { physical_hosts: vec![("node1".parse().unwrap(), 9)], ..common.clone() },
        ] {
            let refused = declined(ask(&mut registry, &changed, &alice, "web", large()));
            assert_eq!((refused.when, refused.faults.len()), (When::Now, 1), "{refused:?}");
        }
        let shared: Result<(), RegistryError> =
            registry.write(|writer| writer.share_image(&image.id(), true));
        shared.unwrap();
        // What its host says about the configured image's file does not matter, but its limits do.
        let facts = HostFacts {
            memory_free: Amount::default(),
            memory_total: Amount::default(),
            disk_free: Amount::default(),
            disk_total: Amount::default(),
            version: String::new(),
            common_digest: String::new(),
            max_cpus: Some(Cpus::default()),
            images: Some(Vec::new()),
            emulated: false,
            snapshots: false,
            pool: None,
        };
        let kept: Result<(), RegistryError> = registry.write(|writer| writer.keep_facts(&image.host, &facts));
        kept.unwrap();
        let fast = MachineRequest { cpus: Cpus::new(2).unwrap(), ..large() };
        let refused = declined(ask(&mut registry, &common, &bob, "alice/web", fast));
        assert!(refused.faults[&Part::Cpus].contains("at most 1 processor"), "{refused:?}");
        let vm = ask(&mut registry, &common, &bob, "alice/web", large()).unwrap();
        assert_eq!(
            (&vm.physical_host, &vm.spec.image, vm.spec.saved),
            (&image.host, &image.base, Some(image.id()))
        );
        let full = declined(ask(&mut registry, &common, &alice, "web", large()));
        assert!(full.when == When::Now && full.faults[&Part::Host].contains("node2 only"), "{full:?}");
    }

    #[test]
    fn a_name_that_is_too_long_with_the_user_is_no_conflict() {
        let dir = tempfile::tempdir().unwrap();
        let mut registry = Registry::create(&dir.path().join("registry.sqlite")).unwrap();
        let user: UserName = "ü".repeat(20).parse().unwrap();
        let long: VirtualHost = "v".repeat(60).parse().unwrap();
        let mut common = common(&[("node1", 1)], 0);
        common.virtual_hosts.push((long.clone(), String::new()));
        for name in [None, Some(long)] {
            let wish = MachineRequest { name, ..wish() };
            let refused = declined(create(&mut registry, &common, &user, Quota::default(), wish));
            assert_eq!(refused.when, When::Ever, "{refused:?}");
        }
    }

    #[test]
    fn a_refusal_and_a_fault_of_a_host_leave_a_failed_machine() {
        let dir = tempfile::tempdir().unwrap();
        let mut registry = Registry::create(&dir.path().join("registry.sqlite")).unwrap();
        let common = common(&[("node1", 9)], 9);
        let room = Fault::NotEnoughMemory { needed: Amount::from_mib(2), free: Amount::from_mib(1) };
        let silent = Fault::HostSilent { host: "node1".parse().unwrap(), seconds: 7 };
        for (fault, taken) in [(room, OnNode::No), (silent, OnNode::Maybe)] {
            let vm = create(&mut registry, &common, &alice(), Quota::default(), wish()).unwrap();
            let id = vm.id;
            let trouble = CallFailure { fault: fault.clone(), taken };
            let config = without_mail();
            orders::settle(&mut registry, &Post::new(&config), vm, Order::Deploy, Err(trouble)).unwrap();
            let vm = registry.read(|reader| reader.vm(id)).unwrap().unwrap();
            assert_eq!((vm.state, vm.on_node, vm.fault), (State::Failed, taken, Some(fault)));
        }
    }
}
