//! `cgi-bin/node/save` (POST, a SaveOrder). Called by the server; see
//! [`vgrid::node::endpoints::save`].

use vgrid::cgi::{policy, serve};

fn main() {
    serve::server_only(&policy::NODE_SAVE, vgrid::node::endpoints::save::handle);
}
