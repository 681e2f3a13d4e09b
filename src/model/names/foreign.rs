//! Names of things on a host that vGrid may not have created.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::volumes::check_lvm_characters;
use super::{MachineName, NameFault, VOLUME_PREFIXES, check_length, string_name};

/// The name of a volume that looks like a machine's, but that vGrid may not have created: one of
/// [`VOLUME_PREFIXES`] followed by at least one character, at most 100 characters in total, with
/// the characters that lvm(8) allows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ForeignVolume(String);

string_name!(ForeignVolume);

impl ForeignVolume {
    /// Returns the machine that a volume with this name would belong to; `None` if no machine can
    /// have it.
    pub fn machine(&self) -> Option<MachineName> {
        VOLUME_PREFIXES.iter().find_map(|prefix| self.0.strip_prefix(prefix)?.parse().ok())
    }
}

impl FromStr for ForeignVolume {
    type Err = NameFault;

    fn from_str(text: &str) -> Result<Self, NameFault> {
        check_length(text, 100)?;
        check_lvm_characters(text)?;
        let rest = VOLUME_PREFIXES.iter().find_map(|prefix| text.strip_prefix(prefix));
        match rest.ok_or(NameFault::BadPrefix)? {
            "" => Err(NameFault::BadEdge('-')),
            _ => Ok(Self(text.to_owned())),
        }
    }
}

/// The name of a domain that vGrid may not have created: up to 100 printable ASCII characters
/// without blanks, quotes and slashes, not beginning with `-`.
///
/// Names of digits only are excluded, because `xl` takes them for domain numbers; so are the
/// control domain's name and `(null)`, which `xl` prints for a domain that is only partially
/// constructed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ForeignDomain(String);

string_name!(ForeignDomain);

impl FromStr for ForeignDomain {
    type Err = NameFault;

    fn from_str(text: &str) -> Result<Self, NameFault> {
        check_length(text, 100)?;
        let is_bad = |c: &char| !c.is_ascii_graphic() || matches!(c, '"' | '\'' | '`' | '/' | '\\');
        if let Some(c) = text.chars().find(is_bad) {
            return Err(NameFault::BadCharacter(c));
        }
        if text.starts_with('-') {
            return Err(NameFault::BadEdge('-'));
        }
        if text.bytes().all(|byte| byte.is_ascii_digit()) || matches!(text, "Domain-0" | "(null)") {
            return Err(NameFault::NotADomain);
        }
        Ok(Self(text.to_owned()))
    }
}

/// The number of a domain, which the hypervisor gives it for the time that it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DomainNumber(u32);

impl DomainNumber {
    /// Xen's control domain.
    pub const CONTROL: Self = Self(0);

    /// `DOMID_FIRST_RESERVED` of xen.h: numbers from here on have special meanings.
    const RESERVED: u32 = 0x7FF0;

    /// A number as a hypervisor lists it.
    pub const fn new(number: u32) -> Self {
        Self(number)
    }
}

impl fmt::Display for DomainNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for DomainNumber {
    type Err = NameFault;

    /// Parses the number of a domain that may be removed, so not the control domain's.
    fn from_str(text: &str) -> Result<Self, NameFault> {
        match text.parse() {
            Ok(number) if (1..Self::RESERVED).contains(&number) => Ok(Self(number)),
            _ => Err(NameFault::NotADomain),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_names_are_validated() {
        for good in ["xen-root-x", "xen-swap-alice_vm1", "xen-root-a+b.c_d-"] {
            assert_eq!(good.parse::<ForeignVolume>().unwrap().as_str(), good);
        }
        assert_eq!(
            "xen-swap-alice_vm1".parse::<ForeignVolume>().unwrap().machine(),
            "alice_vm1".parse().ok()
        );
        assert_eq!("xen-root-old".parse::<ForeignVolume>().unwrap().machine(), None);
        for bad in [
            "",
            "root",
            "vg1/xen-root-x",
            "xen-root-",
            "xen-swap-",
            "-xen-root-x",
            "Xen-root-x",
            "xen-root-x y",
            "xen-root-../x",
            "xen-root-x\n",
            "xen-root-x@y",
            "xen-root-x%y",
            "xen-root-é",
            "axen-root-x",
            &format!("xen-root-{}", "x".repeat(92)),
        ] {
            assert!(bad.parse::<ForeignVolume>().is_err(), "{bad:?} was accepted");
        }
        for good in ["somebody", "a", "1a", "a:b;c$(d)", "domain-0", "x".repeat(100).as_str()] {
            assert_eq!(good.parse::<ForeignDomain>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            "0",
            "17",
            "Domain-0",
            "(null)",
            "-a",
            "--all",
            "a b",
            "a/b",
            "a'b",
            "a\"b",
            "a`b",
            "a\\b",
            "a\tb",
            "a\0",
            "é",
            &"x".repeat(101),
        ] {
            assert!(bad.parse::<ForeignDomain>().is_err(), "{bad:?} was accepted");
        }
    }
}
