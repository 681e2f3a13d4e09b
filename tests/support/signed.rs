//! Messages between server and nodes, signed by hand.

use vgrid::model::lease::Moment;
use vgrid::model::names::RegistryId;
use vgrid::model::sign::{Key, Nonce, Recipient, Signed};

/// What makes a message of a test another than the usual one.
#[derive(Debug, Clone)]
pub struct Seal<'a> {
    pub key: &'a Key,
    /// Whom it is for; none: whom the path is of, on this machine.
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

/// Whom a path is of: the server, or the node that this machine is.
pub fn recipient(path: &str) -> Recipient {
    if path.starts_with("/cgi-bin/node/") {
        let own = nix::unistd::gethostname().expect("a host name");
        Recipient::Node(own.to_string_lossy().parse().expect("a host's name"))
    } else {
        Recipient::Server
    }
}
