//! `cgi-bin/user/terminate` (GET, POST): asks, and then has a machine removed. Called by its owner or an administrator.

fn main() {
    vgrid::server::endpoints::TERMINATE.serve();
}
