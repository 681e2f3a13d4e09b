//! vGrid: a self-service portal for virtual machines, without a daemon.
//!
//! The crate has three layers; imports go down only, and a test holds that.
//!
//! | layer | modules | what is there |
//! | --- | --- | --- |
//! | 2 | [`server`], [`node`] | what the executables do; the two never import each other |
//! | 1 | [`config`], [`template`], [`remote`], [`system`], [`cgi`] | one outside thing each |
//! | 1 | [`check`] | what `vgrid-check` looks at on both sides; [`server`] and [`node`] add their own |
//! | 0 | [`model`] | the words as types; pure |
//!
//! The executables in `bin/` hold no logic: each calls one handler of layer 2.

pub mod cgi;
pub mod check;
pub mod config;
pub mod model;
#[cfg(feature = "node")]
pub mod node;
pub mod remote;
#[cfg(feature = "server")]
pub mod server;
pub mod system;
pub mod template;

/// The version that pages, messages and `--version` name.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
