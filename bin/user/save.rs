//! `cgi-bin/user/save` (GET, POST): asks for confirmation, then saves a machine's disk as an image.
//! Called by its owner or an administrator.

use vgrid::cgi::{policy, serve};

fn main() {
    serve::user(&policy::USER_SAVE, vgrid::server::pages::save::handle);
}
