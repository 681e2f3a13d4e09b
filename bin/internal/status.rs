//! `cgi-bin/internal/status` (POST): how machines are getting on. Called by nodes, signed.

fn main() {
    vgrid::server::endpoints::STATUS.serve();
}
