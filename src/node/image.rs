//! Images: archives of whole file systems, decompressed here and handed on as a plain tar stream.
//!
//! `.tar`, `.tar.gz`, `.tar.xz` and `.tar.zst` are told apart by what they begin with, never by name.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::fd::AsFd;

use nix::fcntl::{FcntlArg, fcntl};
use thiserror::Error;

/// How much is read, decompressed or written at once. Larger did not make it faster.
const BUFFER: usize = 256 << 10;

/// The wished-for size of the pipe to tar: the largest that a user may set (pipe(7)).
const PIPE: i32 = 1 << 20;

/// A block of a tar archive. An archive ends with two blocks of zeros.
const BLOCK: usize = 512;

/// Why an image was not copied.
#[derive(Debug, Error)]
pub enum CopyError {
    /// It can't be read, is no archive, damaged or cut off.
    #[error("{0}")]
    Corrupt(String),
    /// The reader of the stream has gone, or something like that.
    #[error("{0}")]
    Write(io::Error),
    /// `progress` said so.
    #[error("stopped")]
    Stopped,
}

/// What an archive's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    /// Tells it by the first [`BLOCK`] bytes, or fewer if there are no more.
    pub fn of(head: &[u8]) -> Option<Self> {
        match head {
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Self::Xz),
            // A frame, or a skippable frame (RFC 8878, section 3.1).
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Self::Zstd),
            _ if is_tar_header(head) => Some(Self::Tar),
            _ => None,
        }
    }
}

/// Whether a block is the header of a member, by its checksum (pax(1), "ustar Interchange Format").
fn is_tar_header(block: &[u8]) -> bool {
    let Some(block) = block.get(..BLOCK) else { return false };
    let field = &block[148..156];
    let text = String::from_utf8_lossy(field);
    let Ok(given) = u32::from_str_radix(text.trim_matches(['\0', ' ']), 8) else { return false };
    let sum = |bytes: &[u8]| bytes.iter().map(|&byte| u32::from(byte)).sum::<u32>();
    given == sum(&block[..148]) + sum(&block[156..]) + 8 * u32::from(b' ')
}

/// Counts what is read through it, and asks `progress` whether to go on.
struct Counting<R, P> {
    inner: R,
    done: u64,
    progress: P,
    stopped: bool,
}

impl<R: Read, P: FnMut(u64) -> bool> Read for Counting<R, P> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.done += n as u64;
        if (self.progress)(self.done) {
            Ok(n)
        } else {
            self.stopped = true;
            Err(io::Error::other("stopped"))
        }
    }
}

/// Copies an image from `reader` to `writer` as a plain tar stream, and returns that stream's length.
///
/// `progress` is told how many bytes of the (compressed) image have been read, and says whether to go on.
/// An image that breaks off is an error even where tar would not notice.
pub fn copy<R: Read, W: Write>(
    reader: R,
    writer: &mut W,
    progress: impl FnMut(u64) -> bool,
) -> Result<u64, CopyError> {
    let mut counting = Counting { inner: reader, done: 0, progress, stopped: false };
    let result = transfer(&mut counting, writer);
    if counting.stopped { Err(CopyError::Stopped) } else { result }
}

fn transfer(reader: &mut impl Read, writer: &mut impl Write) -> Result<u64, CopyError> {
    let corrupt = |error: io::Error| CopyError::Corrupt(error.to_string());
    let mut head = Vec::with_capacity(BLOCK);
    reader.take(BLOCK as u64).read_to_end(&mut head).map_err(corrupt)?;
    let format = Format::of(&head)
        .ok_or_else(|| CopyError::Corrupt("neither a tar archive nor gzip, xz or zstd".to_owned()))?;
    let whole = BufReader::with_capacity(BUFFER, head.as_slice().chain(reader));
    match format {
        Format::Tar => pump(whole, writer),
        Format::Gzip => pump(flate2::bufread::MultiGzDecoder::new(whole), writer),
        Format::Xz => pump(liblzma::bufread::XzDecoder::new_multi_decoder(whole), writer),
        Format::Zstd => pump(zstd::stream::read::Decoder::with_buffer(whole).map_err(corrupt)?, writer),
    }
}

fn pump(mut reader: impl Read, writer: &mut impl Write) -> Result<u64, CopyError> {
    let mut buffer = vec![0; BUFFER];
    let mut total = 0;
    // How many zeros the stream ends with, as far as it matters.
    let mut zeros = 0;
    loop {
        let n = match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(CopyError::Corrupt(error.to_string())),
        };
        let chunk = &buffer[..n];
        let trailing = chunk.iter().rev().take(2 * BLOCK).take_while(|&&byte| byte == 0).count();
        zeros = if trailing == n { (zeros + n).min(2 * BLOCK) } else { trailing };
        writer.write_all(chunk).map_err(CopyError::Write)?;
        total += n as u64;
    }
    // Inside a member tar notices by itself; this is for a cut between two.
    if zeros < 2 * BLOCK || total % BLOCK as u64 != 0 {
        return Err(CopyError::Corrupt("it breaks off before its end".to_owned()));
    }
    writer.flush().map_err(CopyError::Write)?;
    Ok(total)
}

/// Makes a pipe as large as it may be, so that decompressing and unpacking wait less for each other.
pub fn enlarge(pipe: &impl AsFd) {
    // Refused when the user's pipes hold too much already; it works as well, only slower.
    let _ = fcntl(pipe, FcntlArg::F_SETPIPE_SZ(PIPE));
}

/// Opens an image's file; only a regular file with something in it will do.
pub fn open(path: &std::path::Path) -> io::Result<(File, u64)> {
    let file = File::open(path)?;
    let facts = file.metadata()?;
    if facts.is_file() && facts.len() > 0 {
        Ok((file, facts.len()))
    } else {
        Err(io::Error::other("not a file with something in it"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An archive with one empty file in it.
    fn tar() -> Vec<u8> {
        let mut block = vec![0u8; BLOCK];
        block[..1].copy_from_slice(b"a");
        block[100..107].copy_from_slice(b"0000644");
        block[124..135].copy_from_slice(b"00000000000");
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        block.extend(vec![0; 2 * BLOCK]);
        block
    }

    fn copied(image: &[u8]) -> Result<Vec<u8>, CopyError> {
        let mut out = Vec::new();
        copy(image, &mut out, |_| true).map(|_| out)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn xz(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn every_format_gives_the_same_stream() {
        let tar = tar();
        for image in [tar.clone(), gzip(&tar), xz(&tar), zstd::encode_all(tar.as_slice(), 1).unwrap()] {
            assert_eq!(copied(&image).unwrap(), tar);
        }
        // Archives made in parts: several gzip members, xz streams, zstd frames.
        let (a, b) = tar.split_at(700);
        assert_eq!(copied(&[gzip(a), gzip(b)].concat()).unwrap(), tar);
        assert_eq!(copied(&[xz(a), xz(b)].concat()).unwrap(), tar);
        let frames = [zstd::encode_all(a, 1).unwrap(), zstd::encode_all(b, 1).unwrap()].concat();
        assert_eq!(copied(&frames).unwrap(), tar);
    }

    #[test]
    fn what_is_cut_off_is_never_taken_for_whole() {
        let tar = tar();
        for image in [tar.clone(), gzip(&tar), xz(&tar), zstd::encode_all(tar.as_slice(), 1).unwrap()] {
            for length in [0, 1, 7, image.len() / 2, image.len() - 1] {
                let result = copied(&image[..length]);
                assert!(matches!(result, Err(CopyError::Corrupt(_))), "{length} of {}", image.len());
            }
        }
        // At a boundary between blocks, where tar itself sees a whole archive.
        assert!(matches!(copied(&tar[..BLOCK]), Err(CopyError::Corrupt(_))));
    }

    #[test]
    fn what_is_damaged_or_no_archive_is_refused() {
        let mut image = gzip(&tar());
        let middle = image.len() / 2;
        image[middle] ^= 0x55;
        assert!(matches!(copied(&image), Err(CopyError::Corrupt(_))));
        assert!(matches!(copied(b"#!/bin/sh\n"), Err(CopyError::Corrupt(_))));
        assert!(matches!(copied(&[b'x'; 4096]), Err(CopyError::Corrupt(_))));
    }

    #[test]
    fn progress_counts_compressed_bytes_and_can_stop() {
        let image = gzip(&tar());
        let mut last = 0;
        copy(image.as_slice(), &mut io::sink(), |done| {
            last = done;
            true
        })
        .unwrap();
        assert_eq!(last, image.len() as u64);
        let stopped = copy(image.as_slice(), &mut io::sink(), |_| false);
        assert!(matches!(stopped, Err(CopyError::Stopped)));
    }
}
