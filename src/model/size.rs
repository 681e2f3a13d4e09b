//! Sizes, each with its unit as its type. A bare integer is never a size.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a size was refused. `Display` says what would be accepted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SizeFault {
    /// Not a whole number.
    #[error("{given:?} is not a whole number of {unit}")]
    NotANumber {
        /// What was given, truncated.
        given: String,
        /// The unit that was expected.
        unit: &'static str,
    },
    /// A whole number, but out of the range that a machine can have.
    #[error("must be from {min} to {max} {unit}")]
    OutOfRange {
        /// The smallest accepted value.
        min: u32,
        /// The largest accepted value.
        max: u32,
        /// The unit of both.
        unit: &'static str,
    },
}

macro_rules! size {
    ($(#[$doc:meta])* $name:ident, $one:literal, $unit:literal, $min:literal, $max:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "u32", into = "u32")]
        pub struct $name(u32);

        impl $name {
            /// The smallest value that a request may ask for.
            pub const MIN: u32 = $min;
            /// The largest value that a request may ask for.
            pub const MAX: u32 = $max;

            /// A size of `value`, if it is within the bounds.
            pub fn new(value: u32) -> Result<Self, SizeFault> {
                if (Self::MIN..=Self::MAX).contains(&value) {
                    Ok(Self(value))
                } else {
                    Err(SizeFault::OutOfRange { min: Self::MIN, max: Self::MAX, unit: $unit })
                }
            }

            /// The number, in this type's unit.
            pub fn get(self) -> u32 {
                self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = SizeFault;

            /// Decimal digits only: no sign, no blank, no fraction.
            fn from_str(text: &str) -> Result<Self, SizeFault> {
                if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
                    let given = text.chars().take(24).collect();
                    return Err(SizeFault::NotANumber { given, unit: $unit });
                }
                // It is all digits, so it can only fail by being too large.
                Self::new(text.parse().unwrap_or(u32::MAX))
            }
        }

        impl TryFrom<u32> for $name {
            type Error = SizeFault;
            fn try_from(value: u32) -> Result<Self, SizeFault> {
                Self::new(value)
            }
        }

        impl From<$name> for u32 {
            fn from(size: $name) -> u32 {
                size.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{} {}", self.0, if self.0 == 1 { $one } else { $unit })
            }
        }
    };
}

size!(
    /// Memory or swap, in MiB (2^20 bytes).
    MiB, "MiB", "MiB", 16, 4_194_304
);
size!(
    /// Disk, in GiB (2^30 bytes).
    GiB, "GiB", "GiB", 1, 65_536
);
size!(
    /// A machine's virtual processors.
    Cpus, "processor", "processors", 1, 64
);

impl Cpus {
    /// Returns whether it is the number that a machine has if nobody asks for another.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for Cpus {
    /// One processor.
    fn default() -> Self {
        Self(1)
    }
}

impl GiB {
    /// The same size in MiB, as an amount.
    pub fn amount(self) -> Amount {
        Amount::from_mib(u64::from(self.0) * 1024)
    }
}

impl MiB {
    /// The same size as an amount.
    pub fn amount(self) -> Amount {
        Amount::from_mib(u64::from(self.0))
    }
}

/// An amount of memory or space that was measured or added up, in MiB. Unlike a [`MiB`] or [`GiB`],
/// nobody asked for it, so it may be zero and has no upper bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Amount(u64);

impl Amount {
    /// An amount of so many MiB.
    pub const fn from_mib(mib: u64) -> Self {
        Self(mib)
    }

    /// The amount in MiB.
    pub const fn mib(self) -> u64 {
        self.0
    }

    /// The amount in bytes.
    pub const fn bytes(self) -> u64 {
        self.0.saturating_mul(1 << 20)
    }

    /// The amount less `other`; nothing if `other` is larger.
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// Both together.
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl std::iter::Sum for Amount {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::default(), Self::plus)
    }
}

impl fmt::Display for Amount {
    /// In MiB below one GiB, else in GiB with one decimal, rounded down.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 1024 {
            write!(f, "{} MiB", self.0)
        } else {
            write!(f, "{}.{} GiB", self.0 / 1024, self.0 % 1024 * 10 / 1024)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_within_bounds_only() {
        assert_eq!("512".parse::<MiB>().unwrap().get(), 512);
        for bad in ["", "0", "-1", "+5", " 5", "1e3", "5.0", "0x10", "1000000000000", "٥"] {
            assert!(bad.parse::<MiB>().is_err(), "{bad:?} was accepted");
        }
        assert!("65537".parse::<GiB>().is_err());
        assert!("64".parse::<Cpus>().is_ok() && "65".parse::<Cpus>().is_err());
        assert_eq!("0".parse::<Cpus>().unwrap_err().to_string(), "must be from 1 to 64 processors");
    }

    #[test]
    fn one_processor_is_the_default_and_singular() {
        assert!(Cpus::default().is_default() && !Cpus::new(2).unwrap().is_default());
        let texts = [1, 2].map(|n| Cpus::new(n).unwrap().to_string());
        assert_eq!(texts, ["1 processor", "2 processors"]);
        assert_eq!(GiB::new(1).unwrap().to_string(), "1 GiB");
    }

    #[test]
    fn amounts_never_wrap() {
        assert_eq!(Amount::from_mib(1).minus(Amount::from_mib(2)), Amount::default());
        assert_eq!(Amount::from_mib(u64::MAX).plus(Amount::from_mib(1)).mib(), u64::MAX);
        assert_eq!(Amount::from_mib(10 * 1024 + 512).to_string(), "10.5 GiB");
    }
}
