//! `cgi-bin/internal/status` (POST): reports on the progress of machines. Called by nodes, signed.

use vgrid::cgi::{policy, serve};

fn main() {
    serve::node_only(&policy::INTERNAL_STATUS, vgrid::server::internal::status::handle);
}
