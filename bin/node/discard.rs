//! `cgi-bin/node/discard` (POST, a Stranger). Called by the server; see
//! [`vgrid::node::endpoints::discard`].

use vgrid::cgi::{policy, serve};

fn main() {
    serve::server_only(&policy::NODE_DISCARD, vgrid::node::endpoints::discard::handle);
}
