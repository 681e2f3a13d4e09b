//! The summary of a run of upkeep, for people.

use std::fmt;

use crate::server::mail::Sent;

/// What a run did, or in a dry run would do.
#[derive(Debug, Default)]
pub struct Summary {
    /// Whether it was a dry run.
    pub dry: bool,
    /// The number of hosts that answered.
    pub answered: usize,
    /// Hosts that did not answer, and why.
    pub silent: Vec<String>,
    /// What was done about machines, one line each.
    pub steps: Vec<String>,
    /// Orphans found on hosts for the first time.
    pub strays: Vec<String>,
    /// What went wrong; the next run tries again.
    pub trouble: Vec<String>,
    /// The outcome for the mail in the outbox.
    pub mail: Option<Sent>,
    /// The number of outdated history entries that were removed.
    pub pruned: usize,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts = self.answered + self.silent.len();
        writeln!(f, "{} of {hosts} hosts answered.", self.answered)?;
        for line in &self.silent {
            writeln!(f, "  {line}")?;
        }
        let would = if self.dry { "would be " } else { "" };
        writeln!(f, "{} things {would}done about machines.", self.steps.len())?;
        for line in &self.steps {
            writeln!(f, "  {line}")?;
        }
        if !self.strays.is_empty() {
            writeln!(
                f,
                "{} things on hosts are unknown here; look at the administration page.",
                self.strays.len()
            )?;
            for line in &self.strays {
                writeln!(f, "  {line}")?;
            }
        }
        if !self.trouble.is_empty() {
            writeln!(f, "{} things went wrong and are tried again by the next run.", self.trouble.len())?;
            for line in &self.trouble {
                writeln!(f, "  {line}")?;
            }
        }
        if let Some(Sent { sent, waiting, given_up }) = self.mail {
            writeln!(f, "{sent} mails sent, {waiting} wait, {given_up} can't be sent.")?;
        }
        if self.pruned > 0 {
            writeln!(f, "{} old entries of the history removed.", self.pruned)?;
        }
        Ok(())
    }
}
