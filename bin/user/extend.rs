//! `cgi-bin/user/extend` (GET, POST): asks for confirmation, then sets a new lease for a machine,
//! or protects it against termination. Called by the machine's owner or an administrator.

fn main() {
    vgrid::server::endpoints::EXTEND.serve();
}
