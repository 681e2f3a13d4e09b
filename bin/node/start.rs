//! `cgi-bin/node/start` (POST, a MachineOrder). Called by the server; see
//! [`vgrid::node::endpoints::power`].

fn main() {
    vgrid::node::endpoints::START.serve();
}
