//! `cgi-bin/node/start` (POST, a MachineOrder). Called by the server; see
//! [`vgrid::node::endpoints::power`].

use vgrid::cgi::{policy, serve};
use vgrid::model::stage::Order;
use vgrid::node::endpoints::power;

fn main() {
    serve::server_only(&policy::NODE_START, |call| power::handle(call, Order::Start));
}
