//! `cgi-bin/user/list` (GET): lists machines and the occupancy of each host. Called by people and
//! scripts, signed in.

use vgrid::cgi::{policy, serve};

fn main() {
    serve::user(&policy::USER_LIST, vgrid::server::pages::list::handle);
}
