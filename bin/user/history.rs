//! `cgi-bin/user/history` (GET): the complete history, or that of the caller's machines. Called by
//! people and scripts, signed in.

fn main() {
    vgrid::server::endpoints::HISTORY.serve();
}
