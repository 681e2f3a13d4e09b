//! `cgi-bin/user/start` (GET, POST): has a stopped machine started. Called by the machine's owner
//! or an administrator.

fn main() {
    vgrid::server::endpoints::START.serve();
}
