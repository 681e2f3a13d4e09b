//! `cgi-bin/user/terminate` (GET, POST): asks for confirmation, then removes a machine. Called by
//! its owner or an administrator.

fn main() {
    vgrid::server::endpoints::TERMINATE.serve();
}
