//! `cgi-bin/user/resize` (GET, POST): shows a machine's sizes and what its host has, then has them
//! changed. Called by the machine's owner or an administrator.

fn main() {
    vgrid::server::endpoints::RESIZE.serve();
}
