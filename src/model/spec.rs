//! What a machine is made of.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::names::{ImageTag, SavedImage, SnapshotName, VmId};
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
    /// The snapshot of another machine of the same host that is copied in its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotOf>,
}

impl Spec {
    /// Returns what its disk may be a clone of.
    pub fn original(&self) -> Original<'_> {
        match (&self.snapshot, &self.saved) {
            (Some(_), _) => Original::Nothing,
            (None, Some(saved)) => Original::Saved(saved),
            (None, None) => Original::Image,
        }
    }
}

/// What the disk of a new machine may be a clone of, if that is prepared on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Original<'a> {
    /// Nothing: it is a copy of a snapshot.
    Nothing,
    /// The image.
    Image,
    /// A saved image.
    Saved(&'a SavedImage),
}

/// A snapshot of a machine's disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotOf {
    /// The machine.
    pub machine: VmId,
    /// What its owner calls it.
    pub name: SnapshotName,
}

impl fmt::Display for SnapshotOf {
    /// As the field `fromSnapshot` names it: the machine's id and its name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.machine, self.name)
    }
}

/// Those of a machine's values that can be changed once it exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sizes {
    /// The memory.
    pub memory: MiB,
    /// The virtual processors.
    pub cpus: Cpus,
    /// The size of the root partition.
    pub disk: GiB,
}

impl Spec {
    /// Returns its sizes.
    pub fn sizes(&self) -> Sizes {
        Sizes { memory: self.memory, cpus: self.cpus, disk: self.disk }
    }

    /// Returns the same with other sizes.
    pub fn with(self, sizes: Sizes) -> Self {
        let Sizes { memory, cpus, disk } = sizes;
        Self { memory, cpus, disk, ..self }
    }
}

impl Sizes {
    /// Describes the change from `self` to other sizes: what becomes what, for each that differs.
    pub fn changed_to(self, new: Self) -> String {
        let mut parts = Vec::new();
        let mut part = |name: &str, old: &dyn fmt::Display, new: &dyn fmt::Display| {
            parts.push(format!("{name} from {old} to {new}"));
        };
        if self.memory != new.memory {
            part("memory", &self.memory, &new.memory);
        }
        if self.cpus != new.cpus {
            part("processors", &self.cpus.get(), &new.cpus.get());
        }
        if self.disk != new.disk {
            part("disk", &self.disk, &new.disk);
        }
        parts.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_sizes_names_what_differs() {
        let old =
            Sizes { memory: MiB::new(128).unwrap(), cpus: Cpus::new(1).unwrap(), disk: GiB::new(1).unwrap() };
        let more = Sizes { memory: MiB::new(256).unwrap(), ..old };
        assert_eq!(old.changed_to(more), "memory from 128 MiB to 256 MiB");
        let all = Sizes { cpus: Cpus::new(2).unwrap(), disk: GiB::new(3).unwrap(), ..more };
        assert_eq!(
            old.changed_to(all),
            "memory from 128 MiB to 256 MiB, processors from 1 to 2, disk from 1 GiB to 3 GiB"
        );
        assert_eq!(old.changed_to(old), "");
    }
}
