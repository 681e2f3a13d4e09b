//! What happens to machines, whoever has it happen: a page, a node's report, upkeep. Nothing here knows CGI.

pub mod failures;
pub mod leases;
pub mod moving;
pub mod orders;
pub mod placement;
pub mod quota;
