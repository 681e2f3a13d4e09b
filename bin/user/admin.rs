//! `cgi-bin/user/admin` (GET, POST): what administrators see of the whole, and what they close and open. Called by people and scripts,
//! signed in as administrators.

use vgrid::cgi::{policy, serve};

fn main() {
    serve::user(&policy::USER_ADMIN, vgrid::server::pages::admin::handle);
}
