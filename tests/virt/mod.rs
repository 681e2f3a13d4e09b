//! Scenarios that need a real libvirt host: in namespaces of this machine, with real `virsh`, QEMU,
//! sudo and Apache. QEMU emulates the processor.

mod addresses;
pub mod check;
mod cloud;
pub mod host;
mod life;
mod mishaps;
mod prepared;
mod resize;
mod snapshots;
