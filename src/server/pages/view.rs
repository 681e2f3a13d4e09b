//! What pages show, in the shape that templates and scripts get it.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt::Display;

use serde::Serialize;

use crate::cgi::reply::{Refusal, Reply};
use crate::cgi::request::Format;
use crate::cgi::serve::{UserCall, View};
use crate::config::Common;
use crate::model::fault::Fault;
use crate::model::lease::Moment;
use crate::model::names::PhysicalHost;
use crate::model::size::Amount;
use crate::model::stage::{Percent, Stage};
use crate::model::state::State;
use crate::system::log::{self, Level};

use crate::server::machine::placement::{self, Known, Load};
use crate::server::registry::Reader;
use crate::server::registry::RegistryError;
use crate::server::registry::closed::{self, Kind};
use crate::server::registry::host::Host;
use crate::server::registry::vm::Vm;

/// A point in time, for machines and for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TimeView {
    /// RFC 3339, UTC.
    pub iso: String,
    /// As people read it, UTC.
    pub text: String,
}

impl From<Moment> for TimeView {
    fn from(moment: Moment) -> Self {
        Self { iso: moment.rfc3339(), text: moment.to_string() }
    }
}

/// A machine.
#[derive(Debug, Clone, Serialize)]
pub struct MachineView {
    /// Its id.
    pub id: String,
    /// The name of its state.
    pub state: &'static str,
    /// Its name.
    pub virtual_host: String,
    /// Its host.
    pub physical_host: String,
    /// Who chose that: `asked` for its owner, `chosen` for vGrid, `again` when the first one that vGrid chose could not
    /// make it.
    pub placed: &'static str,
    /// The tag of its image.
    pub image: String,
    /// The saved image that it was made from, `owner/name`, if it was.
    pub saved_image: Option<String>,
    /// What the configuration says of `image`; the tag if it says nothing any more.
    pub image_description: String,
    /// Its memory, in MiB.
    pub memory_mib: u32,
    /// Its root partition, in GiB.
    pub disk_gib: u32,
    /// What its owner calls it; may be empty.
    pub label: String,
    /// Its owner.
    pub owner: String,
    /// When it was asked for.
    pub created: TimeView,
    /// When its lease ends; absent for never.
    pub expires: Option<TimeView>,
    /// Once its lease has ended: the day on which its disk is removed, not before.
    pub deletion: Option<TimeView>,
    /// Whether it is guarded against being terminated by hand.
    pub protected: bool,
    /// What its disk is being saved as, while it is.
    pub saving_as: Option<String>,
    /// While it changes: what is being done.
    pub stage: Option<String>,
    /// How much of that is done, 0 to 100.
    pub percent: Option<u8>,
    /// Its place in the queue of its host, from 1, while its deploy waits for others.
    pub place: Option<u32>,
    /// What went wrong, as a sentence.
    pub reason: Option<String>,
    /// Whether it changes by itself, so that it pays to look again.
    pub moving: bool,
    /// Its page.
    pub url: String,
    /// Where its lease is set.
    pub extend_url: String,
    /// Where it is terminated.
    pub terminate_url: String,
    /// Its console output.
    pub console_url: String,
    /// The form for another one like it.
    pub again_url: String,
    /// Whether who looks may have it forgotten without its host's consent.
    pub may_force: bool,
}

/// In place of the end of a lease that has none.
const NEVER: &str = "never";

/// Whether somebody may have a machine forgotten without its host's consent: an administrator always, its
/// owner when it never ran. Should the host report it later all the same, it is told to remove it.
pub fn may_force(vm: &Vm, administrator: bool) -> bool {
    vm.state.is_live() && (administrator || (vm.state == State::Failed && !vm.was_deployed))
}

impl MachineView {
    /// The view that the owner or an administrator has.
    pub fn new(vm: &Vm, common: &Common, administrator: bool) -> Self {
        let id = vm.id.to_string();
        let description = common.images.iter().find(|(tag, _)| *tag == vm.image);
        Self {
            state: vm.state.as_str(),
            virtual_host: vm.virtual_host.to_string(),
            physical_host: vm.physical_host.to_string(),
            placed: vm.placed.as_str(),
            image: vm.image.to_string(),
            saved_image: vm.from.as_ref().map(|image| format!("{}/{}", image.owner, image.name)),
            image_description: description
                .map_or_else(|| vm.image.to_string(), |(_, description)| description.clone()),
            memory_mib: vm.memory.get(),
            disk_gib: vm.disk.get(),
            label: vm.label.to_string(),
            owner: vm.owner.as_str().to_owned(),
            created: vm.created.into(),
            expires: vm.expires.map(TimeView::from),
            deletion: vm.deletion.filter(|_| vm.state.is_live()).map(TimeView::from),
            protected: vm.protected,
            saving_as: vm
                .saving
                .as_ref()
                .filter(|_| vm.state == State::Saving)
                .map(|saving| saving.name.to_string()),
            stage: stage_text(vm.state, vm.stage, vm.place),
            percent: percent_shown(vm.state, vm.percent),
            place: vm.place,
            reason: vm.fault.as_ref().map(reason),
            moving: vm.state.is_transitional(),
            url: format!("show?id={id}"),
            extend_url: format!("extend?id={id}"),
            terminate_url: format!("terminate?id={id}"),
            console_url: format!("console?id={id}"),
            again_url: format!("deploy?like={id}"),
            may_force: may_force(vm, administrator),
            id,
        }
    }

    /// The machine as a line for scripts, tab-separated: id, state, virtual host, physical host, image,
    /// memory (MiB), partition (GiB), owner, end of the lease (RFC 3339, or `never`), label, and what it is doing or
    /// what went wrong. No value holds a tab or a line break.
    pub fn line(&self) -> String {
        let doing = match (&self.stage, self.percent, &self.reason) {
            (Some(stage), percent, _) => doing(stage, percent),
            (None, _, reason) => reason.clone().unwrap_or_default(),
        };
        let memory = self.memory_mib.to_string();
        let disk = self.disk_gib.to_string();
        let columns = [
            self.id.as_str(),
            self.state,
            &self.virtual_host,
            &self.physical_host,
            &self.image,
            &memory,
            &disk,
            &self.owner,
            self.expires.as_ref().map_or(NEVER, |expires| &expires.iso),
            &self.label,
            &doing,
        ];
        columns.join("\t") + "\n"
    }
}

/// What is being done about a machine that is being deployed.
fn stage_text(state: State, stage: Option<Stage>, place: Option<u32>) -> Option<String> {
    state.is_transitional().then(|| match (place, stage) {
        (Some(place), _) => format!("waiting for its turn, number {place} in the queue of its host"),
        (None, Some(stage)) => stage.to_string(),
        (None, None) => "waiting for the host".to_owned(),
    })
}

/// How much of that is done.
fn percent_shown(state: State, percent: Option<Percent>) -> Option<u8> {
    percent.filter(|_| state.is_transitional()).map(u8::from)
}

/// A stage and how much of it is done, as a text.
fn doing(stage: &str, percent: Option<u8>) -> String {
    percent.map_or_else(|| stage.to_owned(), |percent| format!("{stage}, {percent} %"))
}

/// What went wrong with a machine, as a sentence on one line.
fn reason(fault: &Fault) -> String {
    one_line(&fault.to_string())
}

/// Takes out what would break a line into two or a column into two.
pub fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

/// What somebody gave as a reason, as the end of a sentence of ours.
pub fn ended(reason: &str) -> String {
    let stop = if reason.ends_with(['.', '!', '?', '…']) { "" } else { "." };
    format!("{reason}{stop}")
}

/// A fault of a type's own parser as a sentence.
pub fn sentence(fault: &impl Display) -> String {
    let text = fault.to_string();
    let mut letters = text.chars();
    let first = letters.next().map(|c| c.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", letters.as_str())
}

/// A host.
#[derive(Debug, Clone, Serialize)]
pub struct HostView {
    /// Its name.
    pub name: String,
    /// Its live machines.
    pub machines: u32,
    /// The most it may have.
    pub maximum: u32,
    /// Whether it has all that it may have.
    pub full: bool,
    /// Why it gets no new machines, if an administrator said so.
    pub disabled: Option<String>,
    /// Its free memory; absent while it was never heard of, like all that follows.
    pub memory_free: Option<String>,
    /// All its memory.
    pub memory_total: Option<String>,
    /// The free space of its volume group.
    pub disk_free: Option<String>,
    /// The size of its volume group.
    pub disk_total: Option<String>,
    /// How much of its memory is in use, 0 to 100.
    pub memory_percent_used: Option<u8>,
    /// How much of its volume group is in use, 0 to 100.
    pub disk_percent_used: Option<u8>,
    /// When it was last heard of.
    pub seen: Option<TimeView>,
    /// How long ago that is.
    pub seen_ago: Option<String>,
    /// The version of its node part.
    pub version: Option<String>,
    /// Whether its common.cfg differs from the server's.
    pub differs: bool,
}

impl HostView {
    /// What `facts` say about a host that is as full as `load` says.
    pub fn new(load: &Load, facts: Option<&Host>, common: &Common, now: Moment) -> Self {
        let text = |pick: fn(&Host) -> Amount| facts.map(|host| pick(host).to_string());
        let used = |free: fn(&Host) -> Amount, total: fn(&Host) -> Amount| {
            facts.and_then(|host| percent_used(free(host), total(host)))
        };
        Self {
            name: load.host.to_string(),
            machines: load.machines,
            maximum: load.maximum,
            full: load.is_full(),
            disabled: load.disabled.clone(),
            memory_free: text(|h| h.facts.memory_free),
            memory_total: text(|h| h.facts.memory_total),
            disk_free: text(|h| h.facts.disk_free),
            disk_total: text(|h| h.facts.disk_total),
            memory_percent_used: used(|h| h.facts.memory_free, |h| h.facts.memory_total),
            disk_percent_used: used(|h| h.facts.disk_free, |h| h.facts.disk_total),
            seen: facts.map(|host| host.seen.into()),
            seen_ago: facts.map(|host| ago(now.since(host.seen))),
            version: facts.map(|host| one_line(&host.facts.version)),
            differs: facts.is_some_and(|host| host.facts.common_digest != common.digest),
        }
    }

    /// The host as a comment for scripts: `# host`, name, machines, maximum, free and all memory, free
    /// and all space, last contact (RFC 3339), version, `differs` if its common.cfg is another,
    /// and `disabled` if it gets no new machines; tab-separated, `-` for what is not known or not so.
    pub fn line(&self) -> String {
        let or_dash = |value: Option<&str>| value.unwrap_or("-").to_owned();
        let columns = [
            "# host".to_owned(),
            self.name.clone(),
            self.machines.to_string(),
            self.maximum.to_string(),
            or_dash(self.memory_free.as_deref()),
            or_dash(self.memory_total.as_deref()),
            or_dash(self.disk_free.as_deref()),
            or_dash(self.disk_total.as_deref()),
            or_dash(self.seen.as_ref().map(|seen| seen.iso.as_str())),
            or_dash(self.version.as_deref()),
            or_dash(self.differs.then_some("differs")),
            or_dash(self.disabled.as_ref().map(|_| "disabled")),
        ];
        columns.join("\t") + "\n"
    }
}

fn percent_used(free: Amount, total: Amount) -> Option<u8> {
    if total == Amount::default() {
        return None;
    }
    Some(Percent::of(total.minus(free).mib(), total.mib()).get())
}

/// A span of seconds in the largest unit that says something.
pub fn ago(seconds: i64) -> String {
    match seconds {
        // Also when a clock was set back.
        ..5 => "just now".to_owned(),
        5..120 => format!("{seconds} s ago"),
        120..7200 => format!("{} min ago", seconds / 60),
        7200..172_800 => format!("{} h ago", seconds / 3600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

/// How full each host of the pool is, and whether it is disabled, in the order of the file.
///
/// # Errors
/// [`RegistryError`] when the counts can't be read.
pub fn loads(reader: Reader<'_>, common: &Common) -> Result<Vec<Load>, RegistryError> {
    let live = reader.live_by_host()?;
    let closed = reader.closed()?;
    Ok(common
        .physical_hosts
        .iter()
        .map(|(host, maximum)| Load {
            host: host.clone(),
            machines: live.get(host).copied().unwrap_or_default(),
            maximum: *maximum,
            disabled: closed::find(&closed, Kind::Host, host.as_str()).map(|one| one.reason.clone()),
        })
        .collect())
}

/// How old what a host said of its memory and space, or its silence, may be to speak against it, in seconds.
const FRESH: i64 = 3600;

/// What is known of each host that may speak against placing a machine there.
///
/// # Errors
/// [`RegistryError`] when it can't be read.
pub fn known(reader: Reader<'_>, now: Moment) -> Result<BTreeMap<PhysicalHost, Known>, RegistryError> {
    let mut known: BTreeMap<PhysicalHost, Known> = BTreeMap::new();
    for host in reader.hosts()? {
        let one = known.entry(host.name).or_default();
        if now.since(host.seen).abs() <= FRESH {
            one.memory_free = Some(host.facts.memory_free);
            one.disk_free = Some(host.facts.disk_free);
        }
        one.images = host.images;
    }
    for contact in reader.contacts()? {
        let is_fresh = now.since(contact.tried).abs() <= FRESH;
        known.entry(contact.name).or_default().silent = contact.fault.is_some() && is_fresh;
    }
    for (host, failures) in reader.failures()? {
        let until = failures.last.plus_seconds(placement::pause(failures.count));
        known.entry(host).or_default().failing_until = Some(until);
    }
    Ok(known)
}

/// A stage of an order, on the way from first to last.
#[derive(Debug, Clone, Serialize)]
pub struct StageView {
    /// Its name.
    pub name: &'static str,
    /// What is being done in it.
    pub text: String,
    /// `done`, `now` or `todo`.
    pub status: &'static str,
}

/// The stages of the last order about a machine. None when they say nothing: once it is gone, or when what
/// was ordered came to nothing and the machine is as it was.
pub fn stages(vm: &Vm) -> Vec<StageView> {
    let all = vm.order.stages();
    let moving = vm.state.is_transitional();
    let settled = !moving && vm.state != State::Failed;
    if !vm.state.is_live() || (settled && vm.fault.is_some()) {
        return Vec::new();
    }
    let reached = vm.stage.and_then(|stage| all.iter().position(|s| *s == stage)).unwrap_or(0);
    let status = |n: usize| match n.cmp(&reached) {
        _ if settled => "done",
        Ordering::Less => "done",
        // What failed is not being done now, and is still to be done.
        Ordering::Equal if moving => "now",
        _ => "todo",
    };
    let view = |(n, stage): (usize, &Stage)| StageView {
        name: stage.as_str(),
        text: stage.to_string(),
        status: status(n),
    };
    all.iter().enumerate().map(view).collect()
}

/// What became of an order: the machine, and why it was not carried out if it was not.
#[derive(Debug, Serialize)]
pub struct OrderView {
    /// The machine.
    pub machine: MachineView,
    /// What went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<OrderError>,
}

/// Why an order was not carried out, in the shape of every error.
#[derive(Debug, Serialize)]
pub struct OrderError {
    /// The HTTP status.
    pub status: u16,
    /// A sentence.
    pub message: String,
    /// The request's id.
    pub request: String,
}

/// The answer to an order that was recorded: people are sent to the machine's page (303), programs get
/// the machine's data with 202, or with the reason and 409 if its host refused the order, 502 if the host
/// could not be used.
///
/// # Errors
/// A [`Refusal`] if the data can't be shown.
pub fn ordered(
    call: &UserCall<'_>,
    common: &Common,
    vm: &Vm,
    fault: Option<&Fault>,
) -> Result<Reply, Refusal> {
    let machine = MachineView::new(vm, common, call.administrator);
    let location = machine.url.clone();
    let Some(fault) = fault else {
        return call.done(&location, &OrderView { machine, error: None });
    };
    if call.request.format == Format::Html {
        return Ok(Reply::see_other(&location));
    }
    let status = fault.status();
    let error = OrderError { status, message: fault.to_string(), request: call.request.id.to_string() };
    call.reply(status, &OrderView { machine, error: Some(error) })
}

/// Answers a form with a mistake: for people by `page`, which asks again and says what is wrong with which field;
/// for programs by the refusal. What is wrong with no single field is refused to both.
///
/// # Errors
/// The refusal, or what `page` fails with.
pub fn ask_again<V: View>(
    call: &UserCall<'_>,
    refusal: Refusal,
    page: impl FnOnce(BTreeMap<&'static str, String>) -> Result<V, Refusal>,
) -> Result<Reply, Refusal> {
    if refusal.fields.is_empty() || call.request.format != Format::Html {
        return Err(refusal);
    }
    log::event(
        Level::Warning,
        "refused",
        &[
            ("status", &refusal.status),
            ("user", &call.user),
            ("from", &call.request.from()),
            ("why", &refusal.sentence),
        ],
    );
    call.reply(refusal.status, &page(refusal.fields)?)
}

/// A refusal for what is wrong with one field.
pub fn field_fault(status: u16, field: &'static str, sentence: impl Into<String>) -> Refusal {
    let sentence = sentence.into();
    let mut refusal = Refusal::new(status, sentence.clone());
    refusal.fields.insert(field, sentence);
    refusal
}

impl View for OrderView {
    // People are sent to the machine's page instead.
    const TEMPLATE: &'static str = "show.html";

    /// The machine's line, as in the list.
    fn text(&self) -> String {
        self.machine.line()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_told_in_one_unit() {
        for (seconds, text) in [
            (-50, "just now"),
            (4, "just now"),
            (5, "5 s ago"),
            (119, "119 s ago"),
            (120, "2 min ago"),
            (7200, "2 h ago"),
            (172_800, "2 days ago"),
        ] {
            assert_eq!(ago(seconds), text);
        }
    }

    #[test]
    fn shares_never_leave_their_bounds() {
        let mib = Amount::from_mib;
        assert_eq!(percent_used(mib(0), mib(0)), None);
        assert_eq!(percent_used(mib(900), mib(100)), Some(0));
        assert_eq!(percent_used(mib(25), mib(100)), Some(75));
    }
}
