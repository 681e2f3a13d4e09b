//! `node/image`: renames or deletes a saved image.

use std::time::Duration;

use crate::cgi::reply::{Refusal, Reply};
use crate::cgi::serve::NodeCall;
use crate::model::fault::Fault;
use crate::model::names::SavedImage;
use crate::model::wire::{ImageAct, ImageDone, ImageOrder};
use crate::node::host;
use crate::node::image::store::{RenameError, Store};
use crate::node::privileged::Helper;
use crate::system::log::{self, Level};

use super::{Node, order, refuse};

/// How long an order waits while others are being checked.
const PATIENCE: Duration = Duration::from_secs(4);

/// The maximum age of the host's state in the response. Nothing depends on it.
const MAX_AGE: Duration = Duration::from_secs(60);

/// Responds with an [`ImageDone`] once the image is renamed or deleted, or if it had been before.
pub fn handle(call: &NodeCall<'_>) -> Result<Reply, Refusal> {
    let node = Node::open(call)?;
    let ImageOrder { image, act }: ImageOrder = order(call)?;
    let helper = Helper::new(&call.request.id);
    let lock = node.lock(PATIENCE)?;
    let state = host::state(&node.jobs, &lock, host::ago(MAX_AGE), || helper.info()).map_err(refuse)?;
    let records = node.jobs.list().map_err(Refusal::internal)?;
    let store = Store::new(&call.config);
    let what = match &act {
        ImageAct::Delete => {
            store.delete(&image).map_err(Refusal::internal)?;
            "deleted".to_owned()
        }
        ImageAct::Rename(name) => {
            let exists = || refuse(Fault::ImageExists { name: name.clone() });
            let renamed = SavedImage { owner: image.owner.clone(), name: name.clone() };
            if records.iter().any(|record| record.saves_as(&renamed)) {
                return Err(exists());
            }
            store.rename(&image, &renamed).map_err(|error| match error {
                RenameError::Taken => exists(),
                RenameError::Missing => refuse(Fault::SavedImageMissing { name: image.name.clone() }),
                RenameError::File(error) => Refusal::internal(error),
            })?;
            format!("renamed to {name}")
        }
    };
    log::event(
        Level::Info,
        "image.changed",
        &[("image", &image), ("what", &what), ("from", &call.request.from())],
    );
    Reply::json(200, &ImageDone { host: state.facts(&records, &call.config, &node.common) })
}
