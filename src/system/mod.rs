//! Layer 1: the operating system. Every process is started by [`exec`] (workers by [`detach`]),
//! every log line is written by [`log`].

pub mod address;
pub mod clock;
pub mod detach;
pub mod exec;
pub mod lock;
pub mod log;
pub mod once;
pub mod pin;
pub mod process;
pub mod stamp;
