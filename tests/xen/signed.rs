//! Messages between server and nodes, sent by hand: right and wrong ones.

use std::fmt::Write as _;

use vgrid::model::sign::{self, Key, SIGNATURE_HEADER, Signed, TIME_HEADER};
use vgrid::system::clock;

use super::host::{Host, quote};

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
    /// The address that it is sent from; empty: the one that the way leads by.
    pub from: &'a str,
}

/// The headers of a signature made now.
pub fn headers(key: &Key, method: &str, path: &str, body: &str) -> [(&'static str, String); 2] {
    let time = clock::now();
    let signature = sign::sign(key, &Signed { method, path_and_query: path, time, body: body.as_bytes() });
    [(TIME_HEADER, time.unix().to_string()), (SIGNATURE_HEADER, signature)]
}

impl Host {
    /// The key that server and nodes share.
    pub fn key(&self) -> Key {
        Key::new(&self.sh("cat /etc/vgrid/key")).expect("a key")
    }

    /// Sends a message from this host; returns status and text of the answer.
    pub fn send(&self, message: &Message<'_>) -> (u16, String) {
        let method = if message.body.is_empty() { "GET" } else { "POST" };
        let mut line = format!("curl -s --noproxy '*' -m 60 -w '\\n%{{http_code}}' -X {method}");
        for (name, value) in
            message.key.iter().flat_map(|key| headers(key, method, message.path, message.body))
        {
            let _ = write!(line, " -H '{name}: {value}'");
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
        let key = self.key();
        let (status, text) =
            self.send(&Message { to: "xenhost", path: INFO, body: "", key: Some(&key), from: "" });
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).expect("JSON")
    }
}
