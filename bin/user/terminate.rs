//! `cgi-bin/user/terminate` (GET, POST): asks for confirmation, then has a machine removed. Called
//! by the machine's owner or an administrator.

fn main() {
    vgrid::server::endpoints::TERMINATE.serve();
}
