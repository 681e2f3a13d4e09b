//! Layer 0, pure: vGrid's domain types. Nothing here reads a file, a clock or a socket.

pub mod bounds;
pub mod digest;
pub mod fault;
pub mod folding;
pub mod lease;
pub mod mail;
pub mod names;
pub mod origin;
pub mod public_keys;
pub mod sign;
pub mod size;
pub mod spec;
pub mod stage;
pub mod state;
pub mod text;
pub mod wire;
