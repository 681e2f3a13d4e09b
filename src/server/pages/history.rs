//! `user/history`: everything that happened in the portal, with filters, pages and a CSV export.

use serde::Serialize;

use crate::cgi::reply::{Refusal, Reply};
use crate::cgi::request::{Fields, Format};
use crate::cgi::serve::{Data, UserCall, View};
use crate::model::lease::Moment;
use crate::model::text::{Row, one_line};
use crate::server::pages::access;
use crate::server::pages::view::TimeView;
use crate::server::registry::event::{Filter, HistoryEntry};

/// How many events a page shows.
const PER_PAGE: u32 = 100;

/// The most rows in a table.
const MOST_ROWS: u32 = 100_000;

/// The fields that filter events.
const FILTERS: [&str; 5] = ["who", "what", "about", "since", "until"];

/// The page.
#[derive(Debug, Serialize)]
struct HistoryView {
    events: Vec<EventView>,
    /// Whether it covers everything, or only the caller's machines.
    all: bool,
    /// The filter, for the form.
    filter: FormView,
    /// The page, counted from one.
    page: u32,
    previous: Option<String>,
    next: Option<String>,
    /// The address of the whole table as CSV.
    csv: String,
}

/// The values of the filter's form.
#[derive(Debug, Serialize)]
struct FormView {
    who: String,
    what: String,
    about: String,
    since: String,
    until: String,
    /// Whether any of them is set.
    any: bool,
}

/// Something that happened.
#[derive(Debug, Serialize)]
struct EventView {
    at: TimeView,
    what: String,
    who: String,
    from: String,
    /// The name of the machine, or of another subject.
    about: String,
    /// The machine's owner; empty if the event is not about a machine.
    owner: String,
    /// The machine's id, if the event is about one.
    machine: Option<String>,
    /// The machine's page.
    url: Option<String>,
    detail: String,
}

impl From<HistoryEntry> for EventView {
    fn from(told: HistoryEntry) -> Self {
        let machine = told.vm.map(|id| id.to_string());
        Self {
            at: told.occurrence.at.into(),
            what: told.occurrence.what,
            who: told.occurrence.actor.who,
            from: told.occurrence.actor.from,
            about: told.about,
            owner: told.owner,
            url: machine.as_ref().map(|id| format!("show?id={id}")),
            machine,
            detail: told.occurrence.detail,
        }
    }
}

/// The columns of the table, and of a line of text.
const COLUMNS: [&str; 8] = ["time", "what", "who", "from", "about", "owner", "machine", "detail"];

impl EventView {
    fn columns(&self) -> [&str; 8] {
        let machine = self.machine.as_deref().unwrap_or_default();
        [&self.at.iso, &self.what, &self.who, &self.from, &self.about, &self.owner, machine, &self.detail]
    }
}

impl View for HistoryView {
    const TEMPLATE: &'static str = "history.html";
}

impl Data for HistoryView {
    /// One line per event, newest first, tab-separated: time (RFC 3339), what, who, from where,
    /// subject, the machine's owner, the machine's id, detail; a value that does not apply is
    /// empty. Then `# page`, the page number, and `more` or `last`.
    fn text(&self) -> String {
        let events =
            self.events.iter().map(|event| event.columns().iter().fold(Row::default(), Row::and).line());
        let more = if self.next.is_some() { "more" } else { "last" };
        let page = Row::of(&[&"# page", &self.page, &more]).line();
        events.chain([page]).collect()
    }
}

/// Serves `user/history`: everything to administrators, and to others what happened to their
/// machines.
///
/// Fields: `who` (a user, or `host` and a host's name), `what` (part of it), `about` (a machine's
/// name or id, or another name), `since` and `until` (RFC 3339, or a day, which is included),
/// `page` (from 1), `format`: `csv` returns all pages in one table, up to the newest 100,000 rows.
///
/// # Errors
/// 400 for an unknown field or an invalid time or page, 503 if the registry stays locked for too
/// long.
pub fn handle(call: &UserCall<'_>) -> Result<Reply, Refusal> {
    let fields = &call.request.fields;
    let known: Vec<&str> = FILTERS.into_iter().chain(["page", "format"]).collect();
    fields.only(&known)?;
    let mut filter = read_filter(fields)?;
    let page = fields.page()?;
    let as_table = call.request.format == Format::Csv;
    let (limit, offset) =
        if as_table { (MOST_ROWS, 0) } else { (PER_PAGE, (page - 1).saturating_mul(PER_PAGE)) };
    let told = access::read(call, |reader| {
        let owner = access::caller(call, reader)?;
        filter.owner = (!call.administrator).then_some(owner);
        // One extra, to find out whether there are more.
        Ok(reader.events(&filter, limit + 1, offset)?)
    })?;
    let more = told.content.len() > limit as usize;
    let events = told.map(|told| -> Vec<EventView> {
        told.into_iter().take(limit as usize).map(EventView::from).collect()
    });
    if as_table {
        let reply = Reply::csv(table(&events.content), "vgrid-history.csv");
        let cut = http::HeaderName::from_static("x-vgrid-cut-off");
        return Ok(if more { reply.with(cut, MOST_ROWS.to_string()) } else { reply });
    }
    let format = match (fields.get("format"), call.request.format) {
        (None | Some(""), _) | (_, Format::Html) => "",
        (_, Format::Json) => "&format=json",
        (_, Format::Text | Format::Csv) => "&format=text",
    };
    let chosen = chosen(fields);
    let url = |page: u32| format!("history?{chosen}page={page}{format}");
    let given = |name| fields.get(name).unwrap_or_default().to_owned();
    let view = events.map(|events| HistoryView {
        events,
        all: call.administrator,
        filter: FormView {
            who: given("who"),
            what: given("what"),
            about: given("about"),
            since: given("since"),
            until: given("until"),
            any: !chosen.is_empty(),
        },
        page,
        previous: (page > 1).then(|| url(page - 1)),
        next: more.then(|| url(page.saturating_add(1))),
        csv: format!("history?{chosen}format=csv"),
    });
    call.reply(200, &view)
}

fn read_filter(fields: &Fields) -> Result<Filter, Refusal> {
    let text = |name| fields.get(name).map(str::trim).filter(|text| !text.is_empty());
    let owned = |name| text(name).map(str::to_owned);
    let time = |name: &'static str, of_day: fn((Moment, Moment)) -> Moment| {
        text(name)
            .map(|text| Moment::from_day(text).map(of_day).or_else(|| Moment::from_rfc3339(text)).ok_or(()))
            .transpose()
            .map_err(|()| {
                Refusal::bad_request(format!(
                    "{name} is a day, such as 2026-11-22, or a time, such as 2026-11-22T09:05:00Z (in an address \
                     write %2B for a +)."
                ))
            })
    };
    Ok(Filter {
        who: owned("who"),
        what: owned("what"),
        about: owned("about"),
        since: time("since", |(begin, _)| begin)?,
        // A day given as the last one is included.
        until: time("until", |(_, end)| end)?,
        owner: None,
    })
}

/// Returns the filter as the start of a query string.
fn chosen(fields: &Fields) -> String {
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    let mut query = String::new();
    for name in FILTERS {
        if let Some(value) = fields.get(name).filter(|text| !text.trim().is_empty()) {
            query.push_str(&format!("{name}={}&", utf8_percent_encode(value, NON_ALPHANUMERIC)));
        }
    }
    query
}

/// Returns the events as CSV (RFC 4180).
fn table(events: &[EventView]) -> String {
    let head = COLUMNS.map(cell).join(",") + "\r\n";
    let rows = events.iter().map(|event| event.columns().map(cell).join(",") + "\r\n");
    std::iter::once(head).chain(rows).collect()
}

/// Returns a value as a CSV cell. A value that a spreadsheet would take for a formula is prefixed
/// with an apostrophe, which makes it text: users choose names, and hosts send words, that
/// administrators open in a spreadsheet.
fn cell(value: &str) -> String {
    let apostrophe = if value.trim_start().starts_with(['=', '+', '-', '@']) { "'" } else { "" };
    format!("\"{apostrophe}{}\"", one_line(value).replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cell_ends_early_and_none_is_a_formula() {
        for (value, expected) in [
            ("plain", "\"plain\""),
            ("", "\"\""),
            ("a, b", "\"a, b\""),
            ("say \"no\"", "\"say \"\"no\"\"\""),
            ("two\r\nlines\tand", "\"two  lines and\""),
            ("=1+1", "\"'=1+1\""),
            ("+49", "\"'+49\""),
            ("-x", "\"'-x\""),
            ("@SUM(A1)", "\"'@SUM(A1)\""),
            ("\t=1", "\"' =1\""),
            ("a=1", "\"a=1\""),
        ] {
            assert_eq!(cell(value), expected);
        }
    }
}
