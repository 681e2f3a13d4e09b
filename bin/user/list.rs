//! `cgi-bin/user/list` (GET): lists machines and the occupancy of each host. Called by people and
//! scripts, signed in.

fn main() {
    vgrid::server::endpoints::LIST.serve();
}
