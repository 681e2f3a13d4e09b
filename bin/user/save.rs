//! `cgi-bin/user/save` (GET, POST): asks, and then has the disk of a machine saved as an image. Called by its owner or an administrator.

use vgrid::cgi::{policy, serve};

fn main() {
    serve::user(&policy::USER_SAVE, vgrid::server::pages::save::handle);
}
