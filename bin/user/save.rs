//! `cgi-bin/user/save` (GET, POST): asks, and then has the disk of a machine saved as an image. Called by its owner or an administrator.

fn main() {
    vgrid::server::endpoints::SAVE.serve();
}
