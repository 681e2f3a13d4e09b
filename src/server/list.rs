//! `user/list`: machines, and how full each host is.

use std::mem::ManuallyDrop;

use serde::Serialize;

use crate::cgi::reply::{Refusal, Reply};
use crate::cgi::request::Format;
use crate::cgi::serve::{UserCall, View};
use crate::config::{self, Common};
use crate::system::clock;

use super::access;
use super::registry::user::Owner;
use super::registry::vm::{Brief, Scope, Vm};
use super::registry::{Reader, RegistryError};
use super::view::{HostView, MachineView, TimeView, doing, loads, percent_shown, reason, stage_text};

/// How many machines a page shows.
const PER_PAGE: u32 = 100;

/// A page of the list, with machines and hosts as programs get them or as people see them.
#[derive(Debug, Serialize)]
struct ListView<M, H> {
    machines: Vec<M>,
    hosts: Vec<H>,
    /// `mine` or `all`.
    scope: &'static str,
    /// The machines on all pages.
    total: u32,
    /// The page, counted from one.
    page: u32,
    /// The number of pages, at least one.
    pages: u32,
    previous: Option<String>,
    next: Option<String>,
    /// Whether anything on the page changes by itself.
    moving: bool,
}

impl View for ListView<MachineView, HostView> {
    const TEMPLATE: &'static str = "list.html";

    /// One line a machine (see [`MachineView::line`]); what else there is to know follows in lines that
    /// begin with `#`: one a host (see [`HostView::line`]), and `# page`, its number, the number of pages,
    /// the number of machines.
    fn text(&self) -> String {
        let machines = self.machines.iter().map(MachineView::line);
        let hosts = self.hosts.iter().map(HostView::line);
        let page = format!("# page\t{}\t{}\t{}\n", self.page, self.pages, self.total);
        machines.chain(hosts).chain([page]).collect()
    }
}

/// A machine as the page shows it; each value as in [`MachineView`]. Flat and borrowed, for there are a hundred
/// of them: every value costs the page time, and so does every tag of its template.
#[derive(Debug, Serialize)]
struct Row<'a> {
    id: String,
    name: &'a str,
    label: &'a str,
    state: &'static str,
    /// Only while the machine changes by itself.
    doing: Option<Doing>,
    reason: Option<String>,
    image: &'a str,
    /// Memory and partition.
    size: String,
    host: &'a str,
    expires_iso: String,
    expires: String,
    /// Only in the list of all.
    owner: Option<&'a str>,
}

/// What a machine that changes by itself is doing.
#[derive(Debug, Serialize)]
struct Doing {
    text: Option<String>,
    percent: Option<u8>,
}

impl<'a> Row<'a> {
    fn new(machine: &'a Brief) -> Self {
        let expires = TimeView::from(machine.expires);
        let doing = || {
            let percent = percent_shown(machine.state, machine.percent);
            Doing {
                text: stage_text(machine.state, machine.stage, machine.place)
                    .map(|stage| doing(&stage, percent)),
                percent,
            }
        };
        Self {
            id: machine.id.to_string(),
            name: machine.virtual_host.as_str(),
            label: machine.label.as_str(),
            state: machine.state.as_str(),
            doing: machine.state.is_transitional().then(doing),
            reason: machine.fault.as_ref().map(reason),
            image: machine.image.as_str(),
            size: format!("{} MiB, {} GiB disk", machine.memory.get(), machine.disk.get()),
            host: machine.physical_host.as_str(),
            expires_iso: expires.iso,
            expires: expires.text,
            owner: machine.owner.as_ref().map(Owner::as_str),
        }
    }
}

/// A host as the page shows it; each value as in [`HostView`].
#[derive(Debug, Serialize)]
struct HostRow<'a> {
    name: &'a str,
    machines: u32,
    maximum: u32,
    full: bool,
    differs: bool,
    usage: Vec<Usage>,
    seen: Option<&'a TimeView>,
    seen_ago: Option<&'a str>,
    version: Option<&'a str>,
}

/// How much of something a host has left.
#[derive(Debug, Serialize)]
struct Usage {
    what: &'static str,
    text: String,
    percent: Option<u8>,
}

impl Usage {
    /// Nothing of a host that was never heard of.
    fn new(
        what: &'static str,
        free: Option<&String>,
        total: Option<&String>,
        percent: Option<u8>,
    ) -> Option<Self> {
        let (free, total) = (free?, total?);
        Some(Self { what, text: format!("{free} free of {total}"), percent })
    }
}

impl<'a> HostRow<'a> {
    fn new(host: &'a HostView) -> Self {
        let memory = (host.memory_free.as_ref(), host.memory_total.as_ref(), host.memory_percent_used);
        let disk = (host.disk_free.as_ref(), host.disk_total.as_ref(), host.disk_percent_used);
        let usage = [("Memory", memory), ("Disk", disk)];
        Self {
            name: &host.name,
            machines: host.machines,
            maximum: host.maximum,
            full: host.full,
            differs: host.differs,
            usage: usage
                .into_iter()
                .filter_map(|(what, (free, total, percent))| Usage::new(what, free, total, percent))
                .collect(),
            seen: host.seen.as_ref(),
            seen_ago: host.seen_ago.as_deref(),
            version: host.version.as_deref(),
        }
    }
}

/// The machines of a page, in the columns that its form needs.
enum Machines {
    Brief(Vec<Brief>),
    Whole(Vec<Vm>),
}

impl Machines {
    /// The machines of a page, and one more if there are more.
    fn read(
        reader: Reader<'_>,
        scope: Scope<'_>,
        page: u32,
        format: Format,
    ) -> Result<(Self, bool), RegistryError> {
        fn cut<T>(mut found: Vec<T>) -> (Vec<T>, bool) {
            let more = found.len() > PER_PAGE as usize;
            found.truncate(PER_PAGE as usize);
            (found, more)
        }
        let (limit, offset) = (PER_PAGE + 1, (page - 1).saturating_mul(PER_PAGE));
        Ok(match format {
            Format::Html => {
                let (found, more) = cut(reader.live_in_brief(scope, limit, offset)?);
                (Self::Brief(found), more)
            }
            Format::Json | Format::Text => {
                let (found, more) = cut(reader.live(scope, limit, offset)?);
                (Self::Whole(found), more)
            }
        })
    }

    fn count(&self) -> u32 {
        let count = match self {
            Self::Brief(machines) => machines.len(),
            Self::Whole(machines) => machines.len(),
        };
        // Never more than a page.
        u32::try_from(count).unwrap_or(PER_PAGE)
    }

    fn is_moving(&self) -> bool {
        match self {
            Self::Brief(machines) => machines.iter().any(|machine| machine.state.is_transitional()),
            Self::Whole(machines) => machines.iter().any(|vm| vm.state.is_transitional()),
        }
    }
}

/// Answers `user/list`.
///
/// Fields: `scope` (`mine`, or for administrators `all`, which is their default), `page` (from 1; one
/// beyond the last shows the last), `format`.
///
/// # Errors
/// 400 for an unknown field or a page that is no number, 403 for `scope=all` by others, 503 when the
/// registry is locked for too long.
pub fn handle(call: &UserCall<'_>) -> Result<Reply, Refusal> {
    let fields = &call.request.fields;
    fields.only(&["scope", "page", "format"])?;
    let all = match fields.get("scope") {
        None | Some("") => call.administrator,
        Some("mine") => false,
        Some("all") if call.administrator => true,
        Some("all") => return Err(Refusal::forbidden("Only administrators see the machines of all.")),
        Some(_) => return Err(Refusal::bad_request("scope is mine or all.")),
    };
    let asked: u32 = match fields.get("page") {
        None | Some("") => 1,
        Some(text) => text
            .parse()
            .ok()
            .filter(|page| *page >= 1)
            .ok_or_else(|| Refusal::bad_request("page is a number, from 1."))?,
    };
    // None of this is taken apart again: the process ends in a moment, and SQLite's locks with it.
    let common = ManuallyDrop::new(Common::load(&config::directory())?);
    let registry = ManuallyDrop::new(access::registry_to_read(call)?);
    let (list, machines) = registry.read(|reader| read(call, reader, &common, all, asked))?;
    let machines = ManuallyDrop::new(machines);
    match &*machines {
        Machines::Brief(machines) => {
            let rows = machines.iter().map(Row::new).collect();
            let hosts = list.hosts.iter().map(HostRow::new).collect();
            call.page(200, ListView::TEMPLATE, &*ManuallyDrop::new(list.with(rows, hosts)))
        }
        Machines::Whole(machines) => {
            let view = |vm| MachineView::new(vm, &common, call.administrator);
            call.reply(200, &list.with(machines.iter().map(view).collect(), list.hosts.clone()))
        }
    }
}

/// All of a page but its machines, and these.
fn read(
    call: &UserCall<'_>,
    reader: Reader<'_>,
    common: &Common,
    all: bool,
    asked: u32,
) -> Result<(ListView<(), HostView>, Machines), Refusal> {
    let owner = access::caller(call, reader)?;
    let scope = if all { Scope::All } else { Scope::Of(&owner) };
    let loads = loads(reader, common)?;
    let read = |page: u32| Machines::read(reader, scope, page, call.request.format);
    let (mut machines, more) = read(asked)?;
    // Most people have so few that there is nothing to count.
    let total = if asked == 1 && !more { machines.count() } else { reader.count(scope)? };
    let pages = total.div_ceil(PER_PAGE).max(1);
    let page = asked.min(pages);
    if page != asked {
        (machines, _) = read(page)?;
    }
    let facts = reader.hosts()?;
    let scope = if all { "all" } else { "mine" };
    let format = match (call.request.fields.get("format"), call.request.format) {
        (None | Some(""), _) | (_, Format::Html) => "",
        (_, Format::Json) => "&format=json",
        (_, Format::Text) => "&format=text",
    };
    let url = |page: u32| format!("list?scope={scope}&page={page}{format}");
    let now = clock::now();
    let list = ListView {
        machines: Vec::new(),
        hosts: loads
            .iter()
            .map(|load| {
                let facts = facts.iter().find(|host| host.name == load.host);
                HostView::new(load, facts, common, now)
            })
            .collect(),
        scope,
        total,
        page,
        pages,
        previous: (page > 1).then(|| url(page - 1)),
        next: (page < pages).then(|| url(page + 1)),
        moving: machines.is_moving(),
    };
    Ok((list, machines))
}

impl ListView<(), HostView> {
    fn with<M, H>(&self, machines: Vec<M>, hosts: Vec<H>) -> ListView<M, H> {
        ListView {
            machines,
            hosts,
            scope: self.scope,
            total: self.total,
            page: self.page,
            pages: self.pages,
            previous: self.previous.clone(),
            next: self.next.clone(),
            moving: self.moving,
        }
    }
}
