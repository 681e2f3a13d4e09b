//! `common.cfg`.

use std::path::Path;

use serde::Deserialize;

use crate::model::digest::digest;
use crate::model::names::{ImageTag, PhysicalHost, VirtualHost};

use super::source::{ConfigError, Pairs, Source, count, text};

/// `common.cfg`: the settings that the server and the nodes must agree on.
#[derive(Debug, Clone)]
pub struct Common {
    /// `[VMImages]`: the images and their descriptions, in the order of the file.
    pub images: Vec<(ImageTag, String)>,
    /// `[PhysicalHostsPool]`: the nodes, and the maximum number of machines on each.
    pub physical_hosts: Vec<(PhysicalHost, u32)>,
    /// `[VirtualHostsPool]`: the host names for machines, and the value of `${vmExtra}` in each
    /// machine's template.
    pub virtual_hosts: Vec<(VirtualHost, String)>,
    /// The file's digest, by which the server and the nodes detect different versions.
    pub digest: String,
}

impl Common {
    /// Reads `common.cfg` from a directory.
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

    /// Returns the maximum number of machines on a node; `None` if the node is not in the pool.
    pub fn maximum(&self, host: &PhysicalHost) -> Option<u32> {
        self.physical_hosts.iter().find(|(name, _)| name == host).map(|(_, maximum)| *maximum)
    }

    /// Returns whether there is an image with this tag.
    pub fn has_image(&self, tag: &ImageTag) -> bool {
        self.images.iter().any(|(known, _)| known == tag)
    }

    /// Returns the value of `${vmExtra}` for a host name; `None` if the name is not in the pool.
    pub fn extra(&self, host: &VirtualHost) -> Option<&str> {
        self.virtual_hosts.iter().find(|(name, _)| name == host).map(|(_, extra)| extra.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_the_file_is_kept_and_duplicates_are_refused() {
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
