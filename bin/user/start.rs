//! `cgi-bin/user/start` (GET, POST): starts a stopped machine. Called by its owner or an
//! administrator.

fn main() {
    vgrid::server::endpoints::START.serve();
}
