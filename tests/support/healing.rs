//! Upkeep that restores order on a real host.

use std::time::{Duration, Instant};

use super::visited::Visited;

/// A host on which upkeep restores order.
pub trait Healing: Visited {
    /// How long repeated runs of upkeep may take. An order gets a grace period of two minutes on its
    /// host, and a failed step is retried after one.
    const PATIENCE: Duration;

    /// Runs upkeep as cron does. Returns its summary.
    fn upkeep(&self) -> String;

    /// What the host has and the portal does not know, or the other way round.
    fn differences(&self) -> Vec<String>;

    /// Runs upkeep until everything is in order.
    fn heal(&self, what: &str) {
        let end = Instant::now() + Self::PATIENCE;
        loop {
            let summary = self.upkeep();
            let differences = self.differences();
            if differences.is_empty() && summary.contains("\n0 things done about machines.") {
                assert!(!summary.contains("unknown here"), "{what}: {summary}");
                return;
            }
            assert!(Instant::now() < end, "{what}: {differences:#?}\n{summary}\n{}", self.log());
            std::thread::sleep(Duration::from_secs(2));
        }
    }
}
