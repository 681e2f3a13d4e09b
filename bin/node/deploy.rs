//! `cgi-bin/node/deploy` (POST, a DeployOrder). Called by the server; see
//! [`vgrid::node::endpoints::deploy`].

use vgrid::cgi::{policy, serve};

fn main() {
    serve::server_only(&policy::NODE_DEPLOY, vgrid::node::endpoints::deploy::handle);
}
