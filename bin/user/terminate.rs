//! `cgi-bin/user/terminate` (GET, POST): asks, and then has a machine removed. Called by its owner or an administrator.

use vgrid::cgi::{policy, serve};

fn main() {
    serve::user(&policy::USER_TERMINATE, vgrid::server::pages::terminate::handle);
}
