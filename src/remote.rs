//! The only module that makes HTTP requests.
//!
//! Every request is signed (except those that probe what a stranger would see), has an overall time
//! limit, follows no redirects and uses no proxy: under CGI, `HTTP_PROXY` would be a request
//! header. A successful response counts only if it is signed, too.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use ureq::http::Uri;
use ureq::http::uri::Scheme;
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};

use crate::model::lease::Moment;
use crate::model::names::{RegistryId, RequestId};
use crate::model::sign::{
    Key, Nonce, REGISTRY_HEADER, REQUEST_HEADER, Recipient, SIGNATURE_HEADER, Signed, SignedAnswer,
};
use crate::system::clock;

/// The maximum size of a response, in bytes.
const MAX_ANSWER: u64 = 4 << 20;

/// Why there is no usable response.
#[derive(Debug, Error)]
pub enum RemoteError {
    /// Nothing was sent: the name does not resolve, or nothing listens there.
    #[error("{0}")]
    NotSent(String),
    /// The time limit expired; the message may have arrived.
    #[error("no answer within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// The connection broke, or the response is not HTTP; the message may have arrived.
    #[error("{0}")]
    Broken(String),
    /// The response reports success but is not signed: the other side does not have the key, or
    /// answered another request.
    #[error("HTTP {0}, but the answer is not signed with the shared key")]
    Unsigned(u16),
    /// The response is not the expected JSON.
    #[error("HTTP {status}, {detail}")]
    Garbled {
        /// The HTTP status.
        status: u16,
        /// What is wrong with the body.
        detail: String,
    },
}

/// A response, whatever its status.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The time in the `Date` header, if there is one.
    pub date: Option<Moment>,
    /// Whether the response is signed. Without a signature, nothing is known about its origin.
    pub signed: bool,
    /// The registry that the other side is bound to, if the response is signed and names one.
    pub registry: Option<RegistryId>,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// Parses the body as a message.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, RemoteError> {
        serde_json::from_slice(&self.body)
            .map_err(|error| RemoteError::Garbled { status: self.status, detail: error.to_string() })
    }
}

/// A client for one or more exchanges.
#[derive(Debug, Clone)]
pub struct Client<'a> {
    plain: ureq::Agent,
    secure: OnceLock<ureq::Agent>,
    ca_file: PathBuf,
    signs: Option<(&'a Key, Option<RegistryId>)>,
    request: &'a RequestId,
    limit: Duration,
}

/// Builds an agent that trusts the certificates in `ca_file`, if given.
fn agent(limit: Duration, ca_file: Option<&Path>) -> ureq::Agent {
    // Without that file every https request fails, and the error says why.
    let pem = ca_file.and_then(|file| std::fs::read(file).ok()).unwrap_or_default();
    let roots: Vec<_> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    let tls = TlsConfig::builder().root_certs(RootCerts::new_with_certs(&roots)).build();
    ureq::Agent::config_builder()
        .timeout_global(Some(limit))
        .proxy(None)
        .max_redirects(0)
        .http_status_as_error(false)
        .tls_config(tls)
        .user_agent(concat!("vgrid/", env!("CARGO_PKG_VERSION")))
        .build()
        .new_agent()
}

impl<'a> Client<'a> {
    /// Creates a client that signs with `key` on behalf of `registry`, sends `request` as the
    /// request id, and gives each exchange at most `limit`. For https, the other side's certificate
    /// must be signed by one of those in `ca_file`.
    pub fn new(
        key: &'a Key,
        registry: Option<RegistryId>,
        request: &'a RequestId,
        limit: Duration,
        ca_file: &Path,
    ) -> Self {
        Self::with(Some((key, registry)), request, limit, ca_file)
    }

    /// Creates a client that does not sign, to see what a stranger would see.
    pub fn stranger(request: &'a RequestId, limit: Duration, ca_file: &Path) -> Self {
        Self::with(None, request, limit, ca_file)
    }

    fn with(
        signs: Option<(&'a Key, Option<RegistryId>)>,
        request: &'a RequestId,
        limit: Duration,
        ca_file: &Path,
    ) -> Self {
        Self {
            plain: agent(limit, None),
            secure: OnceLock::new(),
            ca_file: ca_file.to_owned(),
            signs,
            request,
            limit,
        }
    }

    /// Returns the agent for a URL. The https agent is built only when needed, because parsing a
    /// few hundred certificates takes time.
    fn agent(&self, uri: &Uri) -> &ureq::Agent {
        if uri.scheme() == Some(&Scheme::HTTPS) {
            self.secure.get_or_init(|| agent(self.limit, Some(&self.ca_file)))
        } else {
            &self.plain
        }
    }

    /// Sends a GET request.
    pub fn get(&self, to: &Recipient, url: &str) -> Result<Answer, RemoteError> {
        self.exchange(to, "GET", url, &[])
    }

    /// Sends a GET request to somebody who isn't a part of vGrid. Made for a client that does not sign.
    pub fn fetch(&self, url: &str) -> Result<Answer, RemoteError> {
        self.exchange(&Recipient::Server, "GET", url, &[])
    }

    /// Posts a message as JSON.
    pub fn post(&self, to: &Recipient, url: &str, message: &impl Serialize) -> Result<Answer, RemoteError> {
        let body = serde_json::to_vec(message).map_err(|error| RemoteError::NotSent(error.to_string()))?;
        self.exchange(to, "POST", url, &body)
    }

    fn exchange(&self, to: &Recipient, method: &str, url: &str, body: &[u8]) -> Result<Answer, RemoteError> {
        let uri: Uri = url.parse().map_err(|_| RemoteError::NotSent(format!("{url:?} is not a URL")))?;
        let path_and_query = uri.path_and_query().map_or("/", |p| p.as_str());
        let mut headers = vec![(REQUEST_HEADER, self.request.as_str().to_owned())];
        let mut signature = String::new();
        if let Some((key, registry)) = self.signs {
            let (nonce, time) = (&Nonce::generate(), clock::now());
            let signed = Signed { to, registry, nonce, time, method, path_and_query, body };
            headers.extend(signed.headers(key));
            signature = headers.last().map(|(_, value)| value.clone()).unwrap_or_default();
        }
        let agent = self.agent(&uri);
        let response = if method == "GET" {
            headers.iter().fold(agent.get(url), |r, (name, value)| r.header(*name, value)).call()
        } else {
            headers
                .iter()
                .fold(agent.post(url), |r, (name, value)| r.header(*name, value))
                .content_type("application/json")
                .send(body)
        };
        let mut response = response.map_err(|error| self.explain(error))?;
        let status = response.status().as_u16();
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let date = header("date").and_then(Moment::from_http);
        let claimed = header(REGISTRY_HEADER).and_then(|text| text.parse().ok());
        let its_signature = header(SIGNATURE_HEADER).unwrap_or_default().to_owned();
        let body =
            response.body_mut().with_config().limit(MAX_ANSWER).read_to_vec().map_err(|error| match self
                .explain(error)
            {
                // The response had begun, so the message had arrived.
                RemoteError::NotSent(detail) => RemoteError::Broken(detail),
                other => other,
            })?;
        let Some((key, _)) = self.signs else {
            return Ok(Answer { status, date, signed: false, registry: None, body });
        };
        let answer = SignedAnswer { request: &signature, status, registry: claimed, body: &body };
        let is_signed = answer.is_signed_by(key, &its_signature);
        // An error status may come from Apache, or from before the signature was checked. It is not
        // acted on.
        if (200..300).contains(&status) && !is_signed {
            return Err(RemoteError::Unsigned(status));
        }
        Ok(Answer { status, date, signed: is_signed, registry: claimed.filter(|_| is_signed), body })
    }

    fn explain(&self, error: ureq::Error) -> RemoteError {
        use std::io::ErrorKind as K;
        use ureq::{Error as E, Timeout};
        match error {
            E::HostNotFound => RemoteError::NotSent("its name has no address".to_owned()),
            E::ConnectionFailed => RemoteError::NotSent("no connection".to_owned()),
            E::Timeout(Timeout::Resolve | Timeout::Connect) => {
                RemoteError::NotSent(format!("no connection within {} s", self.limit.as_secs()))
            }
            E::Timeout(_) => RemoteError::TimedOut(self.limit),
            E::Io(error) => match error.kind() {
                K::ConnectionRefused => RemoteError::NotSent("nobody listens there".to_owned()),
                K::HostUnreachable | K::NetworkUnreachable | K::AddrNotAvailable => {
                    RemoteError::NotSent("there is no way to it".to_owned())
                }
                K::TimedOut | K::WouldBlock => RemoteError::TimedOut(self.limit),
                // The standard library has no kind for this error; its text has not changed since
                // 2015.
                _ if error.to_string().starts_with("failed to lookup address information") => {
                    RemoteError::NotSent("its name has no address".to_owned())
                }
                _ => RemoteError::Broken(error.to_string()),
            },
            E::BadUri(detail) => RemoteError::NotSent(detail),
            other => RemoteError::Broken(other.to_string()),
        }
    }
}
