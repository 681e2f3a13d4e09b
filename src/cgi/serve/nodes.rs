//! Calls between server and nodes: which are accepted, and how the answer is signed.

use std::cell::OnceCell;

use crate::cgi::policy::Endpoint;
use crate::cgi::reply::{Refusal, Reply};
use crate::cgi::request::Request;
use crate::config;
use crate::model::lease::Moment;
use crate::model::names::RegistryId;
use crate::model::sign::{
    Key, NONCE_HEADER, Nonce, RECIPIENT_HEADER, REGISTRY_HEADER, Recipient, SIGNATURE_HEADER, SignFault,
    Signed, TIME_HEADER,
};
use crate::system::{address, clock, log, once, pin};

use super::serve;

/// A call from the server to this node.
#[derive(Debug)]
pub struct NodeCall<'a> {
    /// The request.
    pub request: &'a Request,
    /// `node.cfg`.
    pub config: config::Node,
}

/// Answers a call by the server.
pub type OrderHandler = fn(&NodeCall<'_>) -> Result<Reply, Refusal>;

/// An endpoint of the node that only the server may call.
#[derive(Debug)]
pub struct OrderEndpoint {
    endpoint: &'static Endpoint,
    handler: OrderHandler,
}

impl OrderEndpoint {
    /// A row of the table.
    #[cfg(feature = "node")]
    pub(crate) const fn new(endpoint: &'static Endpoint, handler: OrderHandler) -> Self {
        Self { endpoint, handler }
    }

    /// Serves the request that this program was started for.
    ///
    /// The request must come from the server's address, be signed, be addressed to this host, name
    /// the registry that this host obeys, and, if it changes something, not be a repetition. Every
    /// answer to such a request is signed.
    pub fn serve(&self) {
        server_only(self.endpoint, self.handler);
    }
}

fn server_only(endpoint: &'static Endpoint, handler: OrderHandler) {
    let proven = OnceCell::new();
    serve(
        endpoint,
        |request| {
            let config = config::Node::load(&config::directory())?;
            let trusted = check_server(request, &config, &proven);
            if trusted.is_ok() {
                request.carry_on();
            }
            log::start(endpoint.name, request.id.clone(), Some(&config.general.log_file));
            trusted?;
            let reply = handler(&NodeCall { request, config })?;
            let registry = proven.get().and_then(|proven| proven.registry);
            Ok(seal(&proven, registry.into_iter().fold(reply, Reply::of_registry)))
        },
        |refusal, request| seal(&proven, refusal.to_json(&request.id)),
    );
}

/// A call from a node to the server.
#[cfg(feature = "server")]
#[derive(Debug)]
pub struct InternalCall<'a> {
    /// The request.
    pub request: &'a Request,
    /// `server.cfg`.
    pub config: config::Server,
    /// The registry that the node obeys, if it has been contacted by one.
    pub registry: Option<RegistryId>,
}

/// Answers a call by a node.
#[cfg(feature = "server")]
pub type ReportHandler = fn(&InternalCall<'_>) -> Result<Reply, Refusal>;

/// An endpoint of the server that only nodes may call.
#[cfg(feature = "server")]
#[derive(Debug)]
pub struct ReportEndpoint {
    endpoint: &'static Endpoint,
    handler: ReportHandler,
}

#[cfg(feature = "server")]
impl ReportEndpoint {
    /// A row of the table.
    pub(crate) const fn new(endpoint: &'static Endpoint, handler: ReportHandler) -> Self {
        Self { endpoint, handler }
    }

    /// Serves the request that this program was started for.
    ///
    /// The signature is checked here. The handler, which knows the machine, checks that the sender
    /// has the address of the machine's host. Every answer to a node is signed.
    pub fn serve(&self) {
        node_only(self.endpoint, self.handler);
    }
}

#[cfg(feature = "server")]
fn node_only(endpoint: &'static Endpoint, handler: ReportHandler) {
    let proven = OnceCell::new();
    serve(
        endpoint,
        |request| {
            let config = config::Server::load(&config::directory())?;
            let trusted = check_node(request, &config, &proven);
            if trusted.is_ok() {
                request.carry_on();
            }
            log::start(endpoint.name, request.id.clone(), Some(&config.general.log_file));
            trusted?;
            let registry = proven.get().and_then(|proven| proven.registry);
            handler(&InternalCall { request, config, registry }).map(|reply| seal(&proven, reply))
        },
        |refusal, request| seal(&proven, refusal.to_json(&request.id)),
    );
}

/// Checks that a request comes from the server; see [`OrderEndpoint::serve`].
fn check_server(request: &Request, config: &config::Node, proven: &OnceCell<Proven>) -> Result<(), Refusal> {
    let general = &config.general;
    let server = &general.server_hostname;
    if !request.remote.is_some_and(|from| address::belongs_to(from, server.as_str())) {
        return Err(Refusal::forbidden(format!(
            "Refused: this node takes orders from {server} only, and {} is not its address.",
            request.from()
        )));
    }
    let proof = Proven::check(request, config.key()?)?;
    let Proven { to, registry, nonce, time, .. } = proven.get_or_init(|| proof);
    let own = nix::unistd::gethostname().map_err(Refusal::internal)?;
    let own = own.to_string_lossy();
    if !matches!(to, Recipient::Node(host) if host.is_called(&own)) {
        return Err(Refusal::forbidden(format!(
            "Refused: this message is for {to}, but this host is called {own}."
        )));
    }
    let state = &general.state_directory;
    let Some(registry) = *registry else {
        return Err(Refusal::forbidden(
            "Refused: this message names no registry. Are server and node of the same version of vGrid?",
        ));
    };
    let obeyed = pin::read_or_set(state, registry)
        .map_err(|error| Refusal::internal(format!("{}: {error}", pin::file(state).display())))?;
    if obeyed != registry {
        return Err(Refusal::forbidden(format!(
            "Refused: this host obeys the registry {obeyed}, and this message comes from {registry}. If the \
             registry was lost, restore it from a backup (vgrid-registry restore). If the new one is to manage this \
             host from now on, remove {} on this host.",
            pin::file(state).display()
        )));
    }
    if request.is_post {
        let is_first = once::mark_used(&state.join("seen"), nonce, *time, clock::now())
            .map_err(|error| Refusal::internal(format!("{}/seen: {error}", state.display())))?;
        if !is_first {
            return Err(Refusal::conflict("Refused: this very message came before, and it counts once."));
        }
    }
    Ok(())
}

/// Checks that a request comes from a node and is addressed to the server.
#[cfg(feature = "server")]
fn check_node(request: &Request, config: &config::Server, proven: &OnceCell<Proven>) -> Result<(), Refusal> {
    let proof = Proven::check(request, config.key()?)?;
    match proven.get_or_init(|| proof).to {
        Recipient::Server => Ok(()),
        Recipient::Node(ref host) => Err(Refusal::forbidden(format!(
            "Refused: this message is for the node {host}, and this is the server."
        ))),
    }
}

/// The signed values of a request whose signature was right, with what its answer is signed with.
struct Proven {
    key: Key,
    signature: String,
    to: Recipient,
    registry: Option<RegistryId>,
    nonce: Nonce,
    time: Moment,
}

impl Proven {
    fn check(request: &Request, key: Key) -> Result<Self, Refusal> {
        Self::read(request, key).map_err(|fault| Refusal::forbidden(format!("Refused: {fault}.")))
    }

    fn read(request: &Request, key: Key) -> Result<Self, SignFault> {
        let registry = match request.header(REGISTRY_HEADER) {
            Some(text) => Some(text.parse().map_err(|_| SignFault::Missing)?),
            None => None,
        };
        let header = |name| request.header(name).ok_or(SignFault::Missing);
        let to: Recipient = header(RECIPIENT_HEADER)?.parse().map_err(|_| SignFault::Missing)?;
        let nonce: Nonce = header(NONCE_HEADER)?.parse().map_err(|_| SignFault::Missing)?;
        let time = header(TIME_HEADER)?.parse().map(Moment::from_unix).map_err(|_| SignFault::Missing)?;
        let signature = header(SIGNATURE_HEADER)?.to_owned();
        let signed = Signed {
            to: &to,
            registry,
            nonce: &nonce,
            time,
            method: if request.is_post { "POST" } else { "GET" },
            path_and_query: &request.path_and_query,
            body: &request.body,
        };
        signed.verify(&key, &signature, clock::now())?;
        Ok(Self { key, signature, to, registry, nonce, time })
    }
}

/// Signs an answer, or a refusal, if the request's signature was right.
fn seal(proven: &OnceCell<Proven>, reply: Reply) -> Reply {
    match proven.get() {
        Some(Proven { key, signature, .. }) => reply.signed(key, signature),
        None => reply,
    }
}
