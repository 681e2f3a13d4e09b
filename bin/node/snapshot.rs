//! `cgi-bin/node/snapshot` (POST, a SnapshotOrder). Called by the server; see
//! [`vgrid::node::endpoints::snapshot`].

fn main() {
    vgrid::node::endpoints::SNAPSHOT.serve();
}
