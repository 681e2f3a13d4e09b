//! Signatures on what server and nodes say to each other: HMAC-SHA-256 (RFC 2104, FIPS 180-4) over
//! method, path with query, time and body, under the key that all of them share.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::lease::Moment;

/// The request header that carries the time of signing, in seconds since 1970.
pub const TIME_HEADER: &str = "X-Vgrid-Time";
/// The request header that carries the signature, in lower-case hexadecimal.
pub const SIGNATURE_HEADER: &str = "X-Vgrid-Signature";
/// The request header that carries the request id, so that both logs have the same.
pub const REQUEST_HEADER: &str = "X-Vgrid-Request";

/// How far the clocks of server and node may be apart, in seconds.
pub const MAX_SKEW: i64 = 300;

/// A shared secret. Not printable.
#[derive(Clone)]
pub struct Key(Vec<u8>);

impl Key {
    /// The fewest characters that a key may have.
    pub const MIN: usize = 32;

    /// Takes the text of a key file, less white space at its ends; `None` if it is too short.
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

/// What is signed.
#[derive(Debug, Clone, Copy)]
pub struct Signed<'a> {
    /// The HTTP method, in capitals.
    pub method: &'a str,
    /// The path and, after a `?`, the query, as they are on the request line.
    pub path_and_query: &'a str,
    /// When it was signed.
    pub time: Moment,
    /// The body; empty if there is none.
    pub body: &'a [u8],
}

/// Why a signature was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SignFault {
    /// One of the headers is missing or unreadable.
    #[error("the message is not signed")]
    Missing,
    /// Signed with another key, or changed on its way.
    #[error("the signature is wrong: do server and node have the same key?")]
    Wrong,
    /// Signed too long ago, or in the future.
    #[error("the message was signed {0} s from now: do the clocks of server and node agree?")]
    Stale(i64),
}

fn mac(key: &Key, message: &Signed<'_>) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(&key.0).expect("HMAC takes keys of any length");
    // A request line holds no line break, so the parts can't run into each other.
    for part in [message.method, message.path_and_query, &message.time.unix().to_string()] {
        mac.update(part.as_bytes());
        mac.update(b"\n");
    }
    mac.update(message.body);
    mac
}

/// The signature of a message, in lower-case hexadecimal.
pub fn sign(key: &Key, message: &Signed<'_>) -> String {
    hex(&mac(key, message).finalize().into_bytes())
}

/// Checks a signature, in constant time, and that it was made within [`MAX_SKEW`] of `now`.
pub fn verify(key: &Key, message: &Signed<'_>, signature: &str, now: Moment) -> Result<(), SignFault> {
    let given = unhex(signature).ok_or(SignFault::Missing)?;
    mac(key, message).verify_slice(&given).map_err(|_| SignFault::Wrong)?;
    let skew = now.since(message.time);
    if skew.abs() > MAX_SKEW { Err(SignFault::Stale(skew)) } else { Ok(()) }
}

/// A keyed digest of some words, for tokens that only this key's holder can have made.
pub fn token(key: &Key, words: &[&str]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(&key.0).expect("HMAC takes keys of any length");
    for word in words {
        mac.update(&(word.len() as u64).to_be_bytes());
        mac.update(word.as_bytes());
    }
    hex(&mac.finalize().into_bytes()[..16])
}

/// The SHA-256 digest of a file's content, shortened to 16 hexadecimal digits: enough to tell two
/// configurations apart.
pub fn digest(content: &[u8]) -> String {
    hex(&Sha256::digest(content)[..8])
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let text = text.as_bytes();
    if text.len() != 64 {
        return None;
    }
    text.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        Key::new(text).unwrap()
    }

    #[test]
    fn a_changed_message_is_refused() {
        let ours = key("0123456789abcdef0123456789abcdef");
        let time = Moment::from_unix(1000);
        let message = Signed { method: "POST", path_and_query: "/a?b=c", time, body: b"body" };
        let signature = sign(&ours, &message);
        assert_eq!(verify(&ours, &message, &signature, time), Ok(()));
        for changed in [
            Signed { method: "GET", ..message },
            Signed { path_and_query: "/a?b=d", ..message },
            Signed { time: Moment::from_unix(1001), ..message },
            Signed { body: b"bodY", ..message },
        ] {
            assert_eq!(verify(&ours, &changed, &signature, time), Err(SignFault::Wrong));
        }
        let other = key("1123456789abcdef0123456789abcdef");
        assert_eq!(verify(&other, &message, &signature, time), Err(SignFault::Wrong));
        assert_eq!(verify(&ours, &message, "zz", time), Err(SignFault::Missing));
        assert_eq!(verify(&ours, &message, &signature, time.plus_seconds(301)), Err(SignFault::Stale(301)));
    }

    #[test]
    fn the_mac_is_the_one_of_rfc_4231() {
        // Test case 2 of RFC 4231 has a key of four bytes, which `Key::new` refuses.
        let mac = Hmac::<Sha256>::new_from_slice(b"Jefe").unwrap();
        let digest = mac.chain_update("what do ya want for nothing?").finalize().into_bytes();
        assert!(hex(&digest).starts_with("5bdcc146bf60754e6a042426089575c7"));
    }

    #[test]
    fn short_keys_are_refused() {
        assert!(Key::new("  short\n").is_none());
    }
}
