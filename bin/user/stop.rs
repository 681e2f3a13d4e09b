//! `cgi-bin/user/stop` (GET, POST): asks for confirmation, then has a machine shut down; its disk
//! is kept. Called by the machine's owner or an administrator.

fn main() {
    vgrid::server::endpoints::STOP.serve();
}
