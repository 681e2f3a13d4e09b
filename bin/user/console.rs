//! `cgi-bin/user/console` (GET): the end of a machine's console output. Called by its owner or an
//! administrator.

fn main() {
    vgrid::server::endpoints::CONSOLE.serve();
}
