//! `cgi-bin/user/images` (GET, POST): the images that people saved; renames, shares and deletes them. Called by users.

fn main() {
    vgrid::server::endpoints::IMAGES.serve();
}
