//! `node/deploy`: accepts an order if the host can carry it out, and starts a worker for it.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::cgi::reply::{Refusal, Reply};
use crate::cgi::serve::NodeCall;
use crate::config::{Common, ImageSettings};
use crate::model::fault::{self, Fault};
use crate::model::names::{MachineName, VOLUME_PREFIXES};
use crate::model::size::Amount;
use crate::model::spec::SnapshotOf;
use crate::model::stage::Order;
use crate::model::wire::{DeployOrder, Volume};
use crate::node::host::{self, HostState};
use crate::node::image::store;
use crate::node::jobs::Record;
use crate::node::privileged::Helper;
use crate::node::storage::{self, Listing, Storage};
use crate::node::{Definition, Machine, WORKER};
use crate::system::log::{self, Level};
use crate::system::{address, clock};
use crate::template::{self, TemplateError};

use super::{Node, accepted, being_worked_on, order, refuse};

/// How long an order waits while others are being checked.
const PATIENCE: Duration = Duration::from_secs(5);

/// The maximum age of the host's state, so that one query serves several orders.
const MAX_AGE: Duration = Duration::from_secs(3);

/// An order, resolved against this host's configuration.
struct Plan {
    machine: MachineName,
    image: ImageSettings,
    ip: Ipv4Addr,
}

/// Responds to an order with 202 if it is accepted or had been before; otherwise with 409 or 503
/// and the [`Fault`].
pub fn handle(call: &NodeCall<'_>) -> Result<Reply, Refusal> {
    let began = clock::millis();
    let since = host::ago(MAX_AGE);
    let node = Node::open(call)?;
    let order: DeployOrder = order(call)?;
    let helper = Helper::new(&call.request.id);

    let plan = plan(call, &node.common, &order)?;
    let lock = node.lock(PATIENCE)?;
    let mut records = node.jobs.list().map_err(Refusal::internal)?;
    let state = host::state(&node.jobs, &lock, since, || helper.info()).map_err(refuse)?;
    if records.iter().any(|record| record.id == order.id) {
        log::event(
            Level::Info,
            "order.repeated",
            &[
                ("vm", &order.id),
                ("machine", &plan.machine),
                ("order", &Order::Deploy),
                ("from", &call.request.from()),
            ],
        );
        return accepted(order.id, state.facts(&records, &call.config, &node.common));
    }
    let listing = Listing::default();
    let storage = storage::of(&call.config.general, &listing);
    let state = match check(&state, &records, &order, &plan, storage.as_ref()) {
        Ok(()) => state,
        // It may have been removed, or taken, a moment ago, so look again.
        Err(Fault::VolumeExists { .. } | Fault::DomainExists { .. } | Fault::SnapshotMissing { .. })
            if state.taken < began =>
        {
            let state = host::state(&node.jobs, &lock, began, || helper.info()).map_err(refuse)?;
            check(&state, &records, &order, &plan, storage.as_ref()).map_err(refuse)?;
            state
        }
        Err(fault) => return Err(refuse(fault)),
    };

    let Some(taken) = node.jobs.take(order.id, PATIENCE).map_err(Refusal::internal)? else {
        return Err(being_worked_on());
    };
    let id = order.id;
    let mut record = Record::new(
        order,
        plan.machine,
        Some(plan.ip),
        plan.image.swap.amount(),
        call.request.id.clone(),
        clock::now(),
    );
    taken.write(&mut record).map_err(Refusal::internal)?;
    log::event(
        Level::Info,
        "order.accepted",
        &[("vm", &id), ("machine", &record.machine), ("order", &record.work), ("from", &call.request.from())],
    );
    if let Err(error) = taken.start("begin") {
        // Nothing has been created yet, so leave nothing to recover.
        if let Ok(Some(taken)) = node.jobs.take(id, Duration::ZERO) {
            taken.delete().map_err(Refusal::internal)?;
        }
        return Err(Refusal::internal(format!("{WORKER}: {error}")));
    }
    records.push(record);
    accepted(id, state.facts(&records, &call.config, &node.common))
}

/// Checks everything that does not depend on the host's state.
fn plan(call: &NodeCall<'_>, common: &Common, order: &DeployOrder) -> Result<Plan, Refusal> {
    let own = nix::unistd::gethostname().map_err(Refusal::internal)?;
    let own = own.to_string_lossy();
    if !order.physical_host.is_called(&own) {
        return Err(Refusal::conflict(format!(
            "This order is for {}, but this host is called {own}.",
            order.physical_host
        )));
    }
    let Some(extra) = common.extra(&order.virtual_host) else {
        return Err(Refusal::conflict(format!(
            "{} is not in the pool of this host's common.cfg. Is common.cfg the same on server and host?",
            order.virtual_host
        )));
    };
    let machine = MachineName::new(&order.user, &order.virtual_host)
        .map_err(|fault| Refusal::bad_request(format!("The machine's name {fault}.")))?;
    let tag = &order.spec.image;
    if !common.has_image(tag) {
        return Err(refuse(Fault::ImageUnknown { tag: tag.clone() }));
    }
    let asked = order.spec.cpus;
    if let Some(most) = call.config.general.max_cpus.filter(|most| asked > *most) {
        return Err(refuse(Fault::TooManyCpus { asked, most }));
    }
    let image = call
        .config
        .image(tag)
        .map_err(|error| refuse(Fault::ImageUnknown { tag: tag.clone() }).logged(error))?;
    if order.spec.snapshot.is_none() {
        store::source(&call.config, order, &image).map_err(|(fault, error)| refuse(fault).logged(error))?;
    }
    let ip = address::ipv4(order.virtual_host.as_str())
        .ok_or_else(|| refuse(Fault::NameUnresolved { host: order.virtual_host.clone() }))?;
    let host = || order.virtual_host.clone();
    if let Some(why) = address::unusable(ip) {
        return Err(refuse(Fault::AddressUnusable { host: host(), address: ip, why: why.to_owned() }));
    }
    let machine = Machine { id: order.id, name: machine };
    let definition = Definition {
        machine: &machine,
        user: &order.user,
        host: &order.virtual_host,
        ip,
        memory: order.spec.memory,
        cpus: order.spec.cpus,
        extra,
    };
    let values = definition.values(&call.config, image.vm_type);
    match template::machine::render_file(&image.template, &values) {
        Ok(_) => {}
        // Only the helper, which runs as root, needs to read it.
        Err(TemplateError::Unreadable { source, .. })
            if source.kind() == std::io::ErrorKind::PermissionDenied => {}
        Err(error) => {
            let template = image.template.file_name().unwrap_or(image.template.as_os_str()).to_string_lossy();
            let detail = match &error {
                TemplateError::Unreadable { source, .. } => source.to_string(),
                TemplateError::Broken { message, .. } => message.clone(),
            };
            return Err(refuse(Fault::TemplateError {
                template: template.into_owned(),
                detail: fault::detail(&detail),
            })
            .logged(error));
        }
    }
    Ok(Plan { machine: machine.name, image, ip })
}

/// Checks the order against what the host has and has already promised.
fn check(
    state: &HostState,
    records: &[Record],
    order: &DeployOrder,
    plan: &Plan,
    kind: &dyn Storage,
) -> Result<(), Fault> {
    let Plan { machine, image, .. } = plan;
    let storage = state.storage.as_ref().map_err(Clone::clone)?;
    let machines = state.machines.as_ref().map_err(Clone::clone)?;
    // Taken by this machine, or by a machine of another owner with the same host name, and so the
    // same address.
    let is_taken = |name: &str| {
        name == machine.as_str()
            || name
                .parse()
                .ok()
                .and_then(|other: MachineName| other.parts())
                .is_some_and(|(_, host)| host == order.virtual_host)
    };
    let of_machine = |volume: &str| {
        VOLUME_PREFIXES.iter().find_map(|prefix| volume.strip_prefix(prefix)).is_some_and(is_taken)
    };
    if let Some(volume) = storage.volumes.iter().find(|volume| of_machine(&volume.name)) {
        return Err(Fault::VolumeExists { volume: kind.displayed(&volume.name) });
    }
    if let Some(other) =
        records.iter().find(|other| other.machine == *machine || other.virtual_host == order.virtual_host)
    {
        return Err(Fault::DomainExists { domain: other.machine.clone() });
    }
    if let Some(domain) = machines.domains.iter().find(|domain| is_taken(&domain.name)) {
        let domain = domain.name.parse().unwrap_or_else(|_| machine.clone());
        return Err(Fault::DomainExists { domain });
    }
    if let Some(SnapshotOf { machine: of, name }) = &order.spec.snapshot {
        let is_it = |volume: &&Volume| {
            volume.machine == Some(*of) && volume.snapshot.as_ref().is_some_and(|known| known.name == *name)
        };
        let Some(snapshot) = storage.volumes.iter().find(is_it) else {
            return Err(Fault::SnapshotMissing { name: name.clone() });
        };
        let (tag, size, partition) = (store::named(order), snapshot.size, order.spec.disk.amount());
        // What is in a file system may fit into a smaller one.
        if image.disk.is_some() && size > partition {
            return Err(Fault::DiskTooLarge { tag, size, partition });
        }
    }
    let reserved = state.reserved(records);
    let sizes = [order.spec.disk.amount(), image.swap.amount()];
    let needed: Amount = sizes.into_iter().map(|size| storage.space.rounded(size)).sum();
    let free = storage.space.free.minus(reserved.disk);
    if needed > free {
        return Err(Fault::NotEnoughSpace { needed, free });
    }
    let needed = order.spec.memory.amount().plus(machines.overhead);
    let free = machines.memory.free.minus(reserved.memory);
    if needed > free {
        return Err(Fault::NotEnoughMemory { needed, free });
    }
    Ok(())
}
