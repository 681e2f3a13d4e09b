//! `cgi-bin/user/reboot` (GET, POST): asks for confirmation, then reboots a machine. Called by its
//! owner or an administrator.

fn main() {
    vgrid::server::endpoints::REBOOT.serve();
}
