//! Delivery by SMTP (RFC 5321), many mails over one connection.

use std::error::Error as _;
use std::io;
use std::time::Duration;

use lettre::transport::smtp::Error;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{Certificate, CertificateStore, SmtpConnection, TlsParameters};
use lettre::transport::smtp::commands::{Data, Mail, Rcpt, Rset};
use lettre::transport::smtp::extension::ClientId;
use lettre::transport::smtp::response::{Category, Code, Detail, Severity};

use crate::config::mail::{Encryption, MailServer};
use crate::model::fault::detail;
use crate::model::mail::{Address, MailDomain};
use crate::server::mail::message::{DeliveryFailure, OnItsWay, address};

/// The time limit for connecting and for each command.
const LIMIT: Duration = Duration::from_secs(10);

/// The time limit for the server to accept a mail. A client that hangs up earlier causes
/// duplicates: RFC 5321, section 4.5.3.2.6, asks for ten minutes.
const TAKING_OVER: Duration = Duration::from_secs(600);

/// A mail server, connected when the first mail is sent.
pub(super) struct Server<'a> {
    settings: &'a MailServer,
    sender: &'a Address,
    connection: Option<SmtpConnection>,
}

/// The step in which sending a mail failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Before the recipient is named.
    Sender,
    /// Naming the recipient.
    Recipient,
    /// Transferring the content.
    Content,
}

impl<'a> Server<'a> {
    pub(super) fn new(settings: &'a MailServer, sender: &'a Address) -> Self {
        Self { settings, sender, connection: None }
    }

    /// Hands over a mail.
    pub(super) fn deliver(&mut self, mail: &OnItsWay) -> Result<(), DeliveryFailure> {
        let mut connection = match self.connection.take() {
            Some(mut open) => match self.begin(&mut open) {
                // The server closed the connection, for instance after a hundred mails. Nothing is
                // lost, and a new connection may work.
                Err(error) if is_gone(&error) => self.begun()?,
                begun => {
                    begun.map_err(|error| judge(Step::Sender, &error))?;
                    open
                }
            },
            None => self.begun()?,
        };
        let handed = hand_over(&mut connection, mail);
        let usable = match &handed {
            Ok(()) => true,
            // The server accepts another mail once it has reset this one.
            Err(DeliveryFailure::Later(_) | DeliveryFailure::Refused(_)) => connection.command(Rset).is_ok(),
            Err(DeliveryFailure::Unreachable(_)) => false,
        };
        if usable {
            self.connection = Some(connection);
        }
        handed
    }

    /// Opens a new connection and begins a mail on it.
    fn begun(&self) -> Result<SmtpConnection, DeliveryFailure> {
        let mut connection = self.connect().map_err(DeliveryFailure::Unreachable)?;
        self.begin(&mut connection).map_err(|error| judge(Step::Sender, &error))?;
        Ok(connection)
    }

    fn begin(&self, connection: &mut SmtpConnection) -> Result<(), Error> {
        // An address that is well-formed here is also valid for lettre; otherwise the server would
        // receive the empty sender of a bounce.
        let sender = address(self.sender).ok();
        connection.command(Mail::new(sender, Vec::new())).map(drop)
    }

    /// Connects to the point where mail could be sent.
    fn connect(&self) -> Result<SmtpConnection, String> {
        let MailServer { host, port, encryption, login, .. } = self.settings;
        let hello = own_name();
        let tls = match encryption {
            Encryption::None => None,
            Encryption::StartTls | Encryption::Tls => Some(self.tls()?),
        };
        let at_once = tls.as_ref().filter(|_| *encryption == Encryption::Tls);
        let mut connection =
            SmtpConnection::connect((host.as_str(), *port), Some(LIMIT), &hello, at_once, None)
                .map_err(|error| words(&error))?;
        if let Some(tls) = tls.as_ref().filter(|_| *encryption == Encryption::StartTls) {
            connection.starttls(tls, &hello).map_err(|error| words(&error))?;
        }
        if let Some(login) = login {
            let file = &login.password_file;
            let password = std::fs::read_to_string(file)
                .map_err(|error| format!("the password in {}: {error}", file.display()))?;
            let password = password.trim_end_matches(['\r', '\n']).to_owned();
            connection
                .auth(&[Mechanism::Plain, Mechanism::Login], &Credentials::new(login.user.clone(), password))
                .map_err(|error| words(&error))?;
        }
        Ok(connection)
    }

    /// Connects and asks whether a mail to `recipient` would be accepted, without sending one.
    pub(super) fn ask(&self, recipient: Option<&Address>) -> Result<(), String> {
        let mut connection = self.connect()?;
        self.begin(&mut connection).map_err(|error| words(&error))?;
        if let Some(recipient) = recipient {
            let asked = connection.command(Rcpt::new(address(recipient)?, Vec::new()));
            match asked.map_err(|error| judge(Step::Recipient, &error)) {
                // A server that asks to be tried again later is working.
                Ok(_) | Err(DeliveryFailure::Later(_)) => {}
                Err(DeliveryFailure::Refused(why) | DeliveryFailure::Unreachable(why)) => {
                    return Err(format!("it does not take mail to {recipient}: {why}"));
                }
            }
        }
        // The server has answered; its reply to QUIT does not matter.
        let _ = connection.command(Rset).and_then(|_| connection.quit());
        Ok(())
    }

    fn tls(&self) -> Result<TlsParameters, String> {
        let file = &self.settings.ca_file;
        let pem = std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
        let of_file = |error: Error| format!("{}: {}", file.display(), words(&error));
        TlsParameters::builder(self.settings.host.clone())
            .certificate_store(CertificateStore::None)
            .add_root_certificate(Certificate::from_pem(&pem).map_err(of_file)?)
            .build_rustls()
            .map_err(of_file)
    }

    /// Closes the connection, if there is one.
    pub(super) fn close(mut self) {
        if let Some(mut connection) = self.connection.take() {
            // Everything sent has been accepted.
            let _ = connection.quit();
        }
    }
}

/// Names the recipient of a mail that has begun, and transfers it.
fn hand_over(connection: &mut SmtpConnection, mail: &OnItsWay) -> Result<(), DeliveryFailure> {
    let recipient = address(&mail.recipient).map_err(DeliveryFailure::Refused)?;
    connection.command(Rcpt::new(recipient, Vec::new())).map_err(|error| judge(Step::Recipient, &error))?;
    connection.command(Data).map_err(|error| judge(Step::Content, &error))?;
    let patience = |connection: &mut SmtpConnection, limit| {
        connection.set_timeout(Some(limit)).map_err(|error| DeliveryFailure::Unreachable(error.to_string()))
    };
    patience(connection, TAKING_OVER)?;
    // From here to the answer it is open who is responsible for the mail. If the connection breaks
    // now, the server may have it, and it is sent again; SMTP offers no remedy except the
    // Message-ID, which stays the same.
    connection.message(&mail.bytes).map_err(|error| judge(Step::Content, &error))?;
    // The server has accepted the mail. If the connection has broken, the next mail will notice.
    let _ = patience(connection, LIMIT);
    Ok(())
}

/// Classifies an error: does it concern this mail only, or all that follow?
fn judge(step: Step, error: &Error) -> DeliveryFailure {
    let why = words(error);
    match error.status() {
        // 421: the server closes the connection, whatever the command.
        Some(code) if is_closing(code) => DeliveryFailure::Unreachable(why),
        // The server accepts no mail from us.
        Some(_) | None if step == Step::Sender => DeliveryFailure::Unreachable(why),
        // 530 to 538 (RFC 4954): the server wants us to log in, which has nothing to do with the
        // recipient.
        Some(Code { category: Category::Unspecified3, .. }) | None => DeliveryFailure::Unreachable(why),
        Some(Code { severity: Severity::PermanentNegativeCompletion, .. }) => DeliveryFailure::Refused(why),
        Some(_) => DeliveryFailure::Later(why),
    }
}

fn is_closing(code: Code) -> bool {
    let Code { severity, category, detail } = code;
    (severity, category, detail)
        == (Severity::TransientNegativeCompletion, Category::Connections, Detail::One)
}

/// Returns whether the connection is gone, as opposed to a negative answer.
fn is_gone(error: &Error) -> bool {
    error.status().is_none_or(is_closing)
}

fn words(error: &Error) -> String {
    let mut cause = error.source();
    while let Some(inner) = cause {
        let kind = inner.downcast_ref::<io::Error>().map(io::Error::kind);
        // What a socket reports when its timeout expires.
        if matches!(kind, Some(io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)) {
            return "no answer in time".to_owned();
        }
        cause = inner.source();
    }
    let said = error.source().map(ToString::to_string);
    detail(&match (error.status(), said) {
        (Some(code), Some(said)) => format!("{code} {said}"),
        (Some(code), None) => code.to_string(),
        (None, Some(said)) => said,
        (None, None) => error.to_string(),
    })
}

/// Returns the name with which this machine introduces itself.
fn own_name() -> ClientId {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    name.filter(|name| name.parse::<MailDomain>().is_ok()).map_or_else(ClientId::default, ClientId::Domain)
}
