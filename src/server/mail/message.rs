//! A mail from the outbox in its transmitted form (RFC 5322, with a text and an HTML part).

use std::time::{Duration, UNIX_EPOCH};

use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart};

use crate::model::mail::Address;
use crate::server::mail::notice::line;
use crate::server::registry::mail::Waiting;

/// The last second of the year 9999: RFC 5322 has no later date, and the date formatter panics.
const LAST: i64 = 253_402_300_799;

/// Why a mail was not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum DeliveryFailure {
    /// It never will be.
    Refused(String),
    /// Not now, but others may be.
    Later(String),
    /// No mail is accepted at present.
    Unreachable(String),
}

/// A mail ready for transmission.
#[derive(Debug)]
pub(super) struct OnItsWay {
    pub(super) recipient: Address,
    /// The mail in ASCII, with CRLF line ends.
    pub(super) bytes: Vec<u8>,
}

/// Converts an address to lettre's type.
pub(super) fn address(address: &Address) -> Result<lettre::Address, String> {
    lettre::Address::new(address.local(), address.domain().as_str())
        .map_err(|error| format!("{address}: {error}"))
}

/// Builds the transmitted form of a mail, or returns the reason why it can never be sent.
///
/// `Message-ID` and `Date` come from the outbox and are the same on every attempt, so a recipient
/// who gets a mail twice can see that it is the same one.
pub(super) fn letter(mail: &Waiting, sender: &Address) -> Result<OnItsWay, String> {
    let recipient: Address = mail.recipient.parse().map_err(|fault| format!("the address {fault}"))?;
    let queued = u64::try_from(mail.queued.unix().clamp(0, LAST)).unwrap_or(0);
    let message = lettre::Message::builder()
        .from(Mailbox::new(Some("vGrid".to_owned()), address(sender)?))
        .to(Mailbox::new(None, address(&recipient)?))
        // Cleaned when it was written, and again here: a header must not depend on that alone.
        .subject(line(&mail.subject))
        .date(UNIX_EPOCH + Duration::from_secs(queued))
        .message_id(Some(format!("<{}@{}>", mail.id, sender.domain())))
        // RFC 3834: suppresses out-of-office replies.
        .raw_header(HeaderValue::new(
            HeaderName::new_from_ascii_str("Auto-Submitted"),
            "auto-generated".to_owned(),
        ))
        .multipart(MultiPart::alternative_plain_html(mail.plain.clone(), mail.html.clone()))
        .map_err(|error| error.to_string())?;
    Ok(OnItsWay { recipient, bytes: message.formatted() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::lease::Moment;

    fn waiting(subject: &str) -> Waiting {
        Waiting {
            id: "01936f5e-8c3e-7a37-a6b3-1f3c1f7c9f00".to_owned(),
            recipient: "alice@example.org".to_owned(),
            subject: subject.to_owned(),
            plain: "Größe: 5 €\n.\n".to_owned(),
            html: "<p>x</p>".to_owned(),
            queued: Moment::from_unix(1_795_338_300),
            tries: 0,
            next_try: Moment::from_unix(0),
            error: None,
        }
    }

    fn text(mail: &Waiting) -> String {
        let sender = "vgrid@portal.example.org".parse().unwrap();
        String::from_utf8(letter(mail, &sender).unwrap().bytes).unwrap()
    }

    #[test]
    fn a_mail_is_the_same_each_time() {
        let text = text(&waiting("vm1: its lease ends"));
        for header in [
            "From: vGrid <vgrid@portal.example.org>\r\n",
            "To: alice@example.org\r\n",
            "Subject: vm1: its lease ends\r\n",
            "Date: Sun, 22 Nov 2026 09:05:00 +0000\r\n",
            "Message-ID: <01936f5e-8c3e-7a37-a6b3-1f3c1f7c9f00@portal.example.org>\r\n",
            "Auto-Submitted: auto-generated\r\n",
            "MIME-Version: 1.0\r\n",
        ] {
            assert!(text.contains(header), "{header}{text}");
        }
        assert!(text.is_ascii() && text.lines().all(|line| line.len() < 998), "{text}");
    }

    #[test]
    fn a_subject_brings_no_header_with_it() {
        for subject in ["a\r\nBcc: b@example.org\r\n\r\nx", "ü\nBcc: b@example.org", "a\0b\u{2028}Bcc: x@y"]
        {
            let text = text(&waiting(subject));
            let head = text.split("\r\n\r\n").next().unwrap();
            assert!(!head.lines().any(|line| line.starts_with("Bcc")), "{head}");
            assert_eq!(head.matches("Subject:").count(), 1);
        }
    }

    #[test]
    fn what_is_no_address_never_goes_anywhere() {
        let sender = "vgrid@example.org".parse().unwrap();
        for recipient in ["", "alice", "a@b@c", "a@b\r\nDATA"] {
            let mail = Waiting { recipient: recipient.to_owned(), ..waiting("x") };
            assert!(letter(&mail, &sender).is_err(), "{recipient:?}");
        }
        let mail = Waiting { queued: Moment::from_unix(i64::MAX), ..waiting("x") };
        assert!(letter(&mail, &sender).is_ok());
        for good in ["a@b", "o'neil+x{y}@x-y.example.org", "1@1.de", "~@localhost"] {
            assert!(address(&good.parse().unwrap()).is_ok(), "{good}");
        }
    }
}
