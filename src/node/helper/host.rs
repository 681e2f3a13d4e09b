//! The host that the verbs work on.

use std::path::PathBuf;

use super::failure::Failure;
use crate::config::{self, ImageSettings};
use crate::model::fault::Fault;
use crate::model::names::ImageTag;
use crate::node::hypervisor::{self, Hypervisor, HypervisorError};
use crate::node::lvm::Lvm;

/// The host, represented by its configuration.
pub(super) struct Host {
    /// `node.cfg`.
    pub(super) config: config::Node,
    /// The directory that it was read from.
    pub(super) dir: PathBuf,
}

impl Host {
    pub(super) fn lvm(&self) -> Lvm<'_> {
        Lvm::new(&self.config.general.volume_group_name)
    }

    pub(super) fn hypervisor(&self) -> Result<Box<dyn Hypervisor>, HypervisorError> {
        hypervisor::open(config::VmType::Xen, self.config.general.toolstack)
    }

    /// Returns the settings of an image. A tag missing from `node.cfg` is a fault.
    pub(super) fn image(&self, tag: &ImageTag) -> Result<ImageSettings, Failure> {
        self.config.image(tag).map_err(|error| Failure {
            fault: Some(Fault::ImageUnknown { tag: tag.clone() }),
            detail: error.to_string(),
        })
    }
}
