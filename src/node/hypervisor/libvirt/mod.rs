//! Machines of libvirt's QEMU driver, controlled by virsh.

pub mod cause;
pub mod virsh;
