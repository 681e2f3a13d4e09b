//! The three configuration files, with vGrid's file names, sections and keys, in TOML.
//!
//! `common.cfg` is the same on all hosts, `server.cfg` is for the portal and `node.cfg` for a host
//! of the pool. They are in the directory given by `VGRID_CONFIG_DIR`, or in `/etc/vgrid`.
//!
//! The keys of a section and their defaults are listed in the `Default` impl of the struct that the
//! section is parsed into.

mod cloud;
mod common;
pub mod convert;
pub mod mail;
mod node;
mod server;
mod source;

use std::path::PathBuf;

pub use cloud::{CloudInit, DiskFormat, Network};
pub use common::Common;
pub use node::{
    Compression, ImageSettings, NoSetting, Node, NodeGeneral, Share, StorageSettings, Toolstack, VmType,
};
pub use server::{CertificateName, Leases, Quota, Server, ServerGeneral, Upkeep, UserVariable};
pub use source::ConfigError;

/// The configuration directory, unless `VGRID_CONFIG_DIR` names another. The helper, which runs as
/// root, always uses this one.
pub const DEFAULT_DIR: &str = "/etc/vgrid";

/// The default `keyFile` of the server and the nodes.
const KEY_FILE: &str = "/etc/vgrid/key";

/// The default `caFile`: the system's CA certificates on Debian.
const CA_FILE: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Returns the directory of the configuration files.
pub fn directory() -> PathBuf {
    std::env::var_os("VGRID_CONFIG_DIR")
        .filter(|dir| !dir.is_empty())
        .map_or_else(|| PathBuf::from(DEFAULT_DIR), PathBuf::from)
}
