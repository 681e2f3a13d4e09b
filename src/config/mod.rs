//! The three configuration files, with vGrid's names, sections and keys, in TOML.
//!
//! `common.cfg` is the same on all machines, `server.cfg` belongs to the portal and `node.cfg` to a
//! host of the pool. They live in the folder that `VGRID_CONFIG_DIR` names, else in `/etc/vgrid`.

pub mod convert;
pub mod mail;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use thiserror::Error;

use crate::model::digest::digest;
use crate::model::folding::{Folding, folded};
use crate::model::lease::Lease;
use crate::model::mail::Address;
use crate::model::names::{ImageTag, NameFault, PhysicalHost, UserName, VirtualHost, VolumeGroup};
use crate::model::origin::Origin;
use crate::model::sign::Key;
use crate::model::size::MiB;

use mail::Mail;

/// The folder of the configuration unless `VGRID_CONFIG_DIR` names another; the helper knows no other.
pub const DEFAULT_DIR: &str = "/etc/vgrid";

/// The folder that holds the configuration files.
pub fn directory() -> PathBuf {
    std::env::var_os("VGRID_CONFIG_DIR")
        .filter(|dir| !dir.is_empty())
        .map_or_else(|| PathBuf::from(DEFAULT_DIR), PathBuf::from)
}

/// Why a configuration can't be used; `Display` names the file, the line where there is one, and the
/// remedy where there is one.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("{}: {source}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not TOML, or a value of the wrong type.
    #[error("{}, line {line}: {message}", file.display())]
    Syntax {
        /// The file.
        file: PathBuf,
        /// Counted from one.
        line: usize,
        /// What the parser said.
        message: String,
    },
    /// vGrid's `key: value` syntax of 2007.
    #[error("{0}: this file is in vGrid's old syntax; convert it with: vgrid-config-convert --in-place {0}", file.display())]
    OldSyntax {
        /// The file.
        file: PathBuf,
    },
    /// A key or section that does not exist.
    #[error("{}, line {line}: unknown key `{key}`{}", file.display(), nearest.as_ref().map(|n| format!("; did you mean `{n}`?")).unwrap_or_default())]
    UnknownKey {
        /// The file.
        file: PathBuf,
        /// Counted from one.
        line: usize,
        /// The key.
        key: String,
        /// The known key that looks most like it.
        nearest: Option<String>,
    },
    /// A key or a value that is well-formed but means nothing.
    #[error("{}: [{section}] {key}: {message}", file.display())]
    Value {
        /// The file.
        file: PathBuf,
        /// The section.
        section: &'static str,
        /// The key.
        key: String,
        /// What is wrong.
        message: String,
    },
}

/// A file's text with its path, for messages.
struct Source {
    file: PathBuf,
    text: String,
}

impl Source {
    fn read(dir: &Path, name: &str) -> Result<Self, ConfigError> {
        let file = dir.join(name);
        match std::fs::read_to_string(&file) {
            Ok(text) => Ok(Self { file, text }),
            Err(source) => Err(ConfigError::Unreadable { file, source }),
        }
    }

    fn parse<T: DeserializeOwned>(&self) -> Result<T, ConfigError> {
        toml::from_str(&self.text).map_err(|error| self.explain(&error))
    }

    fn explain(&self, error: &toml::de::Error) -> ConfigError {
        let file = self.file.clone();
        if looks_old(&self.text) {
            return ConfigError::OldSyntax { file };
        }
        let start = error.span().map_or(0, |span| span.start).min(self.text.len());
        let line = self.text[..start].matches('\n').count() + 1;
        // serde words this error the same for every struct: unknown field `x`, expected `a` or `b`.
        let mut quoted = error.message().split('`').skip(1).step_by(2);
        match quoted.next() {
            Some(key) if error.message().starts_with("unknown field") => {
                let nearest = quoted
                    .map(|known| {
                        (strsim::damerau_levenshtein(&key.to_lowercase(), &known.to_lowercase()), known)
                    })
                    .min()
                    .filter(|(distance, known)| *distance <= known.len() / 2)
                    .map(|(_, known)| known.to_owned());
                ConfigError::UnknownKey { file, line, key: key.to_owned(), nearest }
            }
            _ => ConfigError::Syntax { file, line, message: error.message().to_owned() },
        }
    }

    fn value(
        &self,
        section: &'static str,
        key: impl fmt::Display,
        message: impl fmt::Display,
    ) -> ConfigError {
        ConfigError::Value {
            file: self.file.clone(),
            section,
            key: key.to_string(),
            message: message.to_string(),
        }
    }

    /// A section whose keys are names, in the order of the file.
    fn names<K, V, R>(&self, section: &'static str, table: Pairs, read: R) -> Result<Vec<(K, V)>, ConfigError>
    where
        K: FromStr<Err = NameFault> + Ord + fmt::Display,
        R: Fn(toml::Value) -> Result<V, String>,
    {
        let mut pairs: Vec<(K, V)> = Vec::with_capacity(table.0.len());
        for (key, value) in table.0 {
            let name: K = key.parse().map_err(|fault| self.value(section, &key, fault))?;
            let value = read(value).map_err(|message| self.value(section, &key, message))?;
            pairs.push((name, value));
        }
        // A pool may have thousands of names: to sort them is the fastest way to find two that are the same
        // (in another case, or the file would be no TOML).
        let mut sorted: Vec<&K> = pairs.iter().map(|(name, _)| name).collect();
        sorted.sort_unstable();
        match sorted.windows(2).find(|two| two[0] == two[1]) {
            Some(two) => Err(self.value(section, two[0], "is there twice")),
            None => Ok(pairs),
        }
    }
}

/// A section of names, in the order of the file. That no key is there twice is for the parser to see.
#[derive(Debug, Default)]
struct Pairs(Vec<(String, toml::Value)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a section")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Pairs, M::Error> {
                let mut pairs = Vec::with_capacity(map.size_hint().unwrap_or_default());
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }

        deserializer.deserialize_map(Reader)
    }
}

/// Whether a text is in the old syntax: sections, and `key: value` lines, but no `key = value`.
fn looks_old(text: &str) -> bool {
    let lines = || text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with(['#', ';', '[']));
    let separator = |line: &str| line.find([':', '=']).map(|at| line.as_bytes()[at]);
    lines().any(|line| separator(line) == Some(b':')) && !lines().any(|line| separator(line) == Some(b'='))
}

fn text(value: toml::Value) -> Result<String, String> {
    match value {
        toml::Value::String(text) => Ok(text),
        other => Err(format!("must be a text in quotes, not {}", other.type_str())),
    }
}

/// An address of mail; an empty text is none.
fn address(value: toml::Value) -> Result<Option<Address>, String> {
    match text(value)?.as_str() {
        "" => Ok(None),
        address => {
            address.parse().map(Some).map_err(|fault: crate::model::mail::AddressFault| fault.to_string())
        }
    }
}

// By value, as `text`.
#[allow(clippy::needless_pass_by_value)]
fn count(value: toml::Value) -> Result<u32, String> {
    let number = value.as_integer().ok_or("must be a whole number")?;
    u32::try_from(number).map_err(|_| format!("must be from 0 to {}", u32::MAX))
}

/// `common.cfg`: what server and nodes must agree on.
#[derive(Debug, Clone)]
pub struct Common {
    /// `[VMImages]`: the images and their descriptions, in the order of the file.
    pub images: Vec<(ImageTag, String)>,
    /// `[PhysicalHostsPool]`: the nodes and how many machines each may have.
    pub physical_hosts: Vec<(PhysicalHost, u32)>,
    /// `[VirtualHostsPool]`: the names for machines, each with what its template gets as `${vmExtra}`.
    pub virtual_hosts: Vec<(VirtualHost, String)>,
    /// The digest of the file, by which server and nodes compare it.
    pub digest: String,
}

impl Common {
    /// Reads `common.cfg` from a folder.
    pub fn load(dir: &Path) -> Result<Self, ConfigError> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Raw {
            #[serde(rename = "VMImages")]
            images: Pairs,
            #[serde(rename = "PhysicalHostsPool")]
            physical: Pairs,
            #[serde(rename = "VirtualHostsPool")]
            virtual_: Pairs,
        }
        let source = Source::read(dir, "common.cfg")?;
        let raw: Raw = source.parse()?;
        Ok(Self {
            images: source.names("VMImages", raw.images, text)?,
            physical_hosts: source.names("PhysicalHostsPool", raw.physical, count)?,
            virtual_hosts: source.names("VirtualHostsPool", raw.virtual_, text)?,
            digest: digest(source.text.as_bytes()),
        })
    }

    /// The most machines that a node may have; `None` if it is not in the pool.
    pub fn maximum(&self, host: &PhysicalHost) -> Option<u32> {
        self.physical_hosts.iter().find(|(name, _)| name == host).map(|(_, maximum)| *maximum)
    }

    /// Whether there is such an image.
    pub fn has_image(&self, tag: &ImageTag) -> bool {
        self.images.iter().any(|(known, _)| known == tag)
    }

    /// What the template gets as `${vmExtra}` for a name; `None` if it is not in the pool.
    pub fn extra(&self, host: &VirtualHost) -> Option<&str> {
        self.virtual_hosts.iter().find(|(name, _)| name == host).map(|(_, extra)| extra.as_str())
    }
}

/// The environment variable that holds the user's name: one that Apache sets, never one whose value the
/// client chooses.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct UserVariable(String);

impl UserVariable {
    /// Prefixes and names of variables whose value the client chooses (RFC 3875, mod_ssl's SNI).
    const CLIENTS: [&str; 15] = [
        "QUERY_",
        "PATH_",
        "REQUEST_",
        "CONTENT_",
        "SCRIPT_",
        "SERVER_",
        "CONTEXT_",
        "DOCUMENT_",
        "GATEWAY_",
        "REDIRECT_",
        "SSL_TLS_",
        "SSL_SESSION_",
        "REMOTE_ADDR",
        "REMOTE_HOST",
        "REMOTE_PORT",
    ];
    const NEVER: [&str; 4] = ["REMOTE_IDENT", "AUTH_TYPE", "HTTPS", "PATH"];

    /// The variable's name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for UserVariable {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let plain = name.strip_prefix("HTTP_").unwrap_or(&name);
        if plain.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            Err(format!("{name:?} is not the name of an environment variable"))
        } else if Self::NEVER.contains(&plain) || Self::CLIENTS.iter().any(|p| plain.starts_with(p)) {
            Err(format!(
                "{name} is set by the client, so anybody could be anyone; use REMOTE_USER, ADFS_LOGIN or SSL_CLIENT_S_DN_CN"
            ))
        } else {
            Ok(Self(name))
        }
    }
}

/// Which name of a client's certificate is its user's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CertificateName {
    /// The only one that `EnvUsernameVariable` names; a certificate with several is refused.
    #[default]
    Single,
    /// The first of them, in the order of the certificate.
    First,
    /// The last of them.
    Last,
    /// Its whole subject (`SSL_CLIENT_S_DN`).
    Dn,
}

/// `server.cfg`.
#[derive(Debug, Clone)]
pub struct Server {
    /// `[General]`.
    pub general: ServerGeneral,
    /// `[Leases]`.
    pub leases: Leases,
    /// `[Upkeep]`.
    pub upkeep: Upkeep,
    /// `[Mail]`.
    pub mail: Mail,
    /// `[MailAddresses]`: where mail reaches single users.
    mail_addresses: Vec<(UserName, Option<Address>)>,
    /// `[Quotas]`: of everybody.
    quota: Quota,
    /// `[Quotas.users]`: of single users, in place of that.
    quotas: Vec<(UserName, Quota)>,
    /// `[Administrators]`: their names, and where mail reaches them.
    administrators: Vec<(UserName, Option<Address>)>,
    source: PathBuf,
}

/// `[General]` of `server.cfg`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ServerGeneral {
    /// Where Apache puts the user's name.
    #[serde(rename = "EnvUsernameVariable")]
    pub env_username_variable: UserVariable,
    /// Which name of a client's certificate is its user's.
    #[serde(default)]
    pub certificate_name: CertificateName,
    /// Whether names of users that differ only in capitals, or in how letters are encoded, are one person's.
    #[serde(default)]
    fold_user_names: bool,
    /// Where users open the portal, if Apache is asked for another name: behind a proxy.
    #[serde(rename = "portalURLs", default)]
    pub portal_urls: Vec<Origin>,
    /// The registry's SQLite file.
    #[serde(default = "default_registry")]
    pub registry_file: PathBuf,
    /// The file with the key that server and nodes share.
    #[serde(default = "default_key")]
    pub key_file: PathBuf,
    /// The log, where there is no syslog.
    #[serde(default = "default_server_log")]
    pub log_file: PathBuf,
    /// The folder of the page templates.
    #[serde(default = "default_templates")]
    pub template_directory: PathBuf,
    /// Where a node's programs are; `{host}` is the node's name.
    #[serde(rename = "nodeURL", default = "default_node_url")]
    pub node_url: String,
    /// Seconds within which a node must have answered.
    #[serde(default = "default_node_timeout")]
    pub node_timeout: u8,
    /// Where Apache serves the `resources` folder.
    #[serde(rename = "resourcesURL", default = "default_resources_url")]
    pub resources_url: String,
    /// Where this version's source is offered, as the licence asks.
    #[serde(rename = "sourceURL", default = "default_source_url")]
    pub source_url: String,
    /// The certificates that a node's https must be signed by, as PEM.
    #[serde(default = "default_ca")]
    pub ca_file: PathBuf,
}

/// `[Leases]` of `server.cfg`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leases {
    /// The lease of who asks for none.
    #[serde(default = "default_lease")]
    pub default: Lease,
    /// The longest that a user may ask for.
    #[serde(default = "default_maximum_lease")]
    pub maximum: Lease,
    /// How long the disk of a machine is kept after its lease has ended.
    #[serde(default = "default_grace")]
    pub grace: Lease,
    /// How long before the end of a lease its owner is told.
    #[serde(default = "default_notices")]
    pub notices: Vec<Lease>,
}

impl Default for Leases {
    fn default() -> Self {
        Self {
            default: default_lease(),
            maximum: default_maximum_lease(),
            grace: default_grace(),
            notices: default_notices(),
        }
    }
}

/// `[Upkeep]` of `server.cfg`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Upkeep {
    /// Whether machines are pinged.
    #[serde(default)]
    pub ping: bool,
    /// After how many runs in a row without an answer the owner of a machine is told.
    #[serde(default = "default_silent_runs")]
    pub silent_runs: u32,
    /// After how many such runs a machine is terminated; 0 for never.
    #[serde(default)]
    pub terminate_silent_runs: u32,
    /// How long history is kept.
    #[serde(default = "default_history")]
    pub history: Lease,
    /// How long a host may be unreachable before administrators are told.
    #[serde(default = "default_host_silence")]
    pub host_silence: Lease,
}

impl Default for Upkeep {
    fn default() -> Self {
        Self {
            ping: false,
            silent_runs: default_silent_runs(),
            terminate_silent_runs: 0,
            history: default_history(),
            host_silence: default_host_silence(),
        }
    }
}

/// What a person may have at a time; 0 for as much as there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quota {
    /// Machines.
    #[serde(default)]
    pub machines: u32,
    /// Memory of all machines together, in MiB.
    #[serde(default)]
    pub memory: u64,
    /// Partitions of all machines together, in GiB.
    #[serde(default)]
    pub disk: u64,
    /// Saved images.
    #[serde(default)]
    pub images: u32,
    /// Saved images together, in GiB.
    #[serde(default, rename = "imageDisk")]
    pub image_disk: u64,
}

fn default_registry() -> PathBuf {
    "/var/lib/vgrid/registry.sqlite".into()
}
fn default_key() -> PathBuf {
    "/etc/vgrid/key".into()
}
fn default_server_log() -> PathBuf {
    "/var/lib/vgrid/server.log".into()
}
fn default_node_log() -> PathBuf {
    "/var/lib/vgrid/node.log".into()
}
fn default_templates() -> PathBuf {
    "/usr/share/vgrid/templates".into()
}
fn default_node_url() -> String {
    "http://{host}/cgi-bin/node".into()
}
fn default_node_timeout() -> u8 {
    7
}
fn default_resources_url() -> String {
    "/resources".into()
}
fn default_source_url() -> String {
    "/resources/vgrid-source.tar.gz".into()
}
fn default_ca() -> PathBuf {
    "/etc/ssl/certs/ca-certificates.crt".into()
}
fn default_lease() -> Lease {
    "7d".parse().expect("a valid lease")
}
fn default_maximum_lease() -> Lease {
    "90d".parse().expect("a valid lease")
}
fn default_grace() -> Lease {
    "7d".parse().expect("a valid lease")
}
fn default_notices() -> Vec<Lease> {
    ["2h", "1d", "3d"].map(|lease| lease.parse().expect("a valid lease")).to_vec()
}
fn default_silent_runs() -> u32 {
    24
}
fn default_history() -> Lease {
    "365d".parse().expect("a valid lease")
}
fn default_host_silence() -> Lease {
    "1h".parse().expect("a valid lease")
}

impl Server {
    /// Reads `server.cfg` from a folder.
    pub fn load(dir: &Path) -> Result<Self, ConfigError> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Raw {
            #[serde(rename = "General")]
            general: ServerGeneral,
            #[serde(rename = "Leases", default)]
            leases: Leases,
            #[serde(rename = "Upkeep", default)]
            upkeep: Upkeep,
            #[serde(rename = "Mail", default)]
            mail: mail::Raw,
            #[serde(rename = "MailAddresses", default)]
            mail_addresses: Pairs,
            #[serde(rename = "Quotas", default)]
            quotas: Quotas,
            #[serde(rename = "Administrators", default)]
            administrators: Pairs,
        }
        #[derive(Default, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Quotas {
            #[serde(default)]
            machines: u32,
            #[serde(default)]
            memory: u64,
            #[serde(default)]
            disk: u64,
            #[serde(default)]
            images: u32,
            #[serde(default, rename = "imageDisk")]
            image_disk: u64,
            #[serde(default)]
            users: BTreeMap<String, Quota>,
        }
        let source = Source::read(dir, "server.cfg")?;
        let raw: Raw = source.parse()?;
        let node_url = &raw.general.node_url;
        if !node_url.contains("{host}") || !is_http(node_url) {
            return Err(source.value("General", "nodeURL", "must be a URL that contains {host}"));
        }
        if raw.general.node_timeout == 0 || raw.general.node_timeout > 60 {
            return Err(source.value("General", "nodeTimeout", "must be from 1 to 60 seconds"));
        }
        if raw.leases.default > raw.leases.maximum {
            return Err(source.value("Leases", "default", "is longer than the maximum"));
        }
        let mut leases = raw.leases;
        leases.notices.sort_unstable();
        leases.notices.dedup();
        let Quotas { machines, memory, disk, images, image_disk, users } = raw.quotas;
        let quota = |(name, quota): (String, Quota)| match name.parse() {
            Ok(user) => Ok((user, quota)),
            Err(fault) => Err(source.value("Quotas.users", name, fault)),
        };
        let quotas = users.into_iter().map(quota).collect::<Result<_, _>>()?;
        Ok(Self {
            general: raw.general,
            leases,
            upkeep: raw.upkeep,
            mail: raw.mail.check(&source)?,
            mail_addresses: source.names("MailAddresses", raw.mail_addresses, address)?,
            quota: Quota { machines, memory, disk, images, image_disk },
            quotas,
            administrators: source.names("Administrators", raw.administrators, address)?,
            source: source.file,
        })
    }

    /// Whether names of users that differ only in capitals, or in how letters are encoded, are one person's.
    pub fn folding(&self) -> Folding {
        if self.general.fold_user_names { Folding::On } else { Folding::Off }
    }

    /// Whether two raw names are one person's.
    fn is_one_person(&self, name: &UserName, user: &UserName) -> bool {
        name == user || (self.folding() == Folding::On && name.is_alike(user))
    }

    /// Whether somebody is an administrator. The raw name counts, so that nobody becomes one by having
    /// a blank where an administrator has an underscore.
    pub fn is_administrator(&self, user: &UserName) -> bool {
        self.administrators.iter().any(|(name, _)| self.is_one_person(name, user))
    }

    /// The administrator whom somebody else would be taken for. They are known before they come for the first time, so
    /// that nobody takes their name before them.
    pub fn administrator_like(&self, user: &UserName) -> Option<&UserName> {
        if self.is_administrator(user) {
            return None;
        }
        let key = folded(&user.canonical());
        self.administrators.iter().map(|(name, _)| name).find(|name| folded(&name.canonical()) == key)
    }

    /// Whether an origin is the portal's, by `portalURLs` or by the links that go out in mail.
    pub fn is_portal(&self, origin: &Origin) -> bool {
        let in_mail = self.mail.portal_url.as_deref().and_then(|url| url.parse::<Origin>().ok());
        self.general.portal_urls.iter().chain(&in_mail).any(|known| known == origin)
    }

    /// Where mail reaches each administrator, no address twice; those without one are left out.
    pub fn administrators_mail(&self) -> BTreeSet<&Address> {
        self.administrators.iter().filter_map(|(_, address)| address.as_ref()).collect()
    }

    /// The address that the configuration has for a user, under the raw or the canonical name.
    pub fn mail_address(&self, user: &UserName) -> Option<&Address> {
        let known = self.mail_addresses.iter().chain(&self.administrators);
        known
            .filter(|(name, _)| self.is_one_person(name, user) || name.canonical() == user.canonical())
            .find_map(|(_, address)| address.as_ref())
    }

    /// What a user may have at a time. An exception may name them as Apache does or as pages show them, with
    /// underscores for blanks: no two people share that name.
    pub fn quota(&self, user: &UserName) -> Quota {
        let find = |is: &dyn Fn(&UserName) -> bool| self.quotas.iter().find(|(name, _)| is(name));
        find(&|name| name == user)
            .or_else(|| find(&|name| self.is_one_person(name, user)))
            .or_else(|| find(&|name| name.as_str() == user.canonical()))
            .map_or(self.quota, |(_, quota)| *quota)
    }

    /// The URL of one of a node's programs.
    pub fn node_url(&self, host: &PhysicalHost, program: &str) -> String {
        format!("{}/{program}", self.general.node_url.replace("{host}", host.as_str()))
    }

    /// The time within which a node must have answered.
    pub fn node_timeout(&self) -> Duration {
        Duration::from_secs(self.general.node_timeout.into())
    }

    /// Reads the key that server and nodes share.
    pub fn key(&self) -> Result<Key, ConfigError> {
        read_key(&self.general.key_file, &self.source)
    }
}

fn is_http(url: &str) -> bool {
    url.starts_with("http://") || url.starts_with("https://")
}

fn read_key(file: &Path, config: &Path) -> Result<Key, ConfigError> {
    let text = std::fs::read_to_string(file)
        .map_err(|source| ConfigError::Unreadable { file: file.to_owned(), source })?;
    Key::new(&text).ok_or_else(|| ConfigError::Value {
        file: config.to_owned(),
        section: "General",
        key: "keyFile".to_owned(),
        message: format!("the key in {} has fewer than {} characters", file.display(), Key::MIN),
    })
}

/// Which program controls the machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Toolstack {
    /// The first of `xl` and `xm` that is there.
    Auto,
    /// `xl`, Xen 4.1 and later.
    Xl,
    /// `xm`, before Xen 4.5.
    Xm,
}

/// The kinds of machine that `[VMTypes]` may name. libvirt will be the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VmType {
    /// A Xen domain.
    Xen,
}

/// How saved images are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub enum Compression {
    /// `.tar.gz`, which everything reads.
    #[default]
    #[serde(rename = "gz")]
    Gzip,
    /// `.tar.zst`: smaller, and made in a fraction of the time.
    #[serde(rename = "zst")]
    Zstd,
}

impl Compression {
    /// All there are.
    pub const ALL: [Self; 2] = [Self::Gzip, Self::Zstd];

    /// How the names of such files end.
    pub fn ending(self) -> &'static str {
        match self {
            Self::Gzip => ".tar.gz",
            Self::Zstd => ".tar.zst",
        }
    }
}

/// A part of a whole, written `"10%"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(try_from = "String")]
pub struct Share(u8);

impl Share {
    /// The largest: with more nothing would be left to use.
    const MOST: u8 = 95;

    /// So much of a whole.
    pub fn of(self, whole: u64) -> u64 {
        // First by 100: a whole of any size fits.
        whole / 100 * u64::from(self.0) + whole % 100 * u64::from(self.0) / 100
    }
}

impl TryFrom<String> for Share {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let digits = text.strip_suffix('%').filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
        let number = digits.and_then(|digits| digits.parse().ok()).filter(|number| *number <= Self::MOST);
        number.map(Self).ok_or_else(|| format!("{text:?} is not a share from \"0%\" to \"{}%\"", Self::MOST))
    }
}

/// `[General]` of `node.cfg`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct NodeGeneral {
    /// The machine that the portal runs on: the only one whose orders count.
    pub server_hostname: PhysicalHost,
    /// Where the server's `internal` programs are; absent: `http://SERVERHOSTNAME/cgi-bin/internal`.
    #[serde(rename = "serverURL")]
    server_url: Option<String>,
    /// The folder of the image files.
    pub image_directory: PathBuf,
    /// The share of that folder's disk that saved images leave free.
    #[serde(default = "default_image_reserve")]
    pub image_directory_reserve: Share,
    /// `gz` or `zst`: what saved images become.
    #[serde(default)]
    pub saved_images: Compression,
    /// The volume group that the machines' volumes are made in.
    pub volume_group_name: VolumeGroup,
    /// `auto`, `xl` or `xm`.
    #[serde(default = "default_toolstack")]
    pub toolstack: Toolstack,
    /// Where the toolstack finds, after a reboot, what it is to start.
    #[serde(default = "default_xen_auto")]
    pub xen_auto_directory: PathBuf,
    /// Where xenconsoled logs the consoles (`XENCONSOLED_ARGS="--log=guest"`).
    #[serde(default = "default_console_log")]
    pub console_log_directory: PathBuf,
    /// How many deploys may be at work at a time; the others wait for their turn.
    #[serde(default = "default_parallel_deploys")]
    pub parallel_deploys: u8,
    /// Seconds that a machine has to shut down by itself before it is forced.
    #[serde(default = "default_shutdown_timeout")]
    shutdown_timeout: u16,
    /// Whether the helper may remove domains and volumes that vGrid did not make.
    #[serde(default)]
    pub remove_strangers: bool,
    /// The folder of the machines' templates.
    #[serde(default = "default_vm_templates")]
    pub template_directory: PathBuf,
    /// Where the node keeps its records; belongs to the web server's user.
    #[serde(default = "default_state")]
    pub state_directory: PathBuf,
    /// The file with the key that server and nodes share.
    #[serde(default = "default_key")]
    pub key_file: PathBuf,
    /// The log, where there is no syslog.
    #[serde(default = "default_node_log")]
    pub log_file: PathBuf,
    /// The certificates that the server's https must be signed by, as PEM.
    #[serde(default = "default_ca")]
    pub ca_file: PathBuf,
}

fn default_image_reserve() -> Share {
    Share(10)
}
fn default_toolstack() -> Toolstack {
    Toolstack::Auto
}
fn default_xen_auto() -> PathBuf {
    "/etc/xen/auto".into()
}
fn default_console_log() -> PathBuf {
    "/var/log/xen/console".into()
}
fn default_parallel_deploys() -> u8 {
    3
}
fn default_shutdown_timeout() -> u16 {
    60
}
fn default_vm_templates() -> PathBuf {
    "/etc/vgrid/vmtmpl".into()
}
fn default_state() -> PathBuf {
    "/var/lib/vgrid/node".into()
}

/// What a node knows about one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSettings {
    /// Its file, an absolute path.
    pub file: PathBuf,
    /// Its template, an absolute path.
    pub template: PathBuf,
    /// The size of its machines' swap volume.
    pub swap: MiB,
    /// Its machines' type.
    pub vm_type: VmType,
    /// The program that makes its file system, and its arguments; the device comes last.
    pub make_filesystem: Vec<String>,
}

/// `node.cfg`.
#[derive(Debug, Clone)]
// There is one type of machine so far; the second will give it a size.
#[allow(clippy::zero_sized_map_values)]
pub struct Node {
    /// `[General]`.
    pub general: NodeGeneral,
    files: BTreeMap<String, String>,
    templates: BTreeMap<String, String>,
    swaps: BTreeMap<String, MiB>,
    types: BTreeMap<String, VmType>,
    makers: BTreeMap<String, String>,
    source: PathBuf,
}

/// Why an image can't be used on a node.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("node.cfg has no [{section}] for {tag} and no default")]
pub struct NoSetting {
    /// The section that lacks it.
    pub section: &'static str,
    /// The image.
    pub tag: ImageTag,
}

impl Node {
    /// The most deploys that may be at work at a time.
    const MOST_DEPLOYS: u8 = 64;

    /// The longest time that a machine may have to shut down, in seconds.
    pub const LONGEST_SHUTDOWN: u16 = 600;

    /// Reads `node.cfg` from a folder.
    // See `Node`.
    #[allow(clippy::zero_sized_map_values)]
    pub fn load(dir: &Path) -> Result<Self, ConfigError> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Raw {
            #[serde(rename = "General")]
            general: NodeGeneral,
            #[serde(rename = "VMImageFiles", default)]
            files: BTreeMap<String, String>,
            #[serde(rename = "VMConfigTemplates", default)]
            templates: BTreeMap<String, String>,
            #[serde(rename = "VMSwapSize", default)]
            swaps: BTreeMap<String, MiB>,
            #[serde(rename = "VMTypes", default)]
            types: BTreeMap<String, VmType>,
            #[serde(rename = "XenDeployerFSCreateCmd", default)]
            makers: BTreeMap<String, String>,
        }
        let source = Source::read(dir, "node.cfg")?;
        let raw: Raw = source.parse()?;
        let sections: [(&'static str, Vec<&String>); 5] = [
            ("VMImageFiles", raw.files.keys().collect()),
            ("VMConfigTemplates", raw.templates.keys().collect()),
            ("VMSwapSize", raw.swaps.keys().collect()),
            ("VMTypes", raw.types.keys().collect()),
            ("XenDeployerFSCreateCmd", raw.makers.keys().collect()),
        ];
        for (section, keys) in sections {
            for key in keys {
                key.parse::<ImageTag>().map_err(|fault| source.value(section, key, fault))?;
            }
        }
        if let Some(url) = raw.general.server_url.as_deref().filter(|url| !is_http(url)) {
            return Err(source.value("General", "serverURL", format!("{url:?} is not a URL")));
        }
        if raw.general.parallel_deploys == 0 || raw.general.parallel_deploys > Self::MOST_DEPLOYS {
            let message = format!("must be from 1 to {}", Self::MOST_DEPLOYS);
            return Err(source.value("General", "parallelDeploys", message));
        }
        if raw.general.shutdown_timeout == 0 || raw.general.shutdown_timeout > Self::LONGEST_SHUTDOWN {
            let message = format!("must be from 1 to {} seconds", Self::LONGEST_SHUTDOWN);
            return Err(source.value("General", "shutdownTimeout", message));
        }
        for (key, command) in &raw.makers {
            if !command.starts_with('/') {
                return Err(source.value("XenDeployerFSCreateCmd", key, "must begin with an absolute path"));
            }
        }
        for (section, table) in [("VMImageFiles", &raw.files), ("VMConfigTemplates", &raw.templates)] {
            for (key, name) in table {
                if name.split('/').any(|part| part == ".." || part.is_empty()) && !name.starts_with('/') {
                    return Err(source.value(section, key, "must be a file's name, without .."));
                }
            }
        }
        Ok(Self {
            general: raw.general,
            files: raw.files,
            templates: raw.templates,
            swaps: raw.swaps,
            types: raw.types,
            makers: raw.makers,
            source: source.file,
        })
    }

    /// How long a machine has to shut down by itself before it is forced.
    pub fn shutdown_timeout(&self) -> Duration {
        Duration::from_secs(self.general.shutdown_timeout.into())
    }

    /// Where the server's `internal` programs are.
    pub fn server_url(&self, program: &str) -> String {
        let base = self
            .general
            .server_url
            .clone()
            .unwrap_or_else(|| format!("http://{}/cgi-bin/internal", self.general.server_hostname));
        format!("{}/{program}", base.trim_end_matches('/'))
    }

    /// Reads the key that server and nodes share.
    pub fn key(&self) -> Result<Key, ConfigError> {
        read_key(&self.general.key_file, &self.source)
    }

    /// The images that this node has a file for.
    pub fn images(&self) -> impl Iterator<Item = ImageTag> {
        self.files.keys().filter(|key| *key != "default").filter_map(|key| key.parse().ok())
    }

    /// All files that `[VMImageFiles]` names, as absolute paths.
    pub fn image_files(&self) -> impl Iterator<Item = PathBuf> {
        self.files.values().map(|name| self.general.image_directory.join(name))
    }

    /// What to use for an image; each setting falls back to its section's `default`.
    pub fn image(&self, tag: &ImageTag) -> Result<ImageSettings, NoSetting> {
        fn get<'a, T>(
            table: &'a BTreeMap<String, T>,
            section: &'static str,
            tag: &ImageTag,
        ) -> Result<&'a T, NoSetting> {
            table
                .get(tag.as_str())
                .or_else(|| table.get("default"))
                .ok_or_else(|| NoSetting { section, tag: tag.clone() })
        }
        let maker = get(&self.makers, "XenDeployerFSCreateCmd", tag)?;
        Ok(ImageSettings {
            file: self.general.image_directory.join(get(&self.files, "VMImageFiles", tag)?),
            template: self.general.template_directory.join(get(&self.templates, "VMConfigTemplates", tag)?),
            swap: *get(&self.swaps, "VMSwapSize", tag)?,
            vm_type: *get(&self.types, "VMTypes", tag)?,
            make_filesystem: maker.split_whitespace().map(str::to_owned).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(text: &str) -> Result<Server, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("server.cfg"), text).unwrap();
        Server::load(dir.path())
    }

    fn words(text: &str) -> String {
        let message = server(text).unwrap_err().to_string();
        message[message.find("server.cfg").unwrap()..].to_owned()
    }

    #[test]
    fn an_unknown_key_is_answered_with_the_nearest_known_one() {
        assert_eq!(
            words("[General]\nEnvUserNameVariable = \"REMOTE_USER\"\n"),
            "server.cfg, line 2: unknown key `EnvUserNameVariable`; did you mean `EnvUsernameVariable`?"
        );
        assert_eq!(
            words("[General]\nEnvUsernameVariable = \"REMOTE_USER\"\n\n[Adminstrators]\n"),
            "server.cfg, line 4: unknown key `Adminstrators`; did you mean `Administrators`?"
        );
        assert_eq!(words("[General]\nqqq = 1\n"), "server.cfg, line 2: unknown key `qqq`");
    }

    #[test]
    fn a_value_of_the_wrong_type_is_named_with_its_line() {
        let message = words("[General]\n\nEnvUsernameVariable = 5\n");
        assert!(message.starts_with("server.cfg, line 3: "), "{message}");
        let message = words("[General]\nEnvUsernameVariable = \"QUERY_STRING\"\n");
        assert!(message.contains("set by the client"), "{message}");
    }

    #[test]
    fn the_old_syntax_is_answered_with_the_command_that_converts_it() {
        let message = server("[General]\nEnvUsernameVariable: REMOTE_USER\n").unwrap_err().to_string();
        assert!(message.contains("vgrid-config-convert --in-place /"), "{message}");
    }

    #[test]
    fn common_keeps_the_order_of_the_file_and_refuses_doubles() {
        let dir = tempfile::tempdir().unwrap();
        let write = |virtual_hosts: &str| {
            let text = format!(
                "[VMImages]\ntiny = \"x\"\n[PhysicalHostsPool]\nh = 5\n[VirtualHostsPool]\n{virtual_hosts}"
            );
            std::fs::write(dir.path().join("common.cfg"), text).unwrap();
            Common::load(dir.path())
        };
        let common = write("vm10 = \"\"\nvm2 = \"mac=1\"\n").unwrap();
        let names: Vec<_> = common.virtual_hosts.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["vm10", "vm2"]);
        assert_eq!(common.extra(&"vm2".parse().unwrap()), Some("mac=1"));
        assert!(write("vm1 = \"\"\nVM1 = \"\"\n").unwrap_err().to_string().contains("is there twice"));
        assert!(write("\"a b\" = \"\"\n").unwrap_err().to_string().contains("must not contain a blank"));
    }

    #[test]
    fn a_share_is_a_percentage() {
        let share = |text: &str| Share::try_from(text.to_owned());
        assert_eq!(share("0%").unwrap().of(u64::MAX), 0);
        assert_eq!(share("95%").unwrap().of(199), 189);
        for text in ["", "%", "10", "96%", "+5%", "-1%", "10 %", "1e1%", "256%", "10%%"] {
            assert!(share(text).unwrap_err().contains("is not a share"), "{text}");
        }
    }

    #[test]
    fn each_setting_of_an_image_falls_back_to_the_default() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(
            dir.path().join("node.cfg"),
            "[General]\nserverHostname = \"s\"\nimageDirectory = \"/img\"\nvolumeGroupName = \"vg1\"\n\
             [VMImageFiles]\ntiny = \"tiny.tar.gz\"\n[VMConfigTemplates]\ndefault = \"xen-xvda\"\ntiny = \"xen-sda\"\n\
             [VMSwapSize]\ndefault = 64\n[VMTypes]\ndefault = \"xen\"\n\
             [XenDeployerFSCreateCmd]\ndefault = \"/sbin/mkfs.ext4 -q -F\"\n",
        )
        .unwrap();
        let node = Node::load(dir.path()).unwrap();
        let tiny = node.image(&"tiny".parse().unwrap()).unwrap();
        assert_eq!(tiny.file, Path::new("/img/tiny.tar.gz"));
        assert_eq!(tiny.template, Path::new("/etc/vgrid/vmtmpl/xen-sda"));
        assert_eq!((tiny.swap.get(), tiny.make_filesystem.len()), (64, 3));
        assert_eq!(node.image_files().collect::<Vec<_>>(), [Path::new("/img/tiny.tar.gz")]);
        assert_eq!(node.general.saved_images, Compression::Gzip);
        assert_eq!(node.general.image_directory_reserve.of(2_000), 200);
        assert!(!node.general.remove_strangers, "nobody has allowed it");
        assert_eq!(node.image(&"other".parse().unwrap()).unwrap_err().section, "VMImageFiles");
        assert_eq!(node.server_url("status"), "http://s/cgi-bin/internal/status");
    }
}
