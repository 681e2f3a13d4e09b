//! `cgi-bin/user/list` (GET): machines, and how full each host is. Called by people and scripts, signed in.

use vgrid::cgi::{policy, serve};

fn main() {
    serve::user(&policy::USER_LIST, vgrid::server::pages::list::handle);
}
