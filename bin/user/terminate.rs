//! `cgi-bin/user/terminate` (GET, POST): asks for confirmation, then removes a machine. Called by
//! its owner or an administrator.

use vgrid::cgi::{policy, serve};

fn main() {
    serve::user(&policy::USER_TERMINATE, vgrid::server::pages::terminate::handle);
}
