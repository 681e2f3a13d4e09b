//! Layer 1: the operating system. Every process starts in [`exec`], every log line leaves by [`log`].

pub mod address;
pub mod clock;
pub mod detach;
pub mod exec;
pub mod lock;
pub mod log;
pub mod once;
pub mod pin;
pub mod stamp;
