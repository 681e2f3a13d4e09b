//! How far a long verb is, for the worker: percentages on standard output, one a line.

use std::io::{self, Write as _};

use crate::model::stage::Percent;

/// Tells percentages.
#[derive(Debug, Default)]
pub(super) struct Percentages(Option<Percent>);

impl Percentages {
    /// Tells a percentage, unless it was the last to be told.
    pub(super) fn tell(&mut self, percent: Percent) -> io::Result<()> {
        if self.0.replace(percent) == Some(percent) {
            return Ok(());
        }
        let mut out = io::stdout().lock();
        writeln!(out, "{}", percent.get()).and_then(|()| out.flush())
    }
}
