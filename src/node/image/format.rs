//! The format of an image, recognized by its first bytes and never by its name.

use strum::IntoStaticStr;

use super::tar;

/// How an archive is compressed, if it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum Format {
    /// Not compressed.
    Tar,
    /// RFC 1952.
    Gzip,
    /// The .xz file format.
    Xz,
    /// RFC 8878.
    Zstd,
}

impl Format {
    /// Recognizes the format from the first 512 bytes of an image, or from all of it if it is
    /// shorter.
    pub fn of(head: &[u8]) -> Option<Self> {
        match head {
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Self::Xz),
            // A frame, or a skippable frame (RFC 8878, section 3.1).
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Self::Zstd),
            _ if tar::is_header(head) => Some(Self::Tar),
            _ => None,
        }
    }
}
