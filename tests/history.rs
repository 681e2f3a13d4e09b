//! The history: as a page, as data, and as a table.

use serde_json::Value;

use crate::support::http::Answer;
use crate::support::page::assert_well_formed;
use crate::support::portal::{Portal, with_query};
use vgrid::model::lease::Moment;
use vgrid::model::stage::Order;
use vgrid::server::registry::event::Actor;
use vgrid::server::registry::{Registry, RegistryError};

/// The events that a user is shown, as JSON.
#[track_caller]
fn events(portal: &Portal, user: &str, filter: &[(&str, &str)]) -> Vec<Value> {
    let fields = [filter, &[("format", "json")]].concat();
    let json = portal.get(user, &with_query("history", &fields)).send().expect(200).json();
    json["events"].as_array().expect("events").clone()
}

/// What happened in each event.
fn whats(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["what"].as_str().expect("a text")).collect()
}

/// Records an event that no request of a test can cause.
fn record(portal: &Portal, about: &str, at: i64, who: &str, what: &str, detail: &str) {
    let mut registry = Registry::open(&portal.registry_file()).expect("the registry");
    registry.stop_clock(Moment::from_unix(at));
    let actor = Actor { who: who.to_owned(), from: "192.0.2.9".to_owned() };
    let done: Result<(), RegistryError> =
        registry.write_as(&actor, |writer| writer.record_about(about, what, detail));
    done.expect("an event");
}

/// Records that many numbered events, a second apart.
fn record_ticks(portal: &Portal, many: i64) {
    portal.list("admin");
    let mut registry = Registry::open(&portal.registry_file()).expect("the registry");
    let actor = Actor { who: "host node1".to_owned(), from: "192.0.2.1".to_owned() };
    let done: Result<(), RegistryError> = registry.write_as(&actor, |writer| {
        for n in 0..many {
            let writer = writer.back_at(Moment::from_unix(1000 + n));
            writer.record_about("node1", "tick", &n.to_string())?;
        }
        Ok(())
    });
    done.expect("events");
}

/// The rows of a CSV table (RFC 4180), parsed independently: quotes, doubled quotes, CR LF.
fn rows(table: &Answer) -> Vec<Vec<String>> {
    let text = table.text();
    let (mut rows, mut row, mut cell) = (Vec::new(), Vec::new(), String::new());
    let mut quoted = false;
    let mut letters = text.chars().peekable();
    while let Some(c) = letters.next() {
        match (c, quoted) {
            ('"', true) if letters.peek() == Some(&'"') => cell.push(letters.next().expect("a quote")),
            ('"', _) => quoted = !quoted,
            (',', false) => row.push(std::mem::take(&mut cell)),
            ('\r', false) => {
                assert_eq!(letters.next(), Some('\n'));
                row.push(std::mem::take(&mut cell));
                rows.push(std::mem::take(&mut row));
            }
            (c, _) => cell.push(c),
        }
    }
    assert!(row.is_empty() && cell.is_empty() && !quoted, "truncated: {text}");
    rows
}

#[test]
fn administrators_see_everything_and_users_their_own() {
    let portal = Portal::start();
    let alices = portal.deployed("alice");
    portal.deploy("bob", &[]);
    portal.order("admin", Order::Stop, &alices).expect(202);
    portal
        .post(
            "admin",
            "admin",
            &[("do", "close"), ("kind", "host"), ("name", "localhost"), ("reason", "dust")],
        )
        .send()
        .expect(303);
    let all = events(&portal, "admin", &[]);
    let kinds = whats(&all);
    assert_eq!(kinds[0], "host disabled", "the newest first: {kinds:?}");
    for what in ["deploy ordered", "deployed", "stop ordered"] {
        assert!(kinds.contains(&what), "{kinds:?}");
    }
    let hers = events(&portal, "alice", &[]);
    assert!(
        hers.iter().all(|event| event["machine"] == alices.as_str() && event["owner"] == "alice"),
        "{hers:?}"
    );
    let kinds = whats(&hers);
    assert!(kinds.contains(&"stop ordered") && !kinds.contains(&"host disabled"), "{kinds:?}");
    let stop = hers.iter().find(|event| event["what"] == "stop ordered").expect("the stop");
    assert_eq!((stop["who"].as_str(), stop["from"].as_str()), (Some("admin"), Some("127.0.0.1")));
    // No filter shows events of others.
    for filter in [("who", "admin"), ("about", "localhost"), ("about", alices.as_str()), ("what", "d")] {
        let shown = events(&portal, "bob", &[filter]);
        assert!(shown.iter().all(|event| event["owner"] == "bob"), "{filter:?}: {shown:?}");
    }
    let table = portal.get("bob", "history?format=csv").send().expect(200);
    assert!(rows(&table).iter().skip(1).all(|row| row[5] == "bob"), "{table}");
    // A machine's history outlives it.
    portal.carry_out("alice", Order::Terminate, &alices);
    assert!(whats(&events(&portal, "alice", &[("about", &alices)])).len() > kinds.len());
    for user in ["alice", "admin"] {
        for form in ["html", "json", "text"] {
            assert_well_formed(&portal.get(user, &format!("history?format={form}")).send().expect(200));
        }
    }
    portal
        .get("admin", "history")
        .send()
        .expect(200)
        .says("localhost")
        .says("of alice")
        .says("Download as CSV");
    portal.get("alice", "history").send().expect(200).says("History of my machines");
    portal.assert_no_panic();
}

#[test]
fn events_are_filtered_by_actor_event_subject_and_time() {
    let portal = Portal::start();
    let id = portal.deployed("alice");
    portal.deploy("bob", &[]);
    let day = |day: i64| 1_795_305_600 + day * 86_400 + 3600;
    // At one o'clock on 22, 23 and 24 November 2026; the portal's own clock does not matter.
    for n in 0..3 {
        record(&portal, "node9", day(n) - 86_400 * 3650, "host node9", "odd 100%_", &format!("number {n}"));
    }
    let find = |filter: &[(&str, &str)]| events(&portal, "admin", filter);
    assert!(find(&[("who", "bob")]).iter().all(|event| event["who"] == "bob"));
    assert_eq!(find(&[("who", "bo")]).len(), 0, "names match as a whole");
    assert_eq!(find(&[("what", "odd")]).len(), 3);
    assert_eq!(find(&[("what", "100%_")]).len(), 3, "no wildcards");
    assert_eq!(find(&[("what", "%")]).len(), 3);
    assert_eq!(find(&[("about", "node9")]).len(), 3);
    assert!(find(&[("about", "vm1")]).iter().all(|event| event["machine"] == id.as_str()));
    assert_eq!(find(&[("about", &id)]).len(), find(&[("about", "vm1")]).len());
    let ten_years_ago = |day: &str| format!("2016-11-{day}");
    let details = |since: &str, until: &str| {
        let found = find(&[("what", "odd"), ("since", since), ("until", until)]);
        found.iter().map(|event| event["detail"].as_str().expect("a text").to_owned()).collect::<Vec<_>>()
    };
    let first = Moment::from_unix(day(0) - 86_400 * 3650).rfc3339();
    let (date, _) = first.split_once('T').expect("a time");
    assert_eq!(details(date, date), ["number 0"], "{first}: a day counts as a whole");
    assert_eq!(details("", date), ["number 0"]);
    assert_eq!(details(&first, "").len(), 3);
    assert_eq!(details("", &first).len(), 0, "before");
    assert_eq!(details(&first.replace('Z', "+01:00"), &first).len(), 0);
    assert_eq!(details(&ten_years_ago("01"), "").len(), 3);
    for bad in ["yesterday", "2026-13-01", "22.11.2026", "2026-11-22 09", "1", "9".repeat(500).as_str(), "é"]
    {
        for field in ["since", "until"] {
            for form in ["html", "json", "text", "csv"] {
                let answer =
                    portal.get("admin", &with_query("history", &[(field, bad), ("format", form)])).send();
                assert_well_formed(&answer.expect(400).says("such as 2026-11-22"));
            }
        }
    }
    for bad in ["page=0", "page=x", "page=-1", "page=99999999999", "colour=red", "owner=alice", "format=xml"]
    {
        portal.get("admin", &format!("history?{bad}")).send().expect(400);
    }
    portal.get("admin", "history?page=4294967295&format=json").send().expect(200);
    portal.get("admin", "history?page=4294967295").send().expect(200);
    portal.post("admin", "history", &[]).send().expect(405);
    // No other page has CSV.
    for program in ["list", "deploy", "admin"] {
        portal.get("admin", &format!("{program}?format=csv")).send().expect(400).says("html, json or text");
    }
    portal.assert_no_panic();
}

#[test]
fn a_long_history_comes_in_pages_and_as_one_table() {
    let portal = Portal::start();
    record_ticks(&portal, 250);
    let mut seen = Vec::new();
    let mut next = Some("history?what=tick&format=json".to_owned());
    while let Some(path) = next.take() {
        let json = portal.get("admin", &path).send().expect(200).json();
        let events = json["events"].as_array().expect("events").clone();
        assert!(events.len() <= 100);
        seen.extend(events.iter().map(|event| event["detail"].as_str().expect("a number").to_owned()));
        next = json["next"].as_str().map(str::to_owned);
    }
    assert_eq!(seen, (0..250).rev().map(|n| n.to_string()).collect::<Vec<_>>());
    let page = portal.get("admin", "history?what=tick&page=2").send().expect(200);
    assert_well_formed(&page);
    page.says("Page 2").says("history?what=tick&amp;page=3").says("history?what=tick&amp;page=1");
    portal.get("admin", "history?what=tick&page=3&format=text").send().expect(200).says("# page\t3\tlast");
    let table = portal.get("admin", "history?what=tick&format=csv&page=2").send().expect(200);
    assert_eq!(rows(&table).len(), 251, "all pages, and a header row");
    assert_eq!(table.header("x-vgrid-cut-off"), None);
}

#[test]
fn a_spreadsheet_reads_the_table_and_runs_nothing_in_it() {
    let portal = Portal::start();
    portal.deployed("alice");
    for (n, detail) in ["=HYPERLINK(\"http://x\")", "+1", "-1", "@SUM(A1)", "plain, \"quoted\"\r\nü\t=", "'"]
        .into_iter()
        .enumerate()
    {
        record(&portal, "=node", 1000 - i64::try_from(n).expect("few"), "@who", "+what", detail);
    }
    let answer = portal.get("admin", "history?format=csv").send().expect(200);
    assert!(
        answer.header("content-type").is_some_and(|kind| kind.starts_with("text/csv; charset=utf-8")),
        "{answer}"
    );
    assert_eq!(answer.header("content-disposition"), Some("attachment; filename=\"vgrid-history.csv\""));
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let rows = rows(&answer);
    assert_eq!(rows[0], ["time", "what", "who", "from", "about", "owner", "machine", "detail"]);
    assert!(rows.iter().all(|row| row.len() == 8), "{rows:?}");
    for cell in rows.iter().flatten() {
        assert!(!cell.starts_with(['=', '+', '-', '@', '\t', '\r']), "a formula: {cell}");
    }
    let last: Vec<&str> = rows[rows.len() - 6..].iter().map(|row| row[7].as_str()).collect();
    assert_eq!(last, ["'=HYPERLINK(\"http://x\")", "'+1", "'-1", "'@SUM(A1)", "plain, \"quoted\"  ü =", "'"]);
    let node = &rows[rows.len() - 1];
    assert_eq!((node[1].as_str(), node[2].as_str(), node[4].as_str()), ("'+what", "'@who", "'=node"));
    assert_eq!(node[0], "1970-01-01T00:16:35Z");
    let deploy = rows.iter().find(|row| row[1] == "deploy ordered").expect("the deploy");
    assert_eq!((deploy[2].as_str(), deploy[4].as_str(), deploy[5].as_str()), ("alice", "vm1", "alice"));
    // The page shows the text unchanged.
    portal.get("admin", "history?what=%2Bwhat").send().expect(200).says("=HYPERLINK(&quot;");
    // HEAD answers without a body, and a browser may follow the link.
    let head = portal.get("admin", "history?format=csv").method("HEAD").send().expect(200);
    assert!(head.body.is_empty());
    portal
        .get("admin", "history?format=csv")
        .header("Accept", "text/html")
        .send()
        .expect(200)
        .says("\"time\"");
    portal.assert_no_panic();
}

#[test]
fn a_truncated_table_says_so() {
    let portal = Portal::start();
    record_ticks(&portal, 100_001);
    let table = portal.get("admin", "history?what=tick&format=csv").send().expect(200);
    assert_eq!(table.header("x-vgrid-cut-off"), Some("100000"));
    let text = table.text();
    assert_eq!(text.lines().count(), 100_001);
    assert!(
        text.lines().nth(1).is_some_and(|line| line.starts_with("\"1970-01-02T04:03:20Z\"")),
        "not the newest"
    );
    // The rest is found by time, as the manual says.
    let last = text.lines().last().and_then(|line| line.split('"').nth(1)).expect("a time");
    let rest = portal.get("admin", &format!("history?what=tick&format=csv&until={last}")).send().expect(200);
    assert_eq!((rows(&rest).len(), rest.header("x-vgrid-cut-off")), (2, None));
}
