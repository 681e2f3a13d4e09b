//! The outbox: mail waiting to be sent.

use uuid::Uuid;

use crate::model::lease::Moment;
use crate::server::registry::{Reader, RegistryError, Writer, all};

/// A mail in the outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Its id, used in its `Message-ID`, which therefore stays the same on every attempt.
    pub id: String,
    /// The recipient's address.
    pub recipient: String,
    /// The subject.
    pub subject: String,
    /// The plain text.
    pub plain: String,
    /// The same as HTML.
    pub html: String,
    /// When it was written.
    pub queued: Moment,
    /// How often sending was attempted.
    pub tries: u32,
    /// When sending is attempted next.
    pub next_try: Moment,
    /// Why it has not been sent.
    pub error: Option<String>,
}

/// A mail to be queued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The recipient's address.
    pub recipient: String,
    /// The subject.
    pub subject: String,
    /// The plain text.
    pub plain: String,
    /// The same as HTML.
    pub html: String,
}

const COLUMNS: &str = "SELECT id, recipient, subject, plain, html, queued, tries, next_try, error FROM mail";

/// The longest that a mail waits for its next attempt, in seconds. A time further ahead was set by
/// a clock that was ahead, so the mail is due.
const LONGEST_PAUSE: i64 = 3600;

/// The condition for a mail to be due at `?1`, where `?2` is [`LONGEST_PAUSE`].
const DUE: &str = "(next_try <= ?1 OR next_try > ?1 + ?2)";

impl Reader<'_> {
    /// Returns the mail that is due, oldest first.
    pub fn mail_due(&self, now: Moment, limit: u32) -> Result<Vec<Waiting>, RegistryError> {
        let sql = format!("{COLUMNS} WHERE {DUE} ORDER BY id LIMIT ?3");
        self.mails(&sql, (now.unix(), LONGEST_PAUSE, limit))
    }

    /// Returns the number of mails in the outbox.
    pub fn count_mail(&self) -> Result<u32, RegistryError> {
        Ok(self.connection.query_row("SELECT count(*) FROM mail", [], |row| row.get(0))?)
    }

    /// Returns whether the outbox holds mail to an address.
    pub fn has_mail_for(&self, recipient: &str) -> Result<bool, RegistryError> {
        const SQL: &str = "SELECT EXISTS (SELECT 1 FROM mail WHERE recipient = ?1)";
        Ok(self.connection.query_row(SQL, [recipient], |row| row.get(0))?)
    }

    /// Returns the mail in the outbox, oldest first.
    pub fn mail_waiting(&self, limit: u32) -> Result<Vec<Waiting>, RegistryError> {
        self.mails(&format!("{COLUMNS} ORDER BY id LIMIT ?1"), [limit])
    }

    fn mails(self, sql: &str, params: impl rusqlite::Params) -> Result<Vec<Waiting>, RegistryError> {
        all(self.connection, sql, params, |mut cells| {
            Ok(Waiting {
                id: cells.get()?,
                recipient: cells.get()?,
                subject: cells.get()?,
                plain: cells.get()?,
                html: cells.get()?,
                queued: Moment::from_unix(cells.get()?),
                tries: cells.number()?,
                next_try: Moment::from_unix(cells.get()?),
                error: cells.get()?,
            })
        })
    }
}

impl Writer<'_> {
    /// Adds a mail to the outbox.
    pub fn queue(&self, letter: &Message) -> Result<(), RegistryError> {
        self.connection.execute(
            "INSERT INTO mail (id, recipient, subject, plain, html, queued, next_try)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6)",
            (
                Uuid::now_v7().to_string(),
                &letter.recipient,
                &letter.subject,
                &letter.plain,
                &letter.html,
                self.now().unix(),
            ),
        )?;
        Ok(())
    }

    /// Claims a mail that is due, so that no other process sends it before `until` or before its
    /// outcome is recorded. Returns `false` if another process has claimed or sent it.
    pub fn claim_mail(&self, id: &str, until: Moment) -> Result<bool, RegistryError> {
        let sql = format!("UPDATE mail SET next_try = ?4 WHERE id = ?3 AND {DUE}");
        Ok(self.connection.execute(&sql, (self.now().unix(), LONGEST_PAUSE, id, until.unix()))? == 1)
    }

    /// Removes a mail from the outbox: it was sent, or can never be sent.
    pub fn unqueue(&self, id: &str) -> Result<(), RegistryError> {
        self.connection.execute("DELETE FROM mail WHERE id = ?1", [id])?;
        Ok(())
    }

    /// Records why a mail could not be sent, and when to try again.
    pub fn postpone(&self, id: &str, error: &str, next: Moment) -> Result<(), RegistryError> {
        self.connection.execute(
            "UPDATE mail SET tries = tries + 1, error = ?2, next_try = ?3 WHERE id = ?1",
            (id, error, next.unix()),
        )?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::registry::Registry;

    #[test]
    fn a_mail_is_one_senders_at_a_time_and_a_wrong_clock_delays_none() {
        let dir = tempfile::tempdir().unwrap();
        let mut registry = Registry::create(&dir.path().join("registry.sqlite")).unwrap();
        let at = |seconds: i64| Moment::from_unix(1_000_000 + seconds);
        let letter = Message {
            recipient: "a@b".to_owned(),
            subject: String::new(),
            plain: String::new(),
            html: String::new(),
        };
        let queued: Result<(), RegistryError> = registry.write_at(at(0), |writer| writer.queue(&letter));
        queued.unwrap();
        let due = |registry: &Registry, now| registry.read(|reader| reader.mail_due(now, 9)).unwrap();
        assert_eq!(due(&registry, at(0)).len(), 1);
        let id = due(&registry, at(0))[0].id.clone();
        let mut claim = |now, until| registry.write_at(now, |writer| writer.claim_mail(&id, until)).unwrap();
        assert!(claim(at(0), at(60)));
        assert!(!claim(at(0), at(60)) && !claim(at(59), at(99)));
        assert!(claim(at(60), at(120)), "its sender was killed");
        let postponed: Result<(), RegistryError> =
            registry.write(|writer| writer.postpone(&id, "no", at(365 * 86_400)));
        postponed.unwrap();
        let due = due(&registry, at(200));
        assert_eq!((due.len(), due[0].tries, due[0].error.as_deref()), (1, 1, Some("no")));
        let gone: Result<_, RegistryError> = registry.write_at(at(200), |writer| {
            writer.unqueue(&id)?;
            Ok((writer.count_mail()?, writer.claim_mail(&id, at(300))?))
        });
        assert_eq!(gone.unwrap(), (0, false));
    }
}
