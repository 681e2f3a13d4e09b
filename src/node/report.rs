//! Reports to the server: `internal/status`.

use std::time::Duration;

use crate::config::Node;
use crate::model::names::RequestId;
use crate::model::sign::Key;
use crate::model::wire::{Report, StatusReply};
use crate::remote::{Client, RemoteError};
use crate::system::log::{self, Level};

/// The time that the server has for each report.
const LIMIT: Duration = Duration::from_secs(5);

/// The pauses before the further tries of a report that must arrive, in seconds.
const PAUSES: [u64; 5] = [1, 3, 8, 16, 30];

/// The way to the server.
#[derive(Debug)]
pub struct Reporter<'a> {
    client: Client<'a>,
    url: String,
}

impl<'a> Reporter<'a> {
    /// The way to the server that the configuration names.
    pub fn new(config: &Node, key: &'a Key, request: &'a RequestId) -> Self {
        Self {
            client: Client::new(key, request, LIMIT, &config.general.ca_file),
            url: config.server_url("status"),
        }
    }

    /// Tries once.
    pub fn send(&self, report: &Report) -> Result<StatusReply, RemoteError> {
        let answer = self.client.post(&self.url, report)?;
        if answer.status == 200 {
            return answer.json();
        }
        let said = String::from_utf8_lossy(&answer.body);
        Err(RemoteError::Garbled { status: answer.status, detail: crate::model::fault::detail(&said) })
    }

    /// Tries for about a minute. `None` if it did not arrive; the log has why.
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
                        &[("vm", &report.id), ("sequence", &report.sequence), ("error", &error)],
                    );
                    std::thread::sleep(Duration::from_secs(pause?));
                }
            }
        }
    }
}
