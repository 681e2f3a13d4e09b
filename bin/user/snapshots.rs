//! `cgi-bin/user/snapshots` (GET, POST): shows the snapshots of a machine's disk, takes and deletes them,
//! and goes back to one. Called by the machine's owner or an administrator.

fn main() {
    vgrid::server::endpoints::SNAPSHOTS.serve();
}
