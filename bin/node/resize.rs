//! `cgi-bin/node/resize` (POST, a ResizeOrder). Called by the server; see
//! [`vgrid::node::endpoints::resize`].

fn main() {
    vgrid::node::endpoints::RESIZE.serve();
}
