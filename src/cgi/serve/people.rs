//! Pages for people authenticated by Apache.

use crate::cgi::policy::{Endpoint, Role};
use crate::cgi::reply::{Refusal, Reply};
use crate::cgi::request::Format;
use crate::cgi::user::{identify, mail};
use crate::config;
use crate::model::mail::Address;
use crate::model::names::UserName;
use crate::system::log;

use super::call::UserCall;
use super::intent::intent;
use super::serve;

/// Answers a call by a user.
pub type PageHandler = fn(&UserCall<'_>) -> Result<Reply, Refusal>;

/// An endpoint for people and their scripts.
#[derive(Debug)]
pub struct Page {
    endpoint: &'static Endpoint,
    handler: PageHandler,
}

impl Page {
    /// A row of the table.
    pub(crate) const fn new(endpoint: &'static Endpoint, handler: PageHandler) -> Self {
        Self { endpoint, handler }
    }

    /// Serves the request that this program was started for.
    pub fn serve(&self) {
        user(self.endpoint, self.handler);
    }
}

fn user(endpoint: &'static Endpoint, handler: PageHandler) {
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
            let mut call = UserCall { endpoint, request, config, user, administrator, acts: false, mail };
            let result = admit(&call).and_then(|()| intent(&call)).and_then(|acts| {
                if acts {
                    call.acts = true;
                    call.mail = mail_of(&call.config, &call.user);
                }
                handler(&call)
            });
            // The user is known from here on, so a refusal can be shown as a page.
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

/// Returns the user's mail address, as authentication gives it. One that can't be used is only
/// logged, and keeps nobody out.
fn mail_of(config: &config::Server, user: &UserName) -> Option<Address> {
    let variable = config.mail.env_mail_variable.as_ref()?;
    let address = mail(variable, &|name| std::env::var(name).ok());
    if let Err(why) = &address {
        log::event(log::Level::Warning, "mail.address-missing", &[("user", user), ("why", why)]);
    }
    address.ok()
}

/// Checks that the endpoint is for this caller at all. Handlers check whose machine it is about.
fn admit(call: &UserCall<'_>) -> Result<(), Refusal> {
    if call.endpoint.role == Role::Administrator && !call.administrator {
        return Err(Refusal::forbidden(
            "Only administrators see this page. They are named in [Administrators] of server.cfg.",
        ));
    }
    Ok(())
}
