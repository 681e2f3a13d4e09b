//! The endpoints for nodes: one file for each URL of `bin/internal`.

pub mod status;
