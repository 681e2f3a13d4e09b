//! Messages between server and nodes, sent by hand, correct or not.

use std::fmt::Write as _;

use vgrid::model::names::RegistryId;
use vgrid::model::sign::{Key, Recipient};
use vgrid::system::clock;

use super::host::{Host, quote};
use crate::support::healing::Healing as _;
use crate::support::signed::Seal;

/// The path of a node's `info`.
pub const INFO: &str = "/cgi-bin/node/info";
/// The path that takes reports on the server.
pub const STATUS: &str = "/cgi-bin/internal/status";

/// A message to send.
pub struct Message<'a> {
    /// The name of the host it goes to.
    pub to: &'a str,
    pub path: &'a str,
    /// Sent as a POST, unless it is empty.
    pub body: &'a str,
    /// The key that signs it; `None`: unsigned.
    pub key: Option<&'a Key>,
    /// The registry on whose behalf it is sent.
    pub registry: RegistryId,
    /// The source address; empty: whatever the route selects.
    pub from: &'a str,
}

/// The recipient of a message to that host and path.
pub fn recipient(name: &str, path: &str) -> Recipient {
    if path == STATUS { Recipient::Server } else { Recipient::Node(name.parse().expect("a host's name")) }
}

impl Host {
    /// The key that server and nodes share.
    pub fn key(&self) -> Key {
        Key::new(&self.sh("cat /etc/vgrid/key")).expect("a key")
    }

    /// The registry that this host's node obeys. Runs upkeep if server and node have not met yet.
    pub fn registry(&self) -> RegistryId {
        let read = || self.try_sh("cat /var/lib/vgrid/node/registry");
        let mut known = read();
        if known.status != 0 {
            self.upkeep();
            known = read();
        }
        known.out.trim().parse().unwrap_or_else(|_| panic!("no registry: {}", known.out))
    }

    /// Sends a message from this host. Returns the status and text of the answer.
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
        let output = self.sh(&line);
        let (text, status) = output.rsplit_once('\n').expect("a status");
        (status.parse().expect("a status"), text.to_owned())
    }

    /// Asks the node for its `info`, as its server on the same host would.
    pub fn ask_node(&self) -> serde_json::Value {
        let (key, registry) = (self.key(), self.registry());
        let (status, text) =
            self.send(&Message { to: "xenhost", path: INFO, body: "", key: Some(&key), registry, from: "" });
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).expect("JSON")
    }
}
