//! `cgi-bin/user/reboot` (GET, POST): asks for confirmation, then has a machine shut down and
//! started again. Called by the machine's owner or an administrator.

fn main() {
    vgrid::server::endpoints::REBOOT.serve();
}
