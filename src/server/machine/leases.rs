//! When leases end.

use crate::model::lease::Moment;
use crate::server::registry::vm::Vm;

/// Returns whether a machine's lease has ended.
pub fn is_over(vm: &Vm, now: Moment) -> bool {
    vm.expires.is_some_and(|end| end <= now)
}
