//! `cgi-bin/user/stop` (GET, POST): asks for confirmation, then shuts a machine down; its disk is
//! kept. Called by its owner or an administrator.

use vgrid::cgi::{policy, serve};

fn main() {
    serve::user(&policy::USER_STOP, vgrid::server::pages::power::stop);
}
