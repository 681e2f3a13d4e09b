//! From Apache to a handler and back. The `main` of a CGI program serves one endpoint: a [`Page`],
//! an [`OrderEndpoint`] or a [`ReportEndpoint`].

mod answer;
#[cfg(feature = "server")]
mod call;
#[cfg(feature = "server")]
mod intent;
mod nodes;
#[cfg(feature = "server")]
mod people;
#[cfg(feature = "server")]
mod token;

use crate::model::names::RequestId;
use crate::system::log;

use super::environment;
use super::policy::Endpoint;
use super::reply::{Refusal, Reply};
use super::request::Request;

use answer::{answer_panics, log_refusal, write_plainly};

#[cfg(feature = "server")]
pub use call::{Data, UserCall, View, WithBanner};
#[cfg(feature = "server")]
pub use nodes::{InternalCall, ReportEndpoint};
pub use nodes::{NodeCall, OrderEndpoint};
#[cfg(feature = "server")]
pub use people::Page;

/// Reads the request, runs `handle`, and writes the answer. `refuse` formats a refusal as the
/// caller wants it.
fn serve(
    endpoint: &'static Endpoint,
    handle: impl FnOnce(&mut Request) -> Result<Reply, Refusal>,
    refuse: impl FnOnce(&Refusal, &Request) -> Reply,
) {
    answer_panics();
    // Apache leaves the umask at 022, but nobody else may read what these programs write.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o027));
    if let Err(refusal) = environment::meet(endpoint) {
        let id = RequestId::generate();
        log::start(endpoint.name, id.clone(), None);
        log_refusal(&refusal, None, &std::env::var("REMOTE_ADDR").unwrap_or_default());
        return write_plainly(refusal.to_text(&id));
    }
    cgi::handle(|raw| {
        let mut request = match Request::read(raw, endpoint) {
            Ok(request) => request,
            Err(refusal) => {
                let id = RequestId::generate();
                log::start(endpoint.name, id.clone(), None);
                log_refusal(&refusal, None, &std::env::var("REMOTE_ADDR").unwrap_or_default());
                return refusal.to_text(&id).into_response();
            }
        };
        let reply = handle(&mut request).unwrap_or_else(|refusal| {
            log::start(endpoint.name, request.id.clone(), None);
            log_refusal(&refusal, None, &request.from());
            refuse(&refusal, &request)
        });
        reply.into_response()
    });
}
