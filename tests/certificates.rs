//! Certificates as grids issue them, with several common names and no organization, at a real
//! Apache with TLS.

use crate::support::page::user_on;
use crate::support::portal::{Portal, Setup};
use crate::support::tls::{Authority, CLIENT, LOCALHOST, get_with_certificate, site};

const GRID: &str = "/DC=ch/DC=example/OU=Organic Units/OU=Users/CN=alice/CN=123456/CN=Alice Example";

#[test]
fn a_setting_selects_the_user_name_in_a_grid_certificate() {
    let files = tempfile::tempdir().expect("a temporary folder");
    let authority = Authority { dir: files.path() };
    authority.found("ca");
    authority.found("foreign");
    authority.sign("ca", "server", "/CN=localhost", LOCALHOST);
    authority.sign("ca", "grid", GRID, CLIENT);
    authority.sign("ca", "other", &GRID.replace("Alice", "Alina"), CLIENT);
    authority.sign("ca", "one", "/DC=ch/DC=example/CN=bob", CLIENT);
    authority.sign("foreign", "forged", GRID, CLIENT);
    let start = |setting: &str| {
        Setup {
            user_variable: "SSL_CLIENT_S_DN_CN",
            htaccess: "certificate",
            tls: Some(site(files.path(), "optional")),
            more_server: setting.to_owned(),
            ..Setup::default()
        }
        .start()
    };
    let get = |portal: &Portal, who, path: &str| {
        get_with_certificate(portal, files.path(), who, &format!("/cgi-bin/user/{path}"))
    };

    for setting in ["", "certificateName = \"single\""] {
        let portal = start(setting);
        let (status, page) = get(&portal, Some("grid"), "list");
        assert_eq!(status, 403, "{page}");
        for words in ["alice, 123456, Alice Example", "certificateName", "server.cfg"] {
            assert!(page.contains(words), "no {words} in {page}");
        }
        let (status, page) = get(&portal, Some("one"), "list");
        assert_eq!((status, user_on(&page)), (200, "bob"), "{page}");
    }
    let subject = "CN=Alice Example,CN=123456,CN=alice,OU=Users,OU=Organic Units,DC=example,DC=ch";
    for (setting, name) in [("first", "alice"), ("last", "Alice Example"), ("dn", subject)] {
        let portal = start(&format!("certificateName = \"{setting}\""));
        let (status, page) = get(&portal, Some("grid"), "list");
        assert_eq!((status, user_on(&page)), (200, name), "{page}");
        let expected = if setting == "dn" { "CN=bob,DC=example,DC=ch" } else { "bob" };
        let (status, page) = get(&portal, Some("one"), "list");
        assert_eq!((status, user_on(&page)), (200, expected), "{page}");
        // An unverified client has no name at all; the handshake with a foreign certificate fails
        // before that.
        assert_eq!(get(&portal, None, "list").0, 403);
        // They can deploy machines, and two people whose names differ only at the end do not share
        // them.
        let deploy = "deploy?format=json&vmImage=tiny&vmMemory=128&vmPartition=1";
        let (status, page) = get(&portal, Some("grid"), deploy);
        assert_eq!(status, 202, "{page}");
        assert_eq!(portal.nodes.orders("deploy")[0].json()["user"], name.replace(' ', "_"));
        let (status, page) = get(&portal, Some("other"), "list?format=json");
        let shared = setting == "first";
        assert_eq!((status, page.contains("vm1")), (200, shared), "{page}");
        portal.assert_no_panic();
    }
    let (status, page) = get(&start("certificateName = \"second\""), Some("grid"), "list");
    assert_eq!(status, 500, "{page}");
}
