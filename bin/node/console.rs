//! `cgi-bin/node/console` (GET, machine=NAME). Called by the server; see
//! [`vgrid::node::endpoints::console`].

use vgrid::cgi::{policy, serve};

fn main() {
    serve::server_only(&policy::NODE_CONSOLE, vgrid::node::endpoints::console::handle);
}
