//! `cgi-bin/user/admin` (GET, POST): the administrators' overview, and closing and opening the
//! portal. Called by people and scripts, signed in as administrators.

fn main() {
    vgrid::server::endpoints::ADMIN.serve();
}
