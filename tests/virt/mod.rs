//! Scenarios that need a real libvirt host: in namespaces of this machine, with real `virsh`, QEMU,
//! sudo and Apache. QEMU emulates the processor.

pub mod check;
mod cloud;
mod host;
mod life;
mod mishaps;
