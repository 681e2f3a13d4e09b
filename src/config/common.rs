//! `common.cfg`.

use std::path::Path;

use serde::Deserialize;

use crate::model::digest::digest;
use crate::model::names::{ImageTag, PhysicalHost, VirtualHost};

use super::source::{ConfigError, Pairs, Source, count, text};

/// `common.cfg`: what server and nodes must agree on.
#[derive(Debug, Clone)]
pub struct Common {
    /// `[VMImages]`: the images and their descriptions, in the order of the file.
    pub images: Vec<(ImageTag, String)>,
    /// `[PhysicalHostsPool]`: the nodes, and the most machines that each may have.
    pub physical_hosts: Vec<(PhysicalHost, u32)>,
    /// `[VirtualHostsPool]`: the names for machines, and what each machine's template gets as
    /// `${vmExtra}`.
    pub virtual_hosts: Vec<(VirtualHost, String)>,
    /// The file's digest, by which server and nodes find out whether they have the same one.
    pub digest: String,
}

impl Common {
    /// Reads `common.cfg` from a folder.
    pub fn load(dir: &Path) -> Result<Self, ConfigError> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Raw {
            #[serde(rename = "VMImages")]
            images: Pairs,
            #[serde(rename = "PhysicalHostsPool")]
            physical: Pairs,
            #[serde(rename = "VirtualHostsPool")]
            virtual_: Pairs,
        }
        let source = Source::read(dir, "common.cfg")?;
        let raw: Raw = source.parse()?;
        Ok(Self {
            images: source.names("VMImages", raw.images, text)?,
            physical_hosts: source.names("PhysicalHostsPool", raw.physical, count)?,
            virtual_hosts: source.names("VirtualHostsPool", raw.virtual_, text)?,
            digest: digest(source.text.as_bytes()),
        })
    }

    /// The most machines that a node may have; `None` if it is not in the pool.
    pub fn maximum(&self, host: &PhysicalHost) -> Option<u32> {
        self.physical_hosts.iter().find(|(name, _)| name == host).map(|(_, maximum)| *maximum)
    }

    /// Whether there is such an image.
    pub fn has_image(&self, tag: &ImageTag) -> bool {
        self.images.iter().any(|(known, _)| known == tag)
    }

    /// What the template of the machine of this name gets as `${vmExtra}`; `None` if the name is
    /// not in the pool.
    pub fn extra(&self, host: &VirtualHost) -> Option<&str> {
        self.virtual_hosts.iter().find(|(name, _)| name == host).map(|(_, extra)| extra.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_keeps_the_order_of_the_file_and_refuses_doubles() {
        let dir = tempfile::tempdir().unwrap();
        let write = |virtual_hosts: &str| {
            let text = format!(
                "[VMImages]\ntiny = \"x\"\n[PhysicalHostsPool]\nh = 5\n[VirtualHostsPool]\n{virtual_hosts}"
            );
            std::fs::write(dir.path().join("common.cfg"), text).unwrap();
            Common::load(dir.path())
        };
        let common = write("vm10 = \"\"\nvm2 = \"mac=1\"\n").unwrap();
        let names: Vec<_> = common.virtual_hosts.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["vm10", "vm2"]);
        assert_eq!(common.extra(&"vm2".parse().unwrap()), Some("mac=1"));
        assert!(write("vm1 = \"\"\nVM1 = \"\"\n").unwrap_err().to_string().contains("is there twice"));
        assert!(write("\"a b\" = \"\"\n").unwrap_err().to_string().contains("must not contain a blank"));
    }
}
