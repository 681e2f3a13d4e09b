//! `cgi-bin/node/info` (GET). Called by the server; see [`vgrid::node::endpoints::info`].

use vgrid::cgi::{policy, serve};

fn main() {
    serve::server_only(&policy::NODE_INFO, vgrid::node::endpoints::info::handle);
}
