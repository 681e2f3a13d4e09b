//! `cgi-bin/node/discard` (POST, a Stranger). Called by the server; see
//! [`vgrid::node::endpoints::discard`].

fn main() {
    vgrid::node::endpoints::DISCARD.serve();
}
