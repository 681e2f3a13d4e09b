//! `cgi-bin/node/reboot` (POST, a MachineOrder). Called by the server; see
//! [`vgrid::node::endpoints::power`].

fn main() {
    vgrid::node::endpoints::REBOOT.serve();
}
