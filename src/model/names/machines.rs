//! Names of machines.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::volumes::check_lvm_characters;
use super::{NameFault, UserName, VirtualHost, check_length, string_name};

/// `user_virtualhost`: the name of the Xen domain, and the part after the prefix in the names of
/// its volumes, `xen-root-…` and `xen-swap-…`. It always contains an underscore, so it can't be
/// mistaken for a domain number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MachineName(String);

string_name!(MachineName);

impl MachineName {
    /// The longest accepted name, in characters.
    pub const MAX: usize = 72;

    /// Substrings of volume names that LVM reserves (lvm(8), "VALID NAMES").
    const RESERVED: [&str; 17] = [
        "_cdata", "_cmeta", "_corig", "_cpool", "_cvol", "_wcorig", "_iorig", "_mimage", "_mlog", "_rimage",
        "_rmeta", "_tdata", "_tmeta", "_pmspare", "_vdata", "_vorigin", "_imeta",
    ];

    /// Creates the name of the machine that `user` has under the host name `host`. The user part is
    /// shortened if it does not fit.
    ///
    /// # Errors
    /// [`NameFault::TooLong`] if even the shortened name is too long, [`NameFault::Reserved`] if it
    /// contains a substring that LVM reserves.
    pub fn new(user: &UserName, host: &VirtualHost) -> Result<Self, NameFault> {
        match format!("{}_{host}", user.in_volume_name()).parse() {
            Err(NameFault::TooLong { .. }) => format!("{}_{host}", user.shortened()).parse(),
            fits => fits,
        }
    }

    /// Returns the user (by canonical name) and the host that the name consists of; `None` if the
    /// user part was shortened, or if [`new`](Self::new) never produces such a name.
    pub fn parts(&self) -> Option<(UserName, VirtualHost)> {
        let (user, host) = self.0.rsplit_once('_')?;
        Some((UserName::from_volume_name(user)?, host.parse().ok()?))
    }
}

impl FromStr for MachineName {
    type Err = NameFault;

    fn from_str(text: &str) -> Result<Self, NameFault> {
        check_length(text, Self::MAX)?;
        check_lvm_characters(text)?;
        let (user, host) = text.rsplit_once('_').ok_or(NameFault::NotAMachine)?;
        if user.is_empty() || VirtualHost::from_str(host).map_or(true, |h| h.as_str() != host) {
            return Err(NameFault::NotAMachine);
        }
        match Self::RESERVED.iter().find(|word| text.contains(**word)) {
            Some(word) => Err(NameFault::Reserved(word)),
            None => Ok(Self(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::names::SavedImage;

    fn machine(user: &str, host: &str) -> Result<MachineName, NameFault> {
        MachineName::new(&user.parse().unwrap(), &host.parse().unwrap())
    }

    #[test]
    fn machine_names_are_valid_everywhere_and_never_collide() {
        assert_eq!(machine("alice", "vm1").unwrap().as_str(), "alice_vm1");
        assert_eq!(machine("Jürgen M", "vm1").unwrap().as_str(), "J+C3+BCrgen_M_vm1");
        assert_eq!(machine("a+b", "vm1").unwrap().as_str(), "a+2Bb_vm1");
        assert_ne!(machine("ü", "vm1"), machine("+C3+BC", "vm1"));
        assert_eq!(machine("x", "tdata1"), Err(NameFault::Reserved("_tdata")));
        // The subject of a certificate fits as well, and no two of them share a name.
        let subject = "CN=Alice Example,CN=123456,CN=alice,OU=Users,OU=Organic Units,DC=example,DC=ch";
        let short = machine(subject, "vm1").unwrap();
        assert!(short.as_str().starts_with("CNAliceExamp++") && short.as_str().ends_with("_vm1"), "{short}");
        assert_ne!(machine(&subject.replace("123456", "123457"), "vm1").unwrap(), short);
        assert_eq!(short.as_str().parse::<MachineName>().unwrap().parts(), None);
        assert!(machine(&"ü".repeat(20), "vm1").unwrap().as_str().starts_with("user++"));
        assert!(machine(&"ü".repeat(20), &"v".repeat(60)).is_err());
    }

    #[test]
    fn a_machine_name_can_be_split_into_user_and_host() {
        for (user, host) in
            [("alice", "vm1"), ("Jürgen M", "vm1.x"), ("a+b", "vm1"), ("a_b", "vm1"), ("李", "v-1")]
        {
            let name = machine(user, host).unwrap();
            let (owner, vm_host) = name.parts().unwrap();
            assert_eq!((owner.as_str(), vm_host.as_str()), (user.replace(' ', "_").as_str(), host));
            assert_eq!(MachineName::new(&owner, &vm_host), Ok(name));
            let image = SavedImage { owner, name: "web-1".parse().unwrap() };
            assert_eq!(SavedImage::from_stem(&image.stem()), Some(image));
        }
        for other in ["a+c3+bc_vm1", "a+2_vm1", "+ff_vm1", "a+0A_vm1", "a++_vm1", "+2D_vm1"] {
            assert_eq!(other.parse::<MachineName>().unwrap().parts(), None, "{other}");
        }
        for other in ["", "web", "_web", "alice_We", "a b_web", "a+c3+bc_web", "alice_../x"] {
            assert_eq!(SavedImage::from_stem(other), None, "{other}");
        }
    }

    #[test]
    fn malicious_machine_names_are_refused() {
        for bad in ["", "alice", "_vm1", "-x_vm1", "../a_vm1", "a_vm1/..", "a_", "a_VM1", "a_-v", "a b_vm1"] {
            assert!(bad.parse::<MachineName>().is_err(), "{bad:?} was accepted");
        }
    }
}
