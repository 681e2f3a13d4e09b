//! Forced removal of machines.

use crate::model::state::State;
use crate::server::registry::vm::Vm;

/// Returns whether a user may have a machine forgotten without its host's consent: administrators
/// always, owners if it never ran. If the host reports the machine later after all, it is ordered
/// to remove it.
pub fn may_force(vm: &Vm, administrator: bool) -> bool {
    vm.state.is_live() && (administrator || (vm.state == State::Failed && !vm.was_deployed))
}
