//! `cgi-bin/user/deploy` (GET, POST): shows the form and deploys a machine. Called by people and
//! scripts, signed in.

fn main() {
    vgrid::server::endpoints::DEPLOY.serve();
}
