//! The clock.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::model::lease::Moment;

/// The present time; 1970 if the clock stands before that.
pub fn now() -> Moment {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    Moment::from_unix(i64::try_from(seconds).unwrap_or(i64::MAX))
}
