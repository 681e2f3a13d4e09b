//! `cgi-bin/user/images` (GET, POST): the images that people saved; renames, shares and deletes them. Called by users.

use vgrid::cgi::{policy, serve};

fn main() {
    serve::user(&policy::USER_IMAGES, vgrid::server::pages::images::handle);
}
