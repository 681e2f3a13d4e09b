//! `cgi-bin/user/console` (GET): the end of a machine's console output. Called by its owner or an
//! administrator.

use vgrid::cgi::{policy, serve};

fn main() {
    serve::user(&policy::USER_CONSOLE, vgrid::server::pages::console::handle);
}
