//! Conditional requests: an unchanged page is not sent again.

use std::time::{Duration, SystemTime};

use vgrid::model::stage::{Order, Percent, Stage};
use vgrid::model::wire::News;

use crate::support::http::Answer;
use crate::support::portal::Portal;

/// Waits until the files behind the pages have been unchanged for a while.
fn settle(portal: &Portal) {
    let changed = |name: &str| std::fs::metadata(portal.path(name)).and_then(|facts| facts.modified()).ok();
    loop {
        let newest = ["var/registry.sqlite", "var/registry.sqlite-wal", "etc/common.cfg"]
            .into_iter()
            .filter_map(changed)
            .max()
            .expect("the registry");
        if SystemTime::now().duration_since(newest).is_ok_and(|age| age > Duration::from_millis(2100)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn tag(answer: &Answer) -> String {
    answer.header("etag").expect("an entity tag").to_owned()
}

#[test]
fn a_page_is_resent_if_and_only_if_something_changed() {
    let portal = Portal::start();
    let id = portal.deploy("alice", &[]);
    let ask = |user: &str, page: &str, known: &str| {
        let ask = portal.get(user, page).like_a_browser();
        if known.is_empty() { ask.send() } else { ask.header("If-None-Match", known).send() }
    };
    let machine = format!("show?id={id}");
    let pages = ["list", machine.as_str()];
    let mut percent = 0;
    let mut report = || {
        percent += 1;
        let shown = Percent::try_from(percent).ok();
        let news = News::Progress { stage: Stage::Unpack, percent: shown, place: None };
        portal.report(&id, Order::Deploy, percent.into(), news).expect(200);
    };
    report();
    settle(&portal);
    let known = pages.map(|page| tag(&ask("alice", page, "").expect(200)));
    // Pages show times, so a tag may expire between two requests.
    let unchanged = |page: &str, known: &str, as_sent: &dyn Fn(&str) -> String| {
        let again = ask("alice", page, &as_sent(known));
        if again.status == 200 { ask("alice", page, &as_sent(&tag(&again))) } else { again }
    };
    for (page, known) in pages.into_iter().zip(&known) {
        let again = unchanged(page, known, &str::to_owned).expect(304);
        assert!(again.body.is_empty() && again.header("content-type").is_none(), "{again}");
        // As a cache or a compressing Apache sends it.
        unchanged(page, known, &|tag| format!("\"other\", {}-gzip\"", tag.trim_end_matches('"'))).expect(304);
        ask("alice", page, "\"other\"").expect(200);
    }
    // Another user's page, another page, another format.
    ask("bob", "list", &tag(&ask("alice", "list", ""))).expect(200);
    ask("admin", "list", &tag(&ask("alice", "list", ""))).expect(200);
    ask("alice", "list?page=1", &tag(&ask("alice", "list", ""))).expect(200);
    ask("alice", "list?format=json", &tag(&ask("alice", "list", ""))).expect(200);
    ask("bob", &machine, &tag(&ask("alice", &machine, ""))).expect(403);
    // A change in the registry shows at once. While the next change might get the same tag, there
    // is none.
    let before = pages.map(|page| tag(&ask("alice", page, "")));
    report();
    for (page, before) in pages.into_iter().zip(&before) {
        let changed = ask("alice", page, before).expect(200).says("2");
        assert_eq!(changed.header("etag"), None, "{page}: another change might go unnoticed");
    }
    settle(&portal);
    for (page, before) in pages.into_iter().zip(&before) {
        let changed = ask("alice", page, before).expect(200);
        assert_ne!(&tag(&changed), before, "{page}");
    }
    // A change in the configuration.
    let before = pages.map(|page| tag(&ask("alice", page, "")));
    portal.reconfigure("common.cfg", |text| text.replace("[VMImages]", "[VMImages]\n# Changed"));
    settle(&portal);
    for (page, before) in pages.into_iter().zip(&before) {
        ask("alice", page, before).expect(200);
    }
}
