//! `cgi-bin/node/image` (POST, an ImageOrder). Called by the server; see
//! [`vgrid::node::endpoints::image`].

fn main() {
    vgrid::node::endpoints::IMAGE.serve();
}
