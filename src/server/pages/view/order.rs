//! What became of an order, and forms that are asked again.

use std::collections::BTreeMap;

use serde::Serialize;

use super::MachineView;
use crate::cgi::reply::{Refusal, Reply};
use crate::cgi::request::Format;
use crate::cgi::serve::{UserCall, View};
use crate::config::Common;
use crate::model::fault::Fault;
use crate::server::registry::vm::Vm;

/// What became of an order: the machine, and why it was not carried out if it was not.
#[derive(Debug, Serialize)]
pub struct OrderView {
    /// The machine.
    pub machine: MachineView,
    /// What went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<OrderError>,
}

/// Why an order was not carried out, in the shape of every error.
#[derive(Debug, Serialize)]
pub struct OrderError {
    /// The HTTP status.
    pub status: u16,
    /// A sentence.
    pub message: String,
    /// The request's id.
    pub request: String,
}

/// The answer to an order that was recorded: people are sent to the machine's page (303), programs get
/// the machine's data with 202, or with the reason and 409 if its host refused the order, 502 if the host
/// could not be used.
///
/// # Errors
/// A [`Refusal`] if the data can't be shown.
pub fn ordered(
    call: &UserCall<'_>,
    common: &Common,
    vm: &Vm,
    fault: Option<&Fault>,
) -> Result<Reply, Refusal> {
    let machine = MachineView::new(vm, common, call.administrator);
    let location = machine.url.clone();
    let Some(fault) = fault else {
        return call.done(&location, &OrderView { machine, error: None });
    };
    if call.request.format == Format::Html {
        return Ok(Reply::see_other(&location));
    }
    let status = fault.status();
    let error = OrderError { status, message: fault.to_string(), request: call.request.id.to_string() };
    call.reply(status, &OrderView { machine, error: Some(error) })
}

/// Answers a form with a mistake: for people by `page`, which asks again and says what is wrong with which field;
/// for programs by the refusal. What is wrong with no single field is refused to both.
///
/// # Errors
/// The refusal, or what `page` fails with.
pub fn ask_again<V: View>(
    call: &UserCall<'_>,
    refusal: Refusal,
    page: impl FnOnce(BTreeMap<&'static str, String>) -> Result<V, Refusal>,
) -> Result<Reply, Refusal> {
    if refusal.fields.is_empty() || call.request.format != Format::Html {
        return Err(refusal);
    }
    call.log_refusal(&refusal);
    call.reply(refusal.status, &page(refusal.fields)?)
}

impl View for OrderView {
    // People are sent to the machine's page instead.
    const TEMPLATE: &'static str = "show.html";

    /// The machine's line, as in the list.
    fn text(&self) -> String {
        self.machine.line()
    }
}
