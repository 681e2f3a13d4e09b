//! `cgi-bin/user/history` (GET): the complete history, or that of the caller's machines. Called by
//! people and scripts, signed in.

use vgrid::cgi::{policy, serve};

fn main() {
    serve::user(&policy::USER_HISTORY, vgrid::server::pages::history::handle);
}
