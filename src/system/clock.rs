//! The system clock.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::model::lease::Moment;

/// Returns the current time; 1970 if the clock is set to before that.
pub fn now() -> Moment {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    Moment::from_unix(i64::try_from(seconds).unwrap_or(i64::MAX))
}

/// Returns the milliseconds since 1970, for events that are less than a second apart.
pub fn millis() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}
