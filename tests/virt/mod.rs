//! Scenarios that need a real libvirt host: in namespaces of this machine, with real `virsh`, QEMU,
//! sudo and Apache. QEMU emulates the processor.

mod host;
#[allow(dead_code, reason = "nodes don't know machines of type kvm yet, so nothing runs it")]
mod life;
