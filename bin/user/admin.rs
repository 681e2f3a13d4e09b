//! `cgi-bin/user/admin` (GET, POST): the administrators' overview, and what they close, open,
//! remove or adopt there. Called by administrators, signed in, and their scripts.

fn main() {
    vgrid::server::endpoints::ADMIN.serve();
}
