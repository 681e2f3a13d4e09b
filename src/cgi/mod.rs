//! Layer 1: the meeting with Apache. Bytes come in, a checked [`request::Request`] goes to one handler,
//! its [`reply::Reply`] goes out.
//!
//! The `cgi` crate does the parsing and the writing; [`environment`] meets everything first that would
//! make it panic or allocate without bound.

pub mod environment;
pub mod policy;
pub mod reply;
pub mod request;
pub mod sender;
pub mod serve;
pub mod user;
