//! The host that the verbs work on.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::failure::Failure;
use crate::config::{self, ImageSettings, VmType};
use crate::model::fault::Fault;
use crate::model::names::ImageTag;
use crate::node::Machine;
use crate::node::hypervisor::{self, Hypervisor, HypervisorError};
use crate::node::storage::{self, Listing, Storage};

/// The host, represented by its configuration.
pub(super) struct Host {
    /// `node.cfg`.
    pub(super) config: config::Node,
    /// The directory that it was read from.
    pub(super) dir: PathBuf,
    /// What LVM said last.
    pub(super) listing: Listing,
}

/// The definition of a machine.
pub(super) struct Definition {
    pub(super) vm_type: VmType,
    /// The hypervisor that has it.
    pub(super) hypervisor: Box<dyn Hypervisor>,
    /// Whether `node.cfg` names another toolstack by now.
    pub(super) is_other: bool,
}

/// Whether a machine has followed its host to the toolstack in `node.cfg`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stand {
    /// Its definition is that toolstack's.
    Here,
    /// Another toolstack has a definition of it: `configure --if-moved` is to be called.
    Elsewhere,
}

impl Host {
    pub(super) fn storage(&self) -> Box<dyn Storage + '_> {
        storage::of(&self.config.general, &self.listing)
    }

    /// Returns the hypervisor for machines of that type.
    pub(super) fn hypervisor(&self, vm_type: VmType) -> Box<dyn Hypervisor> {
        hypervisor::of(vm_type, &self.config.general)
    }

    /// Returns the hypervisors of all types of machines that this host runs.
    pub(super) fn hypervisors(&self) -> Vec<Box<dyn Hypervisor>> {
        self.config.vm_types().into_iter().map(|vm_type| self.hypervisor(vm_type)).collect()
    }

    /// Returns the toolstacks that this host may have used before, for machines of the types that it
    /// runs.
    pub(super) fn other_hypervisors(&self) -> Vec<Box<dyn Hypervisor>> {
        let types = self.config.vm_types().into_iter();
        types.flat_map(|vm_type| hypervisor::others(vm_type, &self.config.general)).collect()
    }

    /// Returns all that may have definitions of vGrid's on this host.
    pub(super) fn all_hypervisors(&self) -> Vec<Box<dyn Hypervisor>> {
        self.hypervisors().into_iter().chain(self.other_hypervisors()).collect()
    }

    /// Finds the machine's definition, if it has several that of the toolstack in `node.cfg`. Its
    /// type may have been removed from there since.
    pub(super) fn definition(&self, machine: &Machine) -> Result<Option<Definition>, HypervisorError> {
        let types = self.config.vm_types();
        for &vm_type in VmType::ALL {
            let others = hypervisor::others(vm_type, &self.config.general);
            let all = std::iter::once(self.hypervisor(vm_type)).chain(others);
            for (at, hypervisor) in all.enumerate() {
                match hypervisor.installed(machine) {
                    Ok(Some(_)) => return Ok(Some(Definition { vm_type, hypervisor, is_other: at > 0 })),
                    Err(error) if types.contains(&vm_type) => return Err(error),
                    // A host without such machines need not have that hypervisor's directories.
                    Ok(None) | Err(_) => {}
                }
            }
        }
        Ok(None)
    }

    /// Returns the settings of an image. A tag missing from `node.cfg` is a fault.
    pub(super) fn image(&self, tag: &ImageTag) -> Result<ImageSettings, Failure> {
        self.config.image(tag).map_err(|error| Failure {
            fault: Some(Fault::ImageUnknown { tag: tag.clone() }),
            detail: error.to_string(),
        })
    }
}
