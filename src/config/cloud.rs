//! Whole-disk images, as clouds have them, and what cloud-init in them is told.

use std::net::Ipv4Addr;

use serde::Deserialize;
use strum::IntoStaticStr;

use super::source::is_http;

/// The format of a whole-disk image, which is what the ending of its file's name says. It is never
/// guessed from the content: a guest can write anything into its own disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum DiskFormat {
    /// `.qcow2`: QEMU's format.
    Qcow2,
    /// `.raw` or `.img`: the bytes of the disk. It may be compressed, with `.gz`, `.xz` or `.zst`
    /// at the end of the name.
    Raw,
}

impl DiskFormat {
    /// Returns the format of an image file; `None` if the image is no whole disk, but the tree of a
    /// file system.
    pub fn of(file: &str) -> Option<Self> {
        let mut endings = file.rsplit('.');
        let (last, before) = (endings.next()?, endings.next()?);
        match (before, last) {
            ("raw" | "img", "gz" | "xz" | "zst") if endings.next().is_some() => Some(Self::Raw),
            (_, "raw" | "img") => Some(Self::Raw),
            (_, "qcow2") => Some(Self::Qcow2),
            _ => None,
        }
    }
}

/// `[CloudInit]` of `node.cfg`: what machines of whole-disk images are told.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawCloudInit")]
pub struct CloudInit {
    /// Where people's public keys are: this and the name, percent-encoded, are the URL of a file in
    /// the form of `authorized_keys`.
    key_repository: String,
    /// The network; `None` if the machines get their addresses by DHCP.
    pub network: Option<Network>,
}

impl CloudInit {
    /// Returns the URL of the public keys of a user, given by the name as
    /// [`encoded`](crate::model::names::UserName::encoded).
    pub fn keys_of(&self, user: &str) -> String {
        format!("{}{user}", self.key_repository)
    }
}

/// The network that the machines are in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// How many leading bits of an address are those of the network.
    pub prefix: u8,
    /// The gateway, if one leads out.
    pub gateway: Option<Ipv4Addr>,
    /// The name servers.
    pub name_servers: Vec<Ipv4Addr>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", expecting = "struct CloudInit")]
struct RawCloudInit {
    key_repository: String,
    netmask: Option<Ipv4Addr>,
    gateway: Option<Ipv4Addr>,
    #[serde(default)]
    name_servers: Vec<Ipv4Addr>,
}

impl TryFrom<RawCloudInit> for CloudInit {
    type Error = String;

    fn try_from(raw: RawCloudInit) -> Result<Self, String> {
        if !is_http(&raw.key_repository) {
            return Err(format!("keyRepository: {:?} is not a URL", raw.key_repository));
        }
        let network = match raw.netmask {
            Some(mask) => {
                let (bits, prefix) = (mask.to_bits(), mask.to_bits().leading_ones());
                if bits.count_ones() != prefix || prefix == 0 {
                    return Err(format!("netmask: {mask} is not the mask of a network"));
                }
                let prefix = u8::try_from(prefix).map_err(|error| error.to_string())?;
                Some(Network { prefix, gateway: raw.gateway, name_servers: raw.name_servers })
            }
            None if raw.gateway.is_some() || !raw.name_servers.is_empty() => {
                return Err("gateway and nameServers need a netmask; without it, DHCP gives them".to_owned());
            }
            None => None,
        };
        Ok(Self { key_repository: raw.key_repository, network })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_file_says_what_it_is() {
        for (name, format) in [
            ("debian-12.qcow2", Some(DiskFormat::Qcow2)),
            ("a.raw", Some(DiskFormat::Raw)),
            ("/else/where/a.img", Some(DiskFormat::Raw)),
            ("a.raw.zst", Some(DiskFormat::Raw)),
            ("a.img.xz", Some(DiskFormat::Raw)),
            ("a.raw.gz", Some(DiskFormat::Raw)),
            // No tool makes them.
            ("a.qcow2.gz", None),
            ("a.tar.gz", None),
            ("a.tar", None),
            ("img", None),
            ("a.raw.gz.gz", None),
        ] {
            assert_eq!(DiskFormat::of(name), format, "{name}");
        }
    }

    fn parsed(text: &str) -> Result<CloudInit, String> {
        toml::from_str(text).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn a_network_has_a_netmask_or_nothing() {
        let keys = "keyRepository = \"https://keys.example.org/authorized_keys.\"\n";
        let by_dhcp = parsed(keys).unwrap();
        assert_eq!(by_dhcp.network, None);
        assert_eq!(by_dhcp.keys_of("J%C3%BC"), "https://keys.example.org/authorized_keys.J%C3%BC");
        let network = parsed(&format!(
            "{keys}netmask = \"255.255.252.0\"\ngateway = \"192.0.2.1\"\nnameServers = [\"192.0.2.53\"]\n"
        ))
        .unwrap()
        .network
        .unwrap();
        assert_eq!((network.prefix, network.gateway), (22, Some(Ipv4Addr::new(192, 0, 2, 1))));
        for (text, words) in [
            ("netmask = \"255.0.255.0\"", "255.0.255.0 is not the mask"),
            ("netmask = \"0.0.0.0\"", "is not the mask"),
            ("gateway = \"192.0.2.1\"", "need a netmask"),
            ("nameServers = [\"192.0.2.1\"]", "need a netmask"),
            ("netmsk = \"255.0.0.0\"", "unknown field `netmsk`"),
        ] {
            let message = parsed(&format!("{keys}{text}\n")).unwrap_err();
            assert!(message.contains(words), "{message}");
        }
        assert!(parsed("keyRepository = \"ldap://x\"\n").unwrap_err().contains("is not a URL"));
        assert!(parsed("").unwrap_err().contains("keyRepository"));
    }
}
