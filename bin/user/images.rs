//! `cgi-bin/user/images` (GET, POST): lists saved images, and renames, shares, unshares and deletes
//! them. Called by people and scripts, signed in.

fn main() {
    vgrid::server::endpoints::IMAGES.serve();
}
