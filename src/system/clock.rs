//! The clock.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::model::lease::Moment;

/// The present time; 1970 if the clock stands before that.
pub fn now() -> Moment {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    Moment::from_unix(i64::try_from(seconds).unwrap_or(i64::MAX))
}

/// Milliseconds since 1970, for what happens several times within a second.
pub fn millis() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}
