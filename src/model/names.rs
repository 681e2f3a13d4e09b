//! Names: each kind is a type, checked once where it enters.
//!
//! The rules are the narrowest of all the places where a name ends up: a Xen domain's name (`/` and
//! digits-only names break `xl`), an LVM volume's name (`[A-Za-z0-9+_.-]`, see lvm(8)), a file's name,
//! a kernel's command line, a DNS label (RFC 1123).

use std::fmt;
use std::str::FromStr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::digest::digest;
use super::folding::{folded, is_hidden};
use super::lease::Moment;

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NameFault {
    /// Nothing was given.
    #[error("must not be empty")]
    Empty,
    /// More characters than this kind of name may have.
    #[error("is longer than {max} characters")]
    TooLong {
        /// The largest number of characters.
        max: usize,
    },
    /// Not UTF-8.
    #[error("is not valid UTF-8")]
    NotUtf8,
    /// A character that this kind of name can't have.
    #[error("must not contain {}", describe(*.0))]
    BadCharacter(char),
    /// A first or last character that this kind of name can't have.
    #[error("must not begin or end with {}", describe(*.0))]
    BadEdge(char),
    /// LVM keeps this text for itself (lvm(8), "VALID NAMES").
    #[error("contains {0:?}, which LVM reserves for itself")]
    Reserved(&'static str),
    /// Not `USER_HOST`.
    #[error("is not the name of a machine (user_host)")]
    NotAMachine,
    /// Not a UUID of version 7.
    #[error("is not the id of a machine")]
    NotAnId,
    /// Neither of [`VOLUME_PREFIXES`].
    #[error("does not begin with xen-root- or xen-swap-")]
    BadPrefix,
    /// Only digits, or a name that Xen has for something else.
    #[error("is a number, or a name that is no machine's")]
    NotADomain,
}

fn describe(c: char) -> String {
    match c {
        ' ' => "a blank".to_owned(),
        c if c.is_control() || is_invisible(c) => format!("the control character U+{:04X}", u32::from(c)),
        c if is_hidden(c) => format!("the invisible character U+{:04X}", u32::from(c)),
        c => format!("{c:?}"),
    }
}

/// Characters that change how the text around them is displayed, or are not displayed at all.
pub(crate) fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{FEFF}' | '\u{FFF9}'..='\u{FFFB}')
}

fn check_length(text: &str, max: usize) -> Result<(), NameFault> {
    if text.is_empty() {
        Err(NameFault::Empty)
    } else if text.len() > max && text.chars().count() > max {
        Err(NameFault::TooLong { max })
    } else {
        Ok(())
    }
}

/// The traits that every string-like name shares: reading, showing, and (de)serialising as a string.
macro_rules! string_name {
    ($name:ident) => {
        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameFault;
            fn try_from(text: String) -> Result<Self, NameFault> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }
    };
}

/// A person's name as Apache gave it, and as vGrid uses it.
///
/// Any Unicode, up to 128 characters, but nothing invisible, no `/` and no `;` (that is how mod_shib
/// joins several values of an attribute), no blank at either end and no leading `-`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UserName(String);

string_name!(UserName);

impl UserName {
    /// The longest accepted name, in characters.
    pub const MAX: usize = 128;

    /// Reads the name of somebody who signs in. It has nothing that is not displayed, so that two people whose names
    /// look the same are told apart. Names that are known from before may have: they are read by [`FromStr`].
    ///
    /// # Errors
    /// [`NameFault`], for all that [`FromStr`] refuses, too.
    pub fn of_sign_in(text: &str) -> Result<Self, NameFault> {
        let name: Self = text.parse()?;
        match text.chars().find(|&c| is_hidden(c)) {
            Some(c) => Err(NameFault::BadCharacter(c)),
            None => Ok(name),
        }
    }

    /// Whether another name differs from this one only in capitals or in how letters and accents are encoded.
    pub fn is_alike(&self, other: &Self) -> bool {
        self == other || folded(&self.0) == folded(&other.0)
    }

    /// Reads a name from the raw bytes of an environment variable.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, NameFault> {
        std::str::from_utf8(bytes).map_err(|_| NameFault::NotUtf8)?.parse()
    }

    /// The name with blanks as underscores, as vGrid has always shown it. Two people may share it, so
    /// the registry admits only the first of them.
    pub fn canonical(&self) -> String {
        self.0.replace(' ', "_")
    }

    /// The canonical name, percent-encoded (RFC 3986, unreserved characters stay): safe on a kernel's
    /// command line.
    pub fn encoded(&self) -> String {
        const SET: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
        utf8_percent_encode(&self.canonical(), &SET).to_string()
    }

    /// The canonical name as part of a volume's name: as [`encoded`](Self::encoded), with `+` in place of
    /// `%`, because LVM knows no `%` (and no `~`).
    fn in_volume_name(&self) -> String {
        const SET: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_');
        utf8_percent_encode(&self.canonical(), &SET).to_string().replace('%', "+")
    }

    /// What stands for a canonical name that is too long for a volume's name, such as a certificate's whole subject: how it
    /// begins, and 64 bits of its digest. No [other form](Self::in_volume_name) has two `+` in a row.
    fn shortened(&self) -> String {
        let canonical = self.canonical();
        let begins: String = canonical.chars().filter(char::is_ascii_alphanumeric).take(12).collect();
        let begins = if begins.is_empty() { "user" } else { &begins };
        format!("{begins}++{}", digest(canonical.as_bytes()))
    }

    /// The canonical name that becomes this part of a volume's name.
    fn from_volume_name(part: &str) -> Option<Self> {
        let decoded: Vec<u8> = percent_decode_str(&part.replace('+', "%")).collect();
        Self::from_bytes(&decoded).ok().filter(|user| user.in_volume_name() == part)
    }
}

impl FromStr for UserName {
    type Err = NameFault;

    fn from_str(text: &str) -> Result<Self, NameFault> {
        check_length(text, Self::MAX)?;
        if let Some(c) = text.chars().find(|&c| c.is_control() || is_invisible(c) || matches!(c, '/' | ';')) {
            return Err(NameFault::BadCharacter(c));
        }
        if let Some(c) = text
            .chars()
            .next()
            .filter(|&c| c.is_whitespace() || c == '-')
            .or_else(|| text.chars().last().filter(|c| c.is_whitespace()))
        {
            return Err(NameFault::BadEdge(c));
        }
        Ok(Self(text.to_owned()))
    }
}

fn dns_name(text: &str) -> Result<String, NameFault> {
    check_length(text, 63)?;
    let text = text.to_ascii_lowercase();
    let is_known = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    // Bytes are faster to go over, and almost every name is a good one.
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

macro_rules! dns_name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// Up to 63 characters of letters, digits, `-` and `.`; kept in lower case.
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
    /// The DNS name of a machine of the pool that runs virtual machines (a node), or of the server.
    PhysicalHost
);
dns_name_type!(
    /// The DNS name that a virtual machine occupies while it exists.
    VirtualHost
);

impl PhysicalHost {
    /// Whether the host that calls itself `own` (gethostname(2)) is meant. Either name may be without its domain.
    pub fn is_called(&self, own: &str) -> bool {
        let own = own.to_ascii_lowercase();
        let first = |name: &str| name.split('.').next().unwrap_or_default().to_owned();
        self.0 == own || (!self.0.contains('.') || !own.contains('.')) && first(&self.0) == first(&own)
    }
}

/// The key of an image in `[VMImages]`: up to 64 of letters, digits, `.`, `_`, `+` and `-`, not
/// beginning with `.` or `-`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageTag(String);

string_name!(ImageTag);

impl FromStr for ImageTag {
    type Err = NameFault;

    fn from_str(text: &str) -> Result<Self, NameFault> {
        check_length(text, 64)?;
        if let Some(c) =
            text.chars().find(|&c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '+' | '-')))
        {
            return Err(NameFault::BadCharacter(c));
        }
        match text.chars().next() {
            Some(c @ ('.' | '-')) => Err(NameFault::BadEdge(c)),
            _ => Ok(Self(text.to_owned())),
        }
    }
}

/// What a person calls an image that they saved: up to 40 of small letters, digits, `.` and `-`, with a letter or
/// a digit at either end. No underscore: in the file's name (see [`SavedImage::stem`]) it is where this begins.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageName(String);

string_name!(ImageName);

impl FromStr for ImageName {
    type Err = NameFault;

    fn from_str(text: &str) -> Result<Self, NameFault> {
        check_length(text, 40)?;
        if let Some(c) =
            text.chars().find(|c| !(c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-')))
        {
            return Err(NameFault::BadCharacter(c));
        }
        match text.chars().next().into_iter().chain(text.chars().last()).find(|c| matches!(c, '.' | '-')) {
            Some(c) => Err(NameFault::BadEdge(c)),
            None => Ok(Self(text.to_owned())),
        }
    }
}

/// An image that somebody saved.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedImage {
    /// Whose it is.
    pub owner: UserName,
    /// What they call it.
    pub name: ImageName,
}

impl SavedImage {
    /// The name of its file without the ending, `user_name`, as vGrid has it: the canonical name, encoded as in a
    /// volume's name. No two people and no two images share one.
    pub fn stem(&self) -> String {
        format!("{}_{}", self.owner.in_volume_name(), self.name)
    }

    /// The image with that [`stem`](Self::stem), under its owner's canonical name; `None` if no image has it.
    pub fn from_stem(stem: &str) -> Option<Self> {
        let (owner, name) = stem.rsplit_once('_')?;
        Some(Self { owner: UserName::from_volume_name(owner)?, name: name.parse().ok()? })
    }
}

/// What its owner calls a machine: up to 64 characters of any visible Unicode; may be empty.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Label(String);

string_name!(Label);

impl FromStr for Label {
    type Err = NameFault;

    fn from_str(text: &str) -> Result<Self, NameFault> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(Self::default());
        }
        check_length(text, 64)?;
        match text.chars().find(|&c| c.is_control() || is_invisible(c)) {
            Some(c) => Err(NameFault::BadCharacter(c)),
            None => Ok(Self(text.to_owned())),
        }
    }
}

/// The name of a volume group: as lvm(8) allows, at most 40 characters (a device-mapper name holds the
/// group, the volume and doubled hyphens in 127).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VolumeGroup(String);

string_name!(VolumeGroup);

impl FromStr for VolumeGroup {
    type Err = NameFault;

    fn from_str(text: &str) -> Result<Self, NameFault> {
        check_length(text, 40)?;
        check_lvm_characters(text)?;
        Ok(Self(text.to_owned()))
    }
}

fn check_lvm_characters(text: &str) -> Result<(), NameFault> {
    if let Some(c) =
        text.chars().find(|&c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '+' | '-')))
    {
        return Err(NameFault::BadCharacter(c));
    }
    match text.chars().next() {
        Some(c @ ('.' | '-')) => Err(NameFault::BadEdge(c)),
        _ => Ok(()),
    }
}

/// `user_virtualhost`: the Xen domain's name and the end of its volumes' names `xen-root-…`,
/// `xen-swap-…`. It always holds an underscore, so it is never taken for a domain's number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MachineName(String);

string_name!(MachineName);

impl MachineName {
    /// The longest accepted name, in characters.
    pub const MAX: usize = 72;

    /// Parts of a volume's name that lvm(8) keeps for itself.
    const RESERVED: [&str; 17] = [
        "_cdata", "_cmeta", "_corig", "_cpool", "_cvol", "_wcorig", "_iorig", "_mimage", "_mlog", "_rimage",
        "_rmeta", "_tdata", "_tmeta", "_pmspare", "_vdata", "_vorigin", "_imeta",
    ];

    /// The name of the machine that `user` has under the name `host`. A user's name that does not fit is shortened.
    ///
    /// # Errors
    /// [`NameFault::TooLong`] when both together don't fit, [`NameFault::Reserved`] for LVM's own words.
    pub fn new(user: &UserName, host: &VirtualHost) -> Result<Self, NameFault> {
        match format!("{}_{host}", user.in_volume_name()).parse() {
            Err(NameFault::TooLong { .. }) => format!("{}_{host}", user.shortened()).parse(),
            fits => fits,
        }
    }

    /// The user, by the canonical name, and the host that it was made of; `None` if [`new`](Self::new) makes no such
    /// name, or had to shorten the user's.
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

/// What the names of volumes begin with that hold a machine's file system.
pub const ROOT_PREFIX: &str = "xen-root-";

/// What the names of volumes begin with that a machine swaps to.
pub const SWAP_PREFIX: &str = "xen-swap-";

/// What the names of machines' volumes begin with.
pub const VOLUME_PREFIXES: [&str; 2] = [ROOT_PREFIX, SWAP_PREFIX];

/// The name of a volume that looks like a machine's and that vGrid may not have made: one of [`VOLUME_PREFIXES`] and
/// something after it, in LVM's characters (lvm(8)), at most 100 in all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StrangerVolume(String);

string_name!(StrangerVolume);

impl StrangerVolume {
    /// The machine whose volume it would be; `None` if no machine has such a name.
    pub fn machine(&self) -> Option<MachineName> {
        VOLUME_PREFIXES.iter().find_map(|prefix| self.0.strip_prefix(prefix)?.parse().ok())
    }
}

impl FromStr for StrangerVolume {
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

/// The name of a domain that vGrid may not have made: up to 100 printable ASCII characters without blank, quote and
/// slash, not beginning with `-`. Not of digits only, which `xl` takes for a number; not the control domain's, and not
/// `(null)`, by which `xl` lists one that is only half there and may be anybody's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StrangerDomain(String);

string_name!(StrangerDomain);

impl FromStr for StrangerDomain {
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

/// A name that is a UUID of version 7 in its hyphenated lower-case form, so that one id has one spelling.
macro_rules! uuid_name {
    ($(#[$about:meta])* $name:ident) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(uuid::Uuid);

        impl $name {
            /// A new id; later ids sort after earlier ones.
            pub fn generate() -> Self {
                Self(uuid::Uuid::now_v7())
            }
        }

        impl FromStr for $name {
            type Err = NameFault;

            fn from_str(text: &str) -> Result<Self, NameFault> {
                uuid::Uuid::try_parse(text)
                    .ok()
                    // Of the forms that are read, only the hyphenated one is so long.
                    .filter(|id| id.get_version_num() == 7 && text.len() == 36)
                    .filter(|_| !text.bytes().any(|byte| byte.is_ascii_uppercase()))
                    .map(Self)
                    .ok_or(NameFault::NotAnId)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameFault;
            fn try_from(text: String) -> Result<Self, NameFault> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.to_string()
            }
        }
    };
}

uuid_name! {
    /// The id of one machine: given at deploy, carried by every message about the machine, never used again.
    VmId
}

uuid_name! {
    /// The identity of a registry, made with it and kept for its life, through backup and restore. A node obeys the
    /// registry that it knows and no other.
    RegistryId
}

impl VmId {
    /// When it was made, as it says itself (RFC 9562, section 5.7).
    pub fn made(self) -> Moment {
        let seconds = self.0.get_timestamp().map_or(0, |time| time.to_unix().0);
        Moment::from_unix(i64::try_from(seconds).unwrap_or(i64::MAX))
    }
}

/// What a script calls an order, to be known by it when it is sent again: up to 64 of letters, digits, `.`, `_`, `~`
/// and `-`, which need no encoding in an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderName(String);

impl FromStr for OrderName {
    type Err = NameFault;

    fn from_str(text: &str) -> Result<Self, NameFault> {
        check_length(text, 64)?;
        let is_known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '~' | '-');
        match text.chars().find(|&c| !is_known(c)) {
            Some(c) => Err(NameFault::BadCharacter(c)),
            None => Ok(Self(text.to_owned())),
        }
    }
}

impl fmt::Display for OrderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Marks one request in every log it touches, on the server and on the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RequestId(String);

string_name!(RequestId);

impl RequestId {
    /// A new id: twelve hexadecimal digits of a random number.
    pub fn generate() -> Self {
        let id = uuid::Uuid::now_v7().simple().to_string();
        Self(id[id.len() - 12..].to_owned())
    }
}

impl FromStr for RequestId {
    type Err = NameFault;

    fn from_str(text: &str) -> Result<Self, NameFault> {
        check_length(text, 32)?;
        match text.chars().find(|c| !c.is_ascii_alphanumeric()) {
            Some(c) => Err(NameFault::BadCharacter(c)),
            None => Ok(Self(text.to_owned())),
        }
    }
}

/// Why an administrator has closed something: up to 300 characters of any visible Unicode, on one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason(String);

impl Reason {
    /// The longest accepted reason, in characters.
    pub const MAX: usize = 300;

    /// The reason as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Reason {
    type Err = NameFault;

    fn from_str(text: &str) -> Result<Self, NameFault> {
        let text = text.trim();
        check_length(text, Self::MAX)?;
        match text.chars().find(|&c| c.is_control() || is_invisible(c)) {
            Some(c) => Err(NameFault::BadCharacter(c)),
            None => Ok(Self(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(user: &str, host: &str) -> Result<MachineName, NameFault> {
        MachineName::new(&user.parse().unwrap(), &host.parse().unwrap())
    }

    #[test]
    fn user_names_may_be_any_visible_unicode() {
        for good in ["alice", "Jürgen Müller", "李雷", "o'brien", "a@b.example", "-".repeat(2).as_str()] {
            let parsed = UserName::from_bytes(good.as_bytes());
            assert_eq!(parsed.is_ok(), !good.starts_with('-'), "{good:?}");
        }
        for bad in ["", " a", "a ", "a\nb", "a;b", "../x", "a\u{202E}b", "a\0", &"x".repeat(129)] {
            assert!(bad.parse::<UserName>().is_err(), "{bad:?} was accepted");
        }
        assert_eq!(UserName::from_bytes(b"\xff"), Err(NameFault::NotUtf8));
    }

    #[test]
    fn machine_names_are_safe_everywhere_and_never_collide() {
        assert_eq!(machine("alice", "vm1").unwrap().as_str(), "alice_vm1");
        assert_eq!(machine("Jürgen M", "vm1").unwrap().as_str(), "J+C3+BCrgen_M_vm1");
        assert_eq!(machine("a+b", "vm1").unwrap().as_str(), "a+2Bb_vm1");
        assert_ne!(machine("ü", "vm1"), machine("+C3+BC", "vm1"));
        assert_eq!(machine("x", "tdata1"), Err(NameFault::Reserved("_tdata")));
        // A subject of a certificate fits as well, and no two of them share a name.
        let subject = "CN=Alice Example,CN=123456,CN=alice,OU=Users,OU=Organic Units,DC=example,DC=ch";
        let short = machine(subject, "vm1").unwrap();
        assert!(short.as_str().starts_with("CNAliceExamp++") && short.as_str().ends_with("_vm1"), "{short}");
        assert_ne!(machine(&subject.replace("123456", "123457"), "vm1").unwrap(), short);
        assert_eq!(short.as_str().parse::<MachineName>().unwrap().parts(), None);
        assert!(machine(&"ü".repeat(20), "vm1").unwrap().as_str().starts_with("user++"));
        assert!(machine(&"ü".repeat(20), &"v".repeat(60)).is_err());
    }

    #[test]
    fn what_a_name_was_made_of_can_be_told() {
        for (user, host) in
            [("alice", "vm1"), ("Jürgen M", "vm1.x"), ("a+b", "vm1"), ("a_b", "vm1"), ("李", "v-1")]
        {
            let name = machine(user, host).unwrap();
            let (owner, told) = name.parts().unwrap();
            assert_eq!((owner.as_str(), told.as_str()), (user.replace(' ', "_").as_str(), host));
            assert_eq!(MachineName::new(&owner, &told), Ok(name));
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
    fn strangers_have_names_that_can_be_nothing_else() {
        for good in ["xen-root-x", "xen-swap-alice_vm1", "xen-root-a+b.c_d-"] {
            assert_eq!(good.parse::<StrangerVolume>().unwrap().as_str(), good);
        }
        assert_eq!(
            "xen-swap-alice_vm1".parse::<StrangerVolume>().unwrap().machine(),
            "alice_vm1".parse().ok()
        );
        assert_eq!("xen-root-old".parse::<StrangerVolume>().unwrap().machine(), None);
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
            assert!(bad.parse::<StrangerVolume>().is_err(), "{bad:?} was accepted");
        }
        for good in ["somebody", "a", "1a", "a:b;c$(d)", "domain-0", "x".repeat(100).as_str()] {
            assert_eq!(good.parse::<StrangerDomain>().unwrap().as_str(), good);
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
            assert!(bad.parse::<StrangerDomain>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn hostile_machine_names_are_refused() {
        for bad in ["", "alice", "_vm1", "-x_vm1", "../a_vm1", "a_vm1/..", "a_", "a_VM1", "a_-v", "a b_vm1"] {
            assert!(bad.parse::<MachineName>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn encoded_names_hold_no_blank_and_no_quote() {
        let name: UserName = "o'brien \"x\" é".parse().unwrap();
        assert_eq!(name.encoded(), "o%27brien_%22x%22_%C3%A9");
    }

    #[test]
    fn ids_have_one_spelling() {
        let id = VmId::generate();
        let made = "01936f5e-8c3e-7a37-a6b3-1f3c1f7c9f01".parse::<VmId>().unwrap().made();
        assert_eq!(made.rfc3339(), "2024-11-27T20:44:47Z");
        assert_eq!(id.to_string().parse::<VmId>(), Ok(id));
        assert!(id.to_string().to_uppercase().parse::<VmId>().is_err());
        assert!("6b0dcfc1-8c3e-4a37-a6b3-1f3c1f7c9f41".parse::<VmId>().is_err(), "version 4");
    }

    #[test]
    fn a_host_knows_its_name_with_and_without_domain() {
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
