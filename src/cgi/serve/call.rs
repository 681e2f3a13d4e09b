//! A call by a user authenticated by Apache: what a handler gets, and how it answers.

use serde::Serialize;

use crate::cgi::policy::Endpoint;
use crate::cgi::reply::{Refusal, Reply};
use crate::cgi::request::{Format, Request};
use crate::config;
use crate::model::mail::Address;
use crate::model::names::UserName;
use crate::template::page;

use super::answer::log_refusal;
use super::token::form_token;

/// What programs get: the same data as JSON and as text.
pub trait Data: Serialize {
    /// Returns it as plain text; a list has one line per item, tab-separated.
    fn text(&self) -> String;
}

/// What a page shows: data with a template for people.
pub trait View: Data {
    /// The page's template in `templates/page/`.
    const TEMPLATE: &'static str;
}

/// What a page shows, and the banner above it.
#[derive(Debug, Clone)]
pub struct WithBanner<T> {
    /// What the page shows.
    pub content: T,
    /// A message from administrators. Only people see it.
    pub banner: Option<String>,
}

impl<T> WithBanner<T> {
    /// Converts the content.
    pub fn map<U>(self, make: impl FnOnce(T) -> U) -> WithBanner<U> {
        WithBanner { content: make(self.content), banner: self.banner }
    }
}

/// A call by a user authenticated by Apache.
#[derive(Debug)]
pub struct UserCall<'a> {
    /// The endpoint.
    pub endpoint: &'static Endpoint,
    /// The request.
    pub request: &'a Request,
    /// `server.cfg`.
    pub config: config::Server,
    /// The caller.
    pub user: UserName,
    /// Whether they are an administrator.
    pub administrator: bool,
    /// Whether the call may change something. If not, the endpoint shows the form or asks for
    /// confirmation.
    pub acts: bool,
    /// Their mail address, if authentication gives one and the call may change something.
    pub mail: Option<Address>,
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
    /// Returns the answer in the format that the caller wants.
    pub fn reply<V: View>(&self, status: u16, view: &WithBanner<V>) -> Result<Reply, Refusal> {
        let WithBanner { content, banner } = view;
        match self.request.format {
            Format::Html => self
                .page(status, V::TEMPLATE, banner.as_deref(), content)
                .map_err(|refusal| refusal.below(banner.clone())),
            Format::Json | Format::Text | Format::Csv => self.data(status, content),
        }
    }

    /// Returns the answer after something has been done, or has failed: people are redirected (303)
    /// to a page that shows the outcome, programs get the data.
    pub fn outcome(&self, status: u16, location: &str, data: &impl Data) -> Result<Reply, Refusal> {
        match self.request.format {
            Format::Html => Ok(Reply::see_other(location)),
            Format::Json | Format::Text | Format::Csv => self.data(status, data),
        }
    }

    fn data(&self, status: u16, data: &impl Data) -> Result<Reply, Refusal> {
        match self.request.format {
            Format::Json => Reply::json(status, data),
            Format::Html | Format::Text | Format::Csv => Ok(Reply::text(status, data.text())),
        }
    }

    /// Returns the token for a form on this page, without which no order from a browser is
    /// accepted. Fails if the key can't be read.
    pub fn form_token(&self) -> Result<String, Refusal> {
        form_token(&self.config, &self.user)
    }

    /// Returns a page for people, rendered from a template and its data.
    fn page(
        &self,
        status: u16,
        template: &str,
        banner: Option<&str>,
        page: &impl Serialize,
    ) -> Result<Reply, Refusal> {
        let general = &self.config.general;
        let portal = Portal {
            user: self.user.as_str(),
            administrator: self.administrator,
            version: crate::VERSION,
            source: &general.source_url,
            resources: &general.resources_url,
            endpoint: self.endpoint.name,
            token: if self.endpoint.changes() { self.form_token()? } else { String::new() },
            banner,
        };
        page::render(&general.template_directory, template, &Context { portal, page })
            .map(|html| Reply::html(status, html))
            .map_err(Refusal::internal)
    }

    /// Logs a refusal that the caller gets as a page of the handler's own.
    pub fn log_refusal(&self, refusal: &Refusal) {
        log_refusal(refusal, Some(&self.user), &self.request.from());
    }

    /// Returns the answer to a call that is refused, in the format that the caller wants.
    pub(super) fn refuse(&self, refusal: &Refusal) -> Reply {
        let id = &self.request.id;
        match self.request.format {
            Format::Json => refusal.to_json(id),
            Format::Text | Format::Csv => refusal.to_text(id),
            Format::Html => {
                let banner = refusal.banner.as_deref();
                match self.page(refusal.status, "error.html", banner, &refusal.context(id)) {
                    Ok(reply) => refusal.finish(reply),
                    // The error being reported may be the page's own.
                    Err(_) => refusal.to_text(id),
                }
            }
        }
    }
}
