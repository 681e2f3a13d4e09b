//! `cgi-bin/internal/status` (POST): takes reports about machines. Called by nodes, signed.

fn main() {
    vgrid::server::endpoints::STATUS.serve();
}
