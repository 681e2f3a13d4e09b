//! `cgi-bin/user/reboot` (GET, POST): asks, and then has a machine shut down and started again. Called by its owner or an administrator.

use vgrid::cgi::{policy, serve};

fn main() {
    serve::user(&policy::USER_REBOOT, vgrid::server::pages::power::reboot);
}
