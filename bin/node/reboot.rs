//! `cgi-bin/node/reboot` (POST, a MachineOrder). Called by the server; see
//! [`vgrid::node::endpoints::power`].

use vgrid::cgi::{policy, serve};
use vgrid::model::stage::Order;
use vgrid::node::endpoints::power;

fn main() {
    serve::server_only(&policy::NODE_REBOOT, |call| power::handle(call, Order::Reboot));
}
