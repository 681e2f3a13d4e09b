//! `cgi-bin/user/save` (GET, POST): asks for confirmation, then saves a machine's disk as an image.
//! Called by its owner or an administrator.

fn main() {
    vgrid::server::endpoints::SAVE.serve();
}
