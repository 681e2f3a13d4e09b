//! `node/discard`: removes something on this host that vGrid did not create. The server calls it
//! only on an administrator's order.

use crate::cgi::reply::{Refusal, Reply};
use crate::cgi::serve::NodeCall;
use crate::model::fault::Fault;
use crate::model::wire::{Discarded, Foreign};
use crate::node::jobs::Record;
use crate::node::privileged::Helper;
use crate::system::log::{self, Level};

use super::{Node, order, refuse};

/// Removes a [`Foreign`] and responds with 200 once it is gone. Refuses if it belongs to a machine
/// with a record here; the helper makes the other checks, including whether the host's
/// configuration allows it at all.
pub fn handle(call: &NodeCall<'_>) -> Result<Reply, Refusal> {
    let node = Node::open(call)?;
    let stranger: Foreign = order(call)?;
    let records = node.jobs.list().map_err(Refusal::internal)?;
    if let Some(record) = records.iter().find(|record| is_about(record, &stranger)) {
        let why = format!("this host has a record of the machine {}, whose it is", record.machine);
        return Err(refuse(Fault::StrangerKept { why }));
    }
    Helper::new(&call.request.id).discard(&stranger).map_err(refuse)?;
    log::event(Level::Info, "stranger.discarded", &[("stranger", &stranger), ("from", &call.request.from())]);
    Reply::json(200, &Discarded { stranger })
}

/// Returns whether something belongs to the machine of a record.
fn is_about(record: &Record, stranger: &Foreign) -> bool {
    match stranger {
        Foreign::Domain { name, .. } => name.as_str() == record.machine.as_str(),
        Foreign::Volume { name } => name.machine().as_ref() == Some(&record.machine),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::lease::Moment;
    use crate::model::names::DomainNumber;
    use crate::model::names::VmId;
    use crate::model::stage::OrderNumber;
    use crate::model::wire::MachineOrder;

    #[test]
    fn parts_of_a_recorded_machine_are_not_foreign() {
        let order = MachineOrder {
            id: VmId::generate(),
            number: OrderNumber::default(),
            user: "alice".parse().unwrap(),
            virtual_host: "vm1".parse().unwrap(),
        };
        let machine = "alice_vm1".parse().unwrap();
        let record = Record::unknown(&order, machine, "r".parse().unwrap(), Moment::from_unix(1));
        let volume = |name: &str| Foreign::Volume { name: name.parse().unwrap() };
        let domain =
            |name: &str| Foreign::Domain { name: name.parse().unwrap(), number: DomainNumber::new(3) };
        for ours in [volume("xen-root-alice_vm1"), volume("xen-swap-alice_vm1"), domain("alice_vm1")] {
            assert!(is_about(&record, &ours), "{ours}");
        }
        for other in [volume("xen-root-alice_vm11"), volume("xen-root-bob_vm2"), domain("alice_vm11")] {
            assert!(!is_about(&record, &other), "{other}");
        }
    }
}
