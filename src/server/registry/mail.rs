//! The outbox: mail that waits until it can be sent.

use uuid::Uuid;

use crate::model::lease::Moment;
use crate::server::registry::{Reader, RegistryError, Writer, all};

/// A mail that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Its id, which becomes its `Message-ID`, the same each time that it is tried.
    pub id: String,
    /// The address.
    pub recipient: String,
    /// The subject.
    pub subject: String,
    /// The text.
    pub plain: String,
    /// The same as HTML.
    pub html: String,
    /// When it was written.
    pub queued: Moment,
    /// How often it was tried.
    pub tries: u32,
    /// When it is tried next.
    pub next_try: Moment,
    /// Why it has not been sent.
    pub error: Option<String>,
}

/// A mail that is to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// The address.
    pub recipient: String,
    /// The subject.
    pub subject: String,
    /// The text.
    pub plain: String,
    /// The same as HTML.
    pub html: String,
}

const COLUMNS: &str = "SELECT id, recipient, subject, plain, html, queued, tries, next_try, error FROM mail";

/// The longest that a mail waits for its next try, in seconds. What is to wait longer was put off by a clock that was
/// ahead, and is due.
const LONGEST_PAUSE: i64 = 3600;

/// Whether a mail is due at `?1`, where `?2` is [`LONGEST_PAUSE`].
const DUE: &str = "(next_try <= ?1 OR next_try > ?1 + ?2)";

impl Reader<'_> {
    /// The mail that is due, the oldest first.
    ///
    /// # Errors
    /// [`RegistryError`] when SQLite refuses.
    pub fn mail_due(&self, now: Moment, limit: u32) -> Result<Vec<Waiting>, RegistryError> {
        let sql = format!("{COLUMNS} WHERE {DUE} ORDER BY id LIMIT ?3");
        self.mails(&sql, (now.unix(), LONGEST_PAUSE, limit))
    }

    /// How many mails wait.
    ///
    /// # Errors
    /// [`RegistryError`] when SQLite refuses.
    pub fn count_mail(&self) -> Result<u32, RegistryError> {
        Ok(self.connection.query_row("SELECT count(*) FROM mail", [], |row| row.get(0))?)
    }

    /// Whether mail to an address waits.
    ///
    /// # Errors
    /// [`RegistryError`] when SQLite refuses.
    pub fn has_mail_for(&self, recipient: &str) -> Result<bool, RegistryError> {
        const SQL: &str = "SELECT EXISTS (SELECT 1 FROM mail WHERE recipient = ?1)";
        Ok(self.connection.query_row(SQL, [recipient], |row| row.get(0))?)
    }

    /// All mail that waits, the oldest first.
    ///
    /// # Errors
    /// [`RegistryError`] when SQLite refuses.
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
    /// Puts a mail into the outbox.
    ///
    /// # Errors
    /// [`RegistryError`] when SQLite refuses.
    pub fn queue(&self, letter: &Letter) -> Result<(), RegistryError> {
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

    /// Reserves a mail that is due for whoever sends it, until they have said what became of it, at most until `until`.
    /// `false` if somebody else has it, or has sent it.
    ///
    /// # Errors
    /// [`RegistryError`] when SQLite refuses.
    pub fn claim_mail(&self, id: &str, until: Moment) -> Result<bool, RegistryError> {
        let sql = format!("UPDATE mail SET next_try = ?4 WHERE id = ?3 AND {DUE}");
        Ok(self.connection.execute(&sql, (self.now().unix(), LONGEST_PAUSE, id, until.unix()))? == 1)
    }

    /// Takes a mail out of the outbox: it was sent, or never can be.
    ///
    /// # Errors
    /// [`RegistryError`] when SQLite refuses.
    pub fn unqueue(&self, id: &str) -> Result<(), RegistryError> {
        self.connection.execute("DELETE FROM mail WHERE id = ?1", [id])?;
        Ok(())
    }

    /// Remembers why a mail could not be sent, and when to try again.
    ///
    /// # Errors
    /// [`RegistryError`] when SQLite refuses.
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
        let letter = Letter {
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
