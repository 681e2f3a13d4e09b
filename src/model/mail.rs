//! Mail addresses, restricted to what every mail server accepts.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;
use thiserror::Error;

/// Why a text is not an address.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AddressFault {
    /// There is nothing before or after the `@`, or no `@` at all.
    #[error("must be an address, for instance vgrid@example.org")]
    NotAnAddress,
    /// The part before the `@` is invalid.
    #[error(
        "has something before the @ that no mail server must take: up to 64 plain letters, digits, and dots between them"
    )]
    BadLocalPart,
    /// The part after the `@` is invalid.
    #[error("has something after the @ that is no domain name")]
    BadDomain,
}

/// The part after the `@`: a DNS name (RFC 5321, section 4.1.2), in lower case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct MailDomain(String);

impl MailDomain {
    /// The domain as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for MailDomain {
    type Err = AddressFault;

    fn from_str(text: &str) -> Result<Self, AddressFault> {
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if text.len() <= 253 && text.split('.').all(is_label) {
            Ok(Self(text.to_ascii_lowercase()))
        } else {
            Err(AddressFault::BadDomain)
        }
    }
}

impl fmt::Display for MailDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A mail address: a dot-atom, `@` and a domain (RFC 5321, section 4.1.2), ASCII only. It has no
/// quoted local part, and no leading `-`, which a program could take for an option.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(into = "String")]
pub struct Address {
    local: String,
    domain: MailDomain,
}

impl Address {
    /// Creates the address of `local` at `domain`.
    pub fn new(local: &str, domain: &MailDomain) -> Result<Self, AddressFault> {
        // atext, RFC 5322, section 3.2.3
        let is_atom = |atom: &str| {
            !atom.is_empty()
                && atom.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&b))
        };
        if local.len() <= 64 && local.split('.').all(is_atom) && !local.starts_with('-') {
            Ok(Self { local: local.to_owned(), domain: domain.clone() })
        } else {
            Err(AddressFault::BadLocalPart)
        }
    }

    /// The part before the `@`.
    pub fn local(&self) -> &str {
        &self.local
    }

    /// The part after the `@`.
    pub fn domain(&self) -> &MailDomain {
        &self.domain
    }
}

impl FromStr for Address {
    type Err = AddressFault;

    fn from_str(text: &str) -> Result<Self, AddressFault> {
        match text.rsplit_once('@') {
            Some((local, domain)) if !local.is_empty() && !domain.is_empty() => {
                Self::new(local, &domain.parse()?)
            }
            _ => Err(AddressFault::NotAnAddress),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.local, self.domain)
    }
}

impl From<Address> for String {
    fn from(address: Address) -> String {
        address.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_that_every_mail_server_accepts_are_valid() {
        for good in ["a@b", "root@localhost", "a.b+c@example.org", "o'neil@x-y.example.org", "1@1.de"] {
            assert_eq!(good.parse::<Address>().unwrap().to_string(), good);
        }
        assert_eq!("A@EXAMPLE.org".parse::<Address>().unwrap().to_string(), "A@example.org");
        for (bad, fault) in [
            ("", AddressFault::NotAnAddress),
            ("alice", AddressFault::NotAnAddress),
            ("@example.org", AddressFault::NotAnAddress),
            ("alice@", AddressFault::NotAnAddress),
            ("a@b@example.org", AddressFault::BadLocalPart),
            ("a b@example.org", AddressFault::BadLocalPart),
            ("-f@example.org", AddressFault::BadLocalPart),
            (".a@example.org", AddressFault::BadLocalPart),
            ("jürgen@example.org", AddressFault::BadLocalPart),
            ("\"a b\"@example.org", AddressFault::BadLocalPart),
            ("a\r\nBcc: b@example.org", AddressFault::BadLocalPart),
            ("a>@example.org", AddressFault::BadLocalPart),
            ("a@example.org\n", AddressFault::BadDomain),
            ("a@exa mple.org", AddressFault::BadDomain),
            ("a@-example.org", AddressFault::BadDomain),
            ("a@example..org", AddressFault::BadDomain),
            ("a@[127.0.0.1]", AddressFault::BadDomain),
        ] {
            assert_eq!(bad.parse::<Address>().unwrap_err(), fault, "{bad:?}");
        }
        assert!(format!("{}@b", "a".repeat(65)).parse::<Address>().is_err());
    }
}
