//! `cgi-bin/user/start` (GET, POST): has a stopped machine started. Called by its owner or an administrator.

fn main() {
    vgrid::server::endpoints::START.serve();
}
