//! Scenarios that need a real Xen host: inside QEMU, with real `xl`, LVM, sudo and Apache.

pub mod check;
mod faults;
mod helper;
mod host;
mod keys;
mod kill;
mod killed;
mod life;
mod networks;
mod orders;
mod power;
mod save;
mod signed;
mod strangers;
mod two;
