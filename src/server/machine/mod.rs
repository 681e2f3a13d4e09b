//! Everything that happens to machines, whether triggered by a page, a node's report or upkeep.
//! Nothing here depends on CGI.

pub mod create;
pub mod declined;
pub mod failures;
#[cfg(test)]
pub(in crate::server) mod fixture;
pub mod image;
pub mod leases;
pub mod life;
pub mod moving;
pub mod orders;
pub mod placement;
pub mod pool;
pub mod power;
pub mod quota;
pub mod report;
pub mod resize;
pub mod save;
pub mod snapshots;
pub mod terminate;
