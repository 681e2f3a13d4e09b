//! Scenarios that need a real Xen host: inside QEMU, with real `xl`, LVM, sudo and Apache.

mod faults;
mod helper;
mod host;
mod kill;
mod killed;
mod keys;
mod life;
mod networks;
mod orders;
mod power;
mod signed;
mod two;
