//! `cgi-bin/user/admin` (GET, POST): what administrators see of the whole, and what they close and open. Called by people and scripts,
//! signed in as administrators.

fn main() {
    vgrid::server::endpoints::ADMIN.serve();
}
