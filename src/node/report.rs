//! Reports to the server: `internal/status`.

use std::time::Duration;

use crate::config::Node;
use crate::model::names::{RegistryId, RequestId};
use crate::model::sign::{Key, Recipient};
use crate::model::wire::{Report, StatusReply};
use crate::remote::{Client, RemoteError};
use crate::system::log::{self, Level};

/// The time limit of each report.
const LIMIT: Duration = Duration::from_secs(5);

/// The pauses between the attempts to deliver a report, in seconds.
const PAUSES: [u64; 5] = [1, 3, 8, 16, 30];

/// Sends reports to the server.
#[derive(Debug, Clone)]
pub struct Reporter<'a> {
    client: Client<'a>,
    registry: Option<RegistryId>,
    url: String,
}

impl<'a> Reporter<'a> {
    /// Creates a reporter to the configured server. Answers count only if that server has the
    /// registry that this host is bound to.
    pub fn new(config: &Node, key: &'a Key, registry: Option<RegistryId>, request: &'a RequestId) -> Self {
        Self {
            client: Client::new(key, registry, request, LIMIT, &config.general.ca_file),
            registry,
            url: config.server_url("status"),
        }
    }

    /// Sends a report once.
    pub fn send(&self, report: &Report) -> Result<StatusReply, RemoteError> {
        let answer = self.client.post(&Recipient::Server, &self.url, report)?;
        let garbled = |detail: &str| RemoteError::Garbled {
            status: answer.status,
            detail: crate::model::fault::detail(detail),
        };
        if answer.status != 200 {
            return Err(garbled(&String::from_utf8_lossy(&answer.body)));
        }
        // The server itself refuses with 409 in this case; this check does not rely on it.
        match (self.registry, answer.registry) {
            (Some(ours), Some(theirs)) if ours == theirs => answer.json(),
            (None, Some(_)) => answer.json(),
            _ => Err(garbled("the answer is of another registry than the one that this host obeys")),
        }
    }

    /// Delivers a report, retrying for about a minute. Returns `None` if it did not arrive; the
    /// reasons are logged.
    pub fn deliver(&self, report: &Report) -> Option<StatusReply> {
        let mut pauses = PAUSES.into_iter();
        loop {
            match self.send(report) {
                Ok(reply) => return Some(reply),
                Err(error) => {
                    let pause = pauses.next();
                    let level = if pause.is_some() { Level::Warning } else { Level::Error };
                    log::event(
                        level,
                        "report.lost",
                        &[("vm", &report.id), ("sequence", &report.sequence), ("why", &error)],
                    );
                    std::thread::sleep(Duration::from_secs(pause?));
                }
            }
        }
    }
}
