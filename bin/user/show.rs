//! `cgi-bin/user/show` (GET): a machine's state, progress and history. Called by the machine's
//! owner or an administrator.

fn main() {
    vgrid::server::endpoints::SHOW.serve();
}
