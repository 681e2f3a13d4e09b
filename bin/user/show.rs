//! `cgi-bin/user/show` (GET): shows one machine: state, progress, history. Called by its owner or
//! an administrator.

fn main() {
    vgrid::server::endpoints::SHOW.serve();
}
