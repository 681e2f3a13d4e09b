//! What happens to machines, whoever has it happen: a page, a node's report, upkeep. Nothing here knows CGI.

pub mod create;
pub mod failures;
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
pub mod save;
pub mod terminate;

use crate::system::clock;

/// Now, for what happens in a transaction.
pub fn now() -> life::At {
    life::At { moment: clock::now(), millis: clock::millis() }
}
