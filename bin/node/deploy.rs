//! `cgi-bin/node/deploy` (POST, a DeployOrder). Called by the server; see
//! [`vgrid::node::endpoints::deploy`].

fn main() {
    vgrid::node::endpoints::DEPLOY.serve();
}
