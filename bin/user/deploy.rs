//! `cgi-bin/user/deploy` (GET, POST): shows the form and deploys a machine. Called by people and
//! scripts, signed in.

use vgrid::cgi::{policy, serve};

fn main() {
    serve::user(&policy::USER_DEPLOY, vgrid::server::pages::deploy::handle);
}
