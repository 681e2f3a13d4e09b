//! Mail: what is written ([`Notice`]), to whom ([`Post`]), and how it leaves ([`send_due`]). The only user of lettre.
//!
//! Nothing is sent where something happens. A mail is put into the outbox, in the transaction that records what it
//! tells of: then it is written if that happened, and only then. Upkeep sends what waits, as often as it takes.

mod letter;
mod notice;
mod send;
mod sendmail;
mod smtp;

pub use notice::Notice;
pub use send::{Sent, answers, send_due};

use crate::config;
use crate::model::lease::Moment;
use crate::model::mail::Address;
use crate::server::registry::mail::Letter;
use crate::server::registry::user::Owner;
use crate::server::registry::{Reader, RegistryError, Writer};
use crate::system::log::{self, Level};
use crate::template::{TemplateError, mail};

/// What became of something that was to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Posted {
    /// So many mails wait to be sent.
    Queued(usize),
    /// No mail is sent: `[Mail]` has no transport.
    NoTransport,
    /// There is nobody whose address is known.
    NoAddress,
    /// It could not be written: its template is broken. The log says why.
    Unwritten,
}

/// Writes mail and puts it into the outbox.
#[derive(Debug, Clone)]
pub struct Post<'c> {
    config: &'c config::Server,
}

impl<'c> Post<'c> {
    /// As the configuration wants it.
    pub fn new(config: &'c config::Server) -> Self {
        Self { config }
    }

    /// Tells the owner of a machine.
    ///
    /// # Errors
    /// [`RegistryError`] when SQLite refuses.
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

    /// Tells all administrators who have an address.
    ///
    /// # Errors
    /// [`RegistryError`] when SQLite refuses.
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

    /// Whether mail is sent at all.
    pub fn is_on(&self) -> bool {
        self.config.mail.outlet.is_some()
    }

    /// Where mail reaches somebody: as the configuration says, else as authentication said the last time, else by their
    /// name if that is an address, else in the domain of `[Mail]`, where their name can stand before an `@`.
    ///
    /// # Errors
    /// [`RegistryError`] when SQLite refuses.
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
        // Who signs in by an address has one.
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
            // What the mail would have told has happened all the same, and must be recorded.
            Err(error) => {
                log::event(Level::Error, "mail.unwritten", &[("kind", &notice.kind()), ("why", &error)]);
                return Ok(Posted::Unwritten);
            }
        };
        let mut queued = 0;
        for address in addresses {
            let letter = Letter {
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

    /// What is written at `now`.
    ///
    /// # Errors
    /// [`TemplateError`].
    pub fn compose(&self, notice: &Notice<'_>, now: Moment) -> Result<mail::Rendered, TemplateError> {
        let dir = &self.config.general.template_directory;
        mail::render(dir, notice.kind(), &notice.context(self.config, now))
    }
}

/// Reads the templates of all kinds of mail without filling them in.
///
/// # Errors
/// [`TemplateError`], that of the first that is broken.
pub fn check_templates(config: &config::Server) -> Result<(), TemplateError> {
    notice::KINDS.iter().try_for_each(|kind| mail::check(&config.general.template_directory, kind))
}
