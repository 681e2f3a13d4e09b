//! `user/list`: machines, and the load of each host.

use serde::Serialize;

use crate::cgi::reply::{Refusal, Reply};
use crate::cgi::request::Format;
use crate::cgi::serve::{Data, UserCall, View};
use crate::config::{self, Common};
use crate::model::text::Row;
use crate::server::machine::pool::loads;
use crate::server::machine::quota::QuotaView;
use crate::server::pages::view::{HostView, MachineView};
use crate::server::pages::{access, unchanged};
use crate::server::registry::vm::Scope;
use crate::system::clock;

/// The number of machines on a page.
const PER_PAGE: u32 = 100;

/// The page.
#[derive(Debug, Serialize)]
struct ListView {
    machines: Vec<MachineView>,
    hosts: Vec<HostView>,
    /// The caller's usage and quota.
    quota: QuotaView,
    /// Why only administrators can change anything at present, if the portal is closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    closed: Option<String>,
    /// `mine` or `all`.
    scope: &'static str,
    /// The number of machines on all pages.
    total: u32,
    /// The page number, from one.
    page: u32,
    /// The number of pages, at least one.
    pages: u32,
    previous: Option<String>,
    next: Option<String>,
    /// Whether any machine shown is in transition, so that the page will change.
    moving: bool,
}

impl View for ListView {
    const TEMPLATE: &'static str = "list.html";
}

impl Data for ListView {
    /// One line per machine (see [`MachineView::line`]). Other facts follow in lines that begin
    /// with `#`: one per host (see [`HostView::line`]), the caller's usage and quota (see
    /// [`QuotaView::line`]), `# closed` and a sentence if the portal is closed, and `# page`, the
    /// page number, the number of pages and the number of machines.
    fn text(&self) -> String {
        let machines = self.machines.iter().map(MachineView::line);
        let hosts = self.hosts.iter().map(HostView::line);
        let page = Row::of(&[&"# page", &self.page, &self.pages, &self.total]).line();
        let closed = self.closed.iter().map(|sentence| Row::of(&[&"# closed", sentence]).line());
        machines.chain(hosts).chain([self.quota.line()]).chain(closed).chain([page]).collect()
    }
}

/// Serves `user/list`.
///
/// Fields: `scope` (`mine`, or for administrators `all`, which is their default), `page` (from 1;
/// beyond the last page, the last one is shown), `format`.
///
/// # Errors
/// 400 for an unknown field or a page that is not a number, 403 for `scope=all` by others, 503 if
/// the registry stays locked for too long.
pub fn handle(call: &UserCall<'_>) -> Result<Reply, Refusal> {
    unchanged::unless_known::<ListView>(call, || page(call))
}

fn page(call: &UserCall<'_>) -> Result<Reply, Refusal> {
    let fields = &call.request.fields;
    fields.only(&["scope", "page", "format"])?;
    let all = match fields.get("scope") {
        None | Some("") => call.administrator,
        Some("mine") => false,
        Some("all") if call.administrator => true,
        Some("all") => return Err(Refusal::forbidden("Only administrators see the machines of all.")),
        Some(_) => return Err(Refusal::bad_request("scope is mine or all.")),
    };
    let asked = fields.page()?;
    let common = Common::load(&config::directory())?;
    let now = clock::now();
    let mut view = access::read(call, |reader| {
        let owner = access::caller(call, reader)?;
        let scope = if all { Scope::All } else { Scope::Of(&owner) };
        let loads = loads(reader, &common)?;
        let read = |page: u32| reader.live(scope, PER_PAGE, (page - 1).saturating_mul(PER_PAGE));
        let mut machines = read(asked)?;
        // Most people's machines fit on the first page, which saves a count.
        let total = match u32::try_from(machines.len()) {
            Ok(few) if asked == 1 && few < PER_PAGE => few,
            _ => reader.count(scope)?,
        };
        let pages = total.div_ceil(PER_PAGE).max(1);
        let page = asked.min(pages);
        if page != asked {
            machines = read(page)?;
        }
        let facts = reader.hosts()?;
        let scope = if all { "all" } else { "mine" };
        let format = match (fields.get("format"), call.request.format) {
            (None | Some(""), _) | (_, Format::Html) => "",
            (_, Format::Json) => "&format=json",
            (_, Format::Text | Format::Csv) => "&format=text",
        };
        let url = |page: u32| format!("list?scope={scope}&page={page}{format}");
        Ok(ListView {
            hosts: loads
                .iter()
                .map(|load| {
                    let facts = facts.iter().find(|host| host.name == load.host);
                    HostView::new(load, facts, &common, now)
                })
                .collect(),
            quota: QuotaView::new(call.config.quota(&call.user), reader.usage(&owner)?),
            closed: None,
            scope,
            total,
            page,
            pages,
            previous: (page > 1).then(|| url(page - 1)),
            next: (page < pages).then(|| url(page + 1)),
            moving: machines.iter().any(|vm| vm.state.is_transitional()),
            machines: machines.iter().map(|vm| MachineView::new(vm, &common, call.administrator)).collect(),
        })
    })?;
    // Programs see no banner.
    view.content.closed.clone_from(&view.banner);
    call.reply(200, &view)
}
