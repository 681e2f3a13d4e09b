//! The total time limit of each verb. The programs that the helper runs have limits of their own,
//! which add up to less.

use std::time::Duration;

/// `info`, `console`: a few queries in parallel.
pub const INFO: Duration = Duration::from_secs(65);
/// `make-volumes`.
pub const VOLUMES: Duration = Duration::from_secs(240);
/// One run of a program that creates a file system or a swap area.
pub const MAKE: Duration = Duration::from_secs(600);
/// `make-filesystems`.
pub const FILESYSTEMS: Duration = Duration::from_secs(1300);
/// One run of tar.
pub const TAR: Duration = Duration::from_secs(7200);
/// One run of a program that checks, marks or enlarges a prepared disk.
pub const OWN: Duration = Duration::from_secs(600);
/// Unmounting, which flushes what is still in memory.
pub const UNMOUNT: Duration = Duration::from_secs(900);
/// `unpack`.
pub const UNPACK: Duration = Duration::from_secs(8400);
/// `unpack-image`, which makes the file system first and checks it afterwards.
pub const UNPACK_IMAGE: Duration = Duration::from_secs(9900);
/// `prepare-image`, which does that again for a larger disk if one was too small.
pub const PREPARE_IMAGE: Duration = Duration::from_secs(20_000);
/// `pack`, which waits for the reader of its stream.
pub const PACK: Duration = Duration::from_secs(8400);
/// `grow-volume`, which may have to overwrite what it adds with zeros.
pub const GROW: Duration = Duration::from_secs(14_400);
/// `take-snapshot`, `roll-back`, `delete-snapshot`: a few of LVM's programs.
pub const SNAPSHOT: Duration = Duration::from_secs(360);
/// `as-new`: the same, and two programs that make a clone a disk of its own.
pub const AS_NEW: Duration = Duration::from_secs(1600);
/// `configure`.
pub const CONFIGURE: Duration = Duration::from_secs(120);
/// `start`, which waits for other starts and may try twice.
pub const START: Duration = Duration::from_secs(780);
/// The maximum time for which `verify` watches a machine.
pub const WATCH: Duration = Duration::from_secs(90);
/// `verify`.
pub const VERIFY: Duration = Duration::from_secs(150);
/// `stop`: the maximum shutdown timeout, plus the time to force it.
pub const STOP: Duration = Duration::from_secs(crate::config::Node::LONGEST_SHUTDOWN as u64 + 180);
/// `discard`.
pub const DISCARD: Duration = Duration::from_secs(420);
/// `undo`.
pub const UNDO: Duration = Duration::from_secs(600);
