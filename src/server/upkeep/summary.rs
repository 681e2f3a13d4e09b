//! What a run of upkeep did, for people.

use std::fmt;

use crate::server::mail::Sent;

/// What a run did.
#[derive(Debug, Default)]
pub struct Summary {
    /// Whether nothing was really done.
    pub dry: bool,
    /// Hosts that answered.
    pub answered: usize,
    /// Hosts that did not, and why.
    pub silent: Vec<String>,
    /// What was done about machines, a line each.
    pub steps: Vec<String>,
    /// What was found on hosts that belongs to nobody, and was not known before.
    pub strays: Vec<String>,
    /// What went wrong and is tried again by the next run.
    pub trouble: Vec<String>,
    /// What became of the mail.
    pub mail: Option<Sent>,
    /// Entries of history that were too old.
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
