//! What a node can be ordered to do with a machine, and the stages of carrying out each order.

use std::fmt;

use serde::{Deserialize, Serialize};
use strum::{Display, EnumString, IntoStaticStr, VariantArray};

/// What a node can be ordered to do with a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[derive(VariantArray, EnumString, IntoStaticStr, Display)]
#[strum(serialize_all = "kebab-case")]
pub enum Order {
    /// Make the machine.
    Deploy,
    /// Shut it down, and remove all of it.
    Terminate,
    /// Shut it down, and keep its disk.
    Stop,
    /// Start it after a stop.
    Start,
    /// Shut it down, and start it again.
    Reboot,
    /// Shut it down, and save its disk as an image.
    Save,
    /// Give it other sizes while it is stopped.
    Resize,
}

/// The number of an order for one machine. Later orders have higher numbers, and a repeated order
/// has the same number.
///
/// It is the time at which the order was given, in milliseconds since 1970, or one more than the
/// last number if that is higher. So it grows even after a registry was restored from a backup and
/// has forgotten the last orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OrderNumber(u64);

impl OrderNumber {
    /// The number of the order after this one, given `millis` milliseconds after the beginning of
    /// 1970.
    pub fn next(self, millis: u64) -> Self {
        Self(self.0.saturating_add(1).max(millis))
    }

    /// As the registry stores it: SQLite's integers are signed.
    pub fn get(self) -> i64 {
        i64::try_from(self.0).unwrap_or(i64::MAX)
    }

    /// From what the registry stored; `None` if that can't be one.
    pub fn of(stored: i64) -> Option<Self> {
        u64::try_from(stored).ok().map(Self)
    }
}

impl fmt::Display for OrderNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Order {
    /// All orders.
    pub const ALL: &[Self] = Self::VARIANTS;

    /// The order's name: on the wire, in the registry, and in the URL of the endpoint that takes
    /// it.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// The stages of carrying it out, from first to last.
    pub fn stages(self) -> &'static [Stage] {
        match self {
            Self::Deploy => &[
                Stage::Accepted,
                Stage::Volumes,
                Stage::Filesystems,
                Stage::Unpack,
                Stage::Configure,
                Stage::Start,
                Stage::Verify,
            ],
            Self::Terminate => &[Stage::Shutdown, Stage::Remove],
            Self::Stop => &[Stage::Shutdown],
            Self::Start => &[Stage::Start, Stage::Verify],
            Self::Reboot => &[Stage::Shutdown, Stage::Start, Stage::Verify],
            Self::Save => &[Stage::Shutdown, Stage::Pack],
            // The definition first, which can be taken back: a disk never shrinks.
            Self::Resize => &[Stage::Configure, Stage::Grow],
        }
    }
}

/// One stage of a node's work on a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[derive(VariantArray, EnumString, IntoStaticStr)]
#[strum(serialize_all = "kebab-case")]
pub enum Stage {
    /// The node has accepted the order; the deploy waits for its turn.
    Accepted,
    /// Root and swap volumes are being made.
    Volumes,
    /// The file system and swap area are being made.
    Filesystems,
    /// The image is being unpacked; carries a percentage.
    Unpack,
    /// The configuration is being rendered and installed.
    Configure,
    /// The toolstack is starting the machine.
    Start,
    /// The machine is being watched until it is seen to run.
    Verify,
    /// The machine is being shut down: it is asked first, then forced.
    Shutdown,
    /// The domain, its configuration and its volumes are being removed.
    Remove,
    /// The file system is being packed into an image; carries a percentage.
    Pack,
    /// The root disk is being enlarged; carries a percentage.
    Grow,
}

impl Stage {
    /// All stages.
    pub const ALL: &[Self] = Self::VARIANTS;

    /// The stage's name on the wire and in the registry.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// Returns whether a deploy may wait for others in this stage: for its turn, or until another has
    /// prepared the image.
    pub fn may_wait(self) -> bool {
        matches!(self, Self::Accepted | Self::Unpack)
    }
}

impl fmt::Display for Stage {
    /// What a person reads while it happens.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Accepted => "accepted by the host",
            Self::Volumes => "making the volumes",
            Self::Filesystems => "making the file systems",
            Self::Unpack => "unpacking the image",
            Self::Configure => "writing the configuration",
            Self::Start => "starting the machine",
            Self::Verify => "checking that it runs",
            Self::Shutdown => "shutting the machine down",
            Self::Remove => "removing the machine and its volumes",
            Self::Pack => "saving the disk as an image",
            Self::Grow => "enlarging the disk",
        })
    }
}

/// How much is done, in percent: 0 to 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Percent(u8);

impl Percent {
    /// `done` as a percentage of `total`; 100 if `total` is zero.
    pub fn of(done: u64, total: u64) -> Self {
        match total {
            0 => Self(100),
            _ => Self(u8::try_from(u128::from(done.min(total)) * 100 / u128::from(total)).unwrap_or(100)),
        }
    }

    /// The number, 0 to 100.
    pub fn get(self) -> u8 {
        self.0
    }
}

impl TryFrom<u8> for Percent {
    type Error = &'static str;
    fn try_from(value: u8) -> Result<Self, Self::Error> {
        if value <= 100 { Ok(Self(value)) } else { Err("more than 100 percent") }
    }
}

impl From<Percent> for u8 {
    fn from(percent: Percent) -> u8 {
        percent.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stage_has_one_name_and_belongs_to_an_order() {
        for &stage in Stage::ALL {
            assert_eq!(stage.as_str().parse(), Ok(stage));
            assert_eq!(serde_json::to_value(stage).unwrap(), stage.as_str());
            assert!(Order::ALL.iter().any(|order| order.stages().contains(&stage)), "{stage}");
        }
    }

    #[test]
    fn every_order_has_one_name_and_stages() {
        for &order in Order::ALL {
            assert_eq!(order.as_str().parse(), Ok(order));
            assert_eq!(order.to_string(), order.as_str());
            assert_eq!(serde_json::to_value(order).unwrap(), order.as_str());
            assert!(!order.stages().is_empty());
        }
    }

    #[test]
    fn percentages_stay_in_bounds() {
        assert_eq!(Percent::of(1, 3).get(), 33);
        assert_eq!(Percent::of(9, 3).get(), 100);
        assert_eq!(Percent::of(0, 0).get(), 100);
        assert_eq!(Percent::of(u64::MAX, u64::MAX).get(), 100);
    }
}
