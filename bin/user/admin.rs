//! `cgi-bin/user/admin` (GET, POST): the administrators' overview, and closing and opening the
//! portal. Called by people and scripts, signed in as administrators.

use vgrid::cgi::{policy, serve};

fn main() {
    serve::user(&policy::USER_ADMIN, vgrid::server::pages::admin::handle);
}
