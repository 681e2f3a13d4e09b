//! How long each verb may take in all. The programs that the helper runs have limits of their own, which add
//! up to less.

use std::time::Duration;

/// `info`, `console`, `forget-console`: a few programs that only ask, side by side.
pub const INFO: Duration = Duration::from_secs(65);
/// `make-volumes`.
pub const VOLUMES: Duration = Duration::from_secs(240);
/// One run of a program that makes a file system or a swap area.
pub const MAKE: Duration = Duration::from_secs(600);
/// `make-filesystems`.
pub const FILESYSTEMS: Duration = Duration::from_secs(1300);
/// One run of tar.
pub const TAR: Duration = Duration::from_secs(7200);
/// Unmounting, which writes what is still in memory.
pub const UNMOUNT: Duration = Duration::from_secs(900);
/// `unpack`.
pub const UNPACK: Duration = Duration::from_secs(8400);
/// `pack`, which waits for what is made of its stream.
pub const PACK: Duration = Duration::from_secs(8400);
/// `configure`.
pub const CONFIGURE: Duration = Duration::from_secs(120);
/// `start`, which waits for others and may try twice.
pub const START: Duration = Duration::from_secs(780);
/// For how long `verify` watches a machine at most.
pub const WATCH: Duration = Duration::from_secs(90);
/// `verify`.
pub const VERIFY: Duration = Duration::from_secs(150);
/// `stop`: the longest time that a machine may have for it, and to end it after that.
pub const STOP: Duration = Duration::from_secs(crate::config::Node::LONGEST_SHUTDOWN as u64 + 180);
/// `discard`.
pub const DISCARD: Duration = Duration::from_secs(420);
/// `undo`.
pub const UNDO: Duration = Duration::from_secs(600);
