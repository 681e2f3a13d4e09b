//! From Apache to a handler and back. A CGI program's `main` is one call of [`user`], [`server_only`] or
//! [`node_only`].

use std::cell::OnceCell;
use std::io::Write as _;

use crate::config::{self, ConfigError};
use crate::model::lease::Moment;
use crate::model::names::{RegistryId, RequestId};
use crate::model::sign::{
    Key, NONCE_HEADER, Nonce, RECIPIENT_HEADER, REGISTRY_HEADER, Recipient, SIGNATURE_HEADER, SignFault,
    Signed, TIME_HEADER,
};
use crate::system::log::{self, Level};
use crate::system::{address, clock, once, pin};

use super::environment;
use super::policy::Endpoint;
use super::reply::{Refusal, Reply};
use super::request::Request;

impl From<ConfigError> for Refusal {
    fn from(error: ConfigError) -> Self {
        Self::internal(error)
    }
}

/// Meets the request, runs `handle`, and writes the answer. `refuse` gives a refusal the form that the
/// caller wants.
fn serve(
    endpoint: &'static Endpoint,
    handle: impl FnOnce(&mut Request) -> Result<Reply, Refusal>,
    refuse: impl FnOnce(&Refusal, &Request) -> Reply,
) {
    answer_panics();
    // Apache leaves it at 022: what these programs keep is nobody else's to read.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o027));
    if let Err(refusal) = environment::meet(endpoint) {
        let id = RequestId::generate();
        log::start(endpoint.name, id.clone(), None);
        log_refusal(&refusal, &std::env::var("REMOTE_ADDR").unwrap_or_default());
        return write_plainly(refusal.to_text(&id));
    }
    cgi::handle(|raw| {
        let mut request = match Request::read(raw, endpoint) {
            Ok(request) => request,
            Err(refusal) => {
                let id = RequestId::generate();
                log::start(endpoint.name, id.clone(), None);
                log_refusal(&refusal, &std::env::var("REMOTE_ADDR").unwrap_or_default());
                return refusal.to_text(&id).into_response();
            }
        };
        let reply = handle(&mut request).unwrap_or_else(|refusal| {
            log::start(endpoint.name, request.id.clone(), None);
            log_refusal(&refusal, &request.from());
            refuse(&refusal, &request)
        });
        reply.into_response()
    });
}

fn log_refusal(refusal: &Refusal, from: &str) {
    let level = if refusal.status >= 500 { Level::Error } else { Level::Warning };
    let detail = refusal.log.as_deref().unwrap_or_default();
    log::event(
        level,
        "refused",
        &[("status", &refusal.status), ("from", &from), ("why", &refusal.sentence), ("detail", &detail)],
    );
}

/// The answer to a request that the `cgi` crate can't be shown, in the form of RFC 3875, section 6.
fn write_plainly(reply: Reply) {
    let response = reply.into_response();
    let mut out = format!("Status: {}\n", response.status());
    for (name, value) in response.headers() {
        out.push_str(&format!("{name}: {}\n", value.to_str().unwrap_or_default()));
    }
    out.push('\n');
    let mut stdout = std::io::stdout().lock();
    // A client that is gone needs no answer.
    let _ = stdout.write_all(out.as_bytes()).and_then(|()| stdout.write_all(response.body()));
}

/// Should a panic happen all the same, the user gets the sentence and the log the place.
fn answer_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let refusal = Refusal::internal(panic);
        let id = RequestId::generate();
        log::start("panic", id.clone(), None);
        log::event(Level::Error, "panic", &[("answered", &id), ("detail", &panic)]);
        write_plainly(refusal.to_text(&id));
        std::process::exit(0);
    }));
}

/// A request whose signature was right: what its answer is signed with, and what it says of itself.
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

/// Signs an answer, a refusal too, if the request was proven to be the other side's.
fn seal(proven: &OnceCell<Proven>, reply: Reply) -> Reply {
    match proven.get() {
        Some(Proven { key, signature, .. }) => reply.signed(key, signature),
        None => reply,
    }
}

/// A call of a node's endpoint by its server.
#[derive(Debug)]
pub struct NodeCall<'a> {
    /// The request.
    pub request: &'a Request,
    /// `node.cfg`.
    pub config: config::Node,
}

/// Lets a call of the server through: from its address, signed, for this host, on behalf of the registry that this
/// host obeys, and, if it changes something, for the first time.
fn of_server(request: &Request, config: &config::Node, proven: &OnceCell<Proven>) -> Result<(), Refusal> {
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
        let is_first = once::use_up(&state.join("seen"), nonce, *time, clock::now())
            .map_err(|error| Refusal::internal(format!("{}/seen: {error}", state.display())))?;
        if !is_first {
            return Err(Refusal::conflict("Refused: this very message came before, and it counts once."));
        }
    }
    Ok(())
}

/// Serves an endpoint of the node: only the server may call (see [`of_server`]). Every answer to it is signed.
pub fn server_only(
    endpoint: &'static Endpoint,
    handler: impl FnOnce(&NodeCall<'_>) -> Result<Reply, Refusal>,
) {
    let proven = OnceCell::new();
    serve(
        endpoint,
        |request| {
            let config = config::Node::load(&config::directory())?;
            let trusted = of_server(request, &config, &proven);
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

/// A call of the server by a node.
#[cfg(feature = "server")]
#[derive(Debug)]
pub struct InternalCall<'a> {
    /// The request.
    pub request: &'a Request,
    /// `server.cfg`.
    pub config: config::Server,
    /// The registry that the node obeys, if it has met one.
    pub registry: Option<RegistryId>,
}

/// Serves an endpoint of the server for nodes. The signature is checked here; that the sender has the
/// address of the machine's host is for the handler, which knows the machine. Every answer to a node is signed.
#[cfg(feature = "server")]
pub fn node_only(
    endpoint: &'static Endpoint,
    handler: impl FnOnce(&InternalCall<'_>) -> Result<Reply, Refusal>,
) {
    let proven = OnceCell::new();
    serve(
        endpoint,
        |request| {
            let config = config::Server::load(&config::directory())?;
            let trusted = of_node(request, &config, &proven);
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

/// Lets a signed call of a node through.
#[cfg(feature = "server")]
fn of_node(request: &Request, config: &config::Server, proven: &OnceCell<Proven>) -> Result<(), Refusal> {
    let proof = Proven::check(request, config.key()?)?;
    match proven.get_or_init(|| proof).to {
        Recipient::Server => Ok(()),
        Recipient::Node(ref host) => Err(Refusal::forbidden(format!(
            "Refused: this message is for the node {host}, and this is the server."
        ))),
    }
}

#[cfg(feature = "server")]
pub use pages::{UserCall, View, user};

#[cfg(feature = "server")]
mod pages {
    use std::sync::OnceLock;

    use serde::Serialize;

    use super::{Refusal, Reply, Request, serve};
    use crate::cgi::policy::{Endpoint, Role};
    use crate::cgi::request::Format;
    use crate::cgi::sender::{Elsewhere, Sender, accepts_pages};
    use crate::cgi::user::{identify, mail};
    use crate::config;
    use crate::model::mail::Address;
    use crate::model::names::UserName;
    use crate::model::origin::Origin;
    use crate::model::sign;
    use crate::system::clock;
    use crate::system::log;
    use crate::template::page;

    /// What a page shows: the same data as HTML, JSON and text.
    pub trait View: Serialize {
        /// The page's template in `templates/page/`.
        const TEMPLATE: &'static str;

        /// As plain text: for lists one line an item, tab-separated.
        fn text(&self) -> String;
    }

    /// A call by somebody whom Apache has authenticated.
    #[derive(Debug)]
    pub struct UserCall<'a> {
        /// The endpoint.
        pub endpoint: &'static Endpoint,
        /// The request.
        pub request: &'a Request,
        /// `server.cfg`.
        pub config: config::Server,
        /// Who calls.
        pub user: UserName,
        /// Whether they are an administrator.
        pub administrator: bool,
        /// Whether the call may change something. If not, the endpoint shows the form, or asks.
        pub acts: bool,
        /// Where mail reaches them, if authentication says so and the call may change something.
        pub mail: Option<Address>,
        /// What everybody is to read at present, above every page; who opens the registry finds it there.
        pub banner: OnceLock<String>,
    }

    /// What the layout of every page shows.
    #[derive(Serialize)]
    struct Portal<'a> {
        user: &'a str,
        administrator: bool,
        version: &'static str,
        source: &'a str,
        resources: &'a str,
        endpoint: &'static str,
        token: String,
        banner: Option<&'a str>,
    }

    #[derive(Serialize)]
    struct Context<'a, P> {
        portal: Portal<'a>,
        page: &'a P,
    }

    impl UserCall<'_> {
        /// The answer in the form that the caller wants.
        pub fn reply<V: View>(&self, status: u16, view: &V) -> Result<Reply, Refusal> {
            match self.request.format {
                Format::Json => Reply::json(status, view),
                Format::Text | Format::Csv => Ok(Reply::text(status, view.text())),
                Format::Html => self.page(status, V::TEMPLATE, view),
            }
        }

        /// The answer to something that was done: a page for people (303), 202 and data for programs.
        pub fn done<V: View>(&self, location: &str, view: &V) -> Result<Reply, Refusal> {
            match self.request.format {
                Format::Html => Ok(Reply::see_other(location)),
                Format::Json | Format::Text | Format::Csv => self.reply(202, view),
            }
        }

        /// The token for a form on this page, which makes an order of what a browser sends.
        ///
        /// # Errors
        /// A [`Refusal`] when the key is missing.
        pub fn form_token(&self) -> Result<String, Refusal> {
            token(&self.config, &self.user, 0)
        }

        /// A page for people, of the template's name and of what it shows.
        pub fn page(&self, status: u16, template: &str, page: &impl Serialize) -> Result<Reply, Refusal> {
            let general = &self.config.general;
            let portal = Portal {
                user: self.user.as_str(),
                administrator: self.administrator,
                version: crate::VERSION,
                source: &general.source_url,
                resources: &general.resources_url,
                endpoint: self.endpoint.name,
                token: if self.endpoint.changes { self.form_token()? } else { String::new() },
                banner: self.banner.get().map(String::as_str),
            };
            page::render(&general.template_directory, template, &Context { portal, page })
                .map(|html| Reply::html(status, html))
                .map_err(Refusal::internal)
        }

        fn refuse(&self, refusal: &Refusal) -> Reply {
            let id = &self.request.id;
            match self.request.format {
                Format::Json => refusal.to_json(id),
                Format::Text | Format::Csv => refusal.to_text(id),
                Format::Html => match self.page(refusal.status, "error.html", &refusal.context(id)) {
                    Ok(reply) => refusal.finish(reply),
                    // The page can't be made: perhaps that is what is being reported.
                    Err(_) => refusal.to_text(id),
                },
            }
        }
    }

    /// The token that a form carries: made by this server, for this user, today or yesterday.
    fn token(config: &config::Server, user: &UserName, days_ago: i64) -> Result<String, Refusal> {
        let day = clock::now().unix() / 86_400 - days_ago;
        Ok(sign::token(&config.key()?, &["form", user.as_str(), &day.to_string()]))
    }

    /// Serves a page for users.
    pub fn user(endpoint: &'static Endpoint, handler: impl FnOnce(&UserCall<'_>) -> Result<Reply, Refusal>) {
        serve(
            endpoint,
            |request| {
                let config = config::Server::load(&config::directory())?;
                log::start(endpoint.name, request.id.clone(), Some(&config.general.log_file));
                let general = &config.general;
                let user = identify(&general.env_username_variable, general.certificate_name, &|name| {
                    std::env::var(name).ok()
                })?;
                let administrator = config.is_administrator(&user);
                let mail = None;
                let banner = OnceLock::new();
                let mut call =
                    UserCall { endpoint, request, config, user, administrator, acts: false, mail, banner };
                let result = admit(&call).and_then(|()| intent(&call)).and_then(|acts| {
                    if acts {
                        call.acts = true;
                        call.mail = mail_of(&call.config, &call.user);
                    }
                    handler(&call)
                });
                // Refusals get their page here, where there is a user to show it to.
                Ok(result.unwrap_or_else(|refusal| {
                    let who = call.user.as_str();
                    let detail = refusal.log.as_deref().unwrap_or_default();
                    let level = if refusal.status >= 500 { log::Level::Error } else { log::Level::Warning };
                    log::event(
                        level,
                        "refused",
                        &[
                            ("status", &refusal.status),
                            ("user", &who),
                            ("from", &request.from()),
                            ("why", &refusal.sentence),
                            ("detail", &detail),
                        ],
                    );
                    call.refuse(&refusal)
                }))
            },
            |refusal, request| match request.format {
                Format::Json => refusal.to_json(&request.id),
                Format::Html | Format::Text | Format::Csv => refusal.to_text(&request.id),
            },
        );
    }

    /// Where mail reaches the user, as authentication says. An address that can't be used keeps nobody out.
    fn mail_of(config: &config::Server, user: &UserName) -> Option<Address> {
        let variable = config.mail.env_mail_variable.as_ref()?;
        let address = mail(variable, &|name| std::env::var(name).ok());
        if let Err(why) = &address {
            log::event(log::Level::Warning, "no-mail-address", &[("user", user), ("why", why)]);
        }
        address.ok()
    }

    /// Lets the caller through if the endpoint is for them at all. Whose machine it is about, the handler knows.
    fn admit(call: &UserCall<'_>) -> Result<(), Refusal> {
        if call.endpoint.role == Role::Administrator && !call.administrator {
            return Err(Refusal::forbidden(
                "Only administrators see this page. They are named in [Administrators] of server.cfg.",
            ));
        }
        Ok(())
    }

    /// Fields that say how to show something and never what to do.
    const PASSIVE: [&str; 3] = ["format", "like", "scope"];

    /// Fields that say which machine is meant. To a script that is enough to act.
    const MACHINE: [&str; 2] = ["id", "vmHostname"];

    /// Whether a request that another site led here is for a page alone: no program reads the answer, and either a
    /// person opens a link or no field says what to do.
    fn shows_only(request: &Request) -> bool {
        let accepts_pages = request.header("accept").is_some_and(accepts_pages);
        let is_plain = |name| PASSIVE.contains(&name) || MACHINE.contains(&name);
        !request.is_post
            && request.format == Format::Html
            && (accepts_pages || request.fields.names().all(is_plain))
    }

    /// The refusal of what another site would have a browser do.
    fn led_here(elsewhere: &Elsewhere, host: &str) -> Refusal {
        let (why, more) = match elsewhere {
            Elsewhere::Site => ("your browser was sent here by another site".to_owned(), String::new()),
            Elsewhere::Page(origin) => (
                format!(
                    "your browser was sent here by another site, {origin:.200}, while Apache was asked for {host:.200}"
                ),
                format!(
                    " If {origin:.200} is the portal, behind a proxy, an administrator names it in portalURLs in \
                     [General] of server.cfg."
                ),
            ),
            Elsewhere::Unreadable(header) => (
                format!("the header {header} can't be read, so another site may have sent your browser here"),
                String::new(),
            ),
        };
        Refusal::forbidden(format!("Refused: {why}. Open the portal and do it there.{more}"))
    }

    /// Whether the call is meant to change something, and may.
    ///
    /// A script (wget) says what it wants with a GET or a POST. A browser is known by what only browsers
    /// send; it changes something only by a POST from a form of ours, which its token proves.
    fn intent(call: &UserCall<'_>) -> Result<bool, Refusal> {
        let request = call.request;
        let asks = request.is_post || request.fields.names().any(|name| !PASSIVE.contains(&name));
        // HEAD asks what a GET would say (wget --spider), and gets no answer that would tell what was done.
        if !call.endpoint.changes || !asks || request.is_head {
            return Ok(false);
        }
        let host = request.header("host").unwrap_or_default();
        let is_ours = |origin: &Origin| origin.is_at(host) || call.config.is_portal(origin);
        match Sender::of(&request.headers, is_ours) {
            Sender::Script => return Ok(true),
            // A browser's GET shows a page, wherever it comes from: links in mails are opened in webmail.
            Sender::Elsewhere(_) if shows_only(request) => return Ok(false),
            Sender::Elsewhere(elsewhere) => return Err(led_here(&elsewhere, host)),
            Sender::Browser(_) if !request.is_post && request.format == Format::Html => return Ok(false),
            // Whoever wants no page fills in no form, either.
            Sender::Browser(header)
                if request.format != Format::Html
                    && (!request.is_post || request.fields.get("token").is_none()) =>
            {
                return Err(Refusal::bad_request(format!(
                    "Nothing was done: the header {header} is a browser's, and a browser acts by the portal's \
                     forms only. A script sends none of Sec-Fetch-Site, Origin, Referer and Accept-Language, and \
                     no text/html in Accept."
                )));
            }
            Sender::Browser(_) => {}
        }
        let given = request.fields.get("token").unwrap_or_default();
        for days_ago in [0, 1] {
            if token(&call.config, &call.user, days_ago)? == given {
                return Ok(true);
            }
        }
        Err(Refusal::forbidden(
            "This form is too old, or not from this portal. Open it again and send it again.",
        ))
    }
}
