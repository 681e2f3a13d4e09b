//! Origins of web pages (RFC 6454): scheme, host and port.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use thiserror::Error;

/// A text does not name an origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("must be a URL, for instance https://vgrid.example.org")]
pub struct OriginFault;

/// The origin of a web page, in lower case and without its scheme's default port.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Origin {
    https: bool,
    authority: String,
}

impl Origin {
    /// Returns whether a `Host` header (RFC 9110, section 7.2) names this origin's host and port.
    /// The scheme is not compared: behind a TLS terminator, Apache sees plain http where the
    /// browser saw https.
    pub fn is_at(&self, host: &str) -> bool {
        self.authority == without_default_port(host, self.https)
    }
}

/// Returns the host and port of an authority in lower case, without the scheme's default port.
fn without_default_port(authority: &str, https: bool) -> String {
    let lower = authority.to_ascii_lowercase();
    let implied = if https { ":443" } else { ":80" };
    lower.strip_suffix(implied).map_or_else(|| lower.clone(), str::to_owned)
}

impl FromStr for Origin {
    type Err = OriginFault;

    /// Parses an `Origin` header, or the URL of any page there.
    fn from_str(url: &str) -> Result<Self, OriginFault> {
        let uri: http::Uri = url.parse().map_err(|_| OriginFault)?;
        let https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(OriginFault),
        };
        let authority = uri.authority().map(http::uri::Authority::as_str).ok_or(OriginFault)?;
        // A user name and password before an @ are not part of the origin.
        let place = authority.rsplit('@').next().unwrap_or_default();
        match without_default_port(place, https) {
            authority if authority.is_empty() => Err(OriginFault),
            authority => Ok(Self { https, authority }),
        }
    }
}

impl TryFrom<String> for Origin {
    type Error = OriginFault;

    fn try_from(url: String) -> Result<Self, OriginFault> {
        url.parse()
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}://{}", if self.https { "https" } else { "http" }, self.authority))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(url: &str) -> Origin {
        url.parse().unwrap()
    }

    #[test]
    fn pages_of_one_site_have_one_origin() {
        for url in
            ["https://portal.example", "https://Portal.Example:443/a?b=c", "HTTPS://a:b@portal.example/"]
        {
            assert_eq!(origin(url), origin("https://portal.example"), "{url}");
        }
        for url in
            ["http://portal.example", "https://portal.example:80", "https://portal.example.evil.example"]
        {
            assert_ne!(origin(url), origin("https://portal.example"), "{url}");
        }
        for url in ["null", "", "portal.example", "/cgi-bin/user", "ftp://portal.example", "file:///etc", "é"]
        {
            assert_eq!(url.parse::<Origin>(), Err(OriginFault), "{url}");
        }
    }

    #[test]
    fn a_host_matches_with_or_without_the_default_port() {
        let portal = origin("https://portal.example");
        assert!(portal.is_at("portal.example") && portal.is_at("PORTAL.example:443"));
        assert!(!portal.is_at("portal.example:80") && !portal.is_at("portal.example:8443"));
        assert!(!portal.is_at("") && !portal.is_at("evil.example"));
        assert!(origin("http://127.0.0.1:8080").is_at("127.0.0.1:8080"));
    }
}
