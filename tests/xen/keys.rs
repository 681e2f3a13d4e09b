//! Who can log in to a machine: its owner, with the key of the owner, and no one else. The real
//! script runs in a real guest, and ssh tries to log in.

use super::host::{Host, scenario};
use crate::support::visited::Visited as _;

const SSH: &str = "ssh -F none -o IdentitiesOnly=yes -o BatchMode=yes -o StrictHostKeyChecking=no \
                   -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -o ConnectTimeout=30";
const NOBODY: &str = "NO KEY: nobody can log in as root by key.";
const PEOPLE: [&str; 4] = ["alice", "bob", "admin", "stranger"];

/// A machine, and how often it has been booted.
pub(super) struct Machine<'a> {
    host: &'a Host,
    owner: &'static str,
    address: &'static str,
    pub(super) id: String,
    pub(super) boots: usize,
}

impl<'a> Machine<'a> {
    pub(super) fn deploy(host: &'a Host, owner: &'static str, address: &'static str, image: &str) -> Self {
        let id =
            host.deploy(owner, &format!("vmImage={image}&vmMemory=256&vmPartition=2&vmHostname={address}"));
        Self { host, owner, address, id, boots: 1 }
    }

    /// Deploys a machine from an image that its owner has saved.
    pub(super) fn saved(host: &'a Host, owner: &'static str, address: &'static str, name: &str) -> Self {
        let fields = format!("savedImage={name}&vmMemory=256&vmPartition=2&vmHostname={address}");
        Self { host, owner, address, id: host.deploy(owner, &fields), boots: 1 }
    }

    fn log(&self) -> String {
        format!("/var/log/xen/console/guest-{}_{}.log", self.owner, self.address)
    }

    /// Waits until it has booted. Returns what its console showed during that boot.
    pub(super) fn booted(&self) -> String {
        if self.boots == 1 {
            self.host.wait_for(self.owner, &self.id, "deployed", 900);
        }
        let (log, boots) = (self.log(), self.boots);
        let waited = self.host.try_sh(&format!(
            "for i in $(seq 400); do [ $(grep -c 'GUEST READY' {log}) -ge {boots} ] && exit; sleep 1; done; exit 1"
        ));
        let console = self.host.sh(&format!("cat {log}"));
        assert_eq!(waited.status, 0, "{} does not boot:\n{console}", self.address);
        console.split("GUEST READY").nth(boots - 1).expect("a boot").to_owned()
    }

    fn reboot(&mut self) {
        self.host.sh(&format!("xl reboot {}_{}", self.owner, self.address));
        self.boots += 1;
    }

    /// Runs a command in the machine with a person's key. Returns its output, or `None` if the key
    /// is refused.
    pub(super) fn ssh(&self, person: &str, command: &str) -> Option<String> {
        let output = self
            .host
            .try_sh(&format!("{SSH} -i /root/keys/{person} root@{} {command:?} < /dev/null", self.address));
        if output.status == 0 {
            return Some(output.out);
        }
        let refused = output.out.contains("Permission denied");
        assert!(refused, "neither logged in nor refused: {}: {}", output.status, output.out);
        None
    }

    /// Asserts that exactly these people can log in.
    pub(super) fn lets_in(&self, people: &[&str], console: &str) {
        let inside: Vec<&str> =
            PEOPLE.into_iter().filter(|person| self.ssh(person, "true").is_some()).collect();
        assert_eq!(inside, people, "{}, whose console showed:\n{console}", self.address);
    }

    fn says(&self, console: &str, words: &str) {
        assert!(console.contains(words), "{}: no {words:?} in\n{console}", self.address);
    }

    fn lets_nobody_in(&self, console: &str, words: &str) {
        self.lets_in(&[], console);
        self.says(console, words);
        self.says(console, NOBODY);
    }
}

/// Makes a key pair for each person. Those of alice and bob are in the repository.
pub(super) fn make_keys(host: &Host) {
    host.sh(&format!(
        "mkdir -p /root/keys; cd /root/keys; for p in {}; do ssh-keygen -q -t ed25519 -N '' -C $p -f $p; done; \
         rm /srv/keys/*; for p in alice bob; do cp $p.pub /srv/keys/authorized_keys.$p; done",
        PEOPLE.join(" ")
    ));
}

const SWITCH_OFF: &str = "a2dissite -q keys; a2dismod -q ssl; systemctl restart apache2";
const SWITCH_ON: &str = "a2enmod -q ssl; a2ensite -q keys; systemctl restart apache2";

#[test]
fn the_owner_gets_in_and_nobody_else() {
    scenario("keys", |host| {
        let before = host.inventory();
        make_keys(host);
        // One image, booted by pygrub or by GRUB's PV loader. A wrapper records what pygrub is run
        // on.
        host.sh(
            "cp -p /etc/vgrid/*.cfg /root/; cd /etc/vgrid; \
             sed -i '/^\\[VMConfigTemplates\\]/a pv = \"xen-pvgrub\"' node.cfg; \
             sed -i '/^\\[VMImageFiles\\]/a pv = \"debian.tar.gz\"' node.cfg; \
             sed -i -e '/^\\[VMImages\\]/a pv = \"Debian, by the PV loader\"' -e 's/^vm2 = .*/vm2 = \"probe=it'\\''s\"/' common.cfg; \
             p=$(ls /usr/lib/xen-*/bin/pygrub); mv $p $p.real; \
             printf '#!/bin/sh\\necho \"$*\" >> /root/pygrub.log\\nexec %s \"$@\"\\n' $p.real > $p; chmod 755 $p",
        );
        let mut one = Machine::deploy(host, "alice", "vm1", "debian");
        let mut two = Machine::deploy(host, "bob", "vm2", "pv");
        let three = Machine::deploy(host, "admin", "vm3", "debian");

        let console = one.booted();
        one.lets_in(&["alice"], &console);
        let console = two.booted();
        two.lets_in(&["bob"], &console);
        // With the PV loader, the kernel gets the command line of the template.
        let line = two.ssh("bob", "cat /proc/cmdline").expect("bob gets in");
        for word in [
            "root=/dev/xvda1 ro vgrid_username=bob ip=10.0.2.22::10.0.2.2:255.255.255.0:vm2:eth0:off",
            "probe=it",
        ] {
            assert!(line.contains(word), "{word:?} is missing from {line}");
        }
        // The repository has no key for an administrator.
        let console = three.booted();
        three.lets_nobody_in(&console, "The key repository gave no key for admin");
        let console = host.console("admin", &three.id);
        three.says(&console, NOBODY);
        host.terminate("admin", &three.id);

        // The repository does not answer: the key of an earlier boot stays, other keys do not.
        one.ssh("alice", "rm .ssh/authorized_keys").expect("alice gets in");
        host.sh(SWITCH_OFF);
        let stranger = host.sh("cat /root/keys/stranger.pub");
        two.ssh("bob", "cp .ssh/authorized_keys .ssh/authorized_keys2").expect("bob gets in");
        host.sh(&format!(
            "mkdir -p /mnt; {SSH} -i /root/keys/bob root@vm2 'echo {} >> .ssh/authorized_keys2' < /dev/null",
            stranger.trim()
        ));
        one.reboot();
        two.reboot();
        let console = one.booted();
        one.lets_nobody_in(&console, "The key repository can't be reached");
        let console = two.booted();
        two.says(&console, "for the same owner, bob, stays");
        two.lets_in(&["bob"], &console);

        // An impostor answers in place of the repository.
        host.sh(&format!(
            "cd /etc/ssh && cp -p /etc/ssl/certs/keys.pem /etc/ssl/private/keys.key /root/; \
             openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=xenhost \
             -addext subjectAltName=DNS:xenhost -keyout /etc/ssl/private/keys.key -out /etc/ssl/certs/keys.pem 2>/dev/null; \
             {SWITCH_ON}"
        ));
        one.reboot();
        two.reboot();
        for machine in [&one, &two] {
            let console = machine.booted();
            machine.lets_nobody_in(&console, "certificate");
        }

        // Which disks pygrub read, as root on the host.
        let asked = host.sh("cat /root/pygrub.log");
        assert!(asked.contains("xen-root-alice_vm1") && !asked.contains("bob"), "{asked}");
        host.terminate("alice", &one.id);
        host.terminate("bob", &two.id);
        host.sh("mv /root/*.cfg /etc/vgrid/");
        host.must_be_as(&before);
    });
}

#[test]
fn a_key_in_the_image_takes_precedence() {
    scenario("inside", |host| {
        let before = host.inventory();
        make_keys(host);
        // An image with the key of alice, and with a stranger's among root's keys, as in an image
        // saved from a machine. The repository has another key for alice.
        host.sh(
            "cd /root; mkdir -p in/opt/ssh_public_keys in/root/.ssh; chmod 700 in/root in/root/.ssh; \
             cp keys/alice.pub in/opt/ssh_public_keys/authorized_keys.alice; \
             cp keys/stranger.pub in/root/.ssh/authorized_keys; cp keys/bob.pub /srv/keys/authorized_keys.alice; \
             cd /var/lib/vgrid/images; zcat debian.tar.gz > saved.tar; tar -C /root/in -rf saved.tar ./opt ./root; \
             cp -p /etc/vgrid/node.cfg /root/; sed -i 's/^debian = .*/debian = \"saved.tar\"/' /etc/vgrid/node.cfg",
        );
        let one = Machine::deploy(host, "alice", "vm1", "debian");
        let two = Machine::deploy(host, "admin", "vm2", "debian");
        let console = one.booted();
        one.says(
            &console,
            "root may log in with the key of alice, from /opt/ssh_public_keys/authorized_keys.alice",
        );
        one.lets_in(&["alice"], &console);
        // The image has no key for others, and the stranger's key admits nobody.
        let console = two.booted();
        two.lets_nobody_in(&console, "The key repository gave no key for admin");
        host.terminate("alice", &one.id);
        host.terminate("admin", &two.id);
        host.sh("mv /root/node.cfg /etc/vgrid/; rm /var/lib/vgrid/images/saved.tar");
        host.must_be_as(&before);
    });
}
