//! What a machine is made of.

use serde::{Deserialize, Serialize};

use super::names::{ImageTag, SavedImage};
use super::size::{Cpus, GiB, MiB};

/// What a machine is made of: asked for in the form, kept in the registry, ordered from the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// The image: what is unpacked, and what template, kernel and swap belong to it.
    pub image: ImageTag,
    /// The memory.
    pub memory: MiB,
    /// The virtual processors. A message that does not name them means one.
    #[serde(default, skip_serializing_if = "Cpus::is_default")]
    pub cpus: Cpus,
    /// The size of the root partition.
    pub disk: GiB,
    /// The saved image that is unpacked in place of the file of `image`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saved: Option<SavedImage>,
}
