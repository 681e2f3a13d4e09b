//! `cgi-bin/node/console` (GET, machine=NAME). Called by the server; see
//! [`vgrid::node::endpoints::console`].

fn main() {
    vgrid::node::endpoints::CONSOLE.serve();
}
