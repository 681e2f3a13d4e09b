//! The verbs, one per file, as methods of [`Host`](super::host::Host).

mod configure;
mod console;
mod discard;
mod follow;
mod grow_volume;
mod info;
mod make_filesystems;
mod make_seed;
mod make_volumes;
pub(super) mod pack;
mod pack_disk;
mod prepare_image;
mod snapshot;
mod start;
mod stop;
mod undo;
mod unpack;
mod unpack_image;
mod unpack_snapshot;
mod verify;
mod write_disk;
