//! What cloud-init in a machine is told: a small disk, labelled `CIDATA`, with three files (cloud-init's
//! documentation, "NoCloud"). Nothing in the image needs to know vGrid.
//!
//! All three are JSON, which is YAML as well (YAML 1.2.2, section 1.2).

mod fat;

use std::net::Ipv4Addr;

use serde::Serialize;
use serde_json::json;

use crate::config::Network;
use crate::model::names::{UserName, VirtualHost, VmId};
use crate::model::public_keys::PublicKeys;

/// The label by which cloud-init finds the disk.
const LABEL: &str = "CIDATA";

/// The disk with the machine's swap area, as the machine sees it.
const SWAP: &str = "/dev/vdb";

/// Who gets into a machine whose owner's name can't be that of a Linux user.
const FALLBACK: &str = "owner";

/// The longest name of a Linux user (useradd(8)).
const LONGEST_LOGIN: usize = 32;

/// Users and groups that systems come with. An account of such a name is not made, or has no shell.
const TAKEN: &[&str] = &[
    "adm",
    "admin",
    "audio",
    "backup",
    "bin",
    "cdrom",
    "chrony",
    "crontab",
    "daemon",
    "dbus",
    "dialout",
    "dip",
    "disk",
    "fax",
    "floppy",
    "ftp",
    "games",
    "gnats",
    "halt",
    "input",
    "irc",
    "kmem",
    "kvm",
    "list",
    "lp",
    "lxd",
    "mail",
    "man",
    "messagebus",
    "netdev",
    "news",
    "nobody",
    "nogroup",
    "operator",
    "plugdev",
    "polkitd",
    "proxy",
    "render",
    "root",
    "sasl",
    "sgx",
    "shadow",
    "shutdown",
    "src",
    "ssh",
    "sshd",
    "staff",
    "sudo",
    "sync",
    "sys",
    "syslog",
    "tape",
    "tcpdump",
    "tss",
    "tty",
    "users",
    "utmp",
    "uucp",
    "uuidd",
    "video",
    "voice",
    "wheel",
    "www-data",
];

/// What a machine made of an earlier one's disk must not let in: whoever that one let in. Run once
/// for each machine, before cloud-init installs the keys.
const FORGET_KEYS: &str = "rm -f /root/.ssh/authorized_keys /root/.ssh/authorized_keys2 \
     /home/*/.ssh/authorized_keys /home/*/.ssh/authorized_keys2";

/// What a machine is told.
#[derive(Debug)]
pub struct Seed<'a> {
    /// The machine's id. cloud-init sets up a machine anew when it finds another.
    pub id: VmId,
    /// The machine's name.
    pub host: &'a VirtualHost,
    /// Its address.
    pub ip: Ipv4Addr,
    /// Its owner.
    pub user: &'a UserName,
    /// The owner's keys.
    pub keys: &'a PublicKeys,
    /// The network; `None` for DHCP.
    pub network: Option<&'a Network>,
}

/// Returns the address of the network card of the machine with this address: QEMU's first two bytes,
/// and the machine's address, which is nobody else's in its network.
pub fn mac(ip: Ipv4Addr) -> String {
    let [a, b, c, d] = ip.octets();
    format!("52:54:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

/// Returns the name of the Linux user that a person gets: the name at sign-in up to an `@`, in small
/// letters, without what such a name can't have.
fn login(user: &UserName) -> String {
    let name = user.as_str().split('@').next().unwrap_or_default().to_ascii_lowercase();
    let name: String = name
        .chars()
        .filter_map(|c| match c {
            'a'..='z' | '0'..='9' | '_' | '-' => Some(c),
            '.' | ' ' => Some('-'),
            _ => None,
        })
        .take(LONGEST_LOGIN)
        .collect();
    let is_taken = TAKEN.contains(&name.as_str()) || name.starts_with("systemd-");
    if name.starts_with(|c: char| c.is_ascii_lowercase()) && !is_taken { name } else { FALLBACK.to_owned() }
}

impl Seed<'_> {
    /// Makes the disk, as the content of its file.
    pub fn disk(&self) -> Vec<u8> {
        fat::disk(LABEL, &self.files())
    }

    /// The files on the disk.
    fn files(&self) -> [(&'static str, Vec<u8>); 3] {
        [
            (
                "meta-data",
                json(&json!({
                    "instance-id": self.id.to_string(),
                    "local-hostname": self.host.as_str(),
                })),
            ),
            // Without this line, it is not taken for what it is.
            ("user-data", [&b"#cloud-config\n"[..], &json(&self.user_data())].concat()),
            ("network-config", json(&self.network_config())),
        ]
    }

    /// As in vGrid's own images, the owner becomes root by the same key.
    fn user_data(&self) -> serde_json::Value {
        json!({
            "users": [{
                "name": login(self.user),
                "shell": "/bin/bash",
                "lock_passwd": true,
                "sudo": "ALL=(ALL) NOPASSWD:ALL",
                "ssh_authorized_keys": self.keys.lines(),
            }],
            "disable_root": false,
            "ssh_authorized_keys": self.keys.lines(),
            "ssh_pwauth": false,
            "bootcmd": [["cloud-init-per", "instance", "vgrid-keys", "sh", "-c", FORGET_KEYS]],
            "manage_etc_hosts": "localhost",
            "mounts": [[SWAP, "none", "swap", "sw", "0", "0"]],
        })
    }

    /// In version 1, which every cloud-init knows that reads such a file at all.
    fn network_config(&self) -> serde_json::Value {
        let subnet = match self.network {
            None => json!({ "type": "dhcp4" }),
            Some(network) => {
                let mut subnet = json!({
                    "type": "static",
                    "address": format!("{}/{}", self.ip, network.prefix),
                });
                if let Some(gateway) = network.gateway {
                    subnet["gateway"] = json!(gateway);
                }
                if !network.name_servers.is_empty() {
                    subnet["dns_nameservers"] = json!(network.name_servers);
                }
                subnet
            }
        };
        json!({
            "version": 1,
            "config": [{
                "type": "physical",
                "name": "eth0",
                "mac_address": mac(self.ip),
                "subnets": [subnet],
            }],
        })
    }
}

/// Such a value has no keys but texts, so it can always be written.
fn json(value: &impl Serialize) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(value).unwrap_or_default();
    text.push(b'\n');
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::Value;

    use super::*;
    use crate::system::exec::Run;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ5ZxkPXNTYrSWGkXFVUxVMlOE3GIUaWkYDmaYmrLwXm a: \"b\"";

    fn network() -> Network {
        Network {
            prefix: 24,
            gateway: Some("192.0.2.1".parse().unwrap()),
            name_servers: vec!["192.0.2.53".parse().unwrap()],
        }
    }

    fn with_seed<T>(user: &str, network: Option<&Network>, act: impl FnOnce(&Seed) -> T) -> T {
        act(&Seed {
            id: "019dd5a3-2f3a-7c11-9d9b-0123456789ab".parse().unwrap(),
            host: &"vm1.example.org".parse().unwrap(),
            ip: "192.0.2.21".parse().unwrap(),
            user: &user.parse().unwrap(),
            keys: &KEY.parse().unwrap(),
            network,
        })
    }

    /// The three files as cloud-init reads them.
    fn parsed(seed: &Seed) -> BTreeMap<&'static str, Value> {
        let read = |(name, bytes): (&'static str, Vec<u8>)| {
            let text = String::from_utf8(bytes).unwrap();
            let comment = if name == "user-data" { "#cloud-config\n" } else { "" };
            (name, serde_json::from_str(text.strip_prefix(comment).unwrap()).unwrap())
        };
        seed.files().into_iter().map(read).collect()
    }

    #[test]
    fn cloud_init_is_told_who_and_where() {
        let files = with_seed("Alice.B@example.org", Some(&network()), parsed);
        assert_eq!(
            files["meta-data"],
            json!({ "instance-id": "019dd5a3-2f3a-7c11-9d9b-0123456789ab", "local-hostname": "vm1.example.org" })
        );
        let user_data = &files["user-data"];
        assert_eq!(user_data["users"][0]["name"], "alice-b");
        assert_eq!(user_data["users"].as_array().unwrap().len(), 1, "nobody else gets an account");
        for keys in [&user_data["users"][0]["ssh_authorized_keys"], &user_data["ssh_authorized_keys"]] {
            assert_eq!(*keys, json!([KEY]));
        }
        assert_eq!(
            (&user_data["ssh_pwauth"], &user_data["users"][0]["lock_passwd"]),
            (&json!(false), &json!(true))
        );
        assert_eq!(
            files["network-config"],
            json!({ "version": 1, "config": [{
                "type": "physical",
                "name": "eth0",
                "mac_address": "52:54:c0:00:02:15",
                "subnets": [{
                    "type": "static",
                    "address": "192.0.2.21/24",
                    "gateway": "192.0.2.1",
                    "dns_nameservers": ["192.0.2.53"],
                }],
            }]})
        );
        let by_dhcp = with_seed("alice", None, parsed);
        assert_eq!(by_dhcp["network-config"]["config"][0]["subnets"], json!([{ "type": "dhcp4" }]));
    }

    #[test]
    fn every_owner_gets_a_sound_login() {
        let long = "x".repeat(100);
        for (user, expected) in [
            ("alice", "alice"),
            ("J\u{fc}rgen M\u{fc}ller", "jrgen-mller"),
            ("o'brien", "obrien"),
            ("\u{674e}\u{96f7}", FALLBACK),
            ("root", FALLBACK),
            ("Games", FALLBACK),
            ("systemd-network", FALLBACK),
            ("007", FALLBACK),
            ("@x", FALLBACK),
            ("a\"\n".trim(), "a"),
            (&long, &long[..LONGEST_LOGIN]),
        ] {
            assert_eq!(login(&user.parse().unwrap()), expected, "{user}");
        }
        assert!(TAKEN.is_sorted());
    }

    #[test]
    fn the_disk_has_the_files_under_their_names() {
        let (disk, files) = with_seed("alice", Some(&network()), |seed| (seed.disk(), seed.files()));
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("seed.img");
        std::fs::write(&file, disk).unwrap();
        let label = Run::new("blkid").args(["-p", "-o", "export"]).arg(&file).run().unwrap().text();
        assert!(label.contains("LABEL=CIDATA\n") && label.contains("TYPE=vfat\n"), "{label}");
        let listed = Run::new("mdir").args(["-b", "-i"]).arg(&file).arg("::").run().unwrap().text();
        assert_eq!(listed, "::/meta-data\n::/user-data\n::/network-config\n");
        for (name, content) in files {
            let copied =
                Run::new("mcopy").arg("-i").arg(&file).arg(format!("::{name}")).arg("-").run().unwrap();
            assert!(copied.stdout == content, "{name}");
        }
    }
}
