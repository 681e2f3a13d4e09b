//! `cgi-bin/internal/status` (POST): reports on the progress of machines. Called by nodes, signed.

fn main() {
    vgrid::server::endpoints::STATUS.serve();
}
