//! Whole-disk images, with partitions and a boot loader of their own.
//!
//! An image is read by the web server's user, and travels to the helper as pieces of the disk, each
//! with its place ([`Piece`]), so that root reads no format. What is not in a piece is zeros. To save
//! a disk, the helper sends all of it, and here it is compressed.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt as _;

use thiserror::Error;

use super::format::Format;
use super::qcow2::{self, Flaw, Qcow2};
use super::stream;
use crate::config::{Compression, DiskFormat};

/// The size of the pieces into which a disk is cut, in bytes.
const PIECE: usize = 256 << 10;

/// How far the pieces are looked at for zeros, in bytes. File systems leave out so much at a time.
const GRAIN: usize = 4096;

/// How the first sector of a disk that a BIOS starts from ends.
const SIGNATURE: [u8; 2] = [0x55, 0xaa];

/// Why an image of a disk can't be used.
#[derive(Debug, Error)]
pub enum DiskError {
    /// The file is not what its name says, or damaged.
    #[error("{0}")]
    Unusable(String),
    /// The disk is larger than what there is for it.
    #[error("the disk is too large")]
    TooLarge {
        /// Its size in bytes, if it is known before all of it has been read.
        size: Option<u64>,
    },
    /// Writing failed, for instance because the reader has closed the stream.
    #[error("{0}")]
    Write(io::Error),
    /// `progress` returned `false`.
    #[error("stopped")]
    Stopped,
}

impl From<Flaw> for DiskError {
    fn from(flaw: Flaw) -> Self {
        Self::Unusable(flaw.to_string())
    }
}

/// A piece of a disk, as it travels to the helper: where it is and how long it is, as two numbers of
/// 8 bytes each, the least significant first, and then its bytes. The last one is empty, and at the
/// end of the disk, so that a stream that breaks off is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Where it begins, in bytes from the beginning of the disk.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
}

impl Piece {
    /// The longest piece, in bytes: the largest cluster of qcow2.
    pub const LONGEST: u64 = 2 << 20;

    /// Reads a piece's place. Its bytes come next.
    pub fn read(reader: &mut impl Read) -> io::Result<Self> {
        let mut number = || -> io::Result<u64> {
            let mut bytes = [0; 8];
            reader.read_exact(&mut bytes)?;
            Ok(u64::from_le_bytes(bytes))
        };
        Ok(Self { offset: number()?, length: number()? })
    }

    fn write(writer: &mut impl Write, offset: u64, bytes: &[u8]) -> io::Result<()> {
        writer.write_all(&offset.to_le_bytes())?;
        writer.write_all(&(bytes.len() as u64).to_le_bytes())?;
        writer.write_all(bytes)
    }
}

/// An image that has been opened and looked at.
#[derive(Debug)]
pub enum Image {
    /// A file in QEMU's format.
    Qcow2(Qcow2),
    /// The bytes of the disk.
    Raw(File, u64),
    /// The bytes of the disk, compressed.
    Packed(File),
}

impl Image {
    /// Looks at the beginning of a file, which must be what its name says.
    pub fn open(file: File, format: DiskFormat) -> Result<Self, DiskError> {
        let unreadable = |error: io::Error| DiskError::Unusable(format!("reading it: {error}"));
        if format == DiskFormat::Qcow2 {
            return Ok(Self::Qcow2(Qcow2::open(file)?));
        }
        let mut head = [0; 512];
        match file.read_exact_at(&mut head, 0) {
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(unreadable(error)),
            _ => {}
        }
        if head.starts_with(&qcow2::MAGIC) {
            let words = "it is in the format qcow2, so its name must end in .qcow2";
            return Err(DiskError::Unusable(words.to_owned()));
        }
        match Format::of(&head) {
            Some(Format::Gzip | Format::Xz | Format::Zstd) => Ok(Self::Packed(file)),
            Some(Format::Tar) => Err(DiskError::Unusable("it is a tar archive, and no disk".to_owned())),
            None => {
                must_be_bootable(&head)?;
                let length = file.metadata().map_err(unreadable)?.len();
                Ok(Self::Raw(file, length))
            }
        }
    }

    /// Returns the size of the disk in bytes, if it can be known without reading all of it.
    pub fn size(&self) -> Option<u64> {
        match self {
            Self::Qcow2(image) => Some(image.size()),
            Self::Raw(_, size) => Some(*size),
            Self::Packed(_) => None,
        }
    }

    /// Sends the disk to the helper, in pieces. It may have `most` bytes. `progress` receives how many
    /// hundredths have been read, where that is known, and returns whether to continue.
    pub fn send(
        self,
        writer: &mut impl Write,
        most: u64,
        mut progress: impl FnMut(u64) -> bool,
    ) -> Result<(), DiskError> {
        if let Some(size) = self.size().filter(|size| *size > most) {
            return Err(DiskError::TooLarge { size: Some(size) });
        }
        let mut is_first = true;
        let mut send = |offset: u64, bytes: &[u8]| {
            if std::mem::take(&mut is_first) {
                must_be_bootable(if offset == 0 { bytes } else { &[] })?;
            }
            write_without_zeros(writer, offset, bytes).map_err(DiskError::Write)
        };
        let size = match self {
            Self::Qcow2(image) => {
                let size = image.size();
                image.read(|offset, bytes| {
                    if progress(offset.saturating_mul(100) / size) {
                        send(offset, bytes)
                    } else {
                        Err(DiskError::Stopped)
                    }
                })?;
                size
            }
            Self::Raw(file, size) => {
                let progress = |offset: u64| progress(offset.saturating_mul(100) / size.max(1));
                send_stream(file, most, progress, &mut send)?
            }
            Self::Packed(file) => {
                let length = file.metadata().map_or(0, |facts| facts.len()).max(1);
                let place = file.try_clone().map_err(|error| DiskError::Unusable(error.to_string()))?;
                let read = stream::unpacked(file).map_err(|error| DiskError::Unusable(error.to_string()))?;
                let progress = |_| {
                    let at = io::Seek::stream_position(&mut &place).unwrap_or_default();
                    progress(at.saturating_mul(100) / length)
                };
                send_stream(read, most, progress, &mut send)?
            }
        };
        if is_first {
            must_be_bootable(&[])?;
        }
        Piece::write(writer, size, &[]).and_then(|()| writer.flush()).map_err(DiskError::Write)
    }
}

/// Checks the first sector of a disk.
fn must_be_bootable(disk: &[u8]) -> Result<(), DiskError> {
    if disk.get(510..512) == Some(&SIGNATURE[..]) {
        Ok(())
    } else {
        Err(DiskError::Unusable("it is no disk that a machine could start from".to_owned()))
    }
}

/// Sends the bytes of a disk. Returns how many there were.
fn send_stream(
    mut reader: impl Read,
    most: u64,
    mut progress: impl FnMut(u64) -> bool,
    send: &mut impl FnMut(u64, &[u8]) -> Result<(), DiskError>,
) -> Result<u64, DiskError> {
    let mut buffer = vec![0; PIECE];
    let mut offset = 0;
    loop {
        if !progress(offset) {
            return Err(DiskError::Stopped);
        }
        let n = stream::fill(&mut reader, &mut buffer)
            .map_err(|error| DiskError::Unusable(format!("reading it: {error}")))?;
        if n == 0 {
            return Ok(offset);
        }
        if offset + n as u64 > most {
            return Err(DiskError::TooLarge { size: None });
        }
        send(offset, &buffer[..n])?;
        offset += n as u64;
    }
}

/// Writes pieces for all of `bytes` that is not zero.
fn write_without_zeros(writer: &mut impl Write, offset: u64, bytes: &[u8]) -> io::Result<()> {
    let is_zero = |grain: &[u8]| grain.iter().all(|&byte| byte == 0);
    let mut begun = None;
    for (index, grain) in bytes.chunks(GRAIN).enumerate() {
        let at = index * GRAIN;
        match (begun, is_zero(grain)) {
            (None, false) => begun = Some(at),
            (Some(from), true) => {
                Piece::write(writer, offset + from as u64, &bytes[from..at])?;
                begun = None;
            }
            _ => {}
        }
    }
    match begun {
        Some(from) => Piece::write(writer, offset + from as u64, &bytes[from..]),
        None => Ok(()),
    }
}

/// Compresses a disk of `size` bytes. A stream of any other length is an error, so it never becomes
/// an image. `progress` receives the number of bytes read so far, and returns whether to continue.
pub fn pack(
    reader: impl Read,
    writer: &mut impl Write,
    size: u64,
    compression: Compression,
    progress: impl FnMut(u64) -> bool,
) -> Result<(), super::CopyError> {
    stream::pack_bytes(reader, writer, size, compression, progress)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn bootable(size: usize) -> Vec<u8> {
        let mut disk = vec![0; size];
        disk[510..512].copy_from_slice(&SIGNATURE);
        disk[100_000..300_000].fill(7);
        disk[size - 1] = 9;
        disk
    }

    /// Puts the pieces together.
    fn received(mut stream: &[u8]) -> Vec<u8> {
        let mut disk = Vec::new();
        loop {
            let piece = Piece::read(&mut stream).unwrap();
            assert!(piece.offset >= disk.len() as u64 && piece.length <= Piece::LONGEST, "{piece:?}");
            disk.resize(usize::try_from(piece.offset).unwrap(), 0);
            if piece.length == 0 {
                assert_eq!(stream, b"");
                return disk;
            }
            let (bytes, rest) = stream.split_at(usize::try_from(piece.length).unwrap());
            disk.extend(bytes);
            stream = rest;
        }
    }

    fn sent(file: &Path, format: DiskFormat, most: u64) -> Result<Vec<u8>, DiskError> {
        let mut stream = Vec::new();
        Image::open(File::open(file).unwrap(), format)?.send(&mut stream, most, |_| true)?;
        Ok(stream)
    }

    #[test]
    fn every_format_gives_the_same_disk() {
        let dir = tempfile::tempdir().unwrap();
        let size = (3 << 20) + 512;
        let disk = bootable(size);
        let raw = dir.path().join("raw");
        std::fs::write(&raw, &disk).unwrap();
        let qcow2 = dir.path().join("qcow2");
        let run =
            crate::system::exec::Run::new("qemu-img").args(["convert", "-c", "-f", "raw", "-O", "qcow2"]);
        run.arg(&raw).arg(&qcow2).run().unwrap();
        let mut files = vec![(raw, DiskFormat::Raw), (qcow2, DiskFormat::Qcow2)];
        for &compression in Compression::ALL {
            let (file, mut packed) = (dir.path().join(compression.ending()), Vec::new());
            pack(disk.as_slice(), &mut packed, size as u64, compression, |_| true).unwrap();
            assert!(packed.len() < size / 10);
            std::fs::write(&file, packed).unwrap();
            files.push((file, DiskFormat::Raw));
        }
        for (file, format) in files {
            let stream = sent(&file, format, size as u64).unwrap();
            assert!(stream.len() < size / 4, "{}: zeros are sent", file.display());
            assert!(received(&stream) == disk, "{}", file.display());
            let error = sent(&file, format, size as u64 - 1).unwrap_err();
            assert!(matches!(error, DiskError::TooLarge { .. }), "{}: {error}", file.display());
            let stopped = Image::open(File::open(&file).unwrap(), format).unwrap();
            let stopped = stopped.send(&mut io::sink(), u64::MAX, |_| false);
            assert!(matches!(stopped, Err(DiskError::Stopped)), "{}", file.display());
        }
    }

    #[test]
    fn a_file_is_what_its_name_says_or_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("image");
        let refused = |content: &[u8], format: DiskFormat| {
            std::fs::write(&file, content).unwrap();
            sent(&file, format, 1 << 30).unwrap_err().to_string()
        };
        let disk = bootable(1 << 20);
        assert!(refused(&disk, DiskFormat::Qcow2).contains("not in the format qcow2"));
        assert!(refused(b"QFI\xfbxxxx", DiskFormat::Raw).contains("must end in .qcow2"));
        assert!(refused(&[], DiskFormat::Raw).contains("no disk that a machine could start from"));
        assert!(refused(b"<html>", DiskFormat::Raw).contains("no disk"));
        assert!(refused(&super::super::empty_member("a"), DiskFormat::Raw).contains("tar archive"));
        // Compressed, it shows only when it is read; cut off, it is never taken for a disk.
        let mut packed = Vec::new();
        let zeros = vec![0; 1 << 20];
        pack(zeros.as_slice(), &mut packed, 1 << 20, Compression::Zstd, |_| true).unwrap();
        assert!(refused(&packed, DiskFormat::Raw).contains("no disk"));
        packed.clear();
        pack(disk.as_slice(), &mut packed, 1 << 20, Compression::Gzip, |_| true).unwrap();
        assert!(refused(&packed[..packed.len() - 9], DiskFormat::Raw).contains("reading it"));
    }

    #[test]
    fn only_a_whole_disk_becomes_an_image() {
        let disk = bootable(1 << 20);
        for size in [(1 << 20) - 1, (1 << 20) + 1] {
            let packed = pack(disk.as_slice(), &mut io::sink(), size, Compression::Zstd, |_| true);
            assert!(matches!(packed, Err(super::super::CopyError::Corrupt(_))), "{size}");
        }
    }
}
