//! The outbox is emptied.

use crate::config;
use crate::config::mail::{Outlet, Transport};
use crate::model::mail::Address;
use crate::server::mail::letter::{Trouble, letter};
use crate::server::mail::{sendmail, smtp};
use crate::server::registry::event::Actor;
use crate::server::registry::mail::Waiting;
use crate::server::registry::{Registry, RegistryError};
use crate::system::log::{self, Level};

/// How long to wait before each further try, in minutes; after the last, as long as that again and again.
const PAUSES: [i64; 4] = [1, 5, 15, 60];

/// For how long whoever sends a mail has it for themselves, in seconds: longer than a server may take over it.
const CLAIM: i64 = 20 * 60;

/// What became of the mail that was due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sent {
    /// So many have been taken over by the mail server.
    pub sent: u32,
    /// So many wait, those that are not due yet among them.
    pub waiting: u32,
    /// So many can never be sent; history and log say why.
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

    fn deliver(&mut self, mail: &Waiting, outlet: &Outlet) -> Result<(), Trouble> {
        let mail = letter(mail, &outlet.sender).map_err(Trouble::Refused)?;
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

/// Sends the mail that is due, the oldest first, and not more than `limit`. Several processes may do this at once.
/// It can take minutes when the mail server is slow; nothing is locked meanwhile.
///
/// A mail is taken out of the outbox right after the server has taken it over. Whoever is killed between the two
/// sends it again; SMTP has no remedy for that but the `Message-ID`, which is the same then.
///
/// # Errors
/// [`RegistryError`] when SQLite refuses. What was sent until then is sent.
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
            Err(Trouble::Refused(why)) => {
                give_up(registry, outlet, mail, &why)?;
                facts("mail.refused", Level::Error, &why);
                sent.given_up += 1;
            }
            Err(Trouble::Later(why)) => {
                postpone(registry, mail, &why)?;
                facts("mail.postponed", Level::Warning, &why);
            }
            // The others stay due: the next run tries them, each with the first of it.
            Err(Trouble::Unreachable(why)) => {
                postpone(registry, mail, &why)?;
                facts("mail.unreachable", Level::Warning, &why);
                break;
            }
        }
    }
    Ok(())
}

/// Forgets a mail that has been taken over. Were that given up because others write at the time, it would be sent again.
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

/// Whether mail could be sent now: the server takes our sender, and would take mail to `recipient`; or the program is
/// there. Nothing is sent.
///
/// # Errors
/// What is wrong, in words.
pub fn answers(outlet: &Outlet, recipient: Option<&Address>) -> Result<(), String> {
    match &outlet.transport {
        Transport::Smtp(server) => smtp::Server::new(server, &outlet.sender).ask(recipient),
        Transport::Sendmail(program) => sendmail::answers(program),
    }
}
