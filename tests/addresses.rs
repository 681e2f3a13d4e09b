//! A machine gets no address that no machine can have: real node programs under Apache.

use serde_json::{Value, json};
use vgrid::model::names::VmId;

use crate::support::portal::Portal;

/// An order for this machine to make one that is called `name`.
fn deploy(portal: &Portal, name: &str) -> Value {
    let here = nix::unistd::gethostname().expect("a host name").to_string_lossy().to_lowercase();
    portal.reconfigure("common.cfg", |text| text.replace("\"vm1\"", &format!("\"{name}\"")));
    let order = json!({
        "id": VmId::generate().to_string(), "number": 1, "user": "alice", "physical_host": here,
        "virtual_host": name, "image": "tiny", "memory": 128, "disk": 1,
    });
    portal
        .signed("/cgi-bin/node/deploy", order.to_string().into_bytes(), &portal.key)
        .send()
        .expect(409)
        .json()
}

#[test]
fn a_name_with_an_address_that_no_machine_can_have_is_refused() {
    for (name, why) in [("127.0.0.9", "loopback"), ("localhost", "loopback"), ("224.0.0.9", "many machines'")]
    {
        let portal = Portal::start();
        std::fs::create_dir(portal.path("images")).expect("a folder");
        std::fs::write(portal.path("images/tiny.tar"), "an image").expect("an image");
        portal.reconfigure("node.cfg", |text| {
            format!(
                "{text}[VMImageFiles]\ntiny = \"tiny.tar\"\n[VMConfigTemplates]\ndefault = \"xen-xvda\"\n[VMSwapSize]\n\
                 default = 64\n[VMTypes]\ndefault = \"xen\"\n[XenDeployerFSCreateCmd]\ndefault = \"/sbin/mkfs.ext4 -q\"\n"
            )
        });
        let refused = deploy(&portal, name);
        assert_eq!(refused["fault"]["code"], "address-unusable", "{name}: {refused}");
        assert_eq!(refused["fault"]["host"], name);
        assert!(refused["fault"]["why"].as_str().is_some_and(|said| said.contains(why)), "{name}: {refused}");
        portal.assert_no_panic();
    }
}
