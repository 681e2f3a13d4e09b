//! The rules of leases: when one is over.

use crate::model::lease::Moment;
use crate::server::registry::vm::Vm;

/// Whether the lease of a machine is over.
pub fn is_over(vm: &Vm, now: Moment) -> bool {
    vm.expires.is_some_and(|end| end <= now)
}
