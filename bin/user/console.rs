//! `cgi-bin/user/console` (GET): the tail of a machine's console output. Called by the machine's
//! owner or an administrator.

fn main() {
    vgrid::server::endpoints::CONSOLE.serve();
}
