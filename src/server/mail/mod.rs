//! Mail: what is written ([`Notice`]), to whom ([`Post`]), and how it is sent ([`send_due`]). The
//! only module that uses lettre.
//!
//! Mail is never sent on the spot. It goes into the outbox, in the transaction that records the
//! event, so there is a mail if and only if the event happened. Upkeep sends what is in the outbox,
//! retrying as often as necessary.

mod message;
mod notice;
mod send;
mod sendmail;
mod smtp;

pub use notice::Notice;
pub use send::{Sent, answers, send_due};

use crate::config;
use crate::model::lease::Moment;
use crate::model::mail::Address;
use crate::server::registry::mail::Message;
use crate::server::registry::user::Owner;
use crate::server::registry::{Reader, RegistryError, Writer};
use crate::system::log::{self, Level};
use crate::template::{TemplateError, mail};

/// The outcome of posting a notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Posted {
    /// This many mails were queued.
    Queued(usize),
    /// No mail is sent: `[Mail]` configures no transport.
    NoTransport,
    /// No recipient has a known address.
    NoAddress,
    /// The template is broken. The log says why.
    Unwritten,
}

/// Writes mail and adds it to the outbox.
#[derive(Debug, Clone)]
pub struct Post<'c> {
    config: &'c config::Server,
}

impl<'c> Post<'c> {
    /// Creates a post that follows the configuration.
    pub fn new(config: &'c config::Server) -> Self {
        Self { config }
    }

    /// Posts a notice to a machine's owner.
    pub fn to_owner(
        &self,
        writer: &Writer<'_>,
        owner: &Owner,
        notice: &Notice<'_>,
    ) -> Result<Posted, RegistryError> {
        if self.config.mail.outlet.is_none() {
            return Ok(Posted::NoTransport);
        }
        let address = self.address(writer.reader(), owner)?;
        self.queue(writer, address.iter(), notice)
    }

    /// Posts a notice to all administrators who have an address.
    pub fn to_administrators(
        &self,
        writer: &Writer<'_>,
        notice: &Notice<'_>,
    ) -> Result<Posted, RegistryError> {
        if self.config.mail.outlet.is_none() {
            return Ok(Posted::NoTransport);
        }
        self.queue(writer, self.config.administrators_mail().into_iter(), notice)
    }

    /// Returns whether mail is sent at all.
    pub fn is_on(&self) -> bool {
        self.config.mail.outlet.is_some()
    }

    /// Returns a user's address: from the configuration, else from their last authentication, else
    /// their name if it is an address, else their name in the domain of `[Mail]`, if it is valid
    /// before an `@`.
    pub fn address(&self, reader: Reader<'_>, owner: &Owner) -> Result<Option<Address>, RegistryError> {
        if let Some(address) = self.config.mail_address(owner.user_name()) {
            return Ok(Some(address.clone()));
        }
        let unusable = |what: &str, fault: &dyn std::fmt::Display| {
            log::event(
                Level::Warning,
                "mail.address-missing",
                &[("owner", &owner.as_str()), ("to", &what), ("why", fault)],
            );
        };
        if let Some(known) = reader.mail_of(owner)? {
            match known.parse() {
                Ok(address) => return Ok(Some(address)),
                Err(fault) => unusable(&known, &fault),
            }
        }
        // A user name may itself be an address.
        if let Ok(address) = owner.as_str().parse() {
            return Ok(Some(address));
        }
        let Some(domain) = &self.config.mail.domain else { return Ok(None) };
        let address = Address::new(owner.as_str(), domain);
        if let Err(fault) = &address {
            unusable(&format!("{}@{domain}", owner.as_str()), fault);
        }
        Ok(address.ok())
    }

    fn queue<'a>(
        &self,
        writer: &Writer<'_>,
        addresses: impl Iterator<Item = &'a Address>,
        notice: &Notice<'_>,
    ) -> Result<Posted, RegistryError> {
        let mut addresses = addresses.peekable();
        if addresses.peek().is_none() {
            return Ok(Posted::NoAddress);
        }
        let written = match self.compose(notice, writer.now()) {
            Ok(written) => written,
            // The event that the mail is about has happened all the same and must be recorded.
            Err(error) => {
                log::event(Level::Error, "mail.unwritten", &[("kind", &notice.kind()), ("why", &error)]);
                return Ok(Posted::Unwritten);
            }
        };
        let mut queued = 0;
        for address in addresses {
            let letter = Message {
                recipient: address.to_string(),
                subject: written.subject.clone(),
                plain: written.plain.clone(),
                html: written.html.clone(),
            };
            writer.queue(&letter)?;
            queued += 1;
        }
        Ok(Posted::Queued(queued))
    }

    /// Renders a notice as of `now`.
    pub fn compose(&self, notice: &Notice<'_>, now: Moment) -> Result<mail::Rendered, TemplateError> {
        let dir = &self.config.general.template_directory;
        mail::render(dir, notice.kind(), &notice.context(self.config, now))
    }
}

/// Parses the templates of all kinds of mail without rendering them.
///
/// # Errors
/// The [`TemplateError`] of the first that is broken.
pub fn check_templates(config: &config::Server) -> Result<(), TemplateError> {
    notice::KINDS.iter().try_for_each(|kind| mail::check(&config.general.template_directory, kind))
}
