//! `cgi-bin/user/images` (GET, POST): lists, renames, shares and deletes saved images. Called by
//! users.

fn main() {
    vgrid::server::endpoints::IMAGES.serve();
}
