//! The portal in a real browser.

use std::time::Duration;

use vgrid::model::fault::Fault;
use vgrid::model::stage::{Order, Percent, Stage};
use vgrid::model::wire::News;

use crate::support::browser::Browser;
use crate::support::eventually;
use crate::support::portal::{Portal, Setup, password};

/// Signs a user in. The page is reopened without the password in its URL, because such pages may
/// not fetch anything.
fn sign_in(browser: &Browser, portal: &Portal, user: &str) {
    let address = portal.apache.address;
    browser.open(&format!("http://{user}:{}@{address}/cgi-bin/user/list", password(user)));
    browser.open(&format!("http://{address}/"));
    browser.wait("document.querySelector('h1')");
}

fn first_machine(portal: &Portal) -> Option<String> {
    portal.list("alice")["machines"][0]["id"].as_str().map(str::to_owned)
}

#[test]
fn a_machine_lives_its_whole_life_in_a_browser() {
    let portal = Portal::start();
    let browser = Browser::start();
    sign_in(&browser, &portal, "alice");
    assert!(browser.text().contains("No machines yet"), "{}", browser.text());
    assert!(browser.url().ends_with("/cgi-bin/user/list"), "{}", browser.url());
    // The style sheets are loaded, and the policy allows them.
    browser.wait("[...document.styleSheets].filter(sheet => sheet.cssRules.length > 0).length >= 2");

    // The form, first with a mistake that only the server notices.
    browser.open(&format!("http://{}/cgi-bin/user/deploy", portal.apache.address));
    browser.click("input[name=vmImage][value=tiny]");
    browser.fill("#vmName", "from a browser");
    browser.fill("#expiryTime", "for ever");
    browser.click("button[type=submit]");
    browser.wait("document.querySelector('#expiryTime-fault')");
    assert_eq!(browser.run("return document.querySelector('#vmName').value"), "from a browser");
    assert_eq!(first_machine(&portal), None, "a faulty form deployed something");
    browser.fill("#expiryTime", "2d");
    browser.click("button[type=submit]");
    browser.wait("document.querySelector('#machine .s.deploying')");
    let id = first_machine(&portal).expect("a machine");
    assert!(browser.url().ends_with(&format!("show?id={id}")), "{}", browser.url());

    // Its page updates itself: a reload would lose the mark.
    browser.run("window.mark = 'kept'; document.querySelector('h1').mark = 'kept'");
    let progress = |n: u32, stage, percent: u8| {
        let percent = Percent::try_from(percent).ok();
        portal.report(&id, Order::Deploy, n, News::Progress { stage, percent, place: None }).expect(200);
    };
    progress(1, Stage::Unpack, 37);
    browser.wait("document.querySelector('progress')?.value === 37");
    browser.wait("document.body.innerText.includes('unpacking the image')");

    // So does its row in the list.
    browser.open(&format!("http://{}/cgi-bin/user/list", portal.apache.address));
    browser.wait("document.querySelector('tbody .s.deploying')");
    browser.run("window.mark = 'kept'; document.querySelector('tbody tr').mark = 'kept'");
    progress(2, Stage::Unpack, 82);
    browser.wait("document.querySelector('tbody progress')?.value === 82");
    progress(3, Stage::Start, 0);
    browser.wait("document.querySelector('tbody').innerText.includes('starting the machine')");
    portal.report(&id, Order::Deploy, 4, News::Done).expect(200);
    browser.wait("document.querySelector('tbody .s.deployed')");
    assert_eq!(browser.run("return window.mark"), "kept", "the page was reloaded");
    assert_eq!(browser.run("return document.querySelector('tbody tr').mark"), "kept", "the row was replaced");

    // The machine's page loads the console afterward.
    browser.click("tbody tr th a");
    browser.wait("document.querySelector('#console-here pre')?.innerText.includes('Linux version')");

    // A stop must be confirmed, a start not. Both show without a reload.
    browser.click("a[href^='stop?id=']");
    browser.wait("document.querySelector('form[action=stop]')");
    assert!(browser.text().contains("Its disk, name and place on the host are kept"), "{}", browser.text());
    assert_eq!(portal.state("alice", &id), "deployed", "the question alone acted");
    browser.click("form[action=stop] button");
    browser.wait("document.querySelector('#machine .s.stopping')");
    browser.run("window.mark = 'kept'; document.querySelector('#do-terminate').mark = 'kept'");
    portal.report(&id, Order::Stop, 1, News::Done).expect(200);
    browser.wait("document.querySelector('#machine .s.stopped')");
    assert_eq!(browser.run("return window.mark"), "kept", "the page was reloaded");
    // An element never turns into another under the mouse pointer.
    assert_eq!(browser.run("return document.querySelector('#do-terminate').mark"), "kept");
    assert!(!browser.text().contains("ssh root@"), "{}", browser.text());
    browser.click("form[action=start] button");
    browser.wait("document.querySelector('#machine .s.starting')");
    browser.run("window.mark = 'kept'");
    let verify = News::Progress { stage: Stage::Verify, percent: None, place: None };
    portal.report(&id, Order::Start, 1, verify).expect(200);
    browser.wait("document.querySelector('.stages .now')?.innerText.includes('checking that it runs')");
    portal.report(&id, Order::Start, 2, News::Done).expect(200);
    browser.wait("document.querySelector('#machine .s.deployed')");
    assert_eq!(browser.run("return window.mark"), "kept", "the page was reloaded");
    browser.wait("document.querySelector('a[href^=\"reboot?id=\"]')");
    browser.wait("document.querySelector('#console-here pre')?.innerText.includes('Linux version')");

    // Terminating must be confirmed.
    browser.click("a.danger");
    browser.wait("document.querySelector('form[action=terminate]')");
    assert!(browser.text().contains("everything on its disk is lost"), "{}", browser.text());
    assert_eq!(portal.state("alice", &id), "deployed", "the question alone acted");
    browser.click("form[action=terminate] button.danger");
    browser.wait("document.querySelector('#machine .s.terminating')");
    browser.run("window.mark = 'kept'");
    portal.report(&id, Order::Terminate, 1, News::Done).expect(200);
    browser.wait("document.querySelector('#machine .s.notDeployed')");
    assert_eq!(browser.run("return window.mark"), "kept", "the page was reloaded");

    let errors = browser.errors();
    // Only the form that came back with 400.
    let others: Vec<_> = errors.iter().filter(|error| !error.contains("status of 400")).collect();
    assert!(others.is_empty(), "{others:#?}");
    portal.assert_no_panic();
}

#[test]
fn a_failed_deploy_shows_without_a_reload() {
    let portal = Portal::start();
    let id = portal.deploy("alice", &[("physicalHost", "localhost")]);
    let browser = Browser::start();
    sign_in(&browser, &portal, "alice");
    browser.wait("document.querySelector('tbody .s.deploying')");
    browser.run("window.mark = 'kept'");
    let fault = Fault::ImageCorrupt { tag: "tiny".parse().expect("a tag"), detail: "<b>bad</b>".to_owned() };
    portal.report(&id, Order::Deploy, 1, News::Failed { fault }).expect(200);
    browser.wait("document.querySelector('tbody .s.failed')");
    browser.wait("document.querySelector('tbody').innerText.includes('is damaged (<b>bad</b>)')");
    assert_eq!(browser.run("return window.mark"), "kept", "the page was reloaded");
    // Nothing changes any more, so the page stops polling.
    let polls = || portal.apache.requests("GET /cgi-bin/user/list");
    std::thread::sleep(Duration::from_millis(500));
    let before = polls();
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(polls(), before, "the page is still polling");
    // One click orders the same again.
    browser.click("tbody tr th a");
    browser.wait("document.querySelector('a[href^=\"deploy?like=\"]')");
    browser.click("a[href^='deploy?like=']");
    browser.wait("document.querySelector('form[action=deploy]')");
    browser.click("button[type=submit]");
    browser.wait("document.querySelector('#machine .s.deploying')");
    assert_eq!(portal.list("alice")["total"], 2);
    assert!(browser.errors().is_empty(), "{:#?}", browser.errors());
}

#[test]
fn another_site_cannot_act_through_a_signed_in_browser() {
    let portal = Portal::start();
    let id = portal.deployed("alice");
    let browser = Browser::start();
    let address = format!("portal.test:{}", portal.apache.address.port());
    browser.open(&format!("http://alice:{}@{address}/cgi-bin/user/list", password("alice")));
    browser.wait("document.querySelector('tbody .s.deployed')");
    // A site under another name, served by the scripted nodes. It sends no referrer.
    let target = format!("http://{address}/cgi-bin/user/terminate");
    portal.nodes.serve_page(&format!(
        "<!doctype html><title>evil</title><meta name=referrer content=no-referrer>\
         <form method=post action=\"{target}\"><input name=id value=\"{id}\"><button>Win a prize</button></form>\
         <img src=\"{target}?id={id}&amp;format=json\">\
         <iframe src=\"{target}?id={id}\"></iframe>\
         <script>fetch('{target}?id={id}&format=text', {{mode: 'no-cors', credentials: 'include'}})</script>\
         <a href=\"{target}?id={id}\">A link</a>"
    ));
    let evil = format!("http://elsewhere.test:{}/", portal.nodes.port);
    let sent = || portal.apache.requests("/cgi-bin/user/terminate");
    browser.open(&evil);
    eventually(Duration::from_secs(10), || (sent() >= 3).then_some(()));
    assert!(sent() >= 3, "image, frame and script sent no request, so this test shows nothing");
    let harmless = |what: &str| {
        assert_eq!(portal.state("alice", &id), "deployed", "after {what}");
        assert!(portal.nodes.orders("terminate").is_empty(), "after {what}");
    };
    // Chromium requests these without the password. `roles` covers what other browsers send.
    harmless("image, frame and script");
    browser.click("a");
    browser.wait("location.href.includes('/cgi-bin/user/terminate')");
    harmless("a link");
    browser.open(&evil);
    browser.click("button");
    browser.wait("location.href.includes('/cgi-bin/user/terminate')");
    harmless("a form");
}

#[test]
fn an_image_is_saved_and_used_in_a_browser() {
    let portal = Setup { hosts: vec![("localhost", 4)], ..Setup::default() }.start();
    let id = portal.deployed("alice");
    let browser = Browser::start();
    sign_in(&browser, &portal, "alice");
    let open = |path: &str| browser.open(&format!("http://{}/cgi-bin/user/{path}", portal.apache.address));
    open(&format!("terminate?id={id}"));
    // The browser itself rejects an invalid name; the host is not contacted.
    browser.fill("#saveAs", "No Name");
    browser.click("form:has(#saveAs) button");
    assert_eq!(browser.run("return document.querySelector('#saveAs').validity.patternMismatch"), true);
    assert!(portal.nodes.orders("save").is_empty());
    browser.fill("#saveAs", "web-1");
    browser.click("form:has(#saveAs) button");
    browser.wait("document.querySelector('#machine .s.saving')");
    portal.report(&id, Order::Save, 1, News::Saved { bytes: 5 << 20 }).expect(200);
    portal.report(&id, Order::Terminate, 1, News::Done).expect(200);
    browser.wait("document.querySelector('#machine .s.notDeployed')");

    browser.click(".bar a[href=images]");
    browser.wait("document.querySelector('.saved h3')?.innerText === 'web-1'");
    browser.click(".saved a[href$='do=share']");
    browser.click("main button[type=submit]");
    browser.wait("document.querySelector('.saved .shared')");
    browser.click(".saved a[href^=deploy]");
    browser.wait("document.querySelector('input[name=vmImage]:checked')?.value === 'saved:web-1'");
    browser.click("button[type=submit]");
    browser.wait("document.querySelector('#machine .s.deploying')");
    browser.wait("document.querySelector('.facts').innerText.includes('alice/web-1')");
    let order = portal.nodes.orders("deploy").pop().expect("an order");
    assert_eq!(order.json()["saved"]["name"], "web-1");
    assert_eq!(browser.errors(), [""; 0]);
}

#[test]
fn a_lease_is_changed_in_a_browser() {
    let portal = Portal::start();
    let browser = Browser::start();
    sign_in(&browser, &portal, "alice");
    let id = portal.deployed("alice");
    browser.open(&format!("http://{}/cgi-bin/user/show?id={id}", portal.apache.address));
    browser.click("#do-extend");
    browser.wait("document.querySelector('#expiryTime')");
    let expires = || portal.show("alice", &id)["machine"]["expires"]["iso"].as_str().map(str::to_owned);
    let before = expires();
    // A shorter lease must be confirmed.
    browser.fill("#expiryTime", "1d");
    browser.click("form button[type=submit]");
    browser.wait("document.querySelector('input[name=confirm]')");
    assert!(browser.text().contains("would become shorter"), "{}", browser.text());
    assert_eq!(expires(), before);
    browser.click("input[name=confirm]");
    browser.click("form button[type=submit]");
    browser.wait("document.querySelector('#machine .s.deployed')");
    assert_ne!(expires(), before);
    // A protected machine: its page says so, and a refused terminate says how to lift it.
    browser.click("#do-extend");
    browser.wait("document.querySelector('input[name=protect]')");
    browser.click("input[name=protect] ~ .acts button");
    browser.wait("document.body.innerText.includes('protected from being terminated')");
    portal.get("alice", &format!("terminate?id={id}&format=json")).send().expect(409).says("protected");
    portal.assert_no_panic();
}
