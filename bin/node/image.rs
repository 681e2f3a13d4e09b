//! `cgi-bin/node/image` (POST, an ImageOrder). Called by the server; see
//! [`vgrid::node::endpoints::image`].

use vgrid::cgi::{policy, serve};

fn main() {
    serve::server_only(&policy::NODE_IMAGE, vgrid::node::endpoints::image::handle);
}
