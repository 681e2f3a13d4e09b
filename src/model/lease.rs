//! Points in time, and how long a machine may live: [`Moment`], [`Lease`] and [`Term`].

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A point in time, in whole seconds since 1970 (UTC).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Moment(i64);

impl Moment {
    /// The moment that many seconds after the beginning of 1970 (UTC).
    pub const fn from_unix(seconds: i64) -> Self {
        Self(seconds)
    }

    /// Reads a date from an HTTP header: `Sun, 22 Nov 2026 09:05:00 GMT` (RFC 9110, section 5.6.7).
    pub fn from_http(text: &str) -> Option<Self> {
        let time = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text.trim()).ok()?;
        Some(Self(time.as_second()))
    }

    /// Reads a time in RFC 3339: `2026-11-22T09:05:00Z`.
    pub fn from_rfc3339(text: &str) -> Option<Self> {
        let time: jiff::Timestamp = text.trim().parse().ok()?;
        Some(Self(time.as_second()))
    }

    /// Reads a day, `2026-11-22`: when it begins in UTC, and when the next one does.
    pub fn from_day(text: &str) -> Option<(Self, Self)> {
        let text = text.trim();
        // jiff would accept a time after the day, and ignore it.
        let day: jiff::civil::Date = text.parse().ok().filter(|_| text.len() == "2026-11-22".len())?;
        let begin = jiff::tz::Offset::UTC.to_timestamp(day.at(0, 0, 0, 0)).ok()?;
        let begin = Self(begin.as_second());
        Some((begin, begin.plus_seconds(86_400)))
    }

    /// Seconds since 1970 (UTC).
    pub const fn unix(self) -> i64 {
        self.0
    }

    /// The moment that many seconds later.
    pub const fn plus_seconds(self, seconds: i64) -> Self {
        Self(self.0.saturating_add(seconds))
    }

    /// Seconds from `earlier` to this moment; negative if `earlier` is the later one.
    pub const fn since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// In RFC 3339, in UTC: `2026-11-22T09:05:00Z`.
    pub fn rfc3339(self) -> String {
        let t = self.civil();
        let (year, month, day) = (t.year(), t.month(), t.day());
        format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", t.hour(), t.minute(), t.second())
    }

    /// Date and time in UTC.
    // A list shows hundreds of them, and would spend a tenth of its time in `strftime`.
    fn civil(self) -> jiff::civil::DateTime {
        let bounded = self.0.clamp(jiff::Timestamp::MIN.as_second(), jiff::Timestamp::MAX.as_second());
        let timestamp = jiff::Timestamp::from_second(bounded).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        jiff::tz::Offset::UTC.to_datetime(timestamp)
    }
}

impl fmt::Display for Moment {
    /// As people read it: `2026-11-22 09:05 UTC`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let t = self.civil();
        let (year, month, day) = (t.year(), t.month(), t.day());
        write!(f, "{year:04}-{month:02}-{day:02} {:02}:{:02} UTC", t.hour(), t.minute())
    }
}

/// How long a machine may live: whole minutes, from one minute to ten years.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Lease {
    minutes: u32,
}

/// Why a lease was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LeaseFault {
    /// Not a number and a unit.
    #[error("write a number and a unit, for instance 12h, 7d or 2w")]
    NotALease,
    /// Zero, or more than ten years.
    #[error("must be from 1m (one minute) to 3650d (ten years)")]
    OutOfRange,
}

impl Lease {
    const MAX_MINUTES: u32 = 3650 * 24 * 60;

    /// The lease in seconds.
    pub fn seconds(self) -> i64 {
        i64::from(self.minutes) * 60
    }
}

impl FromStr for Lease {
    type Err = LeaseFault;

    /// A whole number followed by `m`, `h`, `d` or `w`.
    fn from_str(text: &str) -> Result<Self, LeaseFault> {
        let text = text.trim();
        let unit = text.chars().last().ok_or(LeaseFault::NotALease)?;
        let digits = &text[..text.len() - unit.len_utf8()];
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(LeaseFault::NotALease);
        }
        let factor: u32 = match unit {
            'm' => 1,
            'h' => 60,
            'd' => 24 * 60,
            'w' => 7 * 24 * 60,
            _ => return Err(LeaseFault::NotALease),
        };
        digits
            .parse::<u32>()
            .ok()
            .and_then(|n| n.checked_mul(factor))
            .filter(|minutes| (1..=Self::MAX_MINUTES).contains(minutes))
            .map(|minutes| Self { minutes })
            .ok_or(LeaseFault::OutOfRange)
    }
}

impl Lease {
    /// As people read it: `7 days`, `1 hour`.
    pub fn in_words(self) -> String {
        let (count, unit) = match self.minutes {
            m if m % (24 * 60) == 0 => (m / (24 * 60), "day"),
            m if m % 60 == 0 => (m / 60, "hour"),
            m => (m, "minute"),
        };
        format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
    }
}

impl fmt::Display for Lease {
    /// The shortest exact form in days, hours or minutes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.minutes {
            m if m % (24 * 60) == 0 => write!(f, "{}d", m / (24 * 60)),
            m if m % 60 == 0 => write!(f, "{}h", m / 60),
            m => write!(f, "{m}m"),
        }
    }
}

impl TryFrom<String> for Lease {
    type Error = LeaseFault;
    fn try_from(text: String) -> Result<Self, LeaseFault> {
        text.parse()
    }
}

impl From<Lease> for String {
    fn from(lease: Lease) -> String {
        lease.to_string()
    }
}

/// How long a machine may live, or that it may live for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Term {
    /// As long as the lease.
    For(Lease),
    /// For ever. Only an administrator can grant that.
    Never,
}

impl Term {
    /// The word for a lease without an end.
    const NEVER: &str = "never";

    /// When a term that begins now ends; `None` for never.
    pub fn end(self, now: Moment) -> Option<Moment> {
        match self {
            Self::For(lease) => Some(now.plus_seconds(lease.seconds())),
            Self::Never => None,
        }
    }
}

impl FromStr for Term {
    type Err = LeaseFault;

    fn from_str(text: &str) -> Result<Self, LeaseFault> {
        if text == Self::NEVER { Ok(Self::Never) } else { text.parse().map(Self::For) }
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::For(lease) => lease.fmt(f),
            Self::Never => f.write_str(Self::NEVER),
        }
    }
}

impl TryFrom<String> for Term {
    type Error = LeaseFault;
    fn try_from(text: String) -> Result<Self, LeaseFault> {
        text.parse()
    }
}

impl From<Term> for String {
    fn from(term: Term) -> String {
        term.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_are_read_and_shown() {
        for (text, seconds, shown) in [
            ("7d", 604_800, "7d"),
            ("12h", 43_200, "12h"),
            ("24h", 86_400, "1d"),
            ("2w", 1_209_600, "14d"),
            ("90m", 5_400, "90m"),
        ] {
            let lease: Lease = text.parse().unwrap();
            assert_eq!((lease.seconds(), lease.to_string().as_str()), (seconds, shown));
        }
        for (text, words) in [("1d", "1 day"), ("2w", "14 days"), ("12h", "12 hours"), ("90m", "90 minutes")]
        {
            assert_eq!(text.parse::<Lease>().unwrap().in_words(), words);
        }
        for bad in ["", "d", "7", "7 d", "-1d", "0d", "99999999999d", "4000d", "7é", "1.5d"] {
            assert!(bad.parse::<Lease>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn a_lease_without_an_end_has_a_word() {
        let now = Moment::from_unix(1000);
        assert_eq!("never".parse::<Term>().unwrap().end(now), None);
        assert_eq!("2m".parse::<Term>().unwrap().end(now), Some(Moment::from_unix(1120)));
        for text in ["never", "7d"] {
            assert_eq!(text.parse::<Term>().unwrap().to_string(), text);
        }
        assert!("forever".parse::<Term>().is_err());
        assert!("7d".parse::<Term>().unwrap() < Term::Never, "a maximum bounds both");
    }

    #[test]
    fn moments_and_days_are_read() {
        let moment = Moment::from_unix(1_795_338_300);
        assert_eq!(Moment::from_rfc3339("2026-11-22T09:05:00Z"), Some(moment));
        assert_eq!(Moment::from_rfc3339("2026-11-22T10:05:00.7+01:00"), Some(moment));
        let (begin, end) = Moment::from_day("2026-11-22").unwrap();
        assert_eq!(
            (begin.rfc3339().as_str(), end.rfc3339().as_str()),
            ("2026-11-22T00:00:00Z", "2026-11-23T00:00:00Z")
        );
        assert!(Moment::from_day("9999-12-31").is_none_or(|(_, end)| end > moment));
        for bad in
            ["", "x", "2026-13-01", "2026-02-30", "22.11.2026", "20261122", "2026-11-22T1", "-99999-1-1"]
        {
            assert!(
                Moment::from_day(bad).is_none() && Moment::from_rfc3339(bad).is_none(),
                "{bad:?} was accepted"
            );
        }
    }

    #[test]
    fn moments_are_shown_in_utc() {
        let moment = Moment::from_unix(1_795_338_300);
        assert_eq!(moment.rfc3339(), "2026-11-22T09:05:00Z");
        assert_eq!(moment.to_string(), "2026-11-22 09:05 UTC");
        assert!(!Moment::from_unix(i64::MAX).rfc3339().is_empty());
    }
}
