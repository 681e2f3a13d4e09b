//! `cgi-bin/node/info` (GET). Called by the server; see [`vgrid::node::endpoints::info`].

fn main() {
    vgrid::node::endpoints::INFO.serve();
}
