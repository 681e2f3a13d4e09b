//! `server.cfg`, except for `[Mail]`, which has a file of its own ([`mail`]).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::model::folding::{Folding, folded};
use crate::model::lease::Lease;
use crate::model::mail::Address;
use crate::model::names::{PhysicalHost, UserName};
use crate::model::origin::Origin;
use crate::model::sign::Key;

use super::mail::{self, Mail};
use super::source::{ConfigError, Pairs, Source, address, is_http, missing, read_key};
use super::{CA_FILE, KEY_FILE};

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
    /// `[MailAddresses]`: the mail addresses of individual users.
    mail_addresses: Vec<(UserName, Option<Address>)>,
    /// `[Quotas]`: the general quota.
    quota: Quota,
    /// `[Quotas.users]`: quotas of individual users, which replace the general one.
    quotas: Vec<(UserName, Quota)>,
    /// `[Administrators]`: their names and mail addresses.
    administrators: Vec<(UserName, Option<Address>)>,
    source: PathBuf,
}

/// `[General]` of `server.cfg`.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "RawGeneral")]
pub struct ServerGeneral {
    /// The environment variable in which Apache passes the user's name.
    pub env_username_variable: UserVariable,
    /// Which of the names in a client certificate is used.
    pub certificate_name: CertificateName,
    /// Whether user names that differ only in case or in the encoding of letters belong to the same
    /// person.
    fold_user_names: bool,
    /// The URLs at which users open the portal, if a proxy contacts Apache under another name.
    pub portal_urls: Vec<Origin>,
    /// The registry's SQLite file.
    pub registry_file: PathBuf,
    /// The file with the key shared by the server and the nodes.
    pub key_file: PathBuf,
    /// The log file, used if there is no syslog.
    pub log_file: PathBuf,
    /// The directory of the page templates.
    pub template_directory: PathBuf,
    /// The URL of a node's programs; `{host}` stands for the node's name.
    pub node_url: String,
    /// The time within which a node must respond, in seconds.
    pub node_timeout: u8,
    /// The URL at which Apache serves the `resources` directory.
    pub resources_url: String,
    /// The URL at which the source of this version is offered, as the license requires.
    pub source_url: String,
    /// The CA certificates that a node's https certificate is checked against, as PEM.
    pub ca_file: PathBuf,
}

/// `[General]` as written in the file: everything except `EnvUsernameVariable` has a default.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase", expecting = "struct ServerGeneral")]
struct RawGeneral {
    #[serde(rename = "EnvUsernameVariable")]
    env_username_variable: Option<UserVariable>,
    certificate_name: CertificateName,
    fold_user_names: bool,
    #[serde(rename = "portalURLs")]
    portal_urls: Vec<Origin>,
    registry_file: PathBuf,
    key_file: PathBuf,
    log_file: PathBuf,
    template_directory: PathBuf,
    #[serde(rename = "nodeURL")]
    node_url: String,
    node_timeout: u8,
    #[serde(rename = "resourcesURL")]
    resources_url: String,
    #[serde(rename = "sourceURL")]
    source_url: String,
    ca_file: PathBuf,
}

impl Default for RawGeneral {
    fn default() -> Self {
        Self {
            env_username_variable: None,
            certificate_name: CertificateName::Single,
            fold_user_names: false,
            portal_urls: Vec::new(),
            registry_file: "/var/lib/vgrid/registry.sqlite".into(),
            key_file: KEY_FILE.into(),
            log_file: "/var/lib/vgrid/server.log".into(),
            template_directory: "/usr/share/vgrid/templates".into(),
            node_url: "http://{host}/cgi-bin/node".into(),
            node_timeout: 7,
            resources_url: "/resources".into(),
            source_url: "/resources/vgrid-source.tar.gz".into(),
            ca_file: CA_FILE.into(),
        }
    }
}

impl TryFrom<RawGeneral> for ServerGeneral {
    type Error = String;

    fn try_from(raw: RawGeneral) -> Result<Self, String> {
        Ok(Self {
            env_username_variable: raw.env_username_variable.ok_or_else(|| missing("EnvUsernameVariable"))?,
            certificate_name: raw.certificate_name,
            fold_user_names: raw.fold_user_names,
            portal_urls: raw.portal_urls,
            registry_file: raw.registry_file,
            key_file: raw.key_file,
            log_file: raw.log_file,
            template_directory: raw.template_directory,
            node_url: raw.node_url,
            node_timeout: raw.node_timeout,
            resources_url: raw.resources_url,
            source_url: raw.source_url,
            ca_file: raw.ca_file,
        })
    }
}

/// The environment variable that contains the user's name. It is always one that Apache sets, never
/// one whose value the client controls.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct UserVariable(String);

impl UserVariable {
    /// Variables, and prefixes of variables, whose value the client controls (RFC 3875, and SNI of
    /// mod_ssl).
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

/// Which of the names in a client certificate is the user's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CertificateName {
    /// The only one of the type that `EnvUsernameVariable` refers to; a certificate with several is
    /// refused.
    #[default]
    Single,
    /// The first of several, in the order of the certificate.
    First,
    /// The last of several.
    Last,
    /// The whole subject (`SSL_CLIENT_S_DN`).
    Dn,
}

/// `[Leases]` of `server.cfg`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Leases {
    /// The lease of a machine if its user does not request one.
    pub default: Lease,
    /// The longest lease that a user may request.
    pub maximum: Lease,
    /// The grace period: how long a machine's disk is kept after the lease has expired.
    pub grace: Lease,
    /// How long before the end of a lease its owner is notified.
    pub notices: Vec<Lease>,
}

impl Default for Leases {
    fn default() -> Self {
        Self {
            default: lease("7d"),
            maximum: lease("90d"),
            grace: lease("7d"),
            notices: ["2h", "1d", "3d"].map(lease).to_vec(),
        }
    }
}

/// Parses a lease given in the source code.
fn lease(text: &str) -> Lease {
    text.parse().expect("a valid lease")
}

/// `[Upkeep]` of `server.cfg`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Upkeep {
    /// Whether machines are pinged.
    pub ping: bool,
    /// The number of consecutive runs without a ping reply after which the owner is notified.
    pub silent_runs: u32,
    /// The number of such runs after which a machine is terminated; 0 means never.
    pub terminate_silent_runs: u32,
    /// How long history is kept.
    pub history: Lease,
    /// How long a host may be unreachable before administrators are notified.
    pub host_silence: Lease,
}

impl Default for Upkeep {
    fn default() -> Self {
        Self {
            ping: false,
            silent_runs: 24,
            terminate_silent_runs: 0,
            history: lease("365d"),
            host_silence: lease("1h"),
        }
    }
}

/// A user's limits; 0 means no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Quota {
    /// The number of machines.
    pub machines: u32,
    /// The total memory of all machines, in MiB.
    pub memory: u64,
    /// The total number of their processors.
    pub cpus: u64,
    /// The total partition size of all machines, in GiB.
    pub disk: u64,
    /// The number of saved images.
    pub images: u32,
    /// The total size of saved images, in GiB.
    #[serde(rename = "imageDisk")]
    pub image_disk: u64,
    /// The number of snapshots of all machines.
    pub snapshots: u32,
}

/// `[Quotas]` as written in the file: the fields of a [`Quota`], and the exceptions.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Quotas {
    machines: u32,
    memory: u64,
    cpus: u64,
    disk: u64,
    images: u32,
    #[serde(rename = "imageDisk")]
    image_disk: u64,
    snapshots: u32,
    users: BTreeMap<String, Quota>,
}

impl Server {
    /// Reads `server.cfg` from a directory.
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
        let Quotas { machines, memory, cpus, disk, images, image_disk, snapshots, users } = raw.quotas;
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
            quota: Quota { machines, memory, cpus, disk, images, image_disk, snapshots },
            quotas,
            administrators: source.names("Administrators", raw.administrators, address)?,
            source: source.file,
        })
    }

    /// Returns whether user names that differ only in case or in the encoding of letters belong to
    /// the same person.
    pub fn folding(&self) -> Folding {
        if self.general.fold_user_names { Folding::On } else { Folding::Off }
    }

    /// Returns whether two raw names belong to the same person.
    fn is_one_person(&self, name: &UserName, user: &UserName) -> bool {
        name == user || (self.folding() == Folding::On && name.is_alike(user))
    }

    /// Returns whether a user is an administrator. The raw name is compared, so that nobody becomes
    /// one by having a blank where an administrator has an underscore.
    pub fn is_administrator(&self, user: &UserName) -> bool {
        self.administrators.iter().any(|(name, _)| self.is_one_person(name, user))
    }

    /// Returns the administrator that another user could be mistaken for. The names of
    /// administrators are reserved even before their first visit, so that nobody else can take them
    /// first.
    pub fn administrator_like(&self, user: &UserName) -> Option<&UserName> {
        if self.is_administrator(user) {
            return None;
        }
        let key = folded(&user.canonical());
        self.administrators.iter().map(|(name, _)| name).find(|name| folded(&name.canonical()) == key)
    }

    /// Returns whether an origin is the portal's, according to `portalURLs` or to the URL used in
    /// mail.
    pub fn is_portal(&self, origin: &Origin) -> bool {
        let in_mail = self.mail.portal_url.as_deref().and_then(|url| url.parse::<Origin>().ok());
        self.general.portal_urls.iter().chain(&in_mail).any(|known| known == origin)
    }

    /// Returns the administrators' mail addresses, without duplicates.
    pub fn administrators_mail(&self) -> BTreeSet<&Address> {
        self.administrators.iter().filter_map(|(_, address)| address.as_ref()).collect()
    }

    /// Returns the configured mail address of a user, found by the raw or the canonical name.
    pub fn mail_address(&self, user: &UserName) -> Option<&Address> {
        let known = self.mail_addresses.iter().chain(&self.administrators);
        known
            .filter(|(name, _)| self.is_one_person(name, user) || name.canonical() == user.canonical())
            .find_map(|(_, address)| address.as_ref())
    }

    /// Returns a user's quota. An exception may use the user's raw name, or the canonical one shown
    /// on pages, with underscores for blanks: no two users share that.
    pub fn quota(&self, user: &UserName) -> Quota {
        let find = |is: &dyn Fn(&UserName) -> bool| self.quotas.iter().find(|(name, _)| is(name));
        find(&|name| name == user)
            .or_else(|| find(&|name| self.is_one_person(name, user)))
            .or_else(|| find(&|name| name.as_str() == user.canonical()))
            .map_or(self.quota, |(_, quota)| *quota)
    }

    /// Returns the URL of one of a node's programs.
    pub fn node_url(&self, host: &PhysicalHost, program: &str) -> String {
        format!("{}/{program}", self.general.node_url.replace("{host}", host.as_str()))
    }

    /// Returns the time within which a node must respond.
    pub fn node_timeout(&self) -> Duration {
        Duration::from_secs(self.general.node_timeout.into())
    }

    /// Reads the key shared by the server and the nodes.
    pub fn key(&self) -> Result<Key, ConfigError> {
        read_key(&self.general.key_file, &self.source)
    }
}
