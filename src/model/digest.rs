//! Digests, in lower-case hexadecimal.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

/// Returns the SHA-256 digest of some content, shortened to 16 hexadecimal digits: enough to tell
/// two configurations apart.
pub fn digest(content: &[u8]) -> String {
    hex(&Sha256::digest(content)[..8])
}

/// Formats bytes in lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
