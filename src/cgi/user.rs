//! Who is calling: the one rule by which a name is taken from the environment.
//!
//! Measured with Apache 2.4, mod_ssl and mod_shib: a client can set any variable that begins with `HTTP_`
//! (by sending a header) and none of the others. mod_shib sets REMOTE_USER to nothing for a session
//! without the attribute; `SSLVerifyClient optional_no_ca` gives the names of certificates that nobody has
//! verified.

use crate::config::UserVariable;
use crate::model::names::UserName;

use super::reply::Refusal;

/// Reads a variable of the environment; absent and empty are the same.
type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The caller's name, or the refusal that they see: no name, no page.
pub fn identify(variable: &UserVariable, get: Lookup<'_>) -> Result<UserName, Refusal> {
    let get = |name: &str| get(name).filter(|value| !value.is_empty());
    let nobody = |log: &str| {
        Refusal::forbidden(
            "You are not signed in, or your sign-in gave no user name. Sign in, or tell an administrator.",
        )
        .logged(log)
    };
    let name = variable.as_str();
    let value = get(name).ok_or_else(|| nobody(&format!("{name} is empty")))?;
    if let Some(plain) = name.strip_prefix("HTTP_") {
        // Anybody can send a header. It counts only when Apache says the same where no header can reach.
        let confirmed = get("AUTH_TYPE").is_some()
            && (get("REMOTE_USER").as_ref() == Some(&value) || get(plain).as_ref() == Some(&value));
        if !confirmed {
            return Err(nobody(&format!("{name} is not confirmed by REMOTE_USER or {plain}")));
        }
    }
    if name.starts_with("SSL_CLIENT_") {
        if get("HTTPS").as_deref() != Some("on") || get("SSL_CLIENT_VERIFY").as_deref() != Some("SUCCESS") {
            return Err(nobody("the client's certificate is not verified"));
        }
        if get(&format!("{name}_1")).is_some() {
            return Err(nobody("the client's certificate has several names"));
        }
    }
    value.parse().map_err(|fault| {
        Refusal::forbidden(format!("Your user name can't be used here: it {fault}. Tell an administrator."))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(variable: &str, environment: &[(&str, &str)]) -> Option<String> {
        let variable = UserVariable::try_from(variable.to_owned()).unwrap();
        let get = |name: &str| {
            environment.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        identify(&variable, &get).ok().map(|name| name.to_string())
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
