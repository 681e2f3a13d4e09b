//! `node/console?machine=NAME`: the last part of a machine's console output.

use crate::cgi::reply::{Refusal, Reply};
use crate::cgi::serve::NodeCall;
use crate::model::names::MachineName;

use super::privileged::Helper;
use super::{CONSOLE_BYTES, Node, refuse};

/// Answers with a [`crate::model::wire::ConsoleTail`], which is empty when there is no output (yet). A machine that
/// failed to start keeps its output until its name is used again, so no record is asked for.
pub fn handle(call: &NodeCall<'_>) -> Result<Reply, Refusal> {
    Node::open(call)?;
    call.request.fields.only(&["machine", "format"])?;
    let machine: MachineName = call.request.fields.required("machine")?;
    let tail = Helper::new(&call.request.id).console(&machine, CONSOLE_BYTES).map_err(refuse)?;
    Reply::json(200, &tail)
}
