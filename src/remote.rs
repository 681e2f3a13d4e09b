//! The only place that makes HTTP requests. Each is signed (but for those that see what a stranger sees), has a
//! time limit for all of it, follows no redirect and uses no proxy (under CGI `HTTP_PROXY` would be a request
//! header). What the other side consents to counts only when its answer is signed, too.

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

/// The longest answer that is read, in bytes.
const MAX_ANSWER: u64 = 4 << 20;

/// Why there is no usable answer.
#[derive(Debug, Error)]
pub enum RemoteError {
    /// Nothing was sent: the name has no address or nobody listens there.
    #[error("{0}")]
    NotSent(String),
    /// The time was over; the message may have arrived.
    #[error("no answer within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// The connection broke, or what came is no HTTP; the message may have arrived.
    #[error("{0}")]
    Broken(String),
    /// Something answered with success, and it does not know the key, or it answered another request.
    #[error("HTTP {0}, but the answer is not signed with the shared key")]
    Unsigned(u16),
    /// An answer, but not the JSON that was expected.
    #[error("HTTP {status}, {detail}")]
    Garbled {
        /// Its HTTP status.
        status: u16,
        /// What is wrong with it.
        detail: String,
    },
}

/// An answer, whatever its status.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// What the other side's clock says, if it tells.
    pub date: Option<Moment>,
    /// Whether it is signed. Of an answer that is not, nothing is known but that something said it.
    pub signed: bool,
    /// The registry that the other side goes by, if the answer is signed and says so.
    pub registry: Option<RegistryId>,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as a message.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, RemoteError> {
        serde_json::from_slice(&self.body)
            .map_err(|error| RemoteError::Garbled { status: self.status, detail: error.to_string() })
    }
}

/// A client for one exchange or several.
#[derive(Debug)]
pub struct Client<'a> {
    plain: ureq::Agent,
    secure: OnceLock<ureq::Agent>,
    ca_file: PathBuf,
    signs: Option<(&'a Key, Option<RegistryId>)>,
    request: &'a RequestId,
    limit: Duration,
}

/// An agent that trusts the certificates of `ca_file`, if there is one.
fn agent(limit: Duration, ca_file: Option<&Path>) -> ureq::Agent {
    // Without that file no https address can be reached, and the error then says so.
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
    /// A client that signs with `key` on behalf of `registry`, names `request`, and gives each exchange at most
    /// `limit`. For https the other side's certificate must be signed by one of those in `ca_file`.
    pub fn new(
        key: &'a Key,
        registry: Option<RegistryId>,
        request: &'a RequestId,
        limit: Duration,
        ca_file: &Path,
    ) -> Self {
        Self::with(Some((key, registry)), request, limit, ca_file)
    }

    /// One that does not sign: it sees what a stranger sees.
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

    /// The agent for an address: who asks over http need not wait for a few hundred certificates to be read.
    fn agent(&self, uri: &Uri) -> &ureq::Agent {
        if uri.scheme() == Some(&Scheme::HTTPS) {
            self.secure.get_or_init(|| agent(self.limit, Some(&self.ca_file)))
        } else {
            &self.plain
        }
    }

    /// Asks for something.
    pub fn get(&self, to: &Recipient, url: &str) -> Result<Answer, RemoteError> {
        self.exchange(to, "GET", url, &[])
    }

    /// Sends a message as JSON.
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
                // The head came, so the message had arrived.
                RemoteError::NotSent(detail) => RemoteError::Broken(detail),
                other => other,
            })?;
        let Some((key, _)) = self.signs else {
            return Ok(Answer { status, date, signed: false, registry: None, body });
        };
        let answer = SignedAnswer { request: &signature, status, registry: claimed, body: &body };
        let is_signed = answer.is_signed_by(key, &its_signature);
        // A refusal may come from Apache, or before the signature was looked at. It leads to nothing.
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
                // The standard library has no kind for this one (and it has not changed its words since 2015).
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
