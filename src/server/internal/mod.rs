//! What nodes ask for: one file a URL of `bin/internal`.

pub mod status;
