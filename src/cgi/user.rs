//! Identifies the caller: the only rule by which a name is taken from the environment.
//!
//! Measured with Apache 2.4, mod_ssl and mod_shib: a client can set any variable that begins with
//! `HTTP_` (by sending a header) and none of the others. Mod_shib sets REMOTE_USER to an empty
//! string for a session without the attribute; `SSLVerifyClient optional_no_ca` passes on names
//! from certificates that nobody has verified.

use std::fmt::{self, Display};

use crate::config::{CertificateName, UserVariable};
use crate::model::mail::Address;
use crate::model::names::UserName;

use super::reply::Refusal;

/// The variable with the whole subject of a client's certificate, and the prefix of those with its
/// parts.
const SUBJECT: &str = "SSL_CLIENT_S_DN";

/// Reads an environment variable; absent and empty are the same.
type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Why a variable can't be trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Untrusted {
    /// It is missing, or may not come from Apache; for the log.
    Unsaid(String),
    /// The client's certificate has several of these names.
    Several(Vec<String>),
}

impl Display for Untrusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsaid(why) => f.write_str(why),
            Self::Several(names) => write!(f, "the client's certificate has several: {}", names.join(", ")),
        }
    }
}

/// Returns the value of a variable, if Apache vouches for it.
fn trusted(variable: &str, certificate: CertificateName, get: Lookup<'_>) -> Result<String, Untrusted> {
    let get = |name: &str| get(name).filter(|value| !value.is_empty());
    let is_certificate = variable.starts_with("SSL_CLIENT_");
    let name = match certificate {
        CertificateName::Dn if variable.starts_with(SUBJECT) => SUBJECT,
        _ => variable,
    };
    let value = get(name).ok_or_else(|| Untrusted::Unsaid(format!("{name} is empty")))?;
    if let Some(plain) = name.strip_prefix("HTTP_") {
        // Anybody can send a header. It counts only if Apache gives the same value where no header
        // can set it.
        let confirmed = get("AUTH_TYPE").is_some()
            && (get("REMOTE_USER").as_ref() == Some(&value) || get(plain).as_ref() == Some(&value));
        if !confirmed {
            return Err(Untrusted::Unsaid(format!("{name} is not confirmed by REMOTE_USER or {plain}")));
        }
    }
    if !is_certificate {
        return Ok(value);
    }
    if get("HTTPS").as_deref() != Some("on") || get("SSL_CLIENT_VERIFY").as_deref() != Some("SUCCESS") {
        return Err(Untrusted::Unsaid("the client's certificate is not verified".to_owned()));
    }
    // mod_ssl numbers them in the order of the certificate; the first one has no number.
    let mut values = vec![value];
    while let Some(next) = get(&format!("{name}_{}", values.len())) {
        values.push(next);
    }
    match (certificate, values.as_slice()) {
        (_, [only]) | (CertificateName::First, [only, ..]) | (CertificateName::Last, [.., only]) => {
            Ok(only.clone())
        }
        _ => Err(Untrusted::Several(values)),
    }
}

/// Returns the caller's name, or the refusal that they see: no name, no page.
pub fn identify(
    variable: &UserVariable,
    certificate: CertificateName,
    get: Lookup<'_>,
) -> Result<UserName, Refusal> {
    let value = trusted(variable.as_str(), certificate, get).map_err(|untrusted| match &untrusted {
        Untrusted::Several(names) => Refusal::forbidden(format!(
            "You are not signed in: your certificate has several names ({}), and nobody has said which is yours. \
             Tell an administrator: certificateName in [General] of server.cfg says which one counts.",
            names.join(", ")
        )),
        Untrusted::Unsaid(why) => Refusal::forbidden(
            "You are not signed in, or your sign-in gave no user name. Sign in, or tell an administrator.",
        )
        .logged(why),
    })?;
    UserName::of_sign_in(&value).map_err(|fault| {
        Refusal::forbidden(format!("Your user name can't be used here: it {fault}. Tell an administrator."))
    })
}

/// Returns the mail address of the caller, who has been identified: the first one, if
/// authentication gives several (mod_shib joins them with `;`). The error is the reason for the
/// log.
pub fn mail(variable: &UserVariable, get: Lookup<'_>) -> Result<Address, String> {
    let value = trusted(variable.as_str(), CertificateName::Single, get).map_err(|why| why.to_string())?;
    let first = value.split(';').next().unwrap_or_default().trim();
    first.parse().map_err(|fault| format!("{} {fault}", variable.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(variable: &str, environment: &[(&str, &str)]) -> Option<String> {
        let variable = UserVariable::try_from(variable.to_owned()).unwrap();
        let get = |name: &str| {
            environment.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        identify(&variable, CertificateName::Single, &get).ok().map(|name| name.to_string())
    }

    #[test]
    fn a_setting_says_which_name_of_a_certificate_counts() {
        let environment = [
            ("HTTPS", "on"),
            ("SSL_CLIENT_VERIFY", "SUCCESS"),
            ("SSL_CLIENT_S_DN", "CN=Alice Example,CN=123456,CN=alice,O=Example"),
            ("SSL_CLIENT_S_DN_CN", "alice"),
            ("SSL_CLIENT_S_DN_CN_1", "123456"),
            ("SSL_CLIENT_S_DN_CN_2", "Alice Example"),
            ("REMOTE_USER", "somebody"),
        ];
        let who = |variable: &str, certificate, environment: &[(&str, &str)]| {
            let variable = UserVariable::try_from(variable.to_owned()).unwrap();
            let get = |name: &str| {
                environment.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
            };
            identify(&variable, certificate, &get).map(|name| name.to_string())
        };
        for (certificate, name) in [
            (CertificateName::First, "alice"),
            (CertificateName::Last, "Alice Example"),
            (CertificateName::Dn, "CN=Alice Example,CN=123456,CN=alice,O=Example"),
        ] {
            assert_eq!(who("SSL_CLIENT_S_DN_CN", certificate, &environment).as_deref(), Ok(name));
            // With another way to sign in the setting has no effect, and the certificate proves
            // nothing.
            assert_eq!(who("REMOTE_USER", certificate, &environment).as_deref(), Ok("somebody"));
            let unverified = [&[("HTTPS", "on")], &environment[2..]].concat();
            assert_eq!(who("SSL_CLIENT_S_DN_CN", certificate, &unverified).unwrap_err().status, 403);
        }
        let refused = who("SSL_CLIENT_S_DN_CN", CertificateName::Single, &environment).unwrap_err();
        assert!(refused.sentence.contains("alice, 123456, Alice Example"), "{refused:?}");
        assert!(refused.sentence.contains("certificateName"), "{refused:?}");
    }

    #[test]
    fn plain_variables_count_when_not_empty() {
        assert_eq!(who("REMOTE_USER", &[("REMOTE_USER", "alice")]).as_deref(), Some("alice"));
        assert_eq!(who("REMOTE_USER", &[("REMOTE_USER", "")]), None);
        assert_eq!(who("ADFS_LOGIN", &[("REMOTE_USER", "alice")]), None);
    }

    #[test]
    fn headers_count_only_when_confirmed() {
        let forged = [("HTTP_ADFS_LOGIN", "root"), ("AUTH_TYPE", "shibboleth"), ("ADFS_LOGIN", "frida")];
        assert_eq!(who("HTTP_ADFS_LOGIN", &forged), None);
        let unauthenticated = [("HTTP_ADFS_LOGIN", "frida"), ("ADFS_LOGIN", "frida")];
        assert_eq!(who("HTTP_ADFS_LOGIN", &unauthenticated), None);
        let real = [("HTTP_ADFS_LOGIN", "frida"), ("AUTH_TYPE", "shibboleth"), ("ADFS_LOGIN", "frida")];
        assert_eq!(who("HTTP_ADFS_LOGIN", &real).as_deref(), Some("frida"));
    }

    #[test]
    fn certificates_count_only_when_verified_and_single() {
        let good = [("SSL_CLIENT_S_DN_CN", "carol"), ("HTTPS", "on"), ("SSL_CLIENT_VERIFY", "SUCCESS")];
        assert_eq!(who("SSL_CLIENT_S_DN_CN", &good).as_deref(), Some("carol"));
        let unverified =
            [("SSL_CLIENT_S_DN_CN", "carol"), ("HTTPS", "on"), ("SSL_CLIENT_VERIFY", "FAILED:x")];
        assert_eq!(who("SSL_CLIENT_S_DN_CN", &unverified), None);
        let double = [good[0], good[1], good[2], ("SSL_CLIENT_S_DN_CN_1", "root")];
        assert_eq!(who("SSL_CLIENT_S_DN_CN", &double), None);
    }

    #[test]
    fn an_address_is_trusted_as_a_name_is() {
        let mail = |variable: &str, environment: &[(&str, &str)]| {
            let variable = UserVariable::try_from(variable.to_owned()).unwrap();
            let get = |name: &str| {
                environment.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
            };
            super::mail(&variable, &get).map(|address| address.to_string())
        };
        assert_eq!(mail("ADFS_EMAIL", &[("ADFS_EMAIL", "frida@example.org")]).unwrap(), "frida@example.org");
        let several = [("mail", "frida@example.org; f@example.org")];
        assert_eq!(mail("mail", &several).unwrap(), "frida@example.org");
        assert!(
            mail("ADFS_EMAIL", &[("REMOTE_USER", "frida@example.org")]).unwrap_err().contains("is empty")
        );
        assert!(mail("mail", &[("mail", "frida")]).unwrap_err().contains("must be an address"));
        let forged = [("HTTP_MAIL", "mallory@example.org"), ("AUTH_TYPE", "Basic"), ("REMOTE_USER", "frida")];
        assert!(mail("HTTP_MAIL", &forged).unwrap_err().contains("is not confirmed"));
        let unverified = [("SSL_CLIENT_S_DN_Email", "c@example.org"), ("HTTPS", "on")];
        assert!(mail("SSL_CLIENT_S_DN_Email", &unverified).unwrap_err().contains("not verified"));
    }

    #[test]
    fn variables_of_the_client_are_refused_as_a_setting() {
        for bad in [
            "QUERY_STRING",
            "PATH_INFO",
            "HTTP_PATH_INFO",
            "REMOTE_ADDR",
            "SSL_TLS_SNI",
            "AUTH_TYPE",
            "",
            "A B",
            "HTTP_",
        ] {
            assert!(UserVariable::try_from(bad.to_owned()).is_err(), "{bad:?} was accepted");
        }
    }
}
