//! The data of `user/admin`, and how it is collected.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::cgi::reply::Refusal;
use crate::cgi::serve::{Data, View};
use crate::config::Common;
use crate::model::lease::Moment;
use crate::model::names::{PhysicalHost, VirtualHost};
use crate::model::text::{Row, ago, one_line};
use crate::server::machine::placement::Load;
use crate::server::machine::pool::loads;
use crate::server::orphans::{self, adopt};
use crate::server::pages::view::{HostView, TimeView};
use crate::server::registry::closed::{self, Closed, Kind};
use crate::server::registry::host::Contact;
use crate::server::registry::mail::Waiting;
use crate::server::registry::orphan::Found;
use crate::server::registry::upkeep::{LONGEST_GAP, Life};
use crate::server::registry::vm::{Scope, Vm};
use crate::server::registry::{Reader, RegistryError};

/// How many queued mails are shown.
const MAILS: u32 = 100;

/// The page.
#[derive(Debug, Serialize)]
pub(super) struct AdminView {
    /// Set if the portal is closed.
    portal: Option<ClosedView>,
    upkeep: UpkeepView,
    hosts: Vec<HostRow>,
    /// All names in the pool, and those that have left it but are still closed.
    names: Vec<NameRow>,
    /// How many names are available.
    free_names: usize,
    /// Orphans: what hosts have and the registry does not know.
    unknown: Vec<UnknownView>,
    /// The number of orphans not shown, by host.
    more_unknown: BTreeMap<String, usize>,
    /// Machines that are missing from their hosts.
    missing: Vec<MissingView>,
    /// Whether the registry was restored from a backup and has not been compared with the hosts
    /// yet. Nothing is deployed until then.
    awaits_comparison: bool,
    /// Owners without a mail address for whom there was mail.
    unreachable: Vec<UnreachableView>,
    mail: Vec<MailView>,
    /// Whether there is more queued mail than is shown.
    more_mail: bool,
}

/// Why something is closed, by whom and since when.
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
    /// When it last started; absent if it never did.
    last: Option<TimeView>,
    /// How long ago that is.
    ago: Option<String>,
    /// A warning with its remedy, if upkeep is overdue.
    warning: Option<String>,
}

/// A host.
#[derive(Debug, Serialize)]
struct HostRow {
    #[serde(flatten)]
    host: HostView,
    /// Whether it is in the pool. If not, all that can be done is to open it.
    in_pool: bool,
    closed: Option<ClosedView>,
    /// Why the last query by upkeep failed; absent if it succeeded, or if there was none yet.
    fault: Option<String>,
    /// Since when it has not answered.
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

/// The machine that uses a name.
#[derive(Debug, Serialize)]
struct TakenBy {
    id: String,
    url: String,
    owner: String,
    state: &'static str,
    physical_host: String,
}

/// An orphan.
#[derive(Debug, Serialize)]
struct UnknownView {
    host: String,
    kind: &'static str,
    name: String,
    detail: String,
    since: TimeView,
    /// The command that removes it, to be run as root on that host.
    command: String,
    /// What removing it through the portal does; absent if the portal can't remove it.
    effect: Option<&'static str>,
    /// The removal order, if one is under way as far as the registry knows.
    ordered: Option<OrderedView>,
    /// Whether it is a machine that can be adopted.
    adoptable: bool,
}

/// A machine that its host no longer has.
#[derive(Debug, Serialize)]
struct MissingView {
    id: String,
    url: String,
    name: String,
    owner: String,
    physical_host: String,
}

/// Who ordered something, and when.
#[derive(Debug, Serialize)]
struct OrderedView {
    who: String,
    at: TimeView,
}

/// An owner who can't be reached by mail.
#[derive(Debug, Serialize)]
struct UnreachableView {
    owner: String,
    since: TimeView,
}

/// A queued mail.
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
}

impl Data for AdminView {
    /// One line for each item, tab-separated, `-` for values that do not apply: `portal`, `open` or
    /// `closed`, reason, who, since; `upkeep`, last run, warning; `host`, name, `open` or
    /// `disabled`, reason, machines, maximum, last contact, version, `differs`, fault; `name`,
    /// name, `free`, `taken` or `disabled`, reason, machine's id, owner; `unknown`, host, kind,
    /// name, since, command, when its removal was ordered; `missing`, host, machine's id, name,
    /// owner; `unreachable`, owner, since; `mail`, recipient, subject, tries, next try, error.
    fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |columns: &[&str]| {
            let row = columns.iter().fold(Row::default(), |row, column| {
                row.or_dash(Some(column).filter(|text| !text.is_empty()))
            });
            text.push_str(&row.line());
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

/// Returns the status of something, with the reason if it is closed.
fn status<'a>(closed: Option<&'a ClosedView>, open: &'a str, shut: &'a str) -> (&'a str, &'a str) {
    closed.map_or((open, ""), |closed| (shut, closed.reason.as_str()))
}

/// Collects the data of the page, with at most `most_unknown` orphans for each host.
///
/// # Errors
/// Those of a `RegistryError`.
pub(super) fn look(
    reader: Reader<'_>,
    common: &Common,
    most_unknown: usize,
    now: Moment,
) -> Result<AdminView, Refusal> {
    let closed = reader.closed()?;
    let live = reader.live(Scope::All, u32::MAX, 0)?;
    let names = names(&live, common, &closed);
    let mut mail = reader.mail_waiting(MAILS + 1)?;
    let more_mail = mail.len() > MAILS as usize;
    mail.truncate(MAILS as usize);
    let (strays, more_unknown) = first_of_each(reader.strays()?, most_unknown);
    Ok(AdminView {
        portal: closed::find(&closed, Kind::Portal, "").map(ClosedView::from),
        upkeep: upkeep(reader.life()?, now),
        hosts: hosts(reader, common, &closed, now)?,
        free_names: names
            .iter()
            .filter(|row| row.in_pool && row.closed.is_none() && row.machine.is_none())
            .count(),
        names,
        unknown: strays.iter().map(unknown).collect(),
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

/// Keeps at most `most` orphans of each host. Returns them, and the number of the rest by host.
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
    // Hosts that have left the pool but still have machines or are closed.
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

fn unknown(found: &Found) -> UnknownView {
    UnknownView {
        host: found.host.to_string(),
        kind: found.stray.kind.as_str(),
        name: found.stray.name.clone(),
        detail: found.stray.detail.clone(),
        since: found.since.into(),
        command: orphans::removal(found.stray.kind, &found.stray.name),
        effect: orphans::effect(found.stray.kind, &found.stray.name),
        ordered: found.ordered.as_ref().map(|it| OrderedView { who: it.by.clone(), at: it.at.into() }),
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
