//! `cgi-bin/user/reboot` (GET, POST): asks, and then has a machine shut down and started again. Called by its owner or an administrator.

fn main() {
    vgrid::server::endpoints::REBOOT.serve();
}
