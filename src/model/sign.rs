//! Signatures on the messages between server and nodes: HMAC-SHA-256 (RFC 2104, FIPS 180-4) with
//! the key that all of them share.
//!
//! The signature of a request covers everything that makes it this request and no other: the
//! recipient, the sender's registry, a nonce, the time, the method, the path with its query, and
//! the body. So a recorded request is worthless on another host, with another registry, or a second
//! time. The signature of an answer covers the signature of its request. So nobody can answer in
//! the recipient's place without the key, and no recorded answer fits another request.

use std::fmt;
use std::str::FromStr;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use thiserror::Error;

use super::digest::hex;
use super::lease::Moment;
use super::names::{NameFault, PhysicalHost, RegistryId};

/// The request header that carries the time of signing, in seconds since 1970.
pub const TIME_HEADER: &str = "X-Vgrid-Time";
/// The header that carries the signature of a request or answer, in lower-case hexadecimal.
pub const SIGNATURE_HEADER: &str = "X-Vgrid-Signature";
/// The request header that carries the request id, so that it is the same in both logs.
pub const REQUEST_HEADER: &str = "X-Vgrid-Request";
/// The request header that names the recipient.
pub const RECIPIENT_HEADER: &str = "X-Vgrid-To";
/// The request header that carries the nonce.
pub const NONCE_HEADER: &str = "X-Vgrid-Nonce";
/// The header of requests and answers that carries the identity of the sender's registry.
pub const REGISTRY_HEADER: &str = "X-Vgrid-Registry";

/// How far the clocks of server and node may differ, in seconds.
pub const MAX_SKEW: i64 = 300;

/// The length of SHA-256's digests.
const SIGNATURE_BYTES: usize = 32;

/// The secret that server and nodes share. `Debug` does not print it.
#[derive(Clone)]
pub struct Key(Vec<u8>);

impl Key {
    /// The fewest characters that a key may have.
    pub const MIN: usize = 32;

    /// Takes the text of a key file, without white space at its ends; `None` if it is too short.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        (text.len() >= Self::MIN).then(|| Self(text.as_bytes().to_vec()))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

/// The recipient of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recipient {
    /// The server.
    Server,
    /// A host of the pool, by its name in the pool.
    Node(PhysicalHost),
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server => f.write_str("server"),
            Self::Node(host) => write!(f, "node {host}"),
        }
    }
}

impl FromStr for Recipient {
    type Err = NameFault;

    fn from_str(text: &str) -> Result<Self, NameFault> {
        match text.strip_prefix("node ") {
            Some(host) => host.parse().map(Self::Node),
            None if text == "server" => Ok(Self::Server),
            None => Err(NameFault::NotAnId),
        }
    }
}

/// A value that no two requests share: 32 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nonce(String);

impl Nonce {
    /// A new nonce.
    pub fn generate() -> Self {
        Self(uuid::Uuid::now_v7().simple().to_string())
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Nonce {
    type Err = NameFault;

    fn from_str(text: &str) -> Result<Self, NameFault> {
        let is_one = text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if is_one { Ok(Self(text.to_owned())) } else { Err(NameFault::NotAnId) }
    }
}

/// What the signature of a request covers.
#[derive(Debug, Clone, Copy)]
pub struct Signed<'a> {
    /// The recipient.
    pub to: &'a Recipient,
    /// The sender's registry: the server's own, or the one that a node obeys, if it has met one.
    pub registry: Option<RegistryId>,
    /// What tells it from every other request.
    pub nonce: &'a Nonce,
    /// When it was signed.
    pub time: Moment,
    /// The HTTP method, in capitals.
    pub method: &'a str,
    /// The path and, after a `?`, the query, as on the request line.
    pub path_and_query: &'a str,
    /// The body; empty if there is none.
    pub body: &'a [u8],
}

/// What the signature of an answer covers.
#[derive(Debug, Clone, Copy)]
pub struct SignedAnswer<'a> {
    /// The signature of the answered request.
    pub request: &'a str,
    /// The HTTP status.
    pub status: u16,
    /// The sender's registry.
    pub registry: Option<RegistryId>,
    /// The body.
    pub body: &'a [u8],
}

/// Why a signature was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SignFault {
    /// One of the headers is missing or unreadable.
    #[error("the message is not signed")]
    Missing,
    /// Signed with another key, or changed in transit.
    #[error("the signature is wrong: do server and node have the same key?")]
    Wrong,
    /// Signed too long ago, or in the future.
    #[error("the message was signed {0} s from now: do the clocks of server and node agree?")]
    Stale(i64),
}

/// A MAC over several parts. Each is preceded by its length, so that none can run into the next.
fn mac(key: &Key, parts: &[&[u8]]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(&key.0).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(&(part.len() as u64).to_be_bytes());
        mac.update(part);
    }
    mac
}

fn registry_text(registry: Option<RegistryId>) -> String {
    registry.map(|id| id.to_string()).unwrap_or_default()
}

impl Signed<'_> {
    fn mac(&self, key: &Key) -> Hmac<Sha256> {
        let Self { to, registry, nonce, time, method, path_and_query, body } = self;
        let parts = [
            "request".to_owned(),
            to.to_string(),
            registry_text(*registry),
            nonce.as_str().to_owned(),
            time.unix().to_string(),
            (*method).to_owned(),
            (*path_and_query).to_owned(),
        ];
        let mut parts: Vec<&[u8]> = parts.iter().map(String::as_bytes).collect();
        parts.push(body);
        mac(key, &parts)
    }

    /// The headers that sign the request; the signature is the last of them.
    pub fn headers(&self, key: &Key) -> Vec<(&'static str, String)> {
        let mut headers = vec![
            (RECIPIENT_HEADER, self.to.to_string()),
            (NONCE_HEADER, self.nonce.as_str().to_owned()),
            (TIME_HEADER, self.time.unix().to_string()),
        ];
        headers.extend(self.registry.map(|id| (REGISTRY_HEADER, id.to_string())));
        headers.push((SIGNATURE_HEADER, hex(&self.mac(key).finalize().into_bytes())));
        headers
    }

    /// Checks the signature, in constant time, and that it was made within [`MAX_SKEW`] of `now`.
    pub fn verify(&self, key: &Key, signature: &str, now: Moment) -> Result<(), SignFault> {
        let given = unhex(signature, SIGNATURE_BYTES).ok_or(SignFault::Missing)?;
        self.mac(key).verify_slice(&given).map_err(|_| SignFault::Wrong)?;
        let skew = now.since(self.time);
        if skew.abs() > MAX_SKEW { Err(SignFault::Stale(skew)) } else { Ok(()) }
    }
}

impl SignedAnswer<'_> {
    fn mac(&self, key: &Key) -> Hmac<Sha256> {
        let Self { request, status, registry, body } = self;
        let (status, registry) = (status.to_string(), registry_text(*registry));
        mac(key, &[b"answer", request.as_bytes(), status.as_bytes(), registry.as_bytes(), body])
    }

    /// The headers that sign the answer.
    pub fn headers(&self, key: &Key) -> Vec<(&'static str, String)> {
        let mut headers = vec![(SIGNATURE_HEADER, hex(&self.mac(key).finalize().into_bytes()))];
        headers.extend(self.registry.map(|id| (REGISTRY_HEADER, id.to_string())));
        headers
    }

    /// Whether a signature is this answer's. Compares in constant time.
    pub fn is_signed_by(&self, key: &Key, signature: &str) -> bool {
        unhex(signature, SIGNATURE_BYTES).is_some_and(|given| self.mac(key).verify_slice(&given).is_ok())
    }
}

/// A token for some words, which only a holder of the key can make: half of their MAC, in
/// lower-case hexadecimal.
pub fn token(key: &Key, words: &[&str]) -> String {
    hex(&token_mac(key, words).finalize().into_bytes()[..TOKEN_BYTES])
}

/// Whether a text is the [`token`] for these words. Compares in constant time.
pub fn is_token(key: &Key, words: &[&str], given: &str) -> bool {
    // `unhex` takes capitals, too, but a token has one spelling.
    let bytes = unhex(given, TOKEN_BYTES).filter(|bytes| hex(bytes) == given);
    bytes.is_some_and(|bytes| token_mac(key, words).verify_truncated_left(&bytes).is_ok())
}

const TOKEN_BYTES: usize = 16;

fn token_mac(key: &Key, words: &[&str]) -> Hmac<Sha256> {
    let parts: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
    mac(key, &parts)
}

/// As many bytes as asked for, from hexadecimal.
fn unhex(text: &str, bytes: usize) -> Option<Vec<u8>> {
    let text = text.as_bytes();
    if text.len() != 2 * bytes {
        return None;
    }
    text.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A signed HTTP answer to the request that has this head, as a holder of the key makes it.
    pub fn http_answer(
        head: &str,
        key: &Key,
        registry: Option<RegistryId>,
        status: (u16, &str),
        body: &str,
    ) -> String {
        let request = head
            .lines()
            .find_map(|line| {
                line.split_once(": ").filter(|(name, _)| name.eq_ignore_ascii_case(SIGNATURE_HEADER))
            })
            .map(|(_, signature)| signature.trim())
            .expect("a signed request");
        let answer = SignedAnswer { request, status: status.0, registry, body: body.as_bytes() };
        let headers = answer
            .headers(key)
            .iter()
            .fold(String::new(), |text, (name, value)| text + name + ": " + value + "\r\n");
        format!(
            "HTTP/1.1 {} {}\r\nContent-Length: {}\r\n{headers}Connection: close\r\n\r\n{body}",
            status.0,
            status.1,
            body.len()
        )
    }

    fn key(text: &str) -> Key {
        Key::new(text).unwrap()
    }

    #[test]
    fn a_changed_request_is_refused() {
        let ours = key("0123456789abcdef0123456789abcdef");
        let time = Moment::from_unix(1000);
        let node = |name: &str| Recipient::Node(name.parse().unwrap());
        let (to, other_host) = (node("a"), node("b"));
        let (nonce, other_nonce) = (Nonce::generate(), Nonce::generate());
        let registry = Some(RegistryId::generate());
        let request = Signed {
            to: &to,
            registry,
            nonce: &nonce,
            time,
            method: "POST",
            path_and_query: "/a?b=c",
            body: b"body",
        };
        let signature = request.headers(&ours).pop().unwrap().1;
        assert_eq!(request.verify(&ours, &signature, time), Ok(()));
        for changed in [
            Signed { to: &other_host, ..request },
            Signed { to: &Recipient::Server, ..request },
            Signed { registry: None, ..request },
            Signed { registry: Some(RegistryId::generate()), ..request },
            Signed { nonce: &other_nonce, ..request },
            Signed { time: Moment::from_unix(1001), ..request },
            Signed { method: "GET", ..request },
            Signed { path_and_query: "/a?b=d", ..request },
            Signed { body: b"bodY", ..request },
            // Moving bytes from one part to the next makes another request, too.
            Signed { path_and_query: "/a?b=", body: b"cbody", ..request },
        ] {
            assert_eq!(changed.verify(&ours, &signature, time), Err(SignFault::Wrong), "{changed:?}");
        }
        let other = key("1123456789abcdef0123456789abcdef");
        assert_eq!(request.verify(&other, &signature, time), Err(SignFault::Wrong));
        assert_eq!(request.verify(&ours, "zz", time), Err(SignFault::Missing));
        assert_eq!(request.verify(&ours, &signature, time.plus_seconds(301)), Err(SignFault::Stale(301)));
    }

    #[test]
    fn an_answer_fits_one_request() {
        let ours = key("0123456789abcdef0123456789abcdef");
        let registry = Some(RegistryId::generate());
        let answer = SignedAnswer { request: "aa", status: 200, registry, body: b"{}" };
        let signature = answer.headers(&ours)[0].1.clone();
        assert!(answer.is_signed_by(&ours, &signature));
        for changed in [
            SignedAnswer { request: "ab", ..answer },
            SignedAnswer { status: 202, ..answer },
            SignedAnswer { registry: None, ..answer },
            SignedAnswer { body: b"[]", ..answer },
        ] {
            assert!(!changed.is_signed_by(&ours, &signature), "{changed:?}");
        }
        assert!(!answer.is_signed_by(&key("1123456789abcdef0123456789abcdef"), &signature));
        assert!(!answer.is_signed_by(&ours, "") && !answer.is_signed_by(&ours, "é"));
    }

    #[test]
    fn a_token_fits_its_words_and_key() {
        let ours = key("0123456789abcdef0123456789abcdef");
        let token = token(&ours, &["form", "alice", "1"]);
        assert!(is_token(&ours, &["form", "alice", "1"], &token));
        for words in [["form", "alice", "2"], ["form", "alic", "e1"], ["", "alice", "1"]] {
            assert!(!is_token(&ours, &words, &token), "{words:?}");
        }
        assert!(!is_token(&key("1123456789abcdef0123456789abcdef"), &["form", "alice", "1"], &token));
        let longer = format!("{token}00");
        for other in ["", &token[..30], &longer, &token.to_uppercase(), &"0".repeat(32), &"é".repeat(16)] {
            assert!(!is_token(&ours, &["form", "alice", "1"], other), "{other:?}");
        }
    }

    #[test]
    fn a_recipient_is_read_as_it_is_written() {
        for to in [Recipient::Server, Recipient::Node("node1.example.org".parse().unwrap())] {
            assert_eq!(to.to_string().parse(), Ok(to));
        }
        for text in ["", "node", "node ", "node a b", "Server", "node1"] {
            assert!(text.parse::<Recipient>().is_err(), "{text:?}");
        }
        assert!("0".repeat(31).parse::<Nonce>().is_err() && "G".repeat(32).parse::<Nonce>().is_err());
    }

    #[test]
    fn the_mac_is_the_one_of_rfc_4231() {
        // The key of test case 2 has four bytes, so `Key::new` would refuse it.
        let mac = Hmac::<Sha256>::new_from_slice(b"Jefe").unwrap();
        let digest = mac.chain_update("what do ya want for nothing?").finalize().into_bytes();
        assert!(hex(&digest).starts_with("5bdcc146bf60754e6a042426089575c7"));
    }

    #[test]
    fn short_keys_are_refused() {
        assert!(Key::new("  short\n").is_none());
    }
}
