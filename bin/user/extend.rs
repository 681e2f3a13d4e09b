//! `cgi-bin/user/extend` (GET, POST): asks, and then sets a machine's lease anew, or guards it against being terminated. Called by its owner or an administrator.

fn main() {
    vgrid::server::endpoints::EXTEND.serve();
}
