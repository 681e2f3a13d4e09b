//! `user/admin`: what administrators see of the whole, what they close and open again, and what they have removed.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::cgi::reply::{Refusal, Reply};
use crate::cgi::request::Format;
use crate::cgi::serve::{UserCall, View};
use crate::config::{self, Common};
use crate::model::lease::Moment;
use crate::model::names::{PhysicalHost, Reason, VirtualHost};
use crate::model::text::{ago, one_line};
use crate::server::audit;
use crate::server::machine::placement::Load;
use crate::server::machine::pool::loads;
use crate::server::nodes::Nodes;
use crate::server::orphans::{self, Removal, Target, adopt};
use crate::server::pages::access;
use crate::server::pages::view::{HostView, TimeView};
use crate::server::registry::closed::{self, Closed, Kind};
use crate::server::registry::event::{Actor, Happening};
use crate::server::registry::host::Contact;
use crate::server::registry::mail::Waiting;
use crate::server::registry::stray::Found;
use crate::server::registry::upkeep::{LONGEST_GAP, Life};
use crate::server::registry::vm::{Scope, Vm};
use crate::server::registry::{Reader, RegistryError, Writer};
use crate::system::clock;

/// How many unknown things of each host a page shows; programs get all that are remembered.
const UNKNOWN: usize = 50;

/// How many of the mails that wait are shown.
const MAILS: u32 = 100;

/// The page.
#[derive(Debug, Serialize)]
struct AdminView {
    /// The portal's closing, if it is closed.
    portal: Option<ClosedView>,
    upkeep: UpkeepView,
    hosts: Vec<HostRow>,
    /// All names of the pool, and those that are closed though they are in it no more.
    names: Vec<NameRow>,
    /// How many of them can be given out.
    free_names: usize,
    /// What was found on hosts and is nobody's.
    unknown: Vec<UnknownView>,
    /// How many more there are, by host.
    more_unknown: BTreeMap<String, usize>,
    /// What hosts should have and don't.
    missing: Vec<MissingView>,
    /// Whether the registry comes from a backup and the hosts have not been compared with it yet: nothing is deployed.
    awaits_comparison: bool,
    /// Owners who have no address, and for whom there was mail.
    unreachable: Vec<UnreachableView>,
    mail: Vec<MailView>,
    /// Whether more mail waits than is shown.
    more_mail: bool,
}

/// That something is closed.
#[derive(Debug, Serialize)]
struct ClosedView {
    reason: String,
    who: String,
    since: TimeView,
}

impl From<&Closed> for ClosedView {
    fn from(closed: &Closed) -> Self {
        Self { reason: closed.reason.clone(), who: closed.who.clone(), since: closed.since.into() }
    }
}

/// When upkeep ran.
#[derive(Debug, Serialize)]
struct UpkeepView {
    /// When it last began; absent if it never did.
    last: Option<TimeView>,
    /// How long ago that is.
    ago: Option<String>,
    /// What is wrong with that and what to do, if something is.
    warning: Option<String>,
}

/// A host.
#[derive(Debug, Serialize)]
struct HostRow {
    #[serde(flatten)]
    host: HostView,
    /// Whether it is in the pool. One that is not can only be opened again.
    in_pool: bool,
    closed: Option<ClosedView>,
    /// Why upkeep could not ask it the last time; absent if it answered, or was never asked.
    fault: Option<String>,
    /// Since when it does not answer.
    fault_since: Option<TimeView>,
    /// When upkeep last tried.
    tried: Option<TimeView>,
}

/// A name for machines.
#[derive(Debug, Serialize)]
struct NameRow {
    name: String,
    in_pool: bool,
    closed: Option<ClosedView>,
    machine: Option<TakenBy>,
}

/// The machine that has a name.
#[derive(Debug, Serialize)]
struct TakenBy {
    id: String,
    url: String,
    owner: String,
    state: &'static str,
    physical_host: String,
}

/// Something on a host that is nobody's.
#[derive(Debug, Serialize)]
struct UnknownView {
    host: String,
    kind: &'static str,
    name: String,
    detail: String,
    since: TimeView,
    /// What to type on that host, as root.
    command: String,
    /// What happens when the portal has it removed; absent if it can't.
    effect: Option<&'static str>,
    /// That its removal is under way, as far as is known.
    ordered: Option<OrderedView>,
    /// Whether it is a machine that can be adopted.
    adoptable: bool,
}

/// A machine that its host does not have any more.
#[derive(Debug, Serialize)]
struct MissingView {
    id: String,
    url: String,
    name: String,
    owner: String,
    physical_host: String,
}

/// That somebody has ordered something.
#[derive(Debug, Serialize)]
struct OrderedView {
    who: String,
    at: TimeView,
}

/// An owner who can't be told anything.
#[derive(Debug, Serialize)]
struct UnreachableView {
    owner: String,
    since: TimeView,
}

/// A mail that waits.
#[derive(Debug, Serialize)]
struct MailView {
    recipient: String,
    subject: String,
    queued: TimeView,
    tries: u32,
    next_try: TimeView,
    error: Option<String>,
}

impl View for AdminView {
    const TEMPLATE: &'static str = "admin.html";

    /// One line for each thing, tab-separated, `-` for what does not apply: `portal`, `open` or `closed`, reason, who,
    /// since; `upkeep`, last run, warning; `host`, name, `open` or `disabled`, reason, machines, maximum, last contact,
    /// version, `differs`, fault; `name`, name, `free`, `taken` or `disabled`, reason, machine's id, owner; `unknown`,
    /// host, kind, name, since, command, when its removal was ordered; `missing`, host, machine's id, name, owner; `unreachable`, owner, since; `mail`, recipient, subject, tries, next try, error.
    fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |columns: &[&str]| {
            let columns: Vec<String> = columns
                .iter()
                .map(|text| if text.is_empty() { "-".to_owned() } else { one_line(text) })
                .collect();
            text.push_str(&(columns.join("\t") + "\n"));
        };
        let since = |closed: Option<&ClosedView>| closed.map(|one| one.since.iso.clone()).unwrap_or_default();
        let portal = self.portal.as_ref();
        let (status, reason) = status(portal, "open", "closed");
        line(&["portal", status, reason, portal.map_or("", |one| &one.who), &since(portal)]);
        let last = self.upkeep.last.as_ref().map_or("", |last| &last.iso);
        line(&["upkeep", last, self.upkeep.warning.as_deref().unwrap_or_default()]);
        for row in &self.hosts {
            let HostView { name, machines, maximum, seen, version, differs, .. } = &row.host;
            let (status, reason) = self::status(row.closed.as_ref(), "open", "disabled");
            line(&[
                "host",
                name,
                status,
                reason,
                &machines.to_string(),
                &maximum.to_string(),
                seen.as_ref().map_or("", |seen| &seen.iso),
                version.as_deref().unwrap_or_default(),
                if *differs { "differs" } else { "" },
                row.fault.as_deref().unwrap_or_default(),
            ]);
        }
        for row in &self.names {
            let open = if row.machine.is_some() { "taken" } else { "free" };
            let (status, reason) = self::status(row.closed.as_ref(), open, "disabled");
            let machine = row.machine.as_ref();
            line(&[
                "name",
                &row.name,
                status,
                reason,
                machine.map_or("", |vm| &vm.id),
                machine.map_or("", |vm| &vm.owner),
            ]);
        }
        for one in &self.unknown {
            let ordered = one.ordered.as_ref().map_or("", |ordered| &ordered.at.iso);
            line(&["unknown", &one.host, one.kind, &one.name, &one.since.iso, &one.command, ordered]);
        }
        for one in &self.missing {
            line(&["missing", &one.physical_host, &one.id, &one.name, &one.owner]);
        }
        for one in &self.unreachable {
            line(&["unreachable", &one.owner, &one.since.iso]);
        }
        for mail in &self.mail {
            let error = mail.error.as_deref().unwrap_or_default();
            let tries = mail.tries.to_string();
            line(&["mail", &mail.recipient, &mail.subject, &tries, &mail.next_try.iso, error]);
        }
        text
    }
}

/// What something is, and why if it is closed.
fn status<'a>(closed: Option<&'a ClosedView>, open: &'a str, shut: &'a str) -> (&'a str, &'a str) {
    closed.map_or((open, ""), |closed| (shut, closed.reason.as_str()))
}

/// What can be closed and opened.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Thing {
    Portal,
    Host(PhysicalHost),
    Name(VirtualHost),
}

impl Thing {
    fn kind(&self) -> Kind {
        match self {
            Self::Portal => Kind::Portal,
            Self::Host(_) => Kind::Host,
            Self::Name(_) => Kind::Name,
        }
    }

    /// Its name in the registry.
    fn name(&self) -> &str {
        match self {
            Self::Portal => "",
            Self::Host(host) => host.as_str(),
            Self::Name(name) => name.as_str(),
        }
    }

    /// What the history says that it is about.
    fn about(&self) -> &str {
        match self {
            Self::Portal => "portal",
            _ => self.name(),
        }
    }

    fn in_pool(&self, common: &Common) -> bool {
        match self {
            Self::Portal => true,
            Self::Host(host) => common.maximum(host).is_some(),
            Self::Name(name) => common.extra(name).is_some(),
        }
    }

    /// What becomes of it, for history and log.
    fn event(&self, act: &Act) -> &'static str {
        match (self, act) {
            (Self::Portal, Act::Close(_)) => "portal closed",
            (Self::Portal, Act::Open) => "portal opened",
            (Self::Host(_), Act::Close(_)) => "host disabled",
            (Self::Host(_), Act::Open) => "host enabled",
            (Self::Name(_), Act::Close(_)) => "name disabled",
            (Self::Name(_), Act::Open) => "name enabled",
        }
    }
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Act {
    Close(Reason),
    Open,
}

impl Act {
    fn detail(&self) -> &str {
        match self {
            Self::Close(reason) => reason.as_str(),
            Self::Open => "",
        }
    }
}

/// Answers `user/admin`, for administrators alone: without `do` what there is to see; with it something is closed or
/// opened again, or something unknown on a host is removed, and then the same, or for people 303 to it.
///
/// Fields: `do` (`close`, `open`, `remove` or `adopt`), `token`, `format`. To close and to open: `kind` (`portal`, `host` or
/// `name`), `name` (of host or name), `reason` (why it is closed, for those who want it). To close what is closed changes
/// the reason; to open what is open changes nothing. To remove: `kind` (`domain`, `volume`, `record` or `image`), `host`,
/// `name`; 202 when its host has only accepted the work. To adopt a machine: `kind=record`, `host`, `name` (its id).
///
/// # Errors
/// 400 with what is wrong with the fields, 403 for others, 404 for a host or a name that is not in the pool and for what
/// is not unknown, 409 for what is not to be removed, 502 when its host can't be used, 503 when the registry is locked
/// for too long.
pub fn handle(call: &UserCall<'_>) -> Result<Reply, Refusal> {
    let fields = &call.request.fields;
    fields.only(&["do", "kind", "host", "name", "reason", "token", "format"])?;
    let common = Common::load(&config::directory())?;
    let mut status = 200;
    if call.acts {
        let act = fields.get("do").map(str::trim);
        let is_about_hosts = matches!(act, Some("remove" | "adopt"));
        if is_about_hosts {
            let target = Target::read(fields)?;
            let actor = access::actor(call);
            let mut registry = access::registry(call)?;
            let nodes = Nodes::new(&call.config, &call.request.id)?;
            if act == Some("adopt") {
                adopt::adopt(&mut registry, &nodes, &actor, &target, call.config.leases.default)?;
            } else if orphans::remove(&mut registry, &nodes, &actor, &target)? == Removal::UnderWay {
                status = 202;
            }
        } else {
            let (thing, act) = read(call)?;
            let actor = access::actor(call);
            let mut registry = access::registry(call)?;
            if registry.write(|writer| carry_out(writer, &common, &thing, &act, &actor))? {
                audit::act(thing.event(&act), thing.about(), &actor, act.detail());
            }
        }
        if call.request.format == Format::Html {
            return Ok(Reply::see_other(if is_about_hosts { "admin#unknown-title" } else { "admin" }));
        }
    }
    let now = clock::now();
    let most = if call.request.format == Format::Html { UNKNOWN } else { usize::MAX };
    let view = access::registry_to_read(call)?.read(|reader| look(reader, &common, most, now))?;
    call.reply(status, &view)
}

/// Reads what is to be closed or opened.
fn read(call: &UserCall<'_>) -> Result<(Thing, Act), Refusal> {
    let fields = &call.request.fields;
    let text = |name| fields.get(name).map(str::trim).unwrap_or_default();
    let close = match text("do") {
        "close" => true,
        "open" => false,
        _ => return Err(Refusal::bad_request("do is close, open, remove or adopt.")),
    };
    if fields.get("host").is_some() {
        return Err(Refusal::bad_request("The field host goes with do=remove. A host is named by name."));
    }
    let kind =
        Kind::from_name(text("kind")).ok_or_else(|| Refusal::bad_request("kind is portal, host or name."))?;
    let thing = match kind {
        Kind::Portal if text("name").is_empty() => Thing::Portal,
        Kind::Portal => {
            return Err(Refusal::bad_request("The portal has no name. Leave the field name out."));
        }
        Kind::Host => Thing::Host(fields.required("name")?),
        Kind::Name => Thing::Name(fields.required("name")?),
    };
    if !close {
        return Ok((thing, Act::Open));
    }
    if text("reason").is_empty() {
        let why = match kind {
            Kind::Portal => {
                "Say why the portal is closed, and until when: everybody reads it (the field reason)."
            }
            Kind::Host => {
                "Say why the host gets no new machines: who wants it reads that (the field reason)."
            }
            Kind::Name => "Say why the name is not given out: who wants it reads that (the field reason).",
        };
        return Err(Refusal::bad_request(why));
    }
    Ok((thing, Act::Close(fields.required("reason")?)))
}

/// Closes or opens, within a transaction. Says whether that changed something, which is recorded then.
fn carry_out(
    writer: &Writer<'_>,
    common: &Common,
    thing: &Thing,
    act: &Act,
    actor: &Actor,
) -> Result<bool, Refusal> {
    let now = clock::now();
    let all = writer.closed()?;
    let present = closed::find(&all, thing.kind(), thing.name());
    // What has left the pool since it was closed can still be opened.
    let known = thing.in_pool(common) || (*act == Act::Open && present.is_some());
    if !known {
        let section = if thing.kind() == Kind::Host { "PhysicalHostsPool" } else { "VirtualHostsPool" };
        return Err(Refusal::not_found(format!(
            "There is no {} {} in [{section}] of common.cfg.",
            thing.kind().as_str(),
            thing.name()
        )));
    }
    let changes = match act {
        Act::Open => writer.reopen(thing.kind(), thing.name())?,
        Act::Close(reason) if present.is_some_and(|one| one.reason == reason.as_str()) => false,
        Act::Close(reason) => {
            writer.close(&Closed {
                kind: thing.kind(),
                name: thing.name().to_owned(),
                reason: reason.as_str().to_owned(),
                who: actor.who.clone(),
                since: now,
            })?;
            true
        }
    };
    if changes {
        writer.record_about(thing.about(), now, actor, thing.event(act), act.detail())?;
    }
    Ok(changes)
}

/// All that there is to see.
fn look(reader: Reader<'_>, common: &Common, most_unknown: usize, now: Moment) -> Result<AdminView, Refusal> {
    let closed = reader.closed()?;
    let live = reader.live(Scope::All, u32::MAX, 0)?;
    let names = names(&live, common, &closed);
    let mut mail = reader.mail_waiting(MAILS + 1)?;
    let more_mail = mail.len() > MAILS as usize;
    mail.truncate(MAILS as usize);
    let (strays, more_unknown) = first_of_each(reader.strays()?, most_unknown);
    let ordered = orphans::under_way(reader, &strays)?;
    Ok(AdminView {
        portal: closed::find(&closed, Kind::Portal, "").map(ClosedView::from),
        upkeep: upkeep(reader.life()?, now),
        hosts: hosts(reader, common, &closed, now)?,
        free_names: names
            .iter()
            .filter(|row| row.in_pool && row.closed.is_none() && row.machine.is_none())
            .count(),
        names,
        unknown: strays.iter().zip(ordered).map(|(found, ordered)| unknown(found, ordered)).collect(),
        more_unknown,
        missing: live.iter().filter(|vm| vm.is_missing()).map(missing).collect(),
        awaits_comparison: reader.awaits_comparison()?,
        unreachable: reader
            .unreachable()?
            .into_iter()
            .map(|(owner, since)| UnreachableView { owner, since: since.into() })
            .collect(),
        mail: mail.into_iter().map(mail_view).collect(),
        more_mail,
    })
}

/// At most so many of what is unknown on each host, and how many more there are.
fn first_of_each(strays: Vec<Found>, most: usize) -> (Vec<Found>, BTreeMap<String, usize>) {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut first = strays;
    first.retain(|found| {
        let many = seen.entry(found.host.to_string()).or_default();
        *many += 1;
        *many <= most
    });
    let more = seen.into_iter().filter(|(_, many)| *many > most).map(|(host, many)| (host, many - most));
    (first, more.collect())
}

fn hosts(
    reader: Reader<'_>,
    common: &Common,
    closed: &[Closed],
    now: Moment,
) -> Result<Vec<HostRow>, RegistryError> {
    let mut loads = loads(reader, common)?;
    let pool = loads.len();
    // What has left the pool but is not done with: it still has machines, or is closed.
    let live = reader.live_by_host()?;
    let shut = closed.iter().filter(|one| one.kind == Kind::Host).filter_map(|one| one.name.parse().ok());
    let mut left: BTreeMap<PhysicalHost, u32> = shut.map(|host| (host, 0)).collect();
    left.extend(live);
    left.retain(|host, _| common.maximum(host).is_none());
    loads.extend(left.into_iter().map(|(host, machines)| {
        let disabled = closed::find(closed, Kind::Host, host.as_str()).map(|one| one.reason.clone());
        Load { host, machines, maximum: 0, disabled }
    }));
    let (facts, contacts) = (reader.hosts()?, reader.contacts()?);
    let row = |(n, load): (usize, &Load)| {
        let contact: Option<&Contact> = contacts.iter().find(|contact| contact.name == load.host);
        let failing = contact.filter(|contact| contact.fault.is_some());
        HostRow {
            host: HostView::new(load, facts.iter().find(|host| host.name == load.host), common, now),
            in_pool: n < pool,
            closed: closed::find(closed, Kind::Host, load.host.as_str()).map(ClosedView::from),
            fault: failing.and_then(|contact| contact.fault.as_deref().map(one_line)),
            fault_since: failing.map(|contact| contact.since.into()),
            tried: contact.map(|contact| contact.tried.into()),
        }
    };
    Ok(loads.iter().enumerate().map(row).collect())
}

fn names(live: &[Vm], common: &Common, closed: &[Closed]) -> Vec<NameRow> {
    let taken: BTreeMap<&VirtualHost, &Vm> = live.iter().map(|vm| (&vm.virtual_host, vm)).collect();
    let row = |name: &VirtualHost, in_pool: bool| NameRow {
        name: name.to_string(),
        in_pool,
        closed: closed::find(closed, Kind::Name, name.as_str()).map(ClosedView::from),
        machine: taken.get(name).map(|vm| TakenBy {
            id: vm.id.to_string(),
            url: format!("show?id={}", vm.id),
            owner: vm.owner.as_str().to_owned(),
            state: vm.state.as_str(),
            physical_host: vm.physical_host.to_string(),
        }),
    };
    let mut rows: Vec<NameRow> = common.virtual_hosts.iter().map(|(name, _)| row(name, true)).collect();
    let shut = closed.iter().filter(|one| one.kind == Kind::Name).filter_map(|one| one.name.parse().ok());
    let left = shut.filter(|name: &VirtualHost| common.extra(name).is_none());
    rows.extend(left.map(|name| row(&name, false)));
    rows
}

fn upkeep(life: Life, now: Moment) -> UpkeepView {
    const REMEDY: &str = "Until it does no lease ends, no mail leaves, and no host is asked. It is cron that starts it: \
                          see INSTALL.md, and look at the log (journalctl -t vgrid).";
    let age = life.last.map(|last| now.since(last));
    let warning = match age {
        None => Some(format!("Upkeep has never run. {REMEDY}")),
        Some(age) if age > LONGEST_GAP => {
            Some(format!("Upkeep has not run for more than {} hours. {REMEDY}", LONGEST_GAP / 3600))
        }
        Some(_) => None,
    };
    UpkeepView { last: life.last.map(TimeView::from), ago: age.map(ago), warning }
}

fn mail_view(mail: Waiting) -> MailView {
    MailView {
        recipient: mail.recipient,
        subject: mail.subject,
        queued: mail.queued.into(),
        tries: mail.tries,
        next_try: mail.next_try.into(),
        error: mail.error.as_deref().map(one_line),
    }
}

fn missing(vm: &Vm) -> MissingView {
    MissingView {
        id: vm.id.to_string(),
        url: format!("show?id={}", vm.id),
        name: vm.virtual_host.to_string(),
        owner: vm.owner.as_str().to_owned(),
        physical_host: vm.physical_host.to_string(),
    }
}

fn unknown(found: &Found, ordered: Option<Happening>) -> UnknownView {
    UnknownView {
        host: found.host.to_string(),
        kind: found.stray.kind.as_str(),
        name: found.stray.name.clone(),
        detail: found.stray.detail.clone(),
        since: found.since.into(),
        command: orphans::removal(found.stray.kind, &found.stray.name),
        effect: orphans::effect(found.stray.kind, &found.stray.name),
        ordered: ordered.map(|it| OrderedView { who: it.actor.who, at: it.at.into() }),
        adoptable: adopt::can_be(found.stray.kind, &found.stray.name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upkeep_that_does_not_run_is_told() {
        let at = Moment::from_unix;
        let warning =
            |last: Option<i64>| upkeep(Life { last: last.map(at), lived: 0 }, at(1_000_000)).warning;
        assert!(warning(None).is_some_and(|text| text.contains("never run")));
        assert!(warning(Some(1_000_000 - LONGEST_GAP - 1)).is_some_and(|text| text.contains("2 hours")));
        assert_eq!(warning(Some(1_000_000 - LONGEST_GAP)), None);
        assert_eq!(warning(Some(1_000_500)), None, "the clock was set back");
    }
}
