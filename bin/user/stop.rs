//! `cgi-bin/user/stop` (GET, POST): asks for confirmation, then shuts a machine down; its disk is
//! kept. Called by its owner or an administrator.

fn main() {
    vgrid::server::endpoints::STOP.serve();
}
