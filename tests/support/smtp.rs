//! A scripted mail server: ESMTP over a real socket. It keeps the mail it accepts.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::lock;

/// How it treats mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Conduct {
    /// Accepts it.
    Accept,
    /// Sends this line in place of a greeting, and closes.
    TurnAway(&'static str),
    /// Answers every `MAIL` with this line.
    RefuseSender(&'static str),
    /// Answers every `RCPT` to this address (any address, if it is empty) with this line.
    RefuseRecipient(&'static str, &'static str),
    /// Answers every `DATA` with this line once the content has arrived, and discards the mail.
    RefuseContent(&'static str),
    /// Does not answer.
    Hang,
    /// Accepts the connection and closes it.
    Close,
    /// Receives a whole mail and closes the connection without an answer; `keeps` says whether it
    /// was accepted.
    DropAfterData { keeps: bool },
    /// Takes that many milliseconds for each mail.
    Slow(u64),
    /// Closes the connection after that many mails.
    AtMost(usize),
}

/// An accepted mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// As in `MAIL FROM`.
    pub sender: String,
    /// As in `RCPT TO`.
    pub recipients: Vec<String>,
    /// The content, without dot-stuffing.
    pub text: String,
    /// Whether it came over TLS.
    pub encrypted: bool,
    /// The decoded argument of `AUTH PLAIN`.
    pub login: Option<String>,
}

#[derive(Debug)]
struct Shared {
    conduct: Mutex<Conduct>,
    accepted: Mutex<Vec<Accepted>>,
    /// The number of connections so far.
    connections: Mutex<usize>,
    closing: AtomicBool,
    tls: Option<Arc<ServerConfig>>,
    /// TLS from the start, without STARTTLS.
    wrapped: bool,
}

/// A mail server on a port of 127.0.0.1; gone when dropped.
#[derive(Debug)]
pub struct Sink {
    pub port: u16,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Sink {
    /// Starts a server that accepts everything, without TLS.
    pub fn start() -> Self {
        Self::listen(None, false)
    }

    /// Starts a server with a certificate and key (PEM): TLS from the start (`wrapped`), or after
    /// STARTTLS.
    pub fn with_tls(certificate: &Path, key: &Path, wrapped: bool) -> Self {
        let chain = vec![CertificateDer::from_pem_file(certificate).expect("a certificate")];
        let key = PrivateKeyDer::from_pem_file(key).expect("a key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions of TLS")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("certificate and key");
        Self::listen(Some(Arc::new(config)), wrapped)
    }

    fn listen(tls: Option<Arc<ServerConfig>>, wrapped: bool) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let shared = Arc::new(Shared {
            conduct: Mutex::new(Conduct::Accept),
            accepted: Mutex::default(),
            connections: Mutex::default(),
            closing: AtomicBool::new(false),
            tls,
            wrapped,
        });
        let thread = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || serve(&listener, &shared)
        });
        Self { port, shared, thread: Some(thread) }
    }

    /// Sets how it behaves from now on, on open connections too.
    pub fn conduct(&self, conduct: Conduct) {
        *lock(&self.shared.conduct) = conduct;
    }

    /// The mail accepted so far.
    pub fn accepted(&self) -> Vec<Accepted> {
        lock(&self.shared.accepted).clone()
    }

    /// The number of connections so far.
    pub fn connections(&self) -> usize {
        *lock(&self.shared.connections)
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        // Wakes the thread that waits for a connection.
        let _ = TcpStream::connect_timeout(
            &SocketAddr::from((Ipv4Addr::LOCALHOST, self.port)),
            Duration::from_secs(1),
        );
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.closing.load(Ordering::SeqCst) {
            return;
        }
        if let Ok(stream) = stream {
            let shared = Arc::clone(shared);
            // The thread ends with its connection. Some tests provoke broken connections.
            std::thread::spawn(move || Session::run(stream, &shared));
        }
    }
}

trait Duplex: Read + Write {}
impl<T: Read + Write> Duplex for T {}

struct Session<'s> {
    shared: &'s Shared,
    tcp: TcpStream,
    wire: Box<dyn Duplex>,
    encrypted: bool,
    login: Option<String>,
    sender: Option<String>,
    recipients: Vec<String>,
    accepted: usize,
}

impl<'s> Session<'s> {
    fn run(tcp: TcpStream, shared: &'s Shared) -> io::Result<()> {
        *lock(&shared.connections) += 1;
        tcp.set_read_timeout(Some(Duration::from_secs(30)))?;
        let wire = Box::new(tcp.try_clone()?);
        let (login, sender, recipients) = (None, None, Vec::new());
        let mut session =
            Self { shared, tcp, wire, encrypted: false, login, sender, recipients, accepted: 0 };
        if shared.wrapped {
            session.encrypt()?;
        }
        match session.conduct() {
            Conduct::TurnAway(line) => return session.say(line),
            Conduct::Close => return Ok(()),
            _ => session.say("220 sink.example.org ESMTP")?,
        }
        while let Some(line) = session.line()? {
            if !session.answer(&line)? {
                break;
            }
        }
        Ok(())
    }

    fn conduct(&self) -> Conduct {
        loop {
            let conduct = lock(&self.shared.conduct).clone();
            if conduct != Conduct::Hang || self.shared.closing.load(Ordering::SeqCst) {
                return conduct;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn encrypt(&mut self) -> io::Result<()> {
        let config = self.shared.tls.clone().expect("a sink with TLS");
        let connection = ServerConnection::new(config).map_err(io::Error::other)?;
        self.wire = Box::new(StreamOwned::new(connection, self.tcp.try_clone()?));
        self.encrypted = true;
        Ok(())
    }

    fn say(&mut self, line: &str) -> io::Result<()> {
        self.wire.write_all(format!("{line}\r\n").as_bytes())?;
        self.wire.flush()
    }

    /// A line without its line break; `None` at the end of input.
    fn line(&mut self) -> io::Result<Option<String>> {
        let mut line = Vec::new();
        let mut byte = [0];
        while !line.ends_with(b"\r\n") {
            if self.wire.read(&mut byte)? == 0 {
                return Ok(None);
            }
            line.push(byte[0]);
        }
        line.truncate(line.len() - 2);
        Ok(Some(String::from_utf8(line).expect("ASCII, as 8BITMIME is not offered")))
    }

    /// Answers a command. Returns whether the connection stays open.
    fn answer(&mut self, line: &str) -> io::Result<bool> {
        let conduct = self.conduct();
        let verb = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
        let path = || {
            line.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map(|(path, _)| path.to_owned())
        };
        match verb.as_str() {
            "EHLO" => {
                let starttls = self.shared.tls.is_some() && !self.encrypted;
                self.say("250-sink.example.org at your service")?;
                self.say("250-AUTH PLAIN")?;
                self.say(if starttls { "250 STARTTLS" } else { "250 HELP" })?;
            }
            "STARTTLS" => {
                self.say("220 go ahead")?;
                self.encrypt()?;
            }
            "AUTH" => {
                let given = base64(line.rsplit(' ').next().unwrap_or_default());
                self.login = Some(String::from_utf8(given).expect("UTF-8"));
                self.say("235 welcome")?;
            }
            "MAIL" => match conduct {
                Conduct::RefuseSender(reply) => self.say(reply)?,
                Conduct::AtMost(most) if self.accepted >= most => {
                    self.say("421 enough for now")?;
                    return Ok(false);
                }
                _ if self.sender.is_some() => self.say("503 one after the other")?,
                _ => {
                    self.sender = path();
                    self.say("250 ok")?;
                }
            },
            "RCPT" => {
                let recipient = path().expect("a recipient");
                match conduct {
                    Conduct::RefuseRecipient(address, reply)
                        if address.is_empty() || address == recipient =>
                    {
                        self.say(reply)?;
                    }
                    _ => {
                        self.recipients.push(recipient);
                        self.say("250 ok")?;
                    }
                }
            }
            "DATA" if self.sender.is_none() || self.recipients.is_empty() => self.say("503 whose?")?,
            "DATA" => {
                self.say("354 go on, end with a dot")?;
                return self.content(&conduct);
            }
            "RSET" => {
                self.forget();
                self.say("250 ok")?;
            }
            "NOOP" => self.say("250 ok")?,
            "QUIT" => {
                self.say("221 bye")?;
                return Ok(false);
            }
            _ => self.say("500 what?")?,
        }
        Ok(true)
    }

    fn forget(&mut self) {
        self.sender = None;
        self.recipients.clear();
    }

    fn content(&mut self, conduct: &Conduct) -> io::Result<bool> {
        let mut text = String::new();
        loop {
            // A truncated mail does not count.
            let Some(line) = self.line()? else { return Ok(false) };
            if line == "." {
                break;
            }
            text.push_str(line.strip_prefix('.').unwrap_or(&line));
            text.push_str("\r\n");
        }
        let mail = Accepted {
            sender: self.sender.clone().unwrap_or_default(),
            recipients: self.recipients.clone(),
            text,
            encrypted: self.encrypted,
            login: self.login.clone(),
        };
        self.forget();
        match conduct {
            Conduct::DropAfterData { keeps } => {
                if *keeps {
                    lock(&self.shared.accepted).push(mail);
                }
                return Ok(false);
            }
            Conduct::RefuseContent(reply) => self.say(reply)?,
            _ => {
                if let Conduct::Slow(milliseconds) = conduct {
                    std::thread::sleep(Duration::from_millis(*milliseconds));
                }
                lock(&self.shared.accepted).push(mail);
                self.accepted += 1;
                self.say("250 taken over")?;
            }
        }
        Ok(true)
    }
}

/// A mail as its reader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail {
    /// Lower-case names and decoded, unfolded values.
    pub headers: Vec<(String, String)>,
    pub plain: String,
    pub html: String,
}

impl Mail {
    /// Parses a mail with a text and an HTML part.
    #[track_caller]
    pub fn read(text: &str) -> Self {
        let (headers, body) = entity(text);
        let kind = value(&headers, "content-type").to_owned();
        assert!(kind.starts_with("multipart/alternative"), "{text}");
        let boundary =
            kind.split("boundary=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a boundary");
        let parts: Vec<_> = body
            .split(&format!("--{boundary}"))
            .skip(1)
            .take_while(|part| !part.starts_with("--"))
            .map(|part| part.trim_start_matches("\r\n"))
            .collect();
        let [plain, html] = parts[..] else { panic!("{} parts: {text}", parts.len()) };
        Self { headers, plain: part(plain, "text/plain"), html: part(html, "text/html") }
    }

    /// A header's value.
    #[track_caller]
    pub fn header(&self, name: &str) -> &str {
        value(&self.headers, name)
    }
}

/// The value of a header that occurs exactly once.
#[track_caller]
fn value<'h>(headers: &'h [(String, String)], name: &str) -> &'h str {
    let mut found = headers.iter().filter(|(known, _)| known == name);
    match (found.next(), found.next()) {
        (Some((_, value)), None) => value,
        other => panic!("{name}: {other:?} in {headers:?}"),
    }
}

/// The unfolded, decoded headers, and the rest.
fn entity(text: &str) -> (Vec<(String, String)>, &str) {
    let (head, body) = text.split_once("\r\n\r\n").expect("a header and a body");
    let head = head.replace("\r\n ", " ").replace("\r\n\t", " ");
    let headers = head
        .split("\r\n")
        .map(|line| line.split_once(':').unwrap_or_else(|| panic!("not a header: {line:?}")))
        .map(|(name, value)| (name.to_lowercase(), words(value.trim())))
        .collect();
    (headers, body)
}

/// The text of a part with this content type.
#[track_caller]
fn part(text: &str, kind: &str) -> String {
    let (headers, body) = entity(text);
    assert_eq!(value(&headers, "content-type").to_lowercase(), format!("{kind}; charset=utf-8"));
    let bytes = match value(&headers, "content-transfer-encoding") {
        "7bit" => body.as_bytes().to_vec(),
        "base64" => base64(body),
        "quoted-printable" => quoted(&body.replace("=\r\n", "")),
        other => panic!("{other}"),
    };
    String::from_utf8(bytes).expect("UTF-8").replace("\r\n", "\n").trim_end().to_owned()
}

/// Decodes encoded words (RFC 2047) in UTF-8 and base64.
fn words(text: &str) -> String {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("=?utf-8?b?") {
        // White space between two encoded words is ignored.
        if out.is_empty() || !before.trim().is_empty() {
            out.extend_from_slice(before.as_bytes());
        }
        let (word, after) = after.split_once("?=").expect("the end of an encoded word");
        out.extend(base64(word));
        rest = after;
    }
    out.extend_from_slice(rest.as_bytes());
    String::from_utf8(out).expect("UTF-8")
}

fn base64(text: &str) -> Vec<u8> {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bits, mut many, mut out) = (0u32, 0, Vec::new());
    for byte in text.bytes().filter(|byte| !byte.is_ascii_whitespace() && *byte != b'=') {
        let value = LETTERS.iter().position(|letter| *letter == byte).expect("base64");
        bits = bits << 6 | u32::try_from(value).expect("six bits");
        many += 6;
        if many >= 8 {
            many -= 8;
            out.push(u8::try_from(bits >> many & 0xff).expect("a byte"));
        }
    }
    out
}

fn quoted(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'=' {
            let digits: String = bytes.by_ref().take(2).map(char::from).collect();
            out.push(u8::from_str_radix(&digits, 16).expect("two hexadecimal digits"));
        } else {
            out.push(byte);
        }
    }
    out
}
