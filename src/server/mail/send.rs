//! Sending the mail in the outbox.

use crate::config;
use crate::config::mail::{Outlet, Transport};
use crate::model::mail::Address;
use crate::server::mail::message::{DeliveryFailure, letter};
use crate::server::mail::{sendmail, smtp};
use crate::server::registry::event::Actor;
use crate::server::registry::mail::Waiting;
use crate::server::registry::{Registry, RegistryError};
use crate::system::log::{self, Level};

/// The pauses before further attempts, in minutes; the last one repeats.
const PAUSES: [i64; 4] = [1, 5, 15, 60];

/// How long a sender's claim on a mail lasts, in seconds: longer than a server may take to accept
/// it.
const CLAIM: i64 = 20 * 60;

/// The outcome of sending the mail that was due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sent {
    /// The number of mails accepted by the mail server.
    pub sent: u32,
    /// The number of mails left in the outbox, including those not due yet.
    pub waiting: u32,
    /// The number of mails that can never be sent; history and log say why.
    pub given_up: u32,
}

enum Carrier<'a> {
    Smtp(Box<smtp::Server<'a>>),
    Sendmail(&'a std::path::Path),
}

impl<'a> Carrier<'a> {
    fn of(outlet: &'a Outlet) -> Self {
        match &outlet.transport {
            Transport::Smtp(server) => Self::Smtp(Box::new(smtp::Server::new(server, &outlet.sender))),
            Transport::Sendmail(program) => Self::Sendmail(program),
        }
    }

    fn deliver(&mut self, mail: &Waiting, outlet: &Outlet) -> Result<(), DeliveryFailure> {
        let mail = letter(mail, &outlet.sender).map_err(DeliveryFailure::Refused)?;
        match self {
            Self::Smtp(server) => server.deliver(&mail),
            Self::Sendmail(program) => sendmail::deliver(program, &outlet.sender, &mail),
        }
    }

    fn close(self) {
        if let Self::Smtp(server) = self {
            server.close();
        }
    }
}

/// Sends the mail that is due, oldest first, but at most `limit` mails. Several processes may do
/// this at once. It can take minutes if the mail server is slow; no lock is held meanwhile.
///
/// A mail is removed from the outbox right after the server has accepted it. If the process is
/// killed between the two, the mail is sent again; SMTP offers no remedy except the `Message-ID`,
/// which stays the same.
///
/// # Errors
/// [`RegistryError`]; mail sent before the error stays sent.
pub fn send_due(registry: &mut Registry, config: &config::Server, limit: u32) -> Result<Sent, RegistryError> {
    let mut sent = Sent::default();
    if let Some(outlet) = &config.mail.outlet {
        let now = registry.now();
        let due = registry.read(|reader| reader.mail_due(now, limit))?;
        let mut carrier = Carrier::of(outlet);
        let done = send(registry, outlet, &due, &mut carrier, &mut sent);
        carrier.close();
        done?;
    }
    sent.waiting = registry.read(|reader| reader.count_mail())?;
    Ok(sent)
}

fn send(
    registry: &mut Registry,
    outlet: &Outlet,
    due: &[Waiting],
    carrier: &mut Carrier<'_>,
    sent: &mut Sent,
) -> Result<(), RegistryError> {
    for mail in due {
        if !registry.write(|writer| writer.claim_mail(&mail.id, writer.now().plus_seconds(CLAIM)))? {
            continue;
        }
        let delivered = carrier.deliver(mail, outlet);
        let facts = |what: &str, level, why: &str| {
            log::event(
                level,
                what,
                &[("mail", &mail.id), ("to", &mail.recipient), ("subject", &mail.subject), ("why", &why)],
            );
        };
        match delivered {
            Ok(()) => {
                taken(registry, mail)?;
                facts("mail.sent", Level::Info, "");
                sent.sent += 1;
            }
            Err(DeliveryFailure::Refused(why)) => {
                give_up(registry, outlet, mail, &why)?;
                facts("mail.refused", Level::Error, &why);
                sent.given_up += 1;
            }
            Err(DeliveryFailure::Later(why)) => {
                postpone(registry, mail, &why)?;
                facts("mail.postponed", Level::Warning, &why);
            }
            // The others stay due. Later runs try them, one per run while the server is down.
            Err(DeliveryFailure::Unreachable(why)) => {
                postpone(registry, mail, &why)?;
                facts("mail.unreachable", Level::Warning, &why);
                break;
            }
        }
    }
    Ok(())
}

/// Removes an accepted mail from the outbox. Retries while other processes hold the lock, because
/// the mail would otherwise be sent again.
fn taken(registry: &mut Registry, mail: &Waiting) -> Result<(), RegistryError> {
    let mut forget = || registry.write(|writer| writer.unqueue(&mail.id));
    let mut result = forget();
    for _ in 0..3 {
        if !matches!(result, Err(RegistryError::Busy)) {
            break;
        }
        result = forget();
    }
    result
}

fn postpone(registry: &mut Registry, mail: &Waiting, why: &str) -> Result<(), RegistryError> {
    let pause = PAUSES.get(mail.tries as usize).or(PAUSES.last()).map_or(0, |minutes| minutes * 60);
    registry.write(|writer| writer.postpone(&mail.id, why, writer.now().plus_seconds(pause)))
}

fn give_up(registry: &mut Registry, outlet: &Outlet, mail: &Waiting, why: &str) -> Result<(), RegistryError> {
    let from = match &outlet.transport {
        Transport::Smtp(server) => server.host.clone(),
        Transport::Sendmail(program) => program.display().to_string(),
    };
    let actor = Actor { who: "mail server".to_owned(), from };
    let detail = format!("{:?}: {why}", mail.subject);
    registry.write_as(&actor, |writer| {
        writer.record_about(&mail.recipient, "mail refused", &detail)?;
        writer.unqueue(&mail.id)
    })
}

/// Checks that mail could be sent now: by SMTP, that the server accepts our sender and a mail to
/// `recipient`; otherwise, that the program exists. Sends nothing.
///
/// # Errors
/// What is wrong, in words.
pub fn answers(outlet: &Outlet, recipient: Option<&Address>) -> Result<(), String> {
    match &outlet.transport {
        Transport::Smtp(server) => smtp::Server::new(server, &outlet.sender).ask(recipient),
        Transport::Sendmail(program) => sendmail::answers(program),
    }
}
