//! vGrid: a self-service portal for virtual machines, without a daemon.
//!
//! The crate has three layers. Imports only go down, which a test enforces.
//!
//! | layer | modules | what is there |
//! | --- | --- | --- |
//! | 2 | [`server`], [`node`] | what the executables do; neither imports the other |
//! | 1 | [`config`], [`template`], [`remote`], [`system`], [`cgi`] | one external concern each |
//! | 1 | [`check`] | the common part of `vgrid-check`; [`server`] and [`node`] add their own checks |
//! | 0 | [`model`] | the domain types; pure, no I/O |
//!
//! The executables in `bin/` contain no logic: each calls one handler of layer 2.

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

/// The version shown on pages, in messages and by `--version`.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
