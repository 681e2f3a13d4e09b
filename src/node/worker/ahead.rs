//! Images that are prepared before somebody deploys them. This worker has no order, and nobody waits for
//! it but deploys of the image that it has the turn of.

use crate::config;
use crate::model::fault::Fault;
use crate::model::names::RequestId;
use crate::node::image;
use crate::node::jobs::Jobs;
use crate::node::privileged::Helper;
use crate::node::storage::prepared::Key;
use crate::system::log::{self, Level};

/// Prepares images, one after another, as long as no order comes.
pub(super) fn prepare(images: &[Key]) -> Result<(), String> {
    let config = config::Node::load(&config::directory()).map_err(|error| error.to_string())?;
    let state = &config.general.state_directory;
    let jobs = Jobs::open(state).map_err(|error| format!("{}: {error}", state.display()))?;
    let Some(lock) = jobs.adopt_ahead().map_err(|error| format!("the lock of images: {error}"))? else {
        return Err("another worker prepares images".to_owned());
    };
    let request = RequestId::generate();
    log::start("worker", request.clone(), Some(&config.general.log_file));
    let helper = Helper::new(&request);
    for key in images {
        let tag = &key.tag;
        if !jobs.is_idle().map_err(|error| error.to_string())? {
            break;
        }
        // A deploy that prepares it has come first.
        let Some(turn) = jobs.take_turn(tag).map_err(|error| format!("the lock of {tag}: {error}"))? else {
            break;
        };
        log::event(Level::Info, "ahead.begun", &[("image", tag)]);
        let prepared = open(&config, key).and_then(|file| helper.prepare_image(tag, file));
        drop(turn);
        let noted = match prepared {
            Ok(()) => lock.note(key, None),
            // Somebody does not want it now, and it says nothing about the image.
            Err(fault @ Fault::Interrupted { .. }) => {
                log::event(Level::Warning, "ahead.interrupted", &[("image", tag), ("why", &fault)]);
                break;
            }
            Err(fault) => {
                log::event(Level::Error, "ahead.failed", &[("image", tag), ("why", &fault)]);
                lock.note(key, Some(fault))
            }
        };
        noted.map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Opens the image's own file.
fn open(config: &config::Node, key: &Key) -> Result<std::fs::File, Fault> {
    let tag = key.tag.clone();
    let Ok(settings) = config.image(&tag) else { return Err(Fault::ImageUnknown { tag }) };
    let opened = image::open(&settings.file).map_err(|error| {
        let why = format!("{}: {error}", settings.file.display());
        log::event(Level::Error, "image.missing", &[("image", &tag), ("why", &why)]);
        Fault::ImageMissing { tag }
    });
    opened.map(|(file, _)| file)
}
