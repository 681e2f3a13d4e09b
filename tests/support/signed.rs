//! Messages between server and nodes, signed by hand.

use vgrid::model::lease::Moment;
use vgrid::model::names::RegistryId;
use vgrid::model::sign::{Key, Nonce, Recipient, Signed};

/// What a message is signed with. Tests vary single parts.
#[derive(Debug, Clone)]
pub struct Seal<'a> {
    pub key: &'a Key,
    /// The recipient; `None`: the one that the path belongs to, on this machine.
    pub to: Option<Recipient>,
    pub registry: Option<RegistryId>,
    pub time: Moment,
}

impl Seal<'_> {
    /// The headers of a message, the signature last.
    pub fn headers(&self, method: &str, path: &str, body: &[u8]) -> Vec<(&'static str, String)> {
        let to = self.to.clone().unwrap_or_else(|| recipient(path));
        let Self { key, registry, time, .. } = self;
        let (nonce, registry, time) = (&Nonce::generate(), *registry, *time);
        Signed { to: &to, registry, nonce, time, method, path_and_query: path, body }.headers(key)
    }
}

/// The recipient that a path belongs to: the server, or the node on this machine.
pub fn recipient(path: &str) -> Recipient {
    if path.starts_with("/cgi-bin/node/") {
        Recipient::Node(super::own_name().parse().expect("a host's name"))
    } else {
        Recipient::Server
    }
}
