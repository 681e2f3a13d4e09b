//! The host that the verbs work on.

use std::path::PathBuf;

use super::failure::Failure;
use crate::config::{self, ImageSettings, VmType};
use crate::model::fault::Fault;
use crate::model::names::ImageTag;
use crate::node::Machine;
use crate::node::hypervisor::{self, Hypervisor, HypervisorError};
use crate::node::storage::{self, Storage};

/// The host, represented by its configuration.
pub(super) struct Host {
    /// `node.cfg`.
    pub(super) config: config::Node,
    /// The directory that it was read from.
    pub(super) dir: PathBuf,
}

/// The definition of a machine.
pub(super) struct Definition {
    pub(super) vm_type: VmType,
    /// The hypervisor that has it.
    pub(super) hypervisor: Box<dyn Hypervisor>,
}

impl Host {
    pub(super) fn storage(&self) -> Box<dyn Storage + '_> {
        storage::of(&self.config.general)
    }

    /// Returns the hypervisor for machines of that type.
    pub(super) fn hypervisor(&self, vm_type: VmType) -> Box<dyn Hypervisor> {
        hypervisor::of(vm_type, &self.config.general)
    }

    /// Returns the hypervisors of all types of machines that this host runs.
    pub(super) fn hypervisors(&self) -> Vec<Box<dyn Hypervisor>> {
        self.config.vm_types().into_iter().map(|vm_type| self.hypervisor(vm_type)).collect()
    }

    /// Finds the machine's definition. Its type may have been removed from `node.cfg` since.
    pub(super) fn definition(&self, machine: &Machine) -> Result<Option<Definition>, HypervisorError> {
        let types = self.config.vm_types();
        for &vm_type in VmType::ALL {
            let hypervisor = self.hypervisor(vm_type);
            match hypervisor.installed(machine) {
                Ok(Some(_)) => return Ok(Some(Definition { vm_type, hypervisor })),
                Err(error) if types.contains(&vm_type) => return Err(error),
                // A host without such machines need not have that hypervisor's directories.
                Ok(None) | Err(_) => {}
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
