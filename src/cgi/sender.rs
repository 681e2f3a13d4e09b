//! Determines from a request's headers what sent it: a script, a browser, or a browser that another
//! site sent here.

use http::HeaderMap;

use crate::model::origin::Origin;

/// The headers that browsers send and scripts need not. The first one is from Fetch Metadata: how
/// the page that made the browser send the request relates to this site.
const OF_BROWSERS: [&str; 5] = ["sec-fetch-site", "origin", "referer", "accept-language", "accept"];

/// What sent a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sender {
    /// A script: nothing in the request points to a browser.
    Script,
    /// A browser, on a page of ours or directly; with the header that identifies it.
    Browser(&'static str),
    /// A browser that another site sent here.
    Elsewhere(Elsewhere),
}

/// What shows that another site sent a browser here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Elsewhere {
    /// `Sec-Fetch-Site`, set by the browser itself.
    Site,
    /// The page that sent it.
    Page(Origin),
    /// A header that can't be read, or names no page. If in doubt, the page is not ours.
    Unreadable(&'static str),
}

impl Sender {
    /// Reads the headers. `is_ours` tests whether a page belongs to the portal.
    pub fn of(headers: &HeaderMap, is_ours: impl Fn(&Origin) -> bool) -> Self {
        let mut browser = None;
        for name in OF_BROWSERS {
            for value in headers.get_all(name) {
                let Ok(text) = value.to_str() else {
                    return Self::Elsewhere(Elsewhere::Unreadable(name));
                };
                match name {
                    "sec-fetch-site" if !matches!(text, "same-origin" | "none") => {
                        return Self::Elsewhere(Elsewhere::Site);
                    }
                    "origin" | "referer" => match text.parse() {
                        Ok(origin) if is_ours(&origin) => {}
                        Ok(origin) => return Self::Elsewhere(Elsewhere::Page(origin)),
                        Err(_) => return Self::Elsewhere(Elsewhere::Unreadable(name)),
                    },
                    "accept" if !accepts_pages(text) => continue,
                    _ => {}
                }
                browser = browser.or(Some(name));
            }
        }
        browser.map_or(Self::Script, Self::Browser)
    }
}

/// Returns whether an `Accept` header asks for pages, as browsers do when somebody follows a link.
pub fn accepts_pages(accept: &str) -> bool {
    accept.to_ascii_lowercase().contains("text/html")
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn sender(headers: &[(&'static str, &[u8])]) -> Sender {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_bytes(value).unwrap());
        }
        Sender::of(&map, |origin| origin.is_at("portal.example"))
    }

    #[test]
    fn whatever_only_browsers_send_makes_a_browser() {
        assert_eq!(sender(&[]), Sender::Script);
        assert_eq!(sender(&[("accept", b"*/*"), ("user-agent", b"Mozilla/5.0")]), Sender::Script);
        let headers: [(&'static str, &[u8]); 6] = [
            ("accept", b"Text/HTML, image/gif"),
            ("accept-language", b""),
            ("sec-fetch-site", b"none"),
            ("sec-fetch-site", b"same-origin"),
            ("origin", b"https://portal.example"),
            ("referer", b"http://portal.example/cgi-bin/user/list"),
        ];
        for (name, value) in headers {
            assert_eq!(sender(&[(name, value)]), Sender::Browser(name));
        }
    }

    #[test]
    fn what_cannot_be_read_is_foreign_and_not_absent() {
        for name in OF_BROWSERS {
            let alone = sender(&[(name, "é".as_bytes())]);
            assert_eq!(alone, Sender::Elsewhere(Elsewhere::Unreadable(name)));
            let beside = sender(&[("sec-fetch-site", b"same-origin"), (name, b"\xff")]);
            assert_eq!(beside, Sender::Elsewhere(Elsewhere::Unreadable(name)));
        }
    }

    #[test]
    fn one_foreign_header_outweighs_all_others() {
        let ours: [(&'static str, &[u8]); 2] =
            [("sec-fetch-site", b"same-origin"), ("origin", b"https://portal.example")];
        let foreign: [(&'static str, &[u8]); 6] = [
            ("referer", b"https://evil.example/"),
            ("referer", b""),
            ("origin", b"null"),
            ("origin", b"https://portal.example.evil.example"),
            ("sec-fetch-site", b"cross-site"),
            ("sec-fetch-site", b"same-site"),
        ];
        for header in foreign {
            let all = [&ours[..], &[header]].concat();
            assert!(matches!(sender(&all), Sender::Elsewhere(_)), "{header:?}");
        }
    }
}
