//! `cgi-bin/node/start`: POST, a MachineOrder. Called by the server; see [`vgrid::node::power`].

use vgrid::cgi::{policy, serve};
use vgrid::model::stage::Order;

fn main() {
    serve::server_only(&policy::NODE_START, |call| vgrid::node::power::handle(call, Order::Start));
}
