//! The outbox: mail that waits until it can be sent.

use uuid::Uuid;

use crate::model::lease::Moment;

use super::{Reader, RegistryError, Writer, all};

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

impl Reader<'_> {
    /// The mail that is due, the oldest first.
    ///
    /// # Errors
    /// [`RegistryError`] when SQLite refuses.
    pub fn mail_due(&self, now: Moment, limit: u32) -> Result<Vec<Waiting>, RegistryError> {
        let sql = format!("{COLUMNS} WHERE next_try <= ?1 ORDER BY id LIMIT ?2");
        self.mails(&sql, (now.unix(), limit))
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
    pub fn queue(&self, letter: &Letter, now: Moment) -> Result<(), RegistryError> {
        self.connection.execute(
            "INSERT INTO mail (id, recipient, subject, plain, html, queued, next_try)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6)",
            (
                Uuid::now_v7().to_string(),
                &letter.recipient,
                &letter.subject,
                &letter.plain,
                &letter.html,
                now.unix(),
            ),
        )?;
        Ok(())
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
