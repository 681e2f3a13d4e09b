//! Who may be rid of a machine, and how.

use crate::model::state::State;
use crate::server::registry::vm::Vm;

/// Whether somebody may have a machine forgotten without its host's consent: an administrator always, its
/// owner when it never ran. Should the host report it later all the same, it is told to remove it.
pub fn may_force(vm: &Vm, administrator: bool) -> bool {
    vm.state.is_live() && (administrator || (vm.state == State::Failed && !vm.was_deployed))
}
