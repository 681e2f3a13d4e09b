//! `node/info`: reports everything about the node.

use std::time::Duration;

use crate::cgi::reply::{Refusal, Reply};
use crate::cgi::serve::NodeCall;
use crate::config;
use crate::model::size::Amount;
use crate::model::wire::{Domain, ImageFile, NodeInfo, SavedFile};
use crate::node::host;
use crate::node::hypervisor::Listed;
use crate::node::image;
use crate::node::image::store::Store;
use crate::node::jobs::Record;
use crate::node::privileged::Helper;
use crate::system::log::{self, Level};

use super::{Node, refuse};

/// How long to wait while orders are being checked.
const PATIENCE: Duration = Duration::from_secs(5);

/// Responds with a [`NodeInfo`]. If the toolstack or the volume group is missing, the corresponding
/// parts are empty.
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
    let (toolstack, domains) = match state.machines {
        Ok(machines) => (machines.toolstack, machines.domains),
        Err(_) => ("none".to_owned(), Vec::new()),
    };
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
            volumes: state.storage.map(|storage| storage.volumes).unwrap_or_default(),
            jobs: records.iter().map(Record::job).collect(),
            images: images.collect(),
            saved: saved(&call.config),
        },
    )
}

/// Lists the images saved here; none if the directory can't be read, which `vgrid-check` reports.
fn saved(config: &config::Node) -> Vec<SavedFile> {
    Store::new(config).list().unwrap_or_else(|error| {
        log::event(Level::Error, "images.not-listed", &[("why", &error)]);
        Vec::new()
    })
}
