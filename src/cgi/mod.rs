//! Layer 1: the interface to Apache. Bytes come in, a validated [`request::Request`] goes to one
//! handler, and its [`reply::Reply`] goes out.
//!
//! Parsing and writing are left to the `cgi` crate; [`environment`] first rejects everything that
//! would make it panic or allocate without bound.

pub mod environment;
pub mod policy;
pub mod reply;
pub mod request;
pub mod sender;
pub mod serve;
pub mod user;
