//! A request, validated as far as possible without knowing what it is for.

use std::net::IpAddr;
use std::str::FromStr;

use http::HeaderMap;
use percent_encoding::percent_decode;

use crate::model::names::RequestId;
use crate::model::sign::REQUEST_HEADER;

use super::policy::{Endpoint, Takes};
use super::reply::Refusal;

/// The format that the caller wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// HTML, for people.
    Html,
    /// JSON, for programs.
    Json,
    /// Tab-separated lines, for scripts and terminals.
    Text,
    /// CSV, for spreadsheets; only where the endpoint offers it.
    Csv,
}

/// The fields of query and form, each at most once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields(Vec<(String, String)>);

impl Fields {
    /// Adds the fields of an `application/x-www-form-urlencoded` text (WHATWG URL, section 5).
    fn add(&mut self, encoded: &[u8]) -> Result<(), Refusal> {
        // The parser would replace what is not UTF-8. Its separators are ASCII, so they split no character, and
        // the whole is valid if and only if each part is.
        if percent_decode(encoded).decode_utf8().is_err() {
            return Err(Refusal::bad_request("A field of the request is not valid UTF-8."));
        }
        for (name, value) in form_urlencoded::parse(encoded) {
            if self.get(&name).is_some() {
                return Err(Refusal::bad_request(format!(
                    "The field {:?} is there twice. Give each field once.",
                    shortened(&name)
                )));
            }
            self.0.push((name.into_owned(), value.into_owned()));
        }
        Ok(())
    }

    /// Returns a field's value; `None` if it is absent.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Returns the names of all fields.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    /// Refuses unknown fields: a misspelled field must not be ignored.
    pub fn only(&self, known: &[&str]) -> Result<(), Refusal> {
        match self.names().find(|name| !known.contains(name)) {
            Some(name) => Err(Refusal::bad_request(format!(
                "There is no field {:?} here; known fields: {}.",
                shortened(name),
                known.join(", ")
            ))),
            None => Ok(()),
        }
    }

    /// Returns a field that must be present and well-formed.
    pub fn required<T>(&self, name: &'static str) -> Result<T, Refusal>
    where
        T: FromStr,
        T::Err: std::fmt::Display,
    {
        let text = self
            .get(name)
            .filter(|text| !text.is_empty())
            .ok_or_else(|| Refusal::bad_request(format!("The field {name} is missing.")))?;
        text.parse().map_err(|fault| Refusal::bad_request(format!("{name} {fault}.")))
    }

    /// Returns the field `page`, counted from 1; by default the first page.
    pub fn page(&self) -> Result<u32, Refusal> {
        match self.get("page") {
            None | Some("") => Ok(1),
            Some(text) => text
                .parse()
                .ok()
                .filter(|page| *page >= 1)
                .ok_or_else(|| Refusal::bad_request("page is a number, from 1.")),
        }
    }

    /// Returns a field that must be well-formed if it is present and not empty.
    pub fn optional<T>(&self, name: &'static str) -> Result<Option<T>, Refusal>
    where
        T: FromStr,
        T::Err: std::fmt::Display,
    {
        let text = self.get(name).map(str::trim).filter(|text| !text.is_empty());
        text.map(str::parse)
            .transpose()
            .map_err(|fault| Refusal::bad_request(format!("The field {name} can't be read: {fault}.")))
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}

/// A request to a handler.
#[derive(Debug)]
pub struct Request {
    /// Whether it is a POST; everything else that gets here is a GET or a HEAD.
    pub is_post: bool,
    /// Whether it is a HEAD.
    pub is_head: bool,
    /// The fields of the query and, for a form, of the body.
    pub fields: Fields,
    /// The body as it came.
    pub body: Vec<u8>,
    /// The format of the answer.
    pub format: Format,
    /// The sender's address.
    pub remote: Option<IpAddr>,
    /// Its id, for the log. Generated here, until the call has been authenticated as from the
    /// server or a node (see [`carry_on`](Self::carry_on)).
    pub id: RequestId,
    /// Path and query, as on the request line.
    pub path_and_query: String,
    /// The request headers.
    pub headers: HeaderMap,
}

impl Request {
    /// Reads what the `cgi` crate made of the environment.
    pub fn read(request: cgi::Request, endpoint: &Endpoint) -> Result<Self, Refusal> {
        let (parts, body) = request.into_parts();
        let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
        // From the environment, not from the X-Cgi-… headers that the crate makes of it: a client
        // can send headers with these names, and they would come first.
        let variable = |name: &str| std::env::var(name).unwrap_or_default();
        let is_post = parts.method == http::Method::POST;
        let mut fields = Fields::default();
        fields.add(variable("QUERY_STRING").as_bytes())?;
        let content_type = variable("CONTENT_TYPE");
        let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match media_type.as_str() {
            "application/x-www-form-urlencoded" => fields.add(&body)?,
            "multipart/form-data" => {
                return Err(Refusal::bad_request(
                    "Send the form as application/x-www-form-urlencoded, not as multipart/form-data.",
                ));
            }
            _ => {}
        }
        let format = match fields.get("format") {
            None | Some("") => accepted(header("accept").unwrap_or_default()),
            Some("html") => Format::Html,
            Some("json") => Format::Json,
            Some("text") => Format::Text,
            Some("csv") if endpoint.takes == Takes::TableQuery => Format::Csv,
            Some(_) if endpoint.takes == Takes::TableQuery => {
                return Err(Refusal::bad_request("format is html, json, text or csv."));
            }
            Some(_) => return Err(Refusal::bad_request("format is html, json or text.")),
        };
        Ok(Self {
            is_post,
            is_head: parts.method == http::Method::HEAD,
            fields,
            format,
            remote: variable("REMOTE_ADDR").parse().ok(),
            id: RequestId::generate(),
            path_and_query: parts.uri.path_and_query().map_or_else(String::new, ToString::to_string),
            body,
            headers: parts.headers,
        })
    }

    /// Adopts the id of the request that this one belongs to, if it names one. Only for calls whose
    /// signature has been verified, since anybody can send the header.
    pub fn carry_on(&mut self) {
        if let Some(id) = self.header(REQUEST_HEADER).and_then(|id| id.parse().ok()) {
            self.id = id;
        }
    }

    /// Returns a request header, if it is present and readable.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Returns the sender's address, for the log.
    pub fn from(&self) -> String {
        self.remote.map_or_else(|| "unknown".to_owned(), |address| address.to_string())
    }
}

/// Returns JSON or text if it is asked for and HTML is not. The `*/*` of wget and curl means a
/// page, as it always has.
fn accepted(accept: &str) -> Format {
    let accept = accept.to_ascii_lowercase();
    let asks = |kind: &str| accept.split(',').any(|part| part.split(';').next().unwrap_or("").trim() == kind);
    if asks("text/html") {
        Format::Html
    } else if asks("application/json") {
        Format::Json
    } else if asks("text/plain") {
        Format::Text
    } else {
        Format::Html
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Result<Fields, Refusal> {
        let mut fields = Fields::default();
        fields.add(text.as_bytes()).map(|()| fields)
    }

    #[test]
    fn forms_are_decoded() {
        let fields = fields("a=1+2&b=%C3%BC%26&c&=x&&").unwrap();
        assert_eq!(fields.get("a"), Some("1 2"));
        assert_eq!(fields.get("b"), Some("ü&"));
        assert_eq!(fields.get("c"), Some(""));
        assert_eq!(fields.get("d"), None);
    }

    #[test]
    fn repeated_and_garbled_fields_are_refused() {
        assert!(fields("a=1&a=2").is_err());
        assert!(fields("a=1&%61=2").is_err());
        for garbled in ["a=%ff", "%ff=a", "a=b&c=%e4", "a=%c3+%bc", "a=%c3&%bc=b", "%c3=%bc"] {
            assert!(fields(garbled).is_err(), "{garbled}");
        }
        assert_eq!(fields("a=%ef%bf%bd&b=%4&c=%").unwrap().get("a"), Some("\u{fffd}"));
    }

    #[test]
    fn the_form_of_the_answer_is_negotiated() {
        assert_eq!(accepted("text/html,application/json;q=0.9"), Format::Html);
        assert_eq!(accepted("Application/JSON; q=1"), Format::Json);
        assert_eq!(accepted("*/*"), Format::Html);
    }
}
