//! No machine gets an address that it cannot use: real node programs under Apache.

use serde_json::{Value, json};
use vgrid::model::names::VmId;

use crate::support::own_name;
use crate::support::portal::Portal;

/// Sends the node on this machine a deploy under that name, which must be refused.
fn refused_deploy(portal: &Portal, name: &str) -> Value {
    portal.reconfigure("common.cfg", |text| text.replace("\"vm1\"", &format!("\"{name}\"")));
    let order = json!({
        "id": VmId::generate().to_string(), "number": 1, "user": "alice", "physical_host": own_name(),
        "virtual_host": name, "image": "tiny", "memory": 128, "disk": 1,
    });
    portal
        .signed("/cgi-bin/node/deploy", order.to_string().into_bytes(), &portal.key)
        .send()
        .expect(409)
        .json()
}

#[test]
fn a_name_that_resolves_to_an_unusable_address_is_refused() {
    for (name, why) in [("127.0.0.9", "loopback"), ("localhost", "loopback"), ("224.0.0.9", "many machines'")]
    {
        let portal = Portal::start();
        portal.configure_images("tiny = \"tiny.tar\"", "/sbin/mkfs.ext4 -q");
        std::fs::write(portal.path("images/tiny.tar"), "an image").expect("an image");
        let refused = refused_deploy(&portal, name);
        assert_eq!(refused["fault"]["code"], "address-unusable", "{name}: {refused}");
        assert_eq!(refused["fault"]["host"], name);
        assert!(refused["fault"]["why"].as_str().is_some_and(|text| text.contains(why)), "{name}: {refused}");
        portal.assert_no_panic();
    }
}
