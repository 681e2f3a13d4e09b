//! `cgi-bin/user/images` (GET, POST): lists, renames, shares and deletes saved images. Called by
//! users.

use vgrid::cgi::{policy, serve};

fn main() {
    serve::user(&policy::USER_IMAGES, vgrid::server::pages::images::handle);
}
