//! The portal's own clock: how long it has been alive, which is not how long ago it was made.

use rusqlite::OptionalExtension as _;

use crate::model::lease::Moment;
use crate::server::registry::{Reader, RegistryError, Writer};

/// The longest time between two runs of upkeep that counts as lived, in seconds. After a longer one the portal was
/// off, or the clock has jumped; either way nobody could have extended a lease meanwhile.
pub const LONGEST_GAP: i64 = 2 * 3600;

/// When upkeep last ran, and how long the portal has lived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// When upkeep last began; `None` if it never did.
    pub last: Option<Moment>,
    /// The sum of the times between its runs, in seconds, without those that were longer than [`LONGEST_GAP`].
    pub lived: i64,
}

impl Life {
    /// What it is at `now`, when upkeep begins another time.
    pub fn at(self, now: Moment) -> Self {
        let gap = self.last.map_or(0, |last| now.since(last));
        let counts = (0..=LONGEST_GAP).contains(&gap);
        Self { last: Some(now), lived: self.lived.saturating_add(if counts { gap } else { 0 }) }
    }
}

impl Reader<'_> {
    /// When upkeep last ran, and how long the portal has lived.
    ///
    /// # Errors
    /// [`RegistryError`] when SQLite refuses.
    pub fn life(&self) -> Result<Life, RegistryError> {
        let found = self
            .connection
            .query_row("SELECT last, lived FROM upkeep", [], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        Ok(found.map_or(Life { last: None, lived: 0 }, |(last, lived)| Life {
            last: Some(Moment::from_unix(last)),
            lived,
        }))
    }
}

impl Writer<'_> {
    /// Notes that upkeep begins. Gives back what holds from now on.
    ///
    /// # Errors
    /// [`RegistryError`] when SQLite refuses.
    pub fn live_on(&self) -> Result<Life, RegistryError> {
        let now = self.now();
        let life = self.life()?.at(now);
        self.connection.execute(
            "INSERT OR REPLACE INTO upkeep (only, last, lived) VALUES (1, ?1, ?2)",
            (now.unix(), life.lived),
        )?;
        Ok(life)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_in_which_nothing_ran_is_not_lived() {
        let mut life = Life { last: None, lived: 0 };
        let mut lived = |now: i64| {
            life = life.at(Moment::from_unix(now));
            life.lived
        };
        assert_eq!(lived(1_000_000), 0);
        assert_eq!(lived(1_003_600), 3600);
        assert_eq!(lived(1_003_600 + 60 * 86_400), 3600, "it was off for sixty days");
        assert_eq!(lived(1_003_600), 3600, "the clock was set back");
        assert_eq!(lived(1_003_660), 3660);
    }
}
