//! `cgi-bin/node/save` (POST, a SaveOrder). Called by the server; see
//! [`vgrid::node::endpoints::save`].

fn main() {
    vgrid::node::endpoints::SAVE.serve();
}
