//! `cgi-bin/user/show` (GET): shows one machine: state, progress, history. Called by its owner or
//! an administrator.

use vgrid::cgi::{policy, serve};

fn main() {
    serve::user(&policy::USER_SHOW, vgrid::server::pages::show::handle);
}
