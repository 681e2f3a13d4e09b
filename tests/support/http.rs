//! A small HTTP/1.1 client over a bare socket. It sends exactly the bytes that a test wants, valid
//! or not.

use std::fmt::Write as _;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

/// The longest that an exchange may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    fn parse(bytes: &[u8]) -> io::Result<Self> {
        let bad = |what: &str| io::Error::other(format!("{what}: {:?}", String::from_utf8_lossy(bytes)));
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").ok_or_else(|| bad("no head"))?;
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let mut lines = head.split("\r\n");
        let status = lines
            .next()
            .and_then(|line| line.strip_prefix("HTTP/1.1 "))
            .and_then(|rest| rest.get(..3)?.parse().ok())
            .ok_or_else(|| bad("no status line"))?;
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let mut body = bytes[end + 4..].to_vec();
        if headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked") {
            body = dechunked(&body).ok_or_else(|| bad("broken chunks"))?;
        }
        if status == 100 {
            return Self::parse(&bytes[end + 4..]);
        }
        Ok(Self { status, headers, body })
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("an answer in UTF-8")
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self}"))
    }

    /// The sentence in an error to a script that reads JSON.
    #[track_caller]
    pub fn error_message(&self) -> String {
        self.json()["error"]["message"].as_str().unwrap_or_else(|| panic!("no message: {self}")).to_owned()
    }

    /// The sentence about one field in an error to a script that reads JSON.
    #[track_caller]
    pub fn field_error(&self, field: &str) -> String {
        let json = self.json();
        json["error"]["fields"][field].as_str().unwrap_or_else(|| panic!("no {field}: {self}")).to_owned()
    }

    /// Asserts the status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self}");
        self
    }

    /// Asserts that the body contains these words.
    #[track_caller]
    pub fn says(self, words: &str) -> Self {
        assert!(self.text().contains(words), "no {words:?} in {self}");
        self
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "HTTP {}", self.status)?;
        for (name, value) in &self.headers {
            writeln!(f, "{name}: {value}")?;
        }
        write!(f, "\n{}", String::from_utf8_lossy(&self.body))
    }
}

fn dechunked(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let end = rest.windows(2).position(|w| w == b"\r\n")?;
        let length = usize::from_str_radix(std::str::from_utf8(&rest[..end]).ok()?, 16).ok()?;
        rest = &rest[end + 2..];
        if length == 0 {
            return Some(whole);
        }
        whole.extend_from_slice(rest.get(..length)?);
        rest = rest.get(length + 2..)?;
    }
}

/// A request to be sent.
#[derive(Debug, Clone)]
pub struct Ask {
    to: SocketAddr,
    /// The client's address; `None`: any.
    from: Option<Ipv4Addr>,
    method: String,
    path: Vec<u8>,
    headers: Vec<(String, Vec<u8>)>,
    body: Option<Vec<u8>>,
    /// The value of Content-Length, if not the real length; empty: no such header.
    length: Option<String>,
}

impl Ask {
    /// A request. The path is sent as it is.
    pub fn new(to: SocketAddr, method: &str, path: impl Into<Vec<u8>>) -> Self {
        Self {
            to,
            from: None,
            method: method.to_owned(),
            path: path.into(),
            headers: Vec::new(),
            body: None,
            length: None,
        }
    }

    /// The same request, sent to another server.
    pub fn to(mut self, to: SocketAddr) -> Self {
        self.to = to;
        self
    }

    /// The same request, sent from a client address.
    pub fn sent_from(mut self, from: [u8; 4]) -> Self {
        self.from = Some(from.into());
        self
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Signs in with a user name and password.
    pub fn by(self, user: &str, password: &str) -> Self {
        self.by_bytes(user.as_bytes(), password)
    }

    /// Signs in with a user name that need not be UTF-8.
    pub fn by_bytes(self, user: &[u8], password: &str) -> Self {
        self.header("Authorization", basic(user, password))
    }

    /// Adds the headers that Chromium sends with one of the portal's own forms.
    pub fn like_a_browser(self) -> Self {
        let origin = format!("http://{}", self.to);
        self.header("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8")
            .header("Sec-Fetch-Site", "same-origin")
            .header("Sec-Fetch-Mode", "navigate")
            .header("Origin", origin)
    }

    /// Sets the body to a form with these fields.
    pub fn form(self, fields: &[(&str, &str)]) -> Self {
        self.header("Content-Type", "application/x-www-form-urlencoded").body(encoded(fields))
    }

    /// Sets a body without Content-Length.
    pub fn body_without_length(mut self, body: &str) -> Self {
        self.length = Some(String::new());
        self.body(body)
    }

    /// The same request with another method.
    pub fn method(mut self, method: &str) -> Self {
        method.clone_into(&mut self.method);
        self
    }

    /// The same request for another path.
    pub fn path(mut self, path: &str) -> Self {
        self.path = path.into();
        self
    }

    /// Sets the body.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// Sets a Content-Length, which may be wrong.
    pub fn length(mut self, length: impl Into<String>) -> Self {
        self.length = Some(length.into());
        self
    }

    /// The request as bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = format!("{} ", self.method).into_bytes();
        bytes.extend_from_slice(&self.path);
        bytes
            .extend_from_slice(format!(" HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", self.to).as_bytes());
        for (name, value) in &self.headers {
            bytes.extend_from_slice(name.as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value);
            bytes.extend_from_slice(b"\r\n");
        }
        let length = self.length.clone().or_else(|| self.body.as_ref().map(|body| body.len().to_string()));
        if let Some(length) = length.filter(|length| !length.is_empty()) {
            bytes.extend_from_slice(format!("Content-Length: {length}\r\n").as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(self.body.as_deref().unwrap_or_default());
        bytes
    }

    /// Sends the request and reads the answer.
    #[track_caller]
    pub fn send(&self) -> Answer {
        exchange(self.from, self.to, &self.bytes(), false).unwrap_or_else(|error| {
            panic!("{} {}: {error}", self.method, String::from_utf8_lossy(&self.path))
        })
    }

    /// Sends the request, shuts down the sending side, and reads the answer.
    #[track_caller]
    pub fn send_and_shut(&self) -> Answer {
        exchange(self.from, self.to, &self.bytes(), true).unwrap_or_else(|error| {
            panic!("{} {}: {error}", self.method, String::from_utf8_lossy(&self.path))
        })
    }
}

/// Sends bytes as they are and reads the answer.
pub fn raw(to: SocketAddr, bytes: &[u8], shut: bool) -> io::Result<Answer> {
    exchange(None, to, bytes, shut)
}

fn exchange(from: Option<Ipv4Addr>, to: SocketAddr, bytes: &[u8], shut: bool) -> io::Result<Answer> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(to), socket2::Type::STREAM, None)?;
    if let Some(from) = from {
        socket.bind(&SocketAddr::from((from, 0)).into())?;
    }
    socket.connect_timeout(&to.into(), PATIENCE)?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    // A server that refuses early may close before it has read everything. Its answer still counts.
    let sent = stream.write_all(bytes);
    if shut {
        let _ = stream.shutdown(Shutdown::Write);
    }
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if answer.is_empty() => return Err(error),
        _ => {}
    }
    if answer.is_empty() {
        sent?;
    }
    Answer::parse(&answer)
}

/// Fields as `application/x-www-form-urlencoded`.
pub fn encoded(fields: &[(&str, &str)]) -> String {
    let escape = |text: &str| {
        percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
    };
    fields.iter().fold(String::new(), |mut form, (name, value)| {
        let separator = if form.is_empty() { "" } else { "&" };
        // Writing to a String cannot fail.
        let _ = write!(form, "{separator}{}={}", escape(name), escape(value));
        form
    })
}

/// The value of an Authorization header (RFC 7617).
pub fn basic(user: &[u8], password: &str) -> String {
    format!("Basic {}", base64(&[user, b":", password.as_bytes()].concat()))
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    bytes
        .chunks(3)
        .flat_map(|chunk| {
            let bits =
                chunk.iter().fold(0_u32, |bits, &b| bits << 8 | u32::from(b)) << (8 * (3 - chunk.len()));
            (0..4).map(move |i| {
                if i <= chunk.len() {
                    char::from(ALPHABET[(bits >> (18 - 6 * i)) as usize & 63])
                } else {
                    '='
                }
            })
        })
        .collect()
}
