//! `cgi-bin/user/extend` (GET, POST): asks, and then sets a machine's lease anew, or guards it against being terminated. Called by its owner or an administrator.

use vgrid::cgi::{policy, serve};

fn main() {
    serve::user(&policy::USER_EXTEND, vgrid::server::pages::extend::handle);
}
