//! `cgi-bin/user/save` (GET, POST): asks for confirmation, then has a machine's disk saved as an
//! image. Called by the machine's owner or an administrator.

fn main() {
    vgrid::server::endpoints::SAVE.serve();
}
