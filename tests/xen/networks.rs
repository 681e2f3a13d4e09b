//! Machines on different networks: what `[VirtualHostsPool]` says about a name reaches the machine
//! with that name.

use super::host::{TINY, scenario};
use crate::support::portal::id_of;
use crate::support::visited::Visited as _;

#[test]
fn a_name_sets_its_network_card_or_kernel_parameters() {
    scenario("networks", |host| {
        // One template puts vmExtra on the network card, the other on the kernel's command line.
        // The image selects the template; the second image is the same file under another tag.
        host.sh(
            "cd /etc/vgrid && sed -e 's/^vif = .*/vif = [ \"${vmExtra}\" ]/' -e 's/ \\${vmExtra}\"$/\"/' \
               vmtmpl/xen-xvda > vmtmpl/xen-networks && \
             sed -i -e 's/^tiny = \"tiny.tar.gz\"/&\\nsecond = \"tiny.tar.gz\"/' \
               -e 's/^default = \"xen-xvda\"/&\\nsecond = \"xen-networks\"/' node.cfg && \
             sed -i -e 's/^vm2 = .*/vm2 = \"bridge=xenbr0,mac=00:16:3e:12:34:56\"/' \
               -e 's/^vm3 = .*/vm3 = \"rack=7 quiet\"/' -e 's/^vm4 = .*/\"nowhere.invalid\" = \"\"/' \
               -e 's/^tiny = .*/&\\nsecond = \"The same, on a network of its own\"/' common.cfg",
        );
        let before = host.inventory();
        let deploy = |image: &str, name: &str| {
            let fields = TINY.replace("tiny", image) + "&vmHostname=" + name;
            let (status, answer) = host.try_deploy("alice", &fields);
            (status, id_of(&answer), answer)
        };
        let (_, with_card, _) = deploy("second", "vm2");
        let (_, with_parameters, _) = deploy("tiny", "vm3");
        // A name without an address is refused with a sentence, and leaves nothing on the host.
        let (status, unresolvable, answer) = deploy("tiny", "nowhere.invalid");
        assert_eq!(status, 409, "{answer}");
        let sentence = answer["error"]["message"].as_str().unwrap_or_default();
        assert!(sentence.contains("nowhere.invalid has no IPv4 address"), "{sentence}");

        host.wait_for("alice", &with_card, "deployed", 900);
        host.wait_for("alice", &with_parameters, "deployed", 900);
        let card = host.sh("xl network-list alice_vm2");
        assert!(card.contains("00:16:3e:12:34:56"), "{card}");
        host.must_answer_ping("vm2");
        let console = host.console("alice", &with_parameters);
        assert!(console.contains("rack=7 quiet"), "{console}");
        let console = host.console("alice", &with_card);
        assert!(!console.contains("mac=") && console.contains("vgrid_username=alice"), "{console}");
        for id in [&with_card, &with_parameters, &unresolvable] {
            host.terminate("alice", id);
        }
        host.must_be_as(&before);
    });
}
