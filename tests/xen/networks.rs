//! Machines on different networks: what `[VirtualHostsPool]` says of a name reaches the machine that has it.

use super::host::scenario;

const TINY: &str = "vmImage=tiny&vmMemory=96&vmPartition=1";

#[test]
fn a_name_brings_its_network_card_or_its_kernel_parameters() {
    scenario("networks", |host| {
        // vmExtra as vGrid allows it: parameters of the network card for one template, of the kernel for another.
        // The template goes with the image; the second image is the same file under another tag.
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
            let (status, machine) = host.deploy("alice", &fields);
            let id = machine["machine"]["id"].as_str().unwrap_or_else(|| panic!("{machine}")).to_owned();
            (status, id, machine)
        };
        let (_, carded, _) = deploy("second", "vm2");
        let (_, worded, _) = deploy("tiny", "vm3");
        // A name without an address is refused in words, and leaves nothing at the host.
        let (status, nowhere, answer) = deploy("tiny", "nowhere.invalid");
        assert_eq!(status, 409, "{answer}");
        let sentence = answer["error"]["message"].as_str().unwrap_or_default();
        assert!(sentence.contains("nowhere.invalid has no IPv4 address"), "{sentence}");

        host.wait_for("alice", &carded, "deployed", 900);
        host.wait_for("alice", &worded, "deployed", 900);
        let card = host.sh("xl network-list alice_vm2");
        assert!(card.contains("00:16:3e:12:34:56"), "{card}");
        host.sh("for i in $(seq 30); do ping -q -c 1 -W 2 vm2 && exit; sleep 1; done; exit 1");
        let (_, console) = host.ask("alice", "console", &format!("format=text&id={worded}"));
        assert!(console.contains("rack=7 quiet"), "{console}");
        let (_, console) = host.ask("alice", "console", &format!("format=text&id={carded}"));
        assert!(!console.contains("mac=") && console.contains("vgrid_username=alice"), "{console}");
        for id in [&carded, &worded, &nowhere] {
            host.terminate("alice", id);
        }
        host.must_be_as(&before);
    });
}
