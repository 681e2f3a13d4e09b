//! Addresses that something uses already.

use super::host::scenario;
use crate::support::visited::Visited as _;

#[test]
fn an_address_that_answers_is_refused_until_nobody_has_it() {
    scenario("addresses", |host| {
        host.sh("sed -i '/^\\[General\\]/a shutdownTimeout = 2' /etc/vgrid/node.cfg");
        // A machine on the network that vGrid does not know.
        host.sh("unshare --net sleep 300 > /dev/null 2>&1 & sleep 0.3; pid=$!
             ip link add v0 type veth peer name v1 netns $pid; ip link set v0 master br0 up
             nsenter -t $pid -n sh -c 'ip addr add 10.0.3.25/24 dev v1; ip link set v1 up'
             fping -q -r 9 -t 500 vm5");
        host.sh("ip neigh flush dev br0 to 10.0.3.25");
        let before = host.inventory();
        let taken = host.deploy("alice", "vmImage=menu&vmMemory=64&vmPartition=1&vmHostname=vm5");
        let failed = host.wait_for("alice", &taken, "failed", 60);
        assert!(failed["reason"].as_str().is_some_and(|why| why.contains("10.0.3.25")), "{failed}");
        host.terminate("alice", &taken);
        host.must_be_as(&before);
        let id = host.deploy("alice", "vmImage=menu&vmMemory=64&vmPartition=1&vmHostname=vm6");
        host.wait_for("alice", &id, "deployed", 300);
        // Its address is known until it is gone, and nothing of it answers.
        host.terminate("alice", &id);
        host.deployed("alice", "vmImage=menu&vmMemory=64&vmPartition=1&vmHostname=vm6");
    });
}
