//! The three configuration files, with vGrid's names, sections and keys, in TOML.
//!
//! `common.cfg` is the same on all machines, `server.cfg` belongs to the portal and `node.cfg` to a
//! host of the pool. They live in the folder that `VGRID_CONFIG_DIR` names, else in `/etc/vgrid`.
//!
//! The keys of a section and their defaults stand together in the `Default` of the struct that the
//! section is read into.

mod common;
pub mod convert;
pub mod mail;
mod node;
mod server;
mod source;

use std::path::PathBuf;

pub use common::Common;
pub use node::{Compression, ImageSettings, NoSetting, Node, NodeGeneral, Share, Toolstack, VmType};
pub use server::{CertificateName, Leases, Quota, Server, ServerGeneral, Upkeep, UserVariable};
pub use source::ConfigError;

/// The folder of the configuration, unless `VGRID_CONFIG_DIR` names another. The helper, which runs
/// as root, reads no other.
pub const DEFAULT_DIR: &str = "/etc/vgrid";

/// The default `keyFile` of server and nodes.
const KEY_FILE: &str = "/etc/vgrid/key";

/// The default `caFile`: where Debian keeps the CA certificates that the system trusts.
const CA_FILE: &str = "/etc/ssl/certs/ca-certificates.crt";

/// The folder that holds the configuration files.
pub fn directory() -> PathBuf {
    std::env::var_os("VGRID_CONFIG_DIR")
        .filter(|dir| !dir.is_empty())
        .map_or_else(|| PathBuf::from(DEFAULT_DIR), PathBuf::from)
}
