//! The portal's own clock: how long it has been alive, as opposed to how long ago it was created.

use rusqlite::OptionalExtension as _;

use crate::model::lease::Moment;
use crate::server::registry::{Reader, RegistryError, Writer};

/// The longest time between two runs of upkeep that counts as alive, in seconds. After a longer gap
/// the portal was off or the clock jumped; either way nobody could have extended a lease meanwhile.
pub const LONGEST_GAP: i64 = 2 * 3600;

/// When upkeep last ran, and how long the portal has been alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// When upkeep last began; `None` if it never did.
    pub last: Option<Moment>,
    /// The sum of the times between its runs, in seconds, without those longer than
    /// [`LONGEST_GAP`].
    pub lived: i64,
}

impl Life {
    /// Returns the values as of a run of upkeep that begins at `now`.
    pub fn at(self, now: Moment) -> Self {
        let gap = self.last.map_or(0, |last| now.since(last));
        let counts = (0..=LONGEST_GAP).contains(&gap);
        Self { last: Some(now), lived: self.lived.saturating_add(if counts { gap } else { 0 }) }
    }
}

impl Reader<'_> {
    /// Returns when upkeep last ran, and how long the portal has been alive.
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
    /// Records that upkeep begins. Returns the values that apply from now on.
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
