//! Mail about what upkeep does.

use std::fmt;

use crate::model::stage::Order;
use crate::model::state::State;
use crate::server::machine::failures;
use crate::server::mail::{Notice, Post, Posted};
use crate::server::registry::vm::Vm;
use crate::server::registry::{RegistryError, Writer};
use crate::server::upkeep::plan::{self, Action};
use crate::system::log::{self, Level};

/// Queues the mail about what was done to a machine, which is now `vm`.
pub(super) fn tell(
    post: &Post<'_>,
    writer: &Writer<'_>,
    vm: &Vm,
    action: &Action,
) -> Result<(), RegistryError> {
    let notice = match action {
        Action::Warn(_) => Notice::LeaseEnds { machine: vm, ends: vm.expires.unwrap_or(writer.now()) },
        Action::TellEnded => {
            Notice::LeaseEnded { machine: vm, deletion: vm.deletion.unwrap_or(writer.now()) }
        }
        Action::Delete => Notice::Deleted { machine: vm },
        Action::TellSilent => Notice::Silent { machine: vm },
        Action::DeleteSilent => Notice::SilentTerminated { machine: vm },
        Action::GiveUp { fault, .. } if vm.order == Order::Deploy && vm.state == State::Failed => {
            return failures::deploy_failed(writer, post, vm, fault);
        }
        _ => return Ok(()),
    };
    let posted = post.to_owner(writer, &vm.owner, &notice)?;
    note(posted, &vm.owner.as_str());
    match posted {
        Posted::Queued(_) => writer.note_reachable(&vm.owner)?,
        Posted::NoAddress if writer.note_unreachable(&vm.owner)? => {
            let notice = Notice::Unreachable { machine: vm };
            note(post.to_administrators(writer, &notice)?, &"administrators");
        }
        Posted::NoAddress | Posted::NoTransport | Posted::Unwritten => {}
    }
    let record = match posted {
        Posted::Queued(_) => Some(("owner told", "")),
        Posted::NoAddress => Some(("owner not told", "; no address is known")),
        Posted::NoTransport => Some(("owner not told", "; mail is off")),
        Posted::Unwritten => None,
    };
    if let (Some(of_what), Some((what, why))) = (news(vm, action), record) {
        writer.record(vm.id, what, &format!("{of_what}{why}"))?;
    }
    // If the template is broken or the address is missing, the notice will be given once that is
    // fixed. Nothing is removed before.
    match action {
        Action::Warn(before) if posted == Posted::Unwritten => {
            writer.forget_notice(vm.id, &plan::warning(*before))
        }
        Action::TellEnded if matches!(posted, Posted::Unwritten | Posted::NoAddress) => {
            writer.forget_notice(vm.id, plan::ENDED)
        }
        _ => Ok(()),
    }
}

/// Returns what the owner was notified of, for actions that leave no other trace in the machine's
/// history.
fn news(vm: &Vm, action: &Action) -> Option<String> {
    match action {
        Action::Warn(_) => vm.expires.map(|end| format!("the lease ends {end}")),
        Action::TellEnded => {
            vm.deletion.map(|deletion| format!("the lease has ended; the disk is kept until {deletion}"))
        }
        Action::TellSilent => Some("it does not answer".to_owned()),
        _ => None,
    }
}

/// Logs that a notice reached nobody.
pub(super) fn note(posted: Posted, whom: &dyn fmt::Display) {
    if matches!(posted, Posted::NoAddress | Posted::Unwritten) {
        log::event(Level::Warning, "notice.not-queued", &[("whom", whom)]);
    }
}
