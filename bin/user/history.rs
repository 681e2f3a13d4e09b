//! `cgi-bin/user/history` (GET): all that happened, or what happened to the caller's machines. Called by people and scripts,
//! signed in.

use vgrid::cgi::{policy, serve};

fn main() {
    serve::user(&policy::USER_HISTORY, vgrid::server::pages::history::handle);
}
