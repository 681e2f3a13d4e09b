//! `node/console?machine=NAME`: returns the end of a machine's console output.

use crate::cgi::reply::{Refusal, Reply};
use crate::cgi::serve::NodeCall;
use crate::model::names::MachineName;
use crate::node::privileged::Helper;

use super::{Node, refuse};

/// The maximum size of the returned tail, in bytes.
const MOST: u32 = 64 << 10;

/// Responds with a [`crate::model::wire::ConsoleTail`], which is empty if there is no output (yet).
/// No record is needed: the output of a machine that failed to start is kept until its name is
/// reused.
pub fn handle(call: &NodeCall<'_>) -> Result<Reply, Refusal> {
    Node::open(call)?;
    call.request.fields.only(&["machine", "format"])?;
    let machine: MachineName = call.request.fields.required("machine")?;
    let tail = Helper::new(&call.request.id).console(&machine, MOST).map_err(refuse)?;
    Reply::json(200, &tail)
}
