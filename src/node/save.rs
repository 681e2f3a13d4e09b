//! `node/save`: has a worker shut a machine down and save its disk as an image.

use crate::cgi::reply::{Refusal, Reply};
use crate::cgi::serve::NodeCall;
use crate::model::fault::{self, Fault};
use crate::model::names::SavedImage;
use crate::model::stage::Order;
use crate::model::wire::SaveOrder;

use super::jobs::Saving;
use super::saved::{self, Store};
use super::{order, power};

/// Answers an order with 202 if it is taken, or had been taken before; 409 or 503 with the [`Fault`]. A machine that
/// is stopped already is as good as one that runs.
pub fn handle(call: &NodeCall<'_>) -> Result<Reply, Refusal> {
    let SaveOrder { machine, name }: SaveOrder = order(call)?;
    let image = SavedImage { owner: machine.user.clone(), name: name.clone() };
    let saving = Saving { image: image.clone(), file: None };
    power::take(call, &machine, Order::Save, Some(saving), |_, records, _| {
        let failed = |error: std::io::Error| Fault::SaveFailed {
            detail: fault::detail(&format!("the folder of images: {error}")),
        };
        if saved::is_being_saved(records, &image)
            || Store::new(&call.config).is_taken(&image).map_err(failed)?
        {
            return Err(Fault::ImageExists { name });
        }
        Ok(())
    })
}
