//! `node/save`: has a worker shut a machine down and save its disk as an image.

use crate::cgi::reply::{Refusal, Reply};
use crate::cgi::serve::NodeCall;
use crate::model::fault::{self, Fault};
use crate::model::names::SavedImage;
use crate::model::stage::Order;
use crate::model::wire::SaveOrder;
use crate::node::image::store::Store;
use crate::node::jobs::Saving;

use super::handover::{self, Detail};
use super::order;

/// Responds to an order with 202 if it is accepted or had been before; otherwise with 409 or 503
/// and the [`Fault`]. The machine may be running or stopped.
pub fn handle(call: &NodeCall<'_>) -> Result<Reply, Refusal> {
    let SaveOrder { machine, name }: SaveOrder = order(call)?;
    let image = SavedImage { owner: machine.user.clone(), name: name.clone() };
    let saving = Some(Saving { image: image.clone(), file: None });
    let detail = Detail { saving, ..Detail::default() };
    handover::to_worker(call, &machine, Order::Save, detail, |_, records, _| {
        let failed = |error: std::io::Error| Fault::SaveFailed {
            detail: fault::detail(&format!("the folder of images: {error}")),
        };
        if records.iter().any(|record| record.saves_as(&image))
            || Store::new(&call.config).is_taken(&image).map_err(failed)?
        {
            return Err(Fault::ImageExists { name });
        }
        Ok(())
    })
}
