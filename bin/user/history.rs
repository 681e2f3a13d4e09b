//! `cgi-bin/user/history` (GET): everything that happened, or what happened to the caller's
//! machines. Called by people and scripts, signed in.

fn main() {
    vgrid::server::endpoints::HISTORY.serve();
}
