//! Messages between server and nodes, sent by hand: right and wrong ones.

use std::fmt::Write as _;

use vgrid::model::names::RegistryId;
use vgrid::model::sign::{Key, Recipient};
use vgrid::system::clock;

use super::host::{Host, quote};
use crate::support::signed::Seal;

/// Where a node tells about itself.
pub const INFO: &str = "/cgi-bin/node/info";
/// Where the server takes reports.
pub const STATUS: &str = "/cgi-bin/internal/status";

/// A message.
pub struct Message<'a> {
    /// The host, by name.
    pub to: &'a str,
    pub path: &'a str,
    /// A POST, if it is not empty.
    pub body: &'a str,
    /// The key that it is signed with; none: not signed.
    pub key: Option<&'a Key>,
    /// The registry on whose behalf.
    pub registry: RegistryId,
    /// The address that it is sent from; empty: the one that the way leads by.
    pub from: &'a str,
}

/// Whom a message to the host `name` with this path is for.
pub fn recipient(name: &str, path: &str) -> Recipient {
    if path == STATUS { Recipient::Server } else { Recipient::Node(name.parse().expect("a host's name")) }
}

impl Host {
    /// The key that server and nodes share.
    pub fn key(&self) -> Key {
        Key::new(&self.sh("cat /etc/vgrid/key")).expect("a key")
    }

    /// The registry that the node here obeys. A server that has not met its node yet is made to.
    pub fn registry(&self) -> RegistryId {
        let read = || self.try_sh("cat /var/lib/vgrid/node/registry");
        let mut known = read();
        if known.status != 0 {
            self.upkeep();
            known = read();
        }
        known.out.trim().parse().unwrap_or_else(|_| panic!("no registry: {}", known.out))
    }

    /// Sends a message from this host; returns status and text of the answer.
    pub fn send(&self, message: &Message<'_>) -> (u16, String) {
        let method = if message.body.is_empty() { "GET" } else { "POST" };
        let mut line = format!("curl -s --noproxy '*' -m 60 -w '\\n%{{http_code}}' -X {method}");
        if let Some(key) = message.key {
            let registry = Some(message.registry);
            let seal =
                Seal { key, to: Some(recipient(message.to, message.path)), registry, time: clock::now() };
            for (name, value) in seal.headers(method, message.path, message.body.as_bytes()) {
                let _ = write!(line, " -H '{name}: {value}'");
            }
        }
        if !message.body.is_empty() {
            let _ =
                write!(line, " -H 'Content-Type: application/json' --data-binary {}", quote(message.body));
        }
        if !message.from.is_empty() {
            let _ = write!(line, " --interface {}", message.from);
        }
        let _ = write!(line, " http://{}{}", message.to, message.path);
        let said = self.sh(&line);
        let (text, status) = said.rsplit_once('\n').expect("a status");
        (status.parse().expect("a status"), text.to_owned())
    }

    /// Asks the node how it is, as its server, which is on the same host.
    pub fn ask_node(&self) -> serde_json::Value {
        let (key, registry) = (self.key(), self.registry());
        let (status, text) =
            self.send(&Message { to: "xenhost", path: INFO, body: "", key: Some(&key), registry, from: "" });
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).expect("JSON")
    }
}
