//! `cgi-bin/user/extend` (GET, POST): asks for confirmation, then renews a machine's lease or
//! protects it against termination. Called by its owner or an administrator.

use vgrid::cgi::{policy, serve};

fn main() {
    serve::user(&policy::USER_EXTEND, vgrid::server::pages::extend::handle);
}
