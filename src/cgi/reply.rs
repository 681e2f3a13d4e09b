//! Answers: what a handler returns, and how it is written.

use std::collections::BTreeMap;
use std::fmt::Display;

use serde::Serialize;

use crate::model::fault::Fault;
use crate::model::names::{RegistryId, RequestId};
use crate::model::sign::{Key, SignedAnswer};
use crate::model::wire::NodeRefusal;

/// What a page may load: nothing from other sites, nothing inline. Pico's stylesheet has its icons
/// as `data:` images.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; \
     img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    status: u16,
    content_type: &'static str,
    body: String,
    extra: Vec<(http::HeaderName, String)>,
    registry: Option<RegistryId>,
}

impl Reply {
    fn new(status: u16, content_type: &'static str, body: String) -> Self {
        Self { status, content_type, body, extra: Vec::new(), registry: None }
    }

    /// A page.
    pub fn html(status: u16, body: String) -> Self {
        Self::new(status, "text/html; charset=utf-8", body)
    }

    /// A message for a program.
    pub fn json(status: u16, message: &impl Serialize) -> Result<Self, Refusal> {
        let mut body = serde_json::to_string(message).map_err(Refusal::internal)?;
        body.push('\n');
        Ok(Self::new(status, "application/json", body))
    }

    /// Plain text.
    pub fn text(status: u16, body: String) -> Self {
        Self::new(status, "text/plain; charset=utf-8", body)
    }

    /// A table to save under this name, which must be ours and of plain letters.
    pub fn csv(body: String, name: &str) -> Self {
        let reply = Self::new(200, "text/csv; charset=utf-8; header=present", body);
        reply.with(http::header::CONTENT_DISPOSITION, format!("attachment; filename=\"{name}\""))
    }

    /// A redirect to a GET of `location`, after a form was accepted.
    pub fn see_other(location: &str) -> Self {
        Self::text(303, format!("See {location}\n")).with(http::header::LOCATION, location)
    }

    /// 304: the caller already has what the tag stands for.
    pub fn not_modified(tag: &str) -> Self {
        Self::text(304, String::new()).tagged(tag)
    }

    /// Adds an entity tag. Weak: it does not identify the answer byte by byte.
    pub fn tagged(self, tag: &str) -> Self {
        self.with(http::header::ETAG, format!("W/\"{tag}\""))
    }

    /// Adds a header. A value that no header can have is left out.
    pub fn with(mut self, name: http::HeaderName, value: impl Into<String>) -> Self {
        self.extra.push((name, value.into()));
        self
    }

    /// Sets the registry to sign this answer for.
    pub fn of_registry(mut self, registry: RegistryId) -> Self {
        self.registry = Some(registry);
        self
    }

    /// Signs it as the answer to the request with this signature. Must come last: any later change
    /// invalidates the signature.
    pub fn signed(mut self, key: &Key, request: &str) -> Self {
        let Self { status, registry, body, .. } = &self;
        let answer = SignedAnswer { request, status: *status, registry: *registry, body: body.as_bytes() };
        for (name, value) in answer.headers(key) {
            if let Ok(name) = http::HeaderName::from_bytes(name.as_bytes()) {
                self.extra.push((name, value));
            }
        }
        self
    }

    /// The HTTP status.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Converts it for the `cgi` crate.
    pub fn into_response(self) -> cgi::Response {
        use http::HeaderValue;
        use http::header::{
            CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY as CSP, CONTENT_TYPE, REFERRER_POLICY,
            VARY, X_CONTENT_TYPE_OPTIONS,
        };
        let mut response = http::Response::new(self.body.into_bytes());
        *response.status_mut() =
            http::StatusCode::from_u16(self.status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
        let length = response.body().len();
        let headers = response.headers_mut();
        // A 304 has no content, so it has no headers about content (RFC 9110, section 15.4.5).
        if self.status != 304 {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(CSP, HeaderValue::from_static(CONTENT_SECURITY_POLICY));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(REFERRER_POLICY, HeaderValue::from_static("same-origin"));
        headers.insert(VARY, HeaderValue::from_static("Accept"));
        for (name, value) in self.extra {
            // The `cgi` crate panics on a header that is not ASCII.
            if let Ok(value) = HeaderValue::from_str(&value)
                && value.to_str().is_ok()
            {
                headers.insert(name, value);
            }
        }
        response
    }
}

/// A request that was not carried out, with what its sender reads and what only the log gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// A sentence that says what is wrong and what to do.
    pub sentence: String,
    /// Faults of single fields of a form.
    pub fields: BTreeMap<&'static str, String>,
    /// The fault, from a node to its server.
    pub fault: Option<Fault>,
    /// Details, for the log only.
    pub log: Option<String>,
    /// A message from administrators, shown above the refusal's page.
    pub banner: Option<String>,
    allow: &'static [&'static str],
    /// Seconds after which it may help to try again.
    retry_after: Option<u8>,
}

impl Refusal {
    /// A refusal with a status and a sentence.
    pub fn new(status: u16, sentence: impl Into<String>) -> Self {
        Self {
            status,
            sentence: sentence.into(),
            fields: BTreeMap::new(),
            fault: None,
            log: None,
            banner: None,
            allow: &[],
            retry_after: None,
        }
    }

    /// 400.
    pub fn bad_request(sentence: impl Into<String>) -> Self {
        Self::new(400, sentence)
    }

    /// 403.
    pub fn forbidden(sentence: impl Into<String>) -> Self {
        Self::new(403, sentence)
    }

    /// 404.
    pub fn not_found(sentence: impl Into<String>) -> Self {
        Self::new(404, sentence)
    }

    /// 405.
    pub fn method_not_allowed(allow: &'static [&'static str]) -> Self {
        let sentence = format!("This address knows only {}.", allow.join(", "));
        Self { allow, ..Self::new(405, sentence) }
    }

    /// 409.
    pub fn conflict(sentence: impl Into<String>) -> Self {
        Self::new(409, sentence)
    }

    /// 411.
    pub fn length_required() -> Self {
        Self::new(
            411,
            "The request must say how long its body is (Content-Length); a chunked body is not taken.",
        )
    }

    /// 413.
    pub fn too_large(limit: usize) -> Self {
        Self::new(413, format!("The body is longer than the {limit} bytes that are taken here."))
    }

    /// 500, with the same sentence for everybody and the detail for the log.
    pub fn internal(detail: impl Display) -> Self {
        Self::new(
            500,
            "Something went wrong on this server. Tell an administrator the number of this request.",
        )
        .logged(detail)
    }

    /// 503, with advice to try again in a few seconds.
    pub fn busy(sentence: impl Into<String>) -> Self {
        Self { retry_after: Some(5), ..Self::new(503, sentence) }
    }

    /// 503, for as long as administrators keep the portal closed.
    pub fn closed(sentence: impl Into<String>) -> Self {
        Self::new(503, sentence)
    }

    /// A node's refusal of an order, with a fault that the server understands.
    pub fn fault(status: u16, fault: Fault) -> Self {
        let sentence = fault.to_string();
        Self { fault: Some(fault), ..Self::new(status, sentence) }
    }

    /// Adds details for the log.
    pub fn logged(self, detail: impl Display) -> Self {
        Self { log: Some(detail.to_string()), ..self }
    }

    /// Adds the banner that its page shows.
    pub fn below(self, banner: Option<String>) -> Self {
        Self { banner, ..self }
    }

    /// As JSON: `{"error": {…}}`, or a [`NodeRefusal`].
    pub fn to_json(&self, request: &RequestId) -> Reply {
        let made = match &self.fault {
            Some(fault) => Reply::json(self.status, &NodeRefusal { fault: fault.clone() }),
            None => Reply::json(self.status, &self.context(request)),
        };
        self.finish(made.unwrap_or_else(|_| self.to_text(request)))
    }

    /// As text: the sentence, then a line for each field, and from status 500 on the request's id.
    pub fn to_text(&self, request: &RequestId) -> Reply {
        let mut text = format!("{}\n", self.sentence);
        for (field, fault) in &self.fields {
            text.push_str(&format!("{field}: {fault}\n"));
        }
        if self.status >= 500 {
            text.push_str(&format!("request {request}\n"));
        }
        self.finish(Reply::text(self.status, text))
    }

    /// Returns the error's data, for JSON and for the page.
    pub fn context(&self, request: &RequestId) -> serde_json::Value {
        serde_json::json!({
            "error": {
                "status": self.status,
                "message": self.sentence,
                "fields": self.fields,
                "request": request.as_str(),
            }
        })
    }

    /// Adds the headers that go with the status.
    pub fn finish(&self, reply: Reply) -> Reply {
        match (self.status, self.retry_after) {
            (405, _) => reply.with(http::header::ALLOW, self.allow.join(", ")),
            (_, Some(seconds)) => reply.with(http::header::RETRY_AFTER, seconds.to_string()),
            _ => reply,
        }
    }
}
