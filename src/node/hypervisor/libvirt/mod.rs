//! Machines of libvirt's QEMU driver, controlled by virsh.

pub mod cause;
pub mod definition;
mod places;
pub mod virsh;
