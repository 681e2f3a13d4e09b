//! `cgi-bin/user/reboot` (GET, POST): asks for confirmation, then reboots a machine. Called by its
//! owner or an administrator.

use vgrid::cgi::{policy, serve};

fn main() {
    serve::user(&policy::USER_REBOOT, vgrid::server::pages::power::reboot);
}
