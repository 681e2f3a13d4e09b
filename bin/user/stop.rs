//! `cgi-bin/user/stop` (GET, POST): asks, and then has a machine shut down; its disk stays. Called by its owner or an administrator.

fn main() {
    vgrid::server::endpoints::STOP.serve();
}
