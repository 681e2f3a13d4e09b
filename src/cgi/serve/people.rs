//! Pages for people whom Apache has authenticated.

use std::sync::OnceLock;

use serde::Serialize;

use crate::cgi::policy::{Endpoint, Role};
use crate::cgi::reply::{Refusal, Reply};
use crate::cgi::request::{Format, Request};
use crate::cgi::user::{identify, mail};
use crate::config;
use crate::model::mail::Address;
use crate::model::names::UserName;
use crate::system::log;
use crate::template::page;

use super::answer::log_refusal;
use super::intent::{form_token, intent};
use super::serve;

/// What a page shows: the same data as HTML, JSON and text.
pub trait View: Serialize {
    /// The page's template in `templates/page/`.
    const TEMPLATE: &'static str;

    /// As plain text; a list has one line an item, tab-separated.
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
    /// What administrators want everybody to read above every page at present. Whoever opens the
    /// registry finds it there, and sets it.
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

    /// The answer once something has been done: a page to go to for people (303), 202 and data for
    /// programs.
    pub fn done<V: View>(&self, location: &str, view: &V) -> Result<Reply, Refusal> {
        match self.request.format {
            Format::Html => Ok(Reply::see_other(location)),
            Format::Json | Format::Text | Format::Csv => self.reply(202, view),
        }
    }

    /// The token for a form on this page, without which nothing that a browser sends counts as an
    /// order. Fails if the key can't be read.
    pub fn form_token(&self) -> Result<String, Refusal> {
        form_token(&self.config, &self.user)
    }

    /// A page for people, from a template and the data that it shows.
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

    /// Logs a refusal that the caller gets as a page of the handler's own.
    pub fn log_refusal(&self, refusal: &Refusal) {
        log_refusal(refusal, Some(&self.user), &self.request.from());
    }

    fn refuse(&self, refusal: &Refusal) -> Reply {
        let id = &self.request.id;
        match self.request.format {
            Format::Json => refusal.to_json(id),
            Format::Text | Format::Csv => refusal.to_text(id),
            Format::Html => match self.page(refusal.status, "error.html", &refusal.context(id)) {
                Ok(reply) => refusal.finish(reply),
                // Whatever is wrong with the page may be what is being reported.
                Err(_) => refusal.to_text(id),
            },
        }
    }
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
            // From here on there is a user, to whom a refusal can be shown as a page.
            Ok(result.unwrap_or_else(|refusal| {
                call.log_refusal(&refusal);
                call.refuse(&refusal)
            }))
        },
        |refusal, request| match request.format {
            Format::Json => refusal.to_json(&request.id),
            Format::Html | Format::Text | Format::Csv => refusal.to_text(&request.id),
        },
    );
}

/// Where mail reaches the user, as authentication says. An address that can't be used keeps nobody
/// out.
fn mail_of(config: &config::Server, user: &UserName) -> Option<Address> {
    let variable = config.mail.env_mail_variable.as_ref()?;
    let address = mail(variable, &|name| std::env::var(name).ok());
    if let Err(why) = &address {
        log::event(log::Level::Warning, "mail.address-missing", &[("user", user), ("why", why)]);
    }
    address.ok()
}

/// Lets callers through if the endpoint is for them at all. Handlers check whose machine it is
/// about.
fn admit(call: &UserCall<'_>) -> Result<(), Refusal> {
    if call.endpoint.role == Role::Administrator && !call.administrator {
        return Err(Refusal::forbidden(
            "Only administrators see this page. They are named in [Administrators] of server.cfg.",
        ));
    }
    Ok(())
}
