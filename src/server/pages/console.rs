//! `user/console`: the tail of a machine's console output, fetched from its host.

use serde::Serialize;

use crate::cgi::reply::{Refusal, Reply};
use crate::cgi::request::Format;
use crate::cgi::serve::{Data, UserCall, View};
use crate::config::{self, Common};
use crate::model::wire::ConsoleTail;
use crate::server::nodes::Nodes;
use crate::server::pages::access;
use crate::server::pages::view::MachineView;
use crate::server::registry::vm::{OnNode, Vm};

/// The page.
#[derive(Debug, Serialize)]
struct ConsoleView {
    machine: MachineView,
    /// The output; empty if there is none.
    text: String,
    /// Whether earlier output was cut off.
    truncated: bool,
    /// Why there is no output.
    fault: Option<String>,
}

impl View for ConsoleView {
    const TEMPLATE: &'static str = "console.html";
}

impl Data for ConsoleView {
    /// The output unchanged, or a sentence that says why there is none.
    fn text(&self) -> String {
        match &self.fault {
            Some(fault) => format!("{fault}\n"),
            None => self.text.clone(),
        }
    }
}

/// Serves `user/console`. Field: `id`.
///
/// # Errors
/// 400, 403 for other people's machines, 404, 503. If the host can't provide the output, people get
/// a page (200) that says why, and programs get 502, or 409 if the machine is on no host.
pub fn handle(call: &UserCall<'_>) -> Result<Reply, Refusal> {
    let fields = &call.request.fields;
    fields.only(&["id", "format"])?;
    let id = fields.required("id")?;
    let common = Common::load(&config::directory())?;
    let vm = access::read(call, |reader| access::machine(call, reader, id))?;
    // The registry is no longer open here, so a slow host blocks nobody else.
    let (status, tail) = fetch(call, &vm.content)?;
    let (tail, fault) = match tail {
        Ok(tail) => (tail, None),
        Err(sentence) => (ConsoleTail { text: String::new(), truncated: false }, Some(sentence)),
    };
    let status = if call.request.format == Format::Html { 200 } else { status };
    let view = vm.map(|vm| {
        let machine = MachineView::new(&vm, &common, call.administrator);
        ConsoleView { machine, text: tail.text, truncated: tail.truncated, fault }
    });
    call.reply(status, &view)
}

/// Returns the output, or a sentence that says why there is none, with the status for programs.
fn fetch(call: &UserCall<'_>, vm: &Vm) -> Result<(u16, Result<ConsoleTail, String>), Refusal> {
    if !vm.state.is_live() || vm.on_node == OnNode::No {
        let sentence = "This machine is on no host, so it has no console.".to_owned();
        return Ok((409, Err(sentence)));
    }
    let name = vm.machine_name().map_err(Refusal::internal)?;
    Ok(match Nodes::new(&call.config, &call.request.id)?.console(&vm.physical_host, &name) {
        Ok(tail) => (200, Ok(tail)),
        Err(trouble) => (502, Err(trouble.fault.to_string())),
    })
}
