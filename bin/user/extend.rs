//! `cgi-bin/user/extend` (GET, POST): asks for confirmation, then renews a machine's lease or
//! protects it against termination. Called by its owner or an administrator.

fn main() {
    vgrid::server::endpoints::EXTEND.serve();
}
