//! `cgi-bin/node/terminate` (POST, a MachineOrder). Called by the server; see
//! [`vgrid::node::endpoints::terminate`].

use vgrid::cgi::{policy, serve};

fn main() {
    serve::server_only(&policy::NODE_TERMINATE, vgrid::node::endpoints::terminate::handle);
}
