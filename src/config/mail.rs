//! `[Mail]` of `server.cfg`.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::Deserialize;

use crate::model::mail::{Address, MailDomain};

use super::source::{ConfigError, Source, is_http};
use super::{CA_FILE, UserVariable};

const SECTION: &str = "Mail";

/// Settings for outgoing mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail {
    /// How mail is sent; `None` if none is sent.
    pub outlet: Option<Outlet>,
    /// The environment variable in which Apache passes the mail address of the signed-in user.
    pub env_mail_variable: Option<UserVariable>,
    /// The mail domain of users without a known address.
    pub domain: Option<MailDomain>,
    /// The URL of the portal's pages, for links in mail: `https://portal.example.org/cgi-bin/user`,
    /// without a trailing slash.
    pub portal_url: Option<String>,
}

/// How mail is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outlet {
    /// The sender's address.
    pub sender: Address,
    /// Where it is handed over.
    pub transport: Transport,
}

/// The means by which mail is handed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    /// A mail server, over SMTP.
    Smtp(MailServer),
    /// The `sendmail` program, by absolute path.
    Sendmail(PathBuf),
}

/// A mail server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailServer {
    /// The host name or address.
    pub host: String,
    /// The port.
    pub port: u16,
    /// How the connection is encrypted.
    pub encryption: Encryption,
    /// The credentials, if the server requires a login.
    pub login: Option<Login>,
    /// The CA certificates that the server's certificate is checked against, as PEM.
    pub ca_file: PathBuf,
}

/// User name and password for a mail server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// The user name.
    pub user: String,
    /// The file that contains the password.
    pub password_file: PathBuf,
}

/// How the connection to a mail server is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encryption {
    /// Not encrypted.
    None,
    /// Encrypted after STARTTLS (RFC 3207); if the server does not support it, nothing is sent.
    StartTls,
    /// Encrypted from the start (RFC 8314).
    Tls,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    None,
    Smtp,
    Sendmail,
}

/// The section as written in the file.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Raw {
    transport: Kind,
    server: String,
    encryption: Option<Encryption>,
    user: String,
    password_file: Option<PathBuf>,
    ca_file: PathBuf,
    sendmail: PathBuf,
    sender: String,
    #[serde(rename = "EnvMailVariable")]
    env_mail_variable: Option<UserVariable>,
    domain: String,
    #[serde(rename = "portalURL")]
    portal_url: String,
}

impl Default for Raw {
    fn default() -> Self {
        Self {
            transport: Kind::None,
            server: "localhost".into(),
            encryption: None,
            user: String::new(),
            password_file: None,
            ca_file: CA_FILE.into(),
            sendmail: "/usr/sbin/sendmail".into(),
            sender: String::new(),
            env_mail_variable: None,
            domain: String::new(),
            portal_url: String::new(),
        }
    }
}

impl Raw {
    /// Validates all settings, even unused ones, so that enabling mail later brings no surprises.
    pub(super) fn check(self, source: &Source) -> Result<Mail, ConfigError> {
        let wrong = |key: &str, message: &str| source.value(SECTION, key, message);
        let server = self.server(source)?;
        if !self.sendmail.is_absolute() {
            return Err(wrong("sendmail", "must be an absolute path"));
        }
        let sender = match self.sender.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|fault| source.value(SECTION, "sender", fault))?),
        };
        let transport = match self.transport {
            Kind::None => None,
            Kind::Smtp => Some(Transport::Smtp(server)),
            Kind::Sendmail => Some(Transport::Sendmail(self.sendmail)),
        };
        let outlet = match (transport, sender) {
            (None, _) => None,
            (Some(_), None) => {
                return Err(wrong("sender", "must be an address, for instance vgrid@example.org"));
            }
            (Some(transport), Some(sender)) => Some(Outlet { sender, transport }),
        };
        let domain = match self.domain.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|_| wrong("domain", "must be a domain name, without the @"))?),
        };
        let portal_url = match self.portal_url.trim_end_matches('/') {
            "" => None,
            url if is_http(url) && url.parse::<http::Uri>().is_ok_and(|url| url.query().is_none()) => {
                Some(url.to_owned())
            }
            _ => {
                return Err(wrong(
                    "portalURL",
                    "must be a URL, for instance https://vgrid.example.org/cgi-bin/user",
                ));
            }
        };
        Ok(Mail { outlet, env_mail_variable: self.env_mail_variable, domain, portal_url })
    }

    fn server(&self, source: &Source) -> Result<MailServer, ConfigError> {
        let wrong = |key: &str, message: &str| source.value(SECTION, key, message);
        let login = match (self.user.as_str(), &self.password_file) {
            ("", None) => None,
            ("", Some(_)) => return Err(wrong("user", "is missing: there is a passwordFile")),
            (_, None) => return Err(wrong("passwordFile", "is missing: there is a user")),
            (user, Some(file)) => Some(Login { user: user.to_owned(), password_file: file.clone() }),
        };
        let not_a_server = "must be host or host:port, for instance mail.example.org:587";
        let (host, port) = host_and_port(&self.server).ok_or_else(|| wrong("server", not_a_server))?;
        let near = is_this_machine(&host);
        // Mail contains names of people and machines. Unless configured otherwise, it goes
        // unencrypted only if it stays on this host.
        let encryption =
            self.encryption.unwrap_or(if near { Encryption::None } else { Encryption::StartTls });
        if login.is_some() && encryption == Encryption::None && !near {
            return Err(wrong(
                "encryption",
                "must be starttls or tls, or the password could be read on its way",
            ));
        }
        let usual = match (encryption, &login) {
            (Encryption::Tls, _) => 465,
            (_, Some(_)) => 587,
            (_, None) => 25,
        };
        Ok(MailServer { host, port: port.unwrap_or(usual), encryption, login, ca_file: self.ca_file.clone() })
    }
}

/// Parses `host`, `host:port` or `[::1]:port`.
fn host_and_port(text: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let port = match port {
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
            Some(digits.parse().ok().filter(|p| *p > 0)?)
        }
        Some(_) => return None,
        None => None,
    };
    let known = host.parse::<IpAddr>().is_ok() || host.parse::<MailDomain>().is_ok();
    known.then(|| (host.to_owned(), port))
}

fn is_this_machine(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Server;

    fn load(section: &str) -> Result<Server, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let text = format!("[General]\nEnvUsernameVariable = \"REMOTE_USER\"\n{section}");
        std::fs::write(dir.path().join("server.cfg"), text).unwrap();
        Server::load(dir.path())
    }

    fn mail(lines: &str) -> Result<Mail, ConfigError> {
        load(&format!("[Mail]\n{lines}\n")).map(|server| server.mail)
    }

    fn server(lines: &str) -> MailServer {
        match mail(&format!("transport = \"smtp\"\nsender = \"vgrid@example.org\"\n{lines}")) {
            Ok(Mail { outlet: Some(Outlet { transport: Transport::Smtp(server), .. }), .. }) => server,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn without_the_section_no_mail_is_sent() {
        let mail = load("").unwrap().mail;
        assert_eq!((mail.outlet, mail.domain, mail.portal_url), (None, None, None));
    }

    #[test]
    fn mail_leaving_this_host_is_encrypted_by_default() {
        for (lines, host, port, encryption) in [
            ("", "localhost", 25, Encryption::None),
            ("server = \"127.0.0.1:2525\"", "127.0.0.1", 2525, Encryption::None),
            ("server = \"[::1]:26\"", "::1", 26, Encryption::None),
            ("server = \"mail.example.org\"", "mail.example.org", 25, Encryption::StartTls),
            ("server = \"mail.example.org\"\nencryption = \"tls\"", "mail.example.org", 465, Encryption::Tls),
            ("server = \"mail:24\"\nencryption = \"none\"", "mail", 24, Encryption::None),
            ("server = \"mail\"\nuser = \"u\"\npasswordFile = \"/p\"", "mail", 587, Encryption::StartTls),
        ] {
            let known = server(lines);
            assert_eq!(
                (known.host.as_str(), known.port, known.encryption),
                (host, port, encryption),
                "{lines}"
            );
        }
    }

    #[test]
    fn an_invalid_value_is_reported_with_its_key() {
        let smtp = "transport = \"smtp\"\nsender = \"vgrid@example.org\"\n";
        for (lines, words) in [
            ("transport = \"smtp\"".to_owned(), "[Mail] sender: must be an address"),
            ("sender = \"vgrid\"".to_owned(), "[Mail] sender: must be an address"),
            (format!("{smtp}server = \"\""), "[Mail] server: must be host or host:port"),
            (format!("{smtp}server = \"a b\""), "[Mail] server: must be host or host:port"),
            (format!("{smtp}server = \"mail:0\""), "[Mail] server: must be host or host:port"),
            (format!("{smtp}server = \"mail:99999\""), "[Mail] server: must be host or host:port"),
            (format!("{smtp}server = \"mail:+5\""), "[Mail] server: must be host or host:port"),
            (format!("{smtp}user = \"u\""), "[Mail] passwordFile: is missing"),
            (format!("{smtp}passwordFile = \"/p\""), "[Mail] user: is missing"),
            (
                format!(
                    "{smtp}server = \"mail\"\nencryption = \"none\"\nuser = \"u\"\npasswordFile = \"/p\""
                ),
                "[Mail] encryption: must be starttls or tls",
            ),
            ("sendmail = \"sendmail\"".to_owned(), "[Mail] sendmail: must be an absolute path"),
            ("domain = \"@example.org\"".to_owned(), "[Mail] domain: must be a domain name"),
            ("portalURL = \"vgrid.example.org\"".to_owned(), "[Mail] portalURL: must be a URL"),
            ("portalURL = \"https://a b/\"".to_owned(), "[Mail] portalURL: must be a URL"),
            ("portalURL = \"https://a/?x=1\"".to_owned(), "[Mail] portalURL: must be a URL"),
            ("EnvMailVariable = \"HTTP_QUERY_STRING\"".to_owned(), "set by the client"),
            ("transport = \"pigeon\"".to_owned(), "pigeon"),
        ] {
            let message = mail(&lines).unwrap_err().to_string();
            assert!(message.contains(words), "{lines}: {message}");
        }
        for section in ["MailAddresses", "Administrators"] {
            let message = load(&format!("[{section}]\n\"alice\" = \"Alice\"\n")).unwrap_err().to_string();
            assert!(message.contains(&format!("[{section}] alice: must be an address")), "{message}");
            load(&format!("[{section}]\n\"alice\" = \"\"\n")).unwrap();
        }
    }
}
