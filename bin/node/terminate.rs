//! `cgi-bin/node/terminate` (POST, a MachineOrder). Called by the server; see
//! [`vgrid::node::endpoints::terminate`].

fn main() {
    vgrid::node::endpoints::TERMINATE.serve();
}
