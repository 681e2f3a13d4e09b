//! `cgi-bin/user/deploy` (GET, POST): shows the form, and has a machine made. Called by people and
//! scripts, signed in.

fn main() {
    vgrid::server::endpoints::DEPLOY.serve();
}
