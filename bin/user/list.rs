//! `cgi-bin/user/list` (GET): machines, and the load of each host. Called by people and scripts,
//! signed in.

fn main() {
    vgrid::server::endpoints::LIST.serve();
}
