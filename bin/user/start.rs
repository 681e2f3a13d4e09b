//! `cgi-bin/user/start` (GET, POST): starts a stopped machine. Called by its owner or an
//! administrator.

use vgrid::cgi::{policy, serve};

fn main() {
    serve::user(&policy::USER_START, vgrid::server::pages::power::start);
}
