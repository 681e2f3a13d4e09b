//! `user/deploy`: the form, and having a machine made.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

use serde::Serialize;

use crate::cgi::policy;
use crate::cgi::reply::{Refusal, Reply};
use crate::cgi::request::{Fields, Format};
use crate::cgi::serve::{UserCall, View};
use crate::config::{self, Common, Leases, Quota};
use crate::model::digest::digest;
use crate::model::folding::Folding;
use crate::model::lease::{Lease, Moment, Term};
use crate::model::names::{
    ImageTag, Label, MachineName, NameFault, PhysicalHost, SavedImage, UserName, VirtualHost, VmId,
};
use crate::model::size::{GiB, MiB};
use crate::model::state::State;
use crate::system::clock;
use crate::system::log::{self, Level};

use crate::model::text::{ended, one_line, sentence};
use crate::server::audit;
use crate::server::machine::image::{self, Named};
use crate::server::machine::moving::Mover;
use crate::server::machine::placement::{Against, Known, Load, Need, choose, first_free};
use crate::server::machine::pool::{known, loads};
use crate::server::machine::quota::{self, QuotaView};
use crate::server::nodes::Nodes;
use crate::server::pages::access;
use crate::server::pages::once::{self, Mark};
use crate::server::pages::view::ImageView;
use crate::server::pages::view::{MachineView, field_fault, ordered};
use crate::server::registry::closed::{self, Kind};
use crate::server::registry::event::Actor;
use crate::server::registry::image::Image;
use crate::server::registry::request::Given;
use crate::server::registry::user::{Owner, Registered};
use crate::server::registry::vm::{NewVm, Placed, Vm};
use crate::server::registry::{Registry, RegistryError, Writer};

/// What the form proposes for the memory, in MiB, and for the partition, in GiB.
const PROPOSED_MEMORY: &str = "256";
const PROPOSED_PARTITION: &str = "2";

/// What leaves a choice to vGrid, besides an empty field.
const AUTO: &str = "auto";

/// The fields of the form.
const FIELDS: [&str; 8] = [
    "vmImage",
    "savedImage",
    "vmMemory",
    "vmPartition",
    "physicalHost",
    "vmHostname",
    "vmName",
    "expiryTime",
];

/// What a saved image's name follows in `vmImage`, as the form sends it: there images of both kinds are one group of
/// buttons, of which one is pressed. No tag has a colon.
const SAVED: &str = "saved:";

/// The form.
#[derive(Debug, Serialize)]
struct DeployView {
    images: Vec<ImageChoice>,
    saved: Vec<SavedChoice>,
    hosts: Vec<HostChoice>,
    names: Vec<NameChoice>,
    /// What the form is filled in with: each of [`FIELDS`], but for a saved image, which is in `vmImage`.
    values: BTreeMap<&'static str, String>,
    /// What is wrong with single fields.
    faults: BTreeMap<&'static str, String>,
    /// What is wrong with the whole.
    message: Option<String>,
    maximum_lease: String,
    default_lease: String,
    quota: QuotaView,
    /// The id of the machine that this form makes, with its proof.
    machine: String,
    /// The page of the machine that the form made when it was sent before.
    made: Option<String>,
}

/// An image to choose.
#[derive(Debug, Serialize)]
struct ImageChoice {
    tag: String,
    description: String,
}

/// A saved image to choose.
#[derive(Debug, Serialize)]
struct SavedChoice {
    /// What `vmImage` is then, in the form.
    value: String,
    #[serde(flatten)]
    image: ImageView,
}

/// A host to choose.
#[derive(Debug, Serialize)]
struct HostChoice {
    name: String,
    machines: u32,
    maximum: u32,
    full: bool,
    /// Why it gets no new machines, if an administrator said so.
    disabled: Option<String>,
}

/// A name to choose.
#[derive(Debug, Serialize)]
struct NameChoice {
    name: String,
    taken: bool,
    /// Why it is not given out, if an administrator said so.
    disabled: Option<String>,
}

impl View for DeployView {
    const TEMPLATE: &'static str = "deploy.html";

    /// What there is to choose from, one line each, tab-separated: `image`, tag, description; `saved`, what
    /// `savedImage` takes, host, image that it was made from, smallest partition (GiB); `host`, name, machines, maximum, `open` or `disabled`; `name`, name, `free`, `taken` or `disabled`; `lease`, default,
    /// maximum; then what the caller has and may have (see [`QuotaView::line`]).
    fn text(&self) -> String {
        let images = self.images.iter().map(|i| format!("image\t{}\t{}\n", i.tag, one_line(&i.description)));
        let saved = self.saved.iter().filter(|s| s.image.obstacle.is_none()).map(|s| {
            let ImageView { id, host, base, disk_gib, .. } = &s.image;
            format!("saved\t{id}\t{host}\t{base}\t{disk_gib}\n")
        });
        let hosts = self.hosts.iter().map(|h| {
            let status = if h.disabled.is_some() { "disabled" } else { "open" };
            format!("host\t{}\t{}\t{}\t{status}\n", h.name, h.machines, h.maximum)
        });
        let names = self.names.iter().map(|n| {
            let status = match (n.taken, &n.disabled) {
                (true, _) => "taken",
                (false, Some(_)) => "disabled",
                (false, None) => "free",
            };
            format!("name\t{}\t{status}\n", n.name)
        });
        let lease = format!("lease\t{}\t{}\n", self.default_lease, self.maximum_lease);
        images.chain(saved).chain(hosts).chain(names).chain([lease, self.quota.line()]).collect()
    }
}

/// Why a request for a machine was not taken on.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Declined {
    /// 400 for a request that can never be carried out, 409 for one that can't be now.
    status: u16,
    /// What is wrong with single fields.
    faults: BTreeMap<&'static str, String>,
}

/// Why [`take_on`] did not.
#[derive(Debug)]
enum NotTaken {
    Registry(RegistryError),
    Declined(Declined),
    /// The user would be taken for another person, who is known by this name.
    SomebodyElse(String),
    /// The order was given before, for something else.
    Used(Box<Vm>),
    /// The registry comes from a backup, and upkeep has not compared the hosts with it yet.
    Restored,
}

impl From<RegistryError> for NotTaken {
    fn from(error: RegistryError) -> Self {
        Self::Registry(error)
    }
}

impl Declined {
    fn one(status: u16, field: &'static str, sentence: impl Into<String>) -> Self {
        Self { status, faults: BTreeMap::from([(field, sentence.into())]) }
    }

    fn sentence(&self) -> String {
        match self.faults.values().next() {
            Some(only) if self.status == 409 && self.faults.len() == 1 => only.clone(),
            _ => "The machine was not deployed: some fields are not right.".to_owned(),
        }
    }
}

/// What somebody wants, each field checked by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wish {
    source: Source,
    memory: MiB,
    disk: GiB,
    /// `None` leaves it to vGrid.
    host: Option<PhysicalHost>,
    /// `None` leaves it to vGrid.
    name: Option<VirtualHost>,
    label: Label,
    lease: Lease,
}

/// What a machine is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    /// An image of the configuration.
    Tag(ImageTag),
    /// An image that somebody saved; with the image of the configuration that it must go back to, if that was said, too.
    Saved(Named, Option<ImageTag>),
}

impl Wish {
    /// What tells it from other wishes.
    fn digest(&self) -> String {
        digest(format!("{self:?}").as_bytes())
    }
}

/// Who asks for a machine.
#[derive(Debug, Clone, Copy)]
struct Asking<'a> {
    user: &'a UserName,
    folding: Folding,
    quota: Quota,
    actor: &'a Actor,
    /// What marks the order, if something does.
    mark: Option<&'a Mark>,
}

/// What became of an order for a machine.
#[derive(Debug)]
enum Taken {
    /// It was entered.
    New(Vm),
    /// It was entered when the same order came before.
    Before(Vm),
}

/// Answers `user/deploy`.
///
/// Fields: `vmImage`, or `savedImage` (`NAME`, or `OWNER/NAME` for one that somebody shares), which decides on the host;
/// `vmMemory` (MiB), `vmPartition` (GiB); `physicalHost` and `vmHostname` (empty or
/// `auto`: vGrid chooses); `vmName` (a label); `expiryTime` (such as `7d`; empty: the default lease);
/// `like` (the id of a machine to fill the form in from); `requestId` (of a script) or `machine` (of the form), by which
/// an order is known when it comes again: then nothing is done, and the answer is about the machine that it made;
/// `token`, `format`.
///
/// Accepted: 303 to the machine's page for people, 202 and its data for programs (as text its line, which
/// begins with id and state). If its host refuses or fails the machine is `failed` with the reason: for programs
/// 409 when the host had a reason, 502 when it could not be used, 503 when it was busy.
///
/// # Errors
/// 400 and 409 with what is wrong with which field (as HTML the form, filled in), 403, 503. 409 also for an order that was
/// given before, for something else.
pub fn handle(call: &UserCall<'_>) -> Result<Reply, Refusal> {
    let fields = &call.request.fields;
    let known: Vec<&str> =
        FIELDS.into_iter().chain([once::FORM, once::SCRIPT, "token", "format", "like"]).collect();
    fields.only(&known)?;
    let common = Common::load(&config::directory())?;
    if !call.acts {
        return form(call, &common, 200, BTreeMap::new(), None, None);
    }
    let mark = Mark::read(call)?;
    let wish = match read_wish(fields, &common, &call.config.leases) {
        Ok(wish) => wish,
        Err(declined) => return decline(call, &common, declined),
    };
    // Read before anything is recorded: without it no node can be called.
    let nodes = Nodes::new(&call.config, &call.request.id)?;
    let mut registry = access::registry(call)?;
    let actor = access::actor(call);
    let quota = call.config.quota(&call.user);
    let folding = call.config.folding();
    let asking = Asking { user: &call.user, folding, quota, actor: &actor, mark: mark.as_ref() };
    let vm = match take_on(&mut registry, &common, asking, wish) {
        Ok(Taken::New(vm)) => vm,
        Ok(Taken::Before(vm)) => {
            audit::record(Level::Info, "deploy", &vm, &actor, "the same order again");
            return ordered(call, &common, &vm, vm.fault.as_ref().filter(|_| vm.state == State::Failed));
        }
        Err(NotTaken::Registry(error)) => return Err(error.into()),
        Err(NotTaken::SomebodyElse(known)) => return Err(access::somebody_else(&call.user, &known)),
        Err(NotTaken::Declined(declined)) => return decline(call, &common, declined),
        Err(NotTaken::Restored) => {
            return Err(Refusal::busy(
                "The portal's registry has just been restored from a backup, and the hosts have to be compared with it \
                 first. Nothing was deployed; try again in a few minutes.",
            ));
        }
        Err(NotTaken::Used(vm)) => return used(call, &common, &vm, mark.as_ref()),
    };
    // Of somebody's first machine: nobody knew them before.
    access::keep_mail(call, &mut registry);
    audit::record(Level::Info, "deploy", &vm, &actor, "ordered");
    let (vm, fault) = Mover::new(&call.config, &common).deploy(&mut registry, &nodes, vm, &actor)?;
    ordered(call, &common, &vm, fault.as_ref())
}

/// Reads the fields, all of them, so that all faults are told at once.
fn read_wish(fields: &Fields, common: &Common, leases: &Leases) -> Result<Wish, Declined> {
    let mut faults = BTreeMap::new();
    let wish = {
        let mut reading = Reading { fields, faults: &mut faults };
        // Each is read before the first fault ends the reading.
        let source = reading.source(common);
        let memory = reading.required("vmMemory", "Say how much memory it gets, in MiB.");
        let disk = reading.required("vmPartition", "Say how large its partition is, in GiB.");
        let host = reading.choice("physicalHost").and_then(|host: Option<PhysicalHost>| {
            let Some(host) = host else { return Ok(None) };
            let maximum = common.maximum(&host);
            let sentence = || match maximum {
                None => format!("There is no host {host}."),
                Some(_) => format!("The host {host} takes no machines at present. Choose another."),
            };
            reading.check(maximum.is_some_and(|n| n > 0), "physicalHost", sentence).map(|()| Some(host))
        });
        let name = reading.choice("vmHostname").and_then(|name: Option<VirtualHost>| {
            let Some(name) = name else { return Ok(None) };
            let sentence = || format!("There is no name {name} in the pool.");
            reading.check(common.extra(&name).is_some(), "vmHostname", sentence).map(|()| Some(name))
        });
        let label = reading.optional("vmName");
        let lease = reading.optional("expiryTime").and_then(|lease: Option<Lease>| {
            let lease = lease.unwrap_or(leases.default);
            let sentence = || format!("At most {} can be asked for.", leases.maximum);
            reading.check(lease <= leases.maximum, "expiryTime", sentence).map(|()| lease)
        });
        (|| {
            Ok::<_, Wrong>(Wish {
                source: source?,
                memory: memory?,
                disk: disk?,
                host: host?,
                name: name?,
                label: label?.unwrap_or_default(),
                lease: lease?,
            })
        })()
    };
    wish.map_err(|Wrong| Declined { status: 400, faults })
}

/// A field has a fault, which is among the collected ones.
struct Wrong;

/// Reads fields and collects what is wrong with them.
struct Reading<'a> {
    fields: &'a Fields,
    faults: &'a mut BTreeMap<&'static str, String>,
}

impl Reading<'_> {
    fn required<T: FromStr<Err: Display>>(&mut self, field: &'static str, missing: &str) -> Result<T, Wrong> {
        self.optional(field)?.ok_or_else(|| {
            self.faults.insert(field, missing.to_owned());
            Wrong
        })
    }

    fn optional<T: FromStr<Err: Display>>(&mut self, field: &'static str) -> Result<Option<T>, Wrong> {
        let text = self.fields.get(field).map(str::trim).filter(|text| !text.is_empty());
        text.map(str::parse).transpose().map_err(|fault| {
            self.faults.insert(field, sentence(&fault));
            Wrong
        })
    }

    fn source(&mut self, common: &Common) -> Result<Source, Wrong> {
        let tag = self.fields.get("vmImage").map(str::trim).unwrap_or_default();
        let saved = match (self.optional("savedImage")?, tag.strip_prefix(SAVED)) {
            (Some(named), None) => return Ok(Source::Saved(named, self.optional("vmImage")?)),
            (None, Some(name)) => name,
            (Some(_), Some(_)) => {
                self.faults.insert("savedImage", "Choose one image.".to_owned());
                return Err(Wrong);
            }
            (None, None) => {
                let tag: ImageTag = self.required("vmImage", "Choose an image.")?;
                let sentence = || format!("There is no image {tag}.");
                self.check(common.has_image(&tag), "vmImage", sentence)?;
                return Ok(Source::Tag(tag));
            }
        };
        saved.parse().map(|named| Source::Saved(named, None)).map_err(|fault: NameFault| {
            self.faults.insert("savedImage", sentence(&fault));
            Wrong
        })
    }

    fn choice<T: FromStr<Err: Display>>(&mut self, field: &'static str) -> Result<Option<T>, Wrong> {
        if self.fields.get(field).is_some_and(|text| text.trim() == AUTO) {
            return Ok(None);
        }
        self.optional(field)
    }

    fn check(
        &mut self,
        holds: bool,
        field: &'static str,
        fault: impl FnOnce() -> String,
    ) -> Result<(), Wrong> {
        if holds {
            return Ok(());
        }
        self.faults.insert(field, fault());
        Err(Wrong)
    }
}

/// Finds a host and a name and enters the machine, all under one write lock: of many who want the last
/// slot, the same name or the last of somebody's quota, one gets it. The only way in which a machine comes to be, so
/// quotas count here and nowhere else: to start one that is stopped takes nothing that did not count already.
fn take_on(
    registry: &mut Registry,
    common: &Common,
    asking: Asking<'_>,
    wish: Wish,
) -> Result<Taken, NotTaken> {
    let Asking { user, folding, quota, actor, mark } = asking;
    let digest = wish.digest();
    registry.write(|writer| {
        let now = clock::now();
        let owner = match writer.register_with(user, folding, now)? {
            Registered::Known(owner) => owner,
            Registered::Taken(known) => return Err(NotTaken::SomebodyElse(known)),
        };
        // Before all else: what was taken on when it came first is not declined when it comes again.
        if let Some(mark) = mark
            && let Some(Given { vm, wish }) = writer.given(&owner, &mark.text())?
        {
            return if wish == digest { Ok(Taken::Before(vm)) } else { Err(NotTaken::Used(Box::new(vm))) };
        }
        if writer.awaits_comparison()? {
            return Err(NotTaken::Restored);
        }
        let faults = quota::exceeded(quota, writer.usage(&owner)?, wish.memory, wish.disk);
        if !faults.is_empty() {
            return Err(NotTaken::Declined(Declined { status: 409, faults }));
        }
        let loads = loads(**writer, common)?;
        let (image, from, physical_host, placed) = match &wish.source {
            Source::Tag(tag) => {
                let need = Need { memory: wish.memory.amount(), disk: wish.disk.amount(), image: tag };
                let host = place(&loads, wish.host.as_ref(), &known(**writer, now)?, need, now)?;
                let placed = if wish.host.is_none() { Placed::ByPortal } else { Placed::AsAsked };
                (tag.clone(), None, host, placed)
            }
            Source::Saved(named, base) => {
                let named = named.clone().resolved(**writer, folding)?;
                let image = saved(writer, common, &owner, &named, base.as_ref(), &wish)?;
                let host = place_of(&image, &loads)?;
                (image.base.clone(), Some(image.id()), host, Placed::AsAsked)
            }
        };
        let virtual_host = name(writer, common, &owner, wish.name)?;
        let new = NewVm {
            owner,
            virtual_host,
            physical_host,
            placed,
            image,
            memory: wish.memory,
            disk: wish.disk,
            label: wish.label,
            lease: Term::For(wish.lease),
            from,
        };
        let vm = writer.enter_as(mark.map_or_else(VmId::generate, Mark::machine), new, now)?;
        if let Some(mark) = mark {
            writer.remember(&vm.owner, &mark.text(), &digest, vm.id)?;
        }
        let mut detail = format!("{} on {}", vm.virtual_host, vm.physical_host);
        if let Some(SavedImage { owner, name }) = &vm.from {
            detail = format!("{detail}, from the saved image {owner}/{name}");
        }
        writer.record(vm.id, now, actor, "deploy ordered", &detail)?;
        Ok(Taken::New(vm))
    })
}

/// The saved image that is meant, if its user may use it and the rest of the wish goes with it.
fn saved(
    writer: &Writer<'_>,
    common: &Common,
    owner: &Owner,
    named: &Named,
    base: Option<&ImageTag>,
    wish: &Wish,
) -> Result<Image, NotTaken> {
    let declined =
        |status, sentence: String| NotTaken::Declined(Declined::one(status, "savedImage", sentence));
    let Some(image) = image::usable(**writer, &named.clone().by(owner), owner)? else {
        return Err(declined(400, format!("There is no saved image {named} that you may use.")));
    };
    if let Some(obstacle) = image::obstacle(&image, common) {
        return Err(declined(409, obstacle));
    }
    let mut faults = BTreeMap::new();
    if base.is_some_and(|base| *base != image.base) {
        let sentence = format!(
            "The saved image {named} goes back to the image {}. Leave vmImage empty, or choose that.",
            image.base
        );
        faults.insert("vmImage", sentence);
    }
    if wish.host.as_ref().is_some_and(|host| *host != image.host) {
        let sentence = format!(
            "The saved image {named} is on the host {} only. Choose that, or leave the choice to vGrid.",
            image.host
        );
        faults.insert("physicalHost", sentence);
    }
    if wish.disk < image.disk {
        let sentence = format!("The saved image {named} needs a partition of {} at least.", image.disk);
        faults.insert("vmPartition", sentence);
    }
    if faults.is_empty() { Ok(image) } else { Err(NotTaken::Declined(Declined { status: 400, faults })) }
}

/// The host of a saved image, if it is not full.
fn place_of(image: &Image, loads: &[Load]) -> Result<PhysicalHost, NotTaken> {
    let Image { name, host, .. } = image;
    if let Some(Load { disabled: Some(reason), .. }) = loads.iter().find(|load| load.host == *host) {
        let sentence = format!(
            "The saved image {name} is on the host {host} only, and that gets no new machines at present: {} Choose \
             another image.",
            ended(reason)
        );
        return Err(NotTaken::Declined(Declined::one(409, "physicalHost", sentence)));
    }
    if loads.iter().any(|load| load.host == *host && load.is_full()) {
        let sentence = format!(
            "The saved image {name} is on the host {host} only, and that host is full. Choose another image, or \
             terminate a machine there."
        );
        return Err(NotTaken::Declined(Declined::one(409, "physicalHost", sentence)));
    }
    place_on(loads, host)
}

/// The host that was asked for, or the one with the lowest share that nothing speaks against, if it is not full.
fn place(
    loads: &[Load],
    wanted: Option<&PhysicalHost>,
    known: &BTreeMap<PhysicalHost, Known>,
    need: Need<'_>,
    now: Moment,
) -> Result<PhysicalHost, NotTaken> {
    let against = |load: &Load| known.get(&load.host).and_then(|known| known.against(need, now));
    match wanted {
        Some(wanted) => place_on(loads, wanted),
        None => match choose(loads, against) {
            Ok(load) => Ok(load.host.clone()),
            Err(reasons) => Err(nowhere(loads, &reasons)),
        },
    }
}

/// Why no host takes a machine.
fn nowhere(loads: &[Load], reasons: &[(&PhysicalHost, Against)]) -> NotTaken {
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
    NotTaken::Declined(Declined::one(409, "physicalHost", sentence))
}

/// The host that was asked for, if it is not full.
fn place_on(loads: &[Load], wanted: &PhysicalHost) -> Result<PhysicalHost, NotTaken> {
    let full = |sentence: String| NotTaken::Declined(Declined::one(409, "physicalHost", sentence));
    let load = loads.iter().find(|load| load.host == *wanted);
    match load {
        Some(load) if load.takes_more() => Ok(wanted.clone()),
        Some(Load { disabled: Some(reason), .. }) => Err(full(format!(
            "The host {wanted} gets no new machines at present: {} Choose another, or leave the choice to vGrid.",
            ended(reason)
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

/// The name that was asked for, or the first free one, if with it the machine can have a name of its own.
fn name(
    writer: &Writer<'_>,
    common: &Common,
    owner: &Owner,
    wanted: Option<VirtualHost>,
) -> Result<VirtualHost, NotTaken> {
    let declined =
        |status, sentence: String| NotTaken::Declined(Declined::one(status, "vmHostname", sentence));
    let fits = |host: &VirtualHost| MachineName::new(owner.user_name(), host);
    let closed = writer.closed()?;
    let disabled = |name: &VirtualHost| closed::find(&closed, Kind::Name, name.as_str());
    if let Some(wanted) = wanted {
        if writer.vm_named(&wanted)?.is_some() {
            return Err(declined(
                409,
                format!("The name {wanted} is taken. Choose another, or leave the choice to vGrid."),
            ));
        }
        if let Some(closed) = disabled(&wanted) {
            return Err(declined(
                409,
                format!(
                    "The name {wanted} is not given out at present: {} Choose another, or leave the choice to vGrid.",
                    ended(&closed.reason)
                ),
            ));
        }
        if let Some(found) = writer.name_on_hosts(&wanted)? {
            return Err(declined(
                409,
                format!(
                    "The name {wanted} is in use on {found}, by something that the portal does not know; an administrator \
                     has to look at it first. Choose another, or leave the choice to vGrid."
                ),
            ));
        }
        return match fits(&wanted) {
            Ok(_) => Ok(wanted),
            Err(fault) => Err(declined(400, misfit(&fault))),
        };
    }
    let mut taken = writer.names_taken()?;
    taken.extend(writer.names_on_hosts()?.into_keys());
    let pool = || common.virtual_hosts.iter().map(|(name, _)| name).filter(|name| disabled(name).is_none());
    if let Some(free) = first_free(pool(), &taken, |host| fits(host).is_ok()) {
        return Ok(free.clone());
    }
    if let Some(Err(fault)) = first_free(pool(), &taken, |_| true).map(fits) {
        return Err(declined(400, misfit(&fault)));
    }
    let state = if closed.iter().any(|one| one.kind == Kind::Name) { "taken or disabled" } else { "taken" };
    Err(declined(409, format!("All names are {state}. Terminate a machine, or try again later.")))
}

fn misfit(fault: &NameFault) -> String {
    format!(
        "With your user name this would make a machine whose name {fault}. Choose a shorter or another name."
    )
}

/// Answers an order that was given before, for something else: people are asked whether they want another machine, by a
/// form that makes one; programs have made a mistake.
fn used(call: &UserCall<'_>, common: &Common, vm: &Vm, mark: Option<&Mark>) -> Result<Reply, Refusal> {
    if call.request.format == Format::Html {
        let sentence = format!(
            "Nothing was deployed: this form has already been sent, and made {}. Send it again to deploy another \
             machine.",
            vm.virtual_host
        );
        return form(call, common, 409, BTreeMap::new(), Some(sentence), Some(vm));
    }
    let field = mark.map_or(once::SCRIPT, Mark::field);
    Err(field_fault(
        409,
        field,
        format!("Nothing was deployed: {field} was given before, for machine {} with other values.", vm.id),
    ))
}

/// Answers a request that was not taken on: for people the form as they filled it in, with the faults
/// beside the fields; for programs the faults.
fn decline(call: &UserCall<'_>, common: &Common, declined: Declined) -> Result<Reply, Refusal> {
    let message = declined.sentence();
    if call.request.format != Format::Html {
        let mut refusal = Refusal::new(declined.status, message);
        refusal.fields = declined.faults;
        return Err(refusal);
    }
    let why = declined.faults.iter().map(|(field, fault)| format!("{field}: {fault}"));
    log::event(
        Level::Warning,
        "refused",
        &[
            ("status", &declined.status),
            ("user", &call.user),
            ("from", &call.request.from()),
            ("why", &why.collect::<Vec<_>>().join(" ")),
        ],
    );
    form(call, common, declined.status, declined.faults, Some(message), None)
}

/// The form, filled in with what the caller gave, else with the machine that `like` names, else with
/// what is usual.
fn form(
    call: &UserCall<'_>,
    common: &Common,
    status: u16,
    faults: BTreeMap<&'static str, String>,
    message: Option<String>,
    made: Option<&Vm>,
) -> Result<Reply, Refusal> {
    let fields = &call.request.fields;
    let machine = once::for_a_form(call)?;
    let view = access::registry_to_read(call)?.read(|reader| {
        let caller = access::caller(call, reader)?;
        let taken = reader.names_taken()?;
        let closed = reader.closed()?;
        let quota = QuotaView::new(call.config.quota(&call.user), reader.usage(&caller)?);
        let mut values = usual(common, &call.config.leases);
        if fields.get("like").is_some_and(|like| !like.is_empty()) {
            let id: VmId = fields.required("like")?;
            let vm = reader.vm(id)?.ok_or_else(|| Refusal::not_found("There is no machine with this id."))?;
            // This endpoint is for all; what a machine is like, only its owner may see.
            let vm = access::permit(call, &policy::USER_SHOW, &caller, vm)?;
            values.extend(values_of(&vm, &caller, !taken.contains(&vm.virtual_host)));
        }
        let saved = reader.images_for(&caller)?;
        if let Some(Ok(named)) = fields.get("savedImage").map(str::parse::<Named>) {
            let named = named.resolved(reader, call.config.folding())?;
            values.extend(values_for(&named.by(&caller), &saved, &caller));
        }
        for field in FIELDS.into_iter().filter(|field| *field != "savedImage") {
            if let Some(given) = fields.get(field) {
                values.insert(field, given.to_owned());
            }
        }
        let saved = saved.iter().map(|image| SavedChoice {
            value: format!("{SAVED}{}", Named::of(&image.id(), &caller)),
            image: ImageView::new(image, common, &caller, call.administrator),
        });
        let images = common
            .images
            .iter()
            .map(|(tag, description)| ImageChoice { tag: tag.to_string(), description: description.clone() });
        let hosts = loads(reader, common)?.into_iter().map(|load| HostChoice {
            full: load.is_full(),
            name: load.host.to_string(),
            machines: load.machines,
            maximum: load.maximum,
            disabled: load.disabled,
        });
        let names = common.virtual_hosts.iter().map(|(name, _)| NameChoice {
            name: name.to_string(),
            taken: taken.contains(name),
            disabled: closed::find(&closed, Kind::Name, name.as_str()).map(|one| one.reason.clone()),
        });
        Ok::<_, Refusal>(DeployView {
            images: images.collect(),
            saved: saved.collect(),
            hosts: hosts.collect(),
            names: names.collect(),
            values,
            faults,
            message,
            maximum_lease: call.config.leases.maximum.to_string(),
            default_lease: call.config.leases.default.to_string(),
            quota,
            machine,
            made: made.map(|vm| MachineView::new(vm, common, call.administrator).url),
        })
    })?;
    call.reply(status, &view)
}

/// What an untouched form holds.
fn usual(common: &Common, leases: &Leases) -> BTreeMap<&'static str, String> {
    let image = common.images.first().map(|(tag, _)| tag.to_string()).unwrap_or_default();
    BTreeMap::from([
        ("vmImage", image),
        ("vmMemory", PROPOSED_MEMORY.to_owned()),
        ("vmPartition", PROPOSED_PARTITION.to_owned()),
        ("physicalHost", String::new()),
        ("vmHostname", String::new()),
        ("vmName", String::new()),
        ("expiryTime", leases.default.to_string()),
    ])
}

/// What a form for a machine from a saved image holds: what goes with the image, as far as it is known.
fn values_for(image: &SavedImage, known: &[Image], caller: &Owner) -> Vec<(&'static str, String)> {
    let mut values = vec![("vmImage", format!("{SAVED}{}", Named::of(image, caller)))];
    if let Some(image) = known.iter().find(|known| known.id() == *image) {
        values.push(("vmPartition", image.disk.get().to_string()));
        values.push(("physicalHost", image.host.to_string()));
    }
    values
}

/// What a form for another machine like `vm` holds, as `caller` sees it.
fn values_of(vm: &Vm, caller: &Owner, name_is_free: bool) -> BTreeMap<&'static str, String> {
    let saved = vm.from.as_ref().map(|image| format!("{SAVED}{}", Named::of(image, caller)));
    BTreeMap::from([
        ("vmImage", saved.unwrap_or_else(|| vm.image.to_string())),
        ("vmMemory", vm.memory.get().to_string()),
        ("vmPartition", vm.disk.get().to_string()),
        ("physicalHost", vm.physical_host.to_string()),
        ("vmHostname", if name_is_free { vm.virtual_host.to_string() } else { String::new() }),
        ("vmName", vm.label.to_string()),
        ("expiryTime", vm.lease.to_string()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::fault::Fault;
    use crate::model::size::Amount;
    use crate::model::stage::Order;
    use crate::server::machine::orders;
    use crate::server::nodes::Trouble;
    use crate::server::registry::vm::{OnNode, Scope};

    fn common(hosts: &[(&str, u32)], names: u32) -> Common {
        Common {
            images: vec![("tiny".parse().unwrap(), "A tiny Linux".to_owned())],
            physical_hosts: hosts.iter().map(|(name, max)| (name.parse().unwrap(), *max)).collect(),
            virtual_hosts: (0..names).map(|n| (format!("vm{n}").parse().unwrap(), String::new())).collect(),
            digest: String::new(),
        }
    }

    fn wish() -> Wish {
        Wish {
            source: Source::Tag("tiny".parse().unwrap()),
            memory: MiB::new(128).unwrap(),
            disk: GiB::new(1).unwrap(),
            host: None,
            name: None,
            label: Label::default(),
            lease: "1d".parse().unwrap(),
        }
    }

    fn actor() -> Actor {
        Actor { who: "alice".to_owned(), from: "192.0.2.1".to_owned() }
    }

    fn take_on(
        registry: &mut Registry,
        common: &Common,
        user: &UserName,
        quota: Quota,
        wish: Wish,
        actor: &Actor,
    ) -> Result<Vm, NotTaken> {
        match super::take_on(
            registry,
            common,
            Asking { user, folding: Folding::Off, quota, actor, mark: None },
            wish,
        ) {
            Ok(Taken::New(vm) | Taken::Before(vm)) => Ok(vm),
            Err(not_taken) => Err(not_taken),
        }
    }

    fn alice() -> UserName {
        "alice".parse().unwrap()
    }

    /// How many of `attempts` at once are taken on; all others must be declined with 409.
    fn race(attempts: usize, common: &Common, wish: &Wish) -> usize {
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
                        match take_on(&mut registry, common, &user, Quota::default(), wish.clone(), &actor())
                        {
                            Ok(_) => 1,
                            Err(NotTaken::Declined(declined)) => {
                                assert_eq!(declined.status, 409, "{declined:?}");
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
        let wish = Wish { name: Some("vm7".parse().unwrap()), ..wish() };
        assert_eq!(race(100, &common(&[("node1", 1000)], 200), &wish), 1);
    }

    #[test]
    fn names_and_hosts_are_given_out_once_each() {
        assert_eq!(race(30, &common(&[("node1", 7), ("node2", 4), ("node3", 0)], 200), &wish()), 11);
        assert_eq!(race(20, &common(&[("node1", 100)], 3), &wish()), 3);
    }

    fn declined(result: Result<Vm, NotTaken>) -> Declined {
        match result {
            Err(NotTaken::Declined(declined)) => declined,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_full_or_taken_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let mut registry = Registry::create(&dir.path().join("registry.sqlite")).unwrap();
        let common = common(&[("node1", 1), ("node2", 1)], 3);
        let mut ask = |host: Option<&str>, name: Option<&str>| {
            let wish = Wish {
                host: host.map(|host| host.parse().unwrap()),
                name: name.map(|name| name.parse().unwrap()),
                ..wish()
            };
            take_on(&mut registry, &common, &alice(), Quota::default(), wish, &actor())
        };
        let first = ask(None, None).unwrap();
        assert_eq!((first.physical_host.as_str(), first.virtual_host.as_str()), ("node1", "vm0"));
        let full = declined(ask(Some("node1"), None));
        assert!(full.status == 409 && full.faults["physicalHost"].contains("node1 is full"), "{full:?}");
        let taken = declined(ask(None, Some("vm0")));
        assert!(taken.status == 409 && taken.faults["vmHostname"].contains("vm0 is taken"), "{taken:?}");
        assert_eq!(ask(None, Some("vm2")).unwrap().physical_host.as_str(), "node2");
        let full = declined(ask(None, None));
        assert_eq!(full.sentence(), "All hosts are full. Terminate a machine, or try again later.");
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
            saved: clock::now(),
        };
        let kept: Result<(), RegistryError> = registry.write(|writer| {
            writer.register(&alice, clock::now())?;
            writer.keep_image(&image)
        });
        kept.unwrap();
        let ask = |registry: &mut Registry, common: &Common, user: &UserName, named: &str, more: Wish| {
            let source = Source::Saved(named.parse().unwrap(), None);
            take_on(registry, common, user, Quota::default(), Wish { source, ..more }, &actor())
        };
        let large = || Wish { disk: GiB::new(3).unwrap(), ..wish() };
        for named in ["web", "alice/web", "alice/nothing"] {
            let refused = declined(ask(&mut registry, &common, &bob, named, large()));
            let sentence = format!("There is no saved image {named} that you may use.");
            assert_eq!((refused.status, &refused.faults["savedImage"]), (400, &sentence));
        }
        let elsewhere = Wish { host: Some("node1".parse().unwrap()), ..wish() };
        let refused = declined(ask(&mut registry, &common, &alice, "web", elsewhere));
        let told: Vec<_> = refused.faults.keys().copied().collect();
        assert_eq!((refused.status, told), (400, vec!["physicalHost", "vmPartition"]));
        let source = Source::Saved("web".parse().unwrap(), Some("other".parse().unwrap()));
        let other = Wish { source, ..large() };
        let refused = declined(take_on(&mut registry, &common, &alice, Quota::default(), other, &actor()));
        assert!(refused.faults["vmImage"].contains("goes back to the image tiny"), "{refused:?}");
        for changed in [
            Common { images: vec![("other".parse().unwrap(), String::new())], ..common.clone() },
            Common { physical_hosts: vec![("node1".parse().unwrap(), 9)], ..common.clone() },
        ] {
            let refused = declined(ask(&mut registry, &changed, &alice, "web", large()));
            assert_eq!((refused.status, refused.faults.len()), (409, 1), "{refused:?}");
        }
        let shared: Result<(), RegistryError> =
            registry.write(|writer| writer.share_image(&image.id(), true));
        shared.unwrap();
        let vm = ask(&mut registry, &common, &bob, "alice/web", large()).unwrap();
        assert_eq!((&vm.physical_host, &vm.image, vm.from), (&image.host, &image.base, Some(image.id())));
        let full = declined(ask(&mut registry, &common, &alice, "web", large()));
        assert!(full.status == 409 && full.faults["physicalHost"].contains("node2 only"), "{full:?}");
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
            let wish = Wish { name, ..wish() };
            let refused = declined(take_on(&mut registry, &common, &user, Quota::default(), wish, &actor()));
            assert_eq!(refused.status, 400, "{refused:?}");
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
            let vm = take_on(&mut registry, &common, &alice(), Quota::default(), wish(), &actor()).unwrap();
            let id = vm.id;
            let trouble = Trouble { fault: fault.clone(), taken };
            orders::settle(&mut registry, vm, Order::Deploy, Err(trouble), &actor()).unwrap();
            let vm = registry.read(|reader| reader.vm(id)).unwrap().unwrap();
            assert_eq!((vm.state, vm.on_node, vm.fault), (State::Failed, taken, Some(fault)));
        }
    }
}
