//! Scenarios that need a real Xen host: inside QEMU, with real `xl`, LVM, sudo and Apache.

pub mod check;
mod faults;
mod healing;
mod helper;
mod host;
mod hostile;
mod keys;
pub mod libvirt;
mod life;
mod loss;
mod mishap;
mod mixed;
mod networks;
mod orders;
mod pool;
mod power;
mod reports;
mod resize;
mod restore;
mod save;
mod signed;
mod snapshots;
mod strangers;
mod thin;
mod two;
