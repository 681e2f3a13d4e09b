//! `cgi-bin/user/stop` (GET, POST): asks, and then has a machine shut down; its disk stays. Called by its owner or an administrator.

use vgrid::cgi::{policy, serve};

fn main() {
    serve::user(&policy::USER_STOP, vgrid::server::pages::power::stop);
}
