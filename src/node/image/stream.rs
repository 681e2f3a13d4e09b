//! Copies images: decompresses them on the way to tar, and compresses the output of tar.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{channel, sync_channel};

use nix::fcntl::{FcntlArg, fcntl};

use super::CopyError;
use super::format::Format;
use super::tar::{BLOCK, Walk};
use crate::config::Compression;

/// The size of a buffer, in bytes. Larger buffers were not faster.
const BUFFER: usize = 256 << 10;

/// The maximum number of buffers in flight between the decompressing thread and the writing one.
const BUFFERS: usize = 64;

/// The requested size of the pipe to tar, in bytes: the default limit for unprivileged users
/// (`/proc/sys/fs/pipe-max-size`, pipe(7)).
const PIPE: i32 = 1 << 20;

/// Copies an image from `reader` to `writer` as a plain tar stream, and returns the length of that
/// stream in bytes.
///
/// `progress` receives the number of bytes of the (compressed) image read so far, and returns
/// whether to continue. A truncated image is an error even if tar would not notice, and so is
/// anything except zeros after its end. The stream ends with the two zero blocks that end the
/// archive: tar stops reading there, and would leave the padding of the last record (`tar -b`)
/// unread.
pub fn copy<R: Read, W: Write + Send>(
    reader: R,
    writer: &mut W,
    progress: impl FnMut(u64) -> bool,
) -> Result<u64, CopyError> {
    let mut counting = Counting { inner: reader, done: 0, progress, stopped: false };
    let result = transfer(&mut counting, writer);
    if counting.stopped { Err(CopyError::Stopped) } else { result }
}

/// Compresses a plain tar stream. A truncated stream is an error, so it never becomes an image.
///
/// `progress` receives the number of bytes of the stream read so far, and returns whether to
/// continue.
pub fn pack<R: Read, W: Write>(
    reader: R,
    writer: &mut W,
    compression: Compression,
    progress: impl FnMut(u64) -> bool,
) -> Result<(), CopyError> {
    let mut counting = Counting { inner: reader, done: 0, progress, stopped: false };
    let result = compress(&mut counting, writer, compression);
    if counting.stopped { Err(CopyError::Stopped) } else { result }
}

/// Compresses a stream of `size` bytes, as [`pack`] does. One of another length is an error.
pub(super) fn pack_bytes<R: Read, W: Write>(
    reader: R,
    writer: &mut W,
    size: u64,
    compression: Compression,
    progress: impl FnMut(u64) -> bool,
) -> Result<(), CopyError> {
    let mut counting = Counting { inner: reader, done: 0, progress, stopped: false };
    let pass_on = |reader: &mut dyn Read, writer: &mut dyn Write| {
        let mut buffer = vec![0; BUFFER];
        let mut total = 0;
        loop {
            match fill(reader, &mut buffer).map_err(|error| CopyError::Corrupt(error.to_string()))? {
                0 if total == size => return Ok(()),
                0 => return Err(CopyError::Corrupt(format!("{total} of {size} bytes came"))),
                n => {
                    total += n as u64;
                    writer.write_all(&buffer[..n]).map_err(CopyError::Write)?;
                }
            }
        }
    };
    let result = compress_by(&mut counting, writer, compression, pass_on);
    if counting.stopped { Err(CopyError::Stopped) } else { result }
}

/// Returns a reader of what is in a compressed file.
pub(super) fn unpacked<'a>(reader: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut whole = Peeking::new(BufReader::with_capacity(BUFFER, reader));
    let head = whole.peek(BLOCK as u64)?;
    match Format::of(head) {
        Some(Format::Gzip) => Ok(Box::new(Members::<_, flate2::bufread::GzDecoder<_>>::new(whole))),
        Some(Format::Xz) => Ok(Box::new(Members::<_, liblzma::bufread::XzDecoder<_>>::new(whole))),
        Some(Format::Zstd) => Ok(Box::new(Members::<_, zstd::stream::read::Decoder<'static, _>>::new(whole))),
        Some(Format::Tar) | None => Err(io::Error::other("neither gzip, xz nor zstd")),
    }
}

/// Enlarges a pipe as far as allowed, so that decompressing and unpacking wait less for each other.
pub fn enlarge(pipe: &impl AsFd) {
    // Refused if the user's pipes already have too much memory. The copy then works, only slower.
    let _ = fcntl(pipe, FcntlArg::F_SETPIPE_SZ(PIPE));
}

/// Counts the bytes read through it, and asks `progress` whether to continue.
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

fn transfer(reader: &mut impl Read, writer: &mut (impl Write + Send)) -> Result<u64, CopyError> {
    let corrupt = |error: io::Error| CopyError::Corrupt(error.to_string());
    let mut head = Vec::with_capacity(BLOCK);
    reader.take(BLOCK as u64).read_to_end(&mut head).map_err(corrupt)?;
    let format = Format::of(&head)
        .ok_or_else(|| CopyError::Corrupt("neither a tar archive nor gzip, xz or zstd".to_owned()))?;
    let whole = Peeking::new(BufReader::with_capacity(BUFFER, head.as_slice().chain(reader)));
    match format {
        Format::Tar => pump(whole, writer),
        Format::Gzip => pump(Members::<_, flate2::bufread::GzDecoder<_>>::new(whole), writer),
        Format::Xz => pump(Members::<_, liblzma::bufread::XzDecoder<_>>::new(whole), writer),
        Format::Zstd => pump(Members::<_, zstd::stream::read::Decoder<'static, _>>::new(whole), writer),
    }
}

/// A reader with look-ahead.
struct Peeking<R> {
    peeked: io::Cursor<Vec<u8>>,
    inner: R,
}

impl<R: BufRead> Peeking<R> {
    fn new(inner: R) -> Self {
        Self { peeked: io::Cursor::default(), inner }
    }

    /// Returns the next `many` bytes without consuming them, or fewer at the end.
    fn peek(&mut self, many: u64) -> io::Result<&[u8]> {
        let mut next = Vec::new();
        (&mut *self).take(many).read_to_end(&mut next)?;
        // An earlier peek may not have been consumed completely.
        self.peeked.read_to_end(&mut next)?;
        self.peeked = io::Cursor::new(next);
        let all = self.peeked.get_ref();
        Ok(&all[..all.len().min(usize::try_from(many).unwrap_or(usize::MAX))])
    }

    /// Skips zeros, up to the first other byte or the end.
    fn skip_zeros(&mut self) -> io::Result<()> {
        loop {
            let next = self.fill_buf()?;
            let zeros = next.iter().take_while(|&&byte| byte == 0).count();
            let is_over = zeros < next.len() || next.is_empty();
            self.consume(zeros);
            if is_over {
                return Ok(());
            }
        }
    }
}

impl<R: BufRead> Read for Peeking<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.peeked.read(buffer)?;
        if n > 0 || buffer.is_empty() { Ok(n) } else { self.inner.read(buffer) }
    }
}

impl<R: BufRead> BufRead for Peeking<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.peeked.fill_buf()?.is_empty() { self.inner.fill_buf() } else { self.peeked.fill_buf() }
    }

    fn consume(&mut self, amount: usize) {
        let left = self.peeked.get_ref().len() as u64 - self.peeked.position();
        if left > 0 {
            self.peeked.consume(amount);
        } else {
            self.inner.consume(amount);
        }
    }
}

/// A decoder for exactly one member (gzip), stream (xz) or frame (zstd).
trait Member<R>: Read + Sized {
    const FORMAT: Format;
    fn open(reader: R) -> io::Result<Self>;
    /// Returns the reader, positioned at the end of the member.
    fn close(self) -> R;
}

impl<R: BufRead> Member<R> for flate2::bufread::GzDecoder<R> {
    const FORMAT: Format = Format::Gzip;

    fn open(reader: R) -> io::Result<Self> {
        Ok(Self::new(reader))
    }

    fn close(self) -> R {
        self.into_inner()
    }
}

impl<R: BufRead> Member<R> for liblzma::bufread::XzDecoder<R> {
    const FORMAT: Format = Format::Xz;

    fn open(reader: R) -> io::Result<Self> {
        Ok(Self::new(reader))
    }

    fn close(self) -> R {
        self.into_inner()
    }
}

impl<R: BufRead> Member<R> for zstd::stream::read::Decoder<'static, R> {
    const FORMAT: Format = Format::Zstd;

    fn open(reader: R) -> io::Result<Self> {
        Ok(Self::with_buffer(reader)?.single_frame())
    }

    fn close(self) -> R {
        self.finish()
    }
}

/// Reads all members of a compressed archive, one after another.
///
/// Zeros between and after members are skipped: gzip does the same, and tapes are padded with them.
/// Anything else is an error, so that nothing is dropped silently.
struct Members<R, D> {
    /// The reader, while between two members.
    between: Option<Peeking<R>>,
    within: Option<D>,
    is_first: bool,
}

impl<R: BufRead, D: Member<Peeking<R>>> Members<R, D> {
    /// The length of the longest magic number, in bytes.
    const MARK: u64 = 6;

    fn new(reader: Peeking<R>) -> Self {
        Self { between: Some(reader), within: None, is_first: true }
    }

    /// Opens the next member. Returns whether there is one.
    fn next(&mut self) -> io::Result<bool> {
        let Some(mut reader) = self.between.take() else { return Ok(false) };
        if !self.is_first {
            reader.skip_zeros()?;
        }
        let mark = reader.peek(Self::MARK)?;
        if mark.is_empty() {
            return Ok(false);
        }
        if Format::of(mark) != Some(D::FORMAT) {
            let name: &'static str = D::FORMAT.into();
            return Err(io::Error::other(format!("after its {name} data comes something that is no {name}")));
        }
        self.is_first = false;
        self.within = Some(D::open(reader)?);
        Ok(true)
    }
}

impl<R: BufRead, D: Member<Peeking<R>>> Read for Members<R, D> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(member) = &mut self.within {
                let n = member.read(buffer)?;
                if n > 0 || buffer.is_empty() {
                    return Ok(n);
                }
                self.between = self.within.take().map(D::close);
            }
            if !self.next()? {
                return Ok(0);
            }
        }
    }
}

fn compress(
    reader: &mut impl Read,
    writer: &mut impl Write,
    compression: Compression,
) -> Result<(), CopyError> {
    compress_by(reader, writer, compression, |mut reader, mut writer| pass_on(&mut reader, &mut writer))
}

/// Compresses what `pass_on` copies.
fn compress_by(
    reader: &mut impl Read,
    writer: &mut impl Write,
    compression: Compression,
    pass_on: impl FnOnce(&mut dyn Read, &mut dyn Write) -> Result<(), CopyError>,
) -> Result<(), CopyError> {
    match compression {
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(writer, flate2::Compression::default());
            pass_on(reader, &mut encoder)?;
            encoder.finish().and_then(Write::flush).map_err(CopyError::Write)
        }
        Compression::Zstd => {
            let mut encoder = zstd::stream::write::Encoder::new(writer, zstd::DEFAULT_COMPRESSION_LEVEL)
                .map_err(CopyError::Write)?;
            // As in gzip: without a checksum, damage could go unnoticed.
            encoder.include_checksum(true).map_err(CopyError::Write)?;
            pass_on(reader, &mut encoder)?;
            encoder.finish().and_then(Write::flush).map_err(CopyError::Write)
        }
    }
}

/// Copies an archive and checks that it is complete.
fn pass_on(reader: &mut impl Read, writer: &mut impl Write) -> Result<(), CopyError> {
    let mut walk = Walk::default();
    let mut buffer = vec![0; BUFFER];
    let mut total = 0;
    loop {
        match fill(reader, &mut buffer).map_err(|error| CopyError::Corrupt(error.to_string()))? {
            0 => return walk.end(total),
            n => {
                walk.over(&buffer[..n])?;
                total += n as u64;
                writer.write_all(&buffer[..n]).map_err(CopyError::Write)?;
            }
        }
    }
}

/// Decompresses in this thread and writes in another. There are enough buffers between them that
/// decompression does not stall whenever tar takes longer for a file.
fn pump(mut reader: impl Read, writer: &mut (impl Write + Send)) -> Result<u64, CopyError> {
    let (full, filled) = sync_channel::<Vec<u8>>(BUFFERS);
    let (give_back, empty) = channel::<Vec<u8>>();
    let broken_off = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            // Owned by this thread, so that nobody waits for buffers after it has ended.
            let give_back = give_back;
            for buffer in filled {
                // The image is known to be bad: don't unpack the rest.
                if broken_off.load(Ordering::Relaxed) {
                    return Ok(());
                }
                writer.write_all(&buffer)?;
                // After the last buffer, nobody receives this.
                let _ = give_back.send(buffer);
            }
            writer.flush()
        });
        let mut walk = Walk::default();
        let mut total = 0;
        let mut made = 0;
        let read = loop {
            // Prefer a buffer that was just written: it is still in the cache.
            let mut buffer = match empty.try_recv() {
                Ok(buffer) => buffer,
                Err(_) if made < BUFFERS => {
                    made += 1;
                    vec![0; BUFFER]
                }
                Err(_) => match empty.recv() {
                    Ok(buffer) => buffer,
                    // The writer has ended; its result says why.
                    Err(_) => break Ok(()),
                },
            };
            buffer.resize(BUFFER, 0);
            match fill(&mut reader, &mut buffer) {
                Ok(0) => break walk.end(total).and_then(|()| walk.tree.must_be_a_system()),
                Ok(n) => {
                    match walk.over(&buffer[..n]) {
                        Ok(own) => buffer.truncate(own),
                        Err(error) => break Err(error),
                    }
                    total += buffer.len() as u64;
                    if full.send(buffer).is_err() {
                        break Ok(());
                    }
                }
                Err(error) => break Err(CopyError::Corrupt(error.to_string())),
            }
        };
        broken_off.store(read.is_err(), Ordering::Relaxed);
        drop((full, empty));
        let written = writing.join().unwrap_or_else(|_| Err(io::Error::other("the writer broke off")));
        read?;
        written.map_err(CopyError::Write)?;
        Ok(total)
    })
}

/// Reads until the buffer is full or the input ends. Returns the number of bytes read.
pub(super) fn fill(reader: &mut (impl Read + ?Sized), buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
