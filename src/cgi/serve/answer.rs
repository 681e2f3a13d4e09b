//! Answers from outside a handler: to requests that can't be served, and to panics.

use std::io::Write as _;

use crate::cgi::reply::{Refusal, Reply};
use crate::config::ConfigError;
use crate::model::names::{RequestId, UserName};
use crate::system::log::{self, Level};

impl From<ConfigError> for Refusal {
    fn from(error: ConfigError) -> Self {
        Self::internal(error)
    }
}

/// Logs a refusal; `user` is the caller, if identified.
pub(super) fn log_refusal(refusal: &Refusal, user: Option<&UserName>, from: &str) {
    let level = if refusal.status >= 500 { Level::Error } else { Level::Warning };
    let fields = refusal.fields.iter().map(|(field, fault)| format!("{field}: {fault}"));
    let detail = refusal.log.clone().unwrap_or_else(|| fields.collect::<Vec<_>>().join(" "));
    log::event(
        level,
        "request.refused",
        &[
            ("status", &refusal.status),
            ("user", &user.map_or("-", UserName::as_str)),
            ("from", &from),
            ("why", &refusal.sentence),
            ("detail", &detail),
        ],
    );
}

/// Answers a request that must not reach the `cgi` crate, in the form of RFC 3875, section 6.
pub(super) fn write_plainly(reply: Reply) {
    let response = reply.into_response();
    let mut out = format!("Status: {}\n", response.status());
    for (name, value) in response.headers() {
        out.push_str(&format!("{name}: {}\n", value.to_str().unwrap_or_default()));
    }
    out.push('\n');
    let mut stdout = std::io::stdout().lock();
    // A client that has gone away needs no answer.
    let _ = stdout.write_all(out.as_bytes()).and_then(|()| stdout.write_all(response.body()));
}

/// Answers panics like any internal error: the log gets the place, the user the sentence.
pub(super) fn answer_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let refusal = Refusal::internal(panic);
        let id = RequestId::generate();
        log::start("panic", id.clone(), None);
        log::event(Level::Error, "program.panicked", &[("answered_as", &id), ("why", &panic)]);
        write_plainly(refusal.to_text(&id));
        std::process::exit(0);
    }));
}
