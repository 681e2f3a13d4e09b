//! DNS names of hosts and of virtual machines.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{NameFault, check_length, string_name};

macro_rules! dns_name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// Up to 63 letters, digits, `-` and `.`; kept in lower case.
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        string_name!($name);

        impl FromStr for $name {
            type Err = NameFault;
            fn from_str(text: &str) -> Result<Self, NameFault> {
                dns_name(text).map(Self)
            }
        }
    };
}

dns_name_type!(
    /// The DNS name of the server, or of a node: a host of the pool that runs virtual machines.
    PhysicalHost
);
dns_name_type!(
    /// The DNS name that a virtual machine occupies while it exists.
    VirtualHost
);

impl PhysicalHost {
    /// Returns whether this names the host whose own name is `own` (gethostname(2)). Either name
    /// may lack its domain.
    pub fn is_called(&self, own: &str) -> bool {
        let own = own.to_ascii_lowercase();
        let first = |name: &str| name.split('.').next().unwrap_or_default().to_owned();
        self.0 == own || (!self.0.contains('.') || !own.contains('.')) && first(&self.0) == first(&own)
    }
}

fn dns_name(text: &str) -> Result<String, NameFault> {
    check_length(text, 63)?;
    let text = text.to_ascii_lowercase();
    let is_known = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    // Bytes are faster to iterate over than characters, and almost every name is valid.
    if !text.bytes().all(|byte| is_known(char::from(byte)))
        && let Some(c) = text.chars().find(|&c| !is_known(c))
    {
        return Err(NameFault::BadCharacter(c));
    }
    for label in text.as_bytes().split(|&byte| byte == b'.') {
        match (label.first(), label.last()) {
            (None, _) | (_, None) => return Err(NameFault::BadEdge('.')),
            (Some(b'-'), _) | (_, Some(b'-')) => return Err(NameFault::BadEdge('-')),
            _ => {}
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_recognized_with_and_without_its_domain() {
        for (named, own, expected) in [
            ("node1", "node1", true),
            ("node1.example.org", "node1", true),
            ("node1", "Node1.example.org", true),
            ("node1.example.org", "node1.example.org", true),
            ("node1.example.org", "node1.example.net", false),
            ("node1", "node2", false),
            ("node1.example.org", "node11", false),
        ] {
            assert_eq!(named.parse::<PhysicalHost>().unwrap().is_called(own), expected, "{named} {own}");
        }
    }

    #[test]
    fn host_names_are_dns_names() {
        assert_eq!("VM1.Example".parse::<VirtualHost>().unwrap().as_str(), "vm1.example");
        for bad in ["", "-a", "a-", "a..b", ".a", "a_b", "a b", "a;b", "é", &"a".repeat(64)] {
            assert!(bad.parse::<VirtualHost>().is_err(), "{bad:?} was accepted");
        }
    }
}
