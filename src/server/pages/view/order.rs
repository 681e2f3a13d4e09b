//! The outcome of an order, and forms that must be corrected.

use std::collections::BTreeMap;

use serde::Serialize;

use super::MachineView;
use crate::cgi::reply::{Refusal, Reply};
use crate::cgi::request::Format;
use crate::cgi::serve::{Data, UserCall, View, WithBanner};
use crate::config::Common;
use crate::model::fault::Fault;
use crate::server::registry::vm::Vm;

/// The outcome of an order: the machine, and why the order failed if it did.
#[derive(Debug, Serialize)]
pub struct OrderView {
    /// The machine.
    pub machine: MachineView,
    /// What went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<OrderError>,
}

/// Why an order was not carried out, in the same shape as every error.
#[derive(Debug, Serialize)]
pub struct OrderError {
    /// The HTTP status.
    pub status: u16,
    /// A sentence for people.
    pub message: String,
    /// The request's id.
    pub request: String,
}

/// Answers an order that was recorded: people are redirected to the machine's page (303), programs
/// get the machine's data, with 202, or with the reason and the fault's status: 409 if the host
/// refused the order, 502 if it could not be used.
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
    let error = fault.map(|fault| OrderError {
        status: fault.status(),
        message: fault.to_string(),
        request: call.request.id.to_string(),
    });
    let status = error.as_ref().map_or(202, |error| error.status);
    call.outcome(status, &location, &OrderView { machine, error })
}

/// Answers an invalid form: people get `page`, which shows the form again with the fault of each
/// field, and programs get the refusal. A refusal that concerns no single field is returned to
/// both.
///
/// # Errors
/// The refusal, or the error of `page`.
pub fn ask_again<V: View>(
    call: &UserCall<'_>,
    refusal: Refusal,
    page: impl FnOnce(BTreeMap<&'static str, String>) -> Result<WithBanner<V>, Refusal>,
) -> Result<Reply, Refusal> {
    if refusal.fields.is_empty() || call.request.format != Format::Html {
        return Err(refusal);
    }
    call.log_refusal(&refusal);
    call.reply(refusal.status, &page(refusal.fields)?)
}

impl Data for OrderView {
    /// The machine's line, as in the list.
    fn text(&self) -> String {
        self.machine.line()
    }
}
