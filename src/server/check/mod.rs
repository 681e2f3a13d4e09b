//! The server's part of `vgrid-check`.

mod mail;
mod nodes;
mod portal;
mod registry;

use crate::check::apache::{self, Own};
use crate::check::common::Basis;
use crate::check::{Checks, Fact};

/// Runs the server's checks.
pub fn run(checks: &mut Checks, ground: &Basis) {
    let server = ground.server.as_ref();
    apache::site(checks, "portal's site", &ground.includes, "vgrid-server", "/cgi-bin/user/");
    checks.check_as_root("sign-in", ground.web.as_ref(), |_| portal::sign_in(&ground.dir));
    checks.check("page templates", server, portal::templates);
    let is_root = checks.is_root();
    checks.check("mail", server, |server| mail::leaves(server, is_root));
    checks.check_as_root("registry", server.and(ground.web.as_ref()), |(server, web)| {
        registry::is_usable(&server.general.registry_file, web)
    });
    checks.check_as_root("upkeep", server, |server| registry::upkeep_runs(&server.general.registry_file));
    checks.check("portal's programs", Fact::Known(()), |()| portal::programs());
    let request = checks.request.clone();
    checks.check("portal answers", server, |server| {
        portal::answers(&Own::new(&ground.own_url, &request, &server.general.ca_file))
    });
    let hosts =
        checks.check("hosts' names", ground.common.as_ref(), |common| Ok(nodes::with_addresses(common)));
    nodes::checks(checks, ground, &request, hosts);
}
