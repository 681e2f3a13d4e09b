//! Scenarios that need a real Xen host: inside QEMU, with real `xl`, LVM, sudo and Apache.

mod faults;
mod helper;
mod host;
mod keys;
mod life;
