//! `cgi-bin/user/list` (GET): machines, and how full each host is. Called by people and scripts, signed in.

fn main() {
    vgrid::server::endpoints::LIST.serve();
}
