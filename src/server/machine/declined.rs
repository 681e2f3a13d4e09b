//! Why a request for a machine was declined, part by part.

use std::collections::BTreeMap;

/// The part of a request that a refusal is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The number of machines.
    Machine,
    /// The saved image.
    Image,
    /// The snapshot of another machine.
    Snapshot,
    /// The configured image; that of a saved image is the one it derives from.
    Base,
    /// The memory.
    Memory,
    /// The processors.
    Cpus,
    /// The root partition.
    Disk,
    /// The host.
    Host,
    /// The name.
    Name,
}

/// Whether a refusal is temporary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// The request can't be granted now.
    Now,
    /// The request can never be granted.
    Ever,
}

/// Why a request for a machine was declined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declined {
    /// Whether the refusal is temporary.
    pub when: When,
    /// What is wrong with each part, in sentences.
    pub faults: BTreeMap<Part, String>,
}

impl Declined {
    /// Declines a request for one reason.
    pub fn one(when: When, part: Part, sentence: impl Into<String>) -> Self {
        Self { when, faults: BTreeMap::from([(part, sentence.into())]) }
    }
}
