//! `node/info`: reports everything about the node. Upkeep asks for it every few minutes, so this also has
//! images prepared if the host is idle.

use std::time::Duration;

use crate::cgi::reply::{Refusal, Reply};
use crate::cgi::serve::NodeCall;
use crate::model::fault::Fault;
use crate::model::size::Amount;
use crate::model::wire::{Domain, ImageFile, NodeInfo, Part};
use crate::node::host;
use crate::node::hypervisor::Listed;
use crate::node::image;
use crate::node::image::store::Store;
use crate::node::jobs::Record;
use crate::node::privileged::Helper;
use crate::node::storage::prepared::Key;
use crate::system::log::{self, Level};

use super::{Node, refuse};

/// How long to wait while orders are being checked.
const PATIENCE: Duration = Duration::from_secs(5);

/// Responds with a [`NodeInfo`]. If the toolstack or the storage does not answer, the corresponding
/// lists are empty and named as unknown.
pub fn handle(call: &NodeCall<'_>) -> Result<Reply, Refusal> {
    let since = host::ago(Duration::ZERO);
    let node = Node::open(call)?;
    call.request.fields.only(&["format"])?;
    let Some(lock) = node.jobs.lock_node(PATIENCE).map_err(Refusal::internal)? else {
        return Err(Refusal::busy("This host is busy with orders. Try again in a moment."));
    };
    let helper = Helper::new(&call.request.id);
    let state = host::state(&node.jobs, &lock, since, || helper.info()).map_err(refuse)?;
    drop(lock);
    let records = node.jobs.list().map_err(Refusal::internal)?;
    let facts = state.facts(&records, &call.config, &node.common);
    let mut unknown = Vec::new();
    let (toolstack, domains) = match state.machines {
        Ok(machines) => (machines.toolstack, machines.domains),
        Err(fault) => {
            not_listed(Part::Domains, &fault, &mut unknown);
            ("none".to_owned(), Vec::new())
        }
    };
    let volumes = match state.storage {
        Ok(storage) => {
            let is_offered = |key: &Key| node.common.images.iter().any(|(tag, _)| *tag == key.tag);
            let due: Vec<_> = storage.unprepared.into_iter().filter(is_offered).collect();
            node.jobs.prepare_ahead(&due);
            storage.volumes
        }
        Err(fault) => {
            not_listed(Part::Volumes, &fault, &mut unknown);
            Vec::new()
        }
    };
    let saved = Store::new(&call.config).list().unwrap_or_else(|error| {
        log::event(Level::Error, "images.not-listed", &[("why", &error)]);
        unknown.push(Part::Saved);
        Vec::new()
    });
    let domain = |listed: Listed| Domain {
        name: listed.name,
        id: listed.number,
        memory: Amount::from_mib(listed.memory.mib()),
        state: <&str>::from(listed.state).to_owned(),
    };
    // All tags that can be requested, even those covered by `default` in node.cfg.
    let images = node.common.images.iter().map(|(tag, _)| {
        let file = call.config.image(tag).map(|image| image.file);
        let bytes = file.ok().and_then(|file| image::open(&file).ok()).map(|(_, bytes)| bytes);
        ImageFile { tag: tag.clone(), bytes }
    });
    Reply::json(
        200,
        &NodeInfo {
            host: facts,
            toolstack,
            domains: domains.into_iter().map(domain).collect(),
            volumes,
            jobs: records.iter().map(Record::job).collect(),
            images: images.collect(),
            saved,
            unknown,
        },
    )
}

fn not_listed(part: Part, fault: &Fault, unknown: &mut Vec<Part>) {
    let event = if part == Part::Domains { "domains.not-listed" } else { "volumes.not-listed" };
    log::event(Level::Error, event, &[("why", fault)]);
    unknown.push(part);
}
