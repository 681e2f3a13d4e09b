//! `cgi-bin/user/deploy` (GET, POST): the form, and having a machine made. Called by people and scripts, signed in.

fn main() {
    vgrid::server::endpoints::DEPLOY.serve();
}
