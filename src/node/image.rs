//! Images: archives of whole file systems, decompressed here and handed on as a plain tar stream; and the other
//! way round, for images that are saved.
//!
//! `.tar`, `.tar.gz`, `.tar.xz` and `.tar.zst` are told apart by what they begin with, never by name.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{channel, sync_channel};

use nix::fcntl::{FcntlArg, fcntl};
use thiserror::Error;

use crate::config::Compression;

/// How much is read, decompressed or written at once. Larger did not make it faster.
const BUFFER: usize = 256 << 10;

/// How many of them there may be between the thread that decompresses and the one that writes.
const BUFFERS: usize = 64;

/// The wished-for size of the pipe to tar: the largest that a user may set (pipe(7)).
const PIPE: i32 = 1 << 20;

/// A block of a tar archive. An archive ends with two blocks of zeros.
const BLOCK: usize = 512;

/// Why an image was not copied, or not made.
#[derive(Debug, Error)]
pub enum CopyError {
    /// It can't be read, is no archive, damaged or cut off, or something else follows it.
    #[error("{0}")]
    Corrupt(String),
    /// All of it lies in one folder, and no system can be started from it.
    #[error("all of it lies in the folder {0}")]
    Nested(String),
    /// The reader of the stream has gone, the disk is full, or something like that.
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
    fn name(self) -> &'static str {
        match self {
            Self::Tar => "tar",
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
        }
    }

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
/// An image that breaks off is an error even where tar would not notice, and so is one that something else follows than
/// zeros. The stream ends with the two blocks of zeros that end the archive: tar reads no further, and would not take
/// what fills its last record (`tar -b`).
pub fn copy<R: Read, W: Write + Send>(
    reader: R,
    writer: &mut W,
    progress: impl FnMut(u64) -> bool,
) -> Result<u64, CopyError> {
    let mut counting = Counting { inner: reader, done: 0, progress, stopped: false };
    let result = transfer(&mut counting, writer);
    if counting.stopped { Err(CopyError::Stopped) } else { result }
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

/// A reader whose next bytes can be looked at.
struct Peeking<R> {
    peeked: io::Cursor<Vec<u8>>,
    inner: R,
}

impl<R: BufRead> Peeking<R> {
    fn new(inner: R) -> Self {
        Self { peeked: io::Cursor::default(), inner }
    }

    /// The next bytes, so many or as many as there are.
    fn peek(&mut self, many: u64) -> io::Result<&[u8]> {
        let mut next = Vec::new();
        (&mut *self).take(many).read_to_end(&mut next)?;
        // Of what was peeked at before, something may not have been read.
        self.peeked.read_to_end(&mut next)?;
        self.peeked = io::Cursor::new(next);
        let all = self.peeked.get_ref();
        Ok(&all[..all.len().min(usize::try_from(many).unwrap_or(usize::MAX))])
    }

    /// Goes over zeros, to what follows them or to the end.
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

/// What decompresses one member (gzip), stream (xz) or frame (zstd), and no more.
trait Member<R>: Read + Sized {
    const FORMAT: Format;
    fn open(reader: R) -> io::Result<Self>;
    /// The reader, at the end of the member.
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

/// All members of a compressed archive, one after the other. Zeros between them and after the last are skipped, as
/// gzip, and tapes, have them; anything else is an error, so that nothing is dropped in silence.
struct Members<R, D> {
    /// Between two members.
    between: Option<Peeking<R>>,
    within: Option<D>,
    is_first: bool,
}

impl<R: BufRead, D: Member<Peeking<R>>> Members<R, D> {
    /// The longest mark that a format begins with, in bytes.
    const MARK: u64 = 6;

    fn new(reader: Peeking<R>) -> Self {
        Self { between: Some(reader), within: None, is_first: true }
    }

    /// Goes on to the next member; whether there is one.
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
            let name = D::FORMAT.name();
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

/// Compresses a plain tar stream. One that breaks off is an error, and so never becomes an image.
///
/// `progress` is told how many bytes of the stream have been read, and says whether to go on.
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

fn compress(
    reader: &mut impl Read,
    writer: &mut impl Write,
    compression: Compression,
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
            // As gzip has one: a damaged image must not be taken for a good one.
            encoder.include_checksum(true).map_err(CopyError::Write)?;
            pass_on(reader, &mut encoder)?;
            encoder.finish().and_then(Write::flush).map_err(CopyError::Write)
        }
    }
}

/// Copies an archive to its end.
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

/// The member of an archive (pax(1), "ustar Interchange Format") that is an empty file which everybody may read,
/// root's, and of the year 1970. The name is cut off after 100 bytes.
pub fn empty_member(name: &str) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, text: &[u8]| block[at..at + text.len()].copy_from_slice(text);
    put(0, &name.as_bytes()[..name.len().min(100)]);
    put(100, b"0000444");
    put(108, b"0000000");
    put(116, b"0000000");
    put(124, b"00000000000");
    put(136, b"00000000000");
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// Decompresses in this thread and writes in another, with so many buffers between them that neither waits for
/// the other at each file that takes tar a little longer.
fn pump(mut reader: impl Read, writer: &mut (impl Write + Send)) -> Result<u64, CopyError> {
    let (full, filled) = sync_channel::<Vec<u8>>(BUFFERS);
    let (give_back, empty) = channel::<Vec<u8>>();
    let broken_off = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            // Of this thread alone: nobody must wait for buffers when it has ended.
            let give_back = give_back;
            for buffer in filled {
                // What is already known to be of no use need not be unpacked.
                if broken_off.load(Ordering::Relaxed) {
                    return Ok(());
                }
                writer.write_all(&buffer)?;
                // Nobody waits for it after the last one.
                let _ = give_back.send(buffer);
            }
            writer.flush()
        });
        let mut walk = Walk::default();
        let mut total = 0;
        let mut made = 0;
        let read = loop {
            // One that was just written, rather than one that no cache knows.
            let mut buffer = match empty.try_recv() {
                Ok(buffer) => buffer,
                Err(_) if made < BUFFERS => {
                    made += 1;
                    vec![0; BUFFER]
                }
                Err(_) => match empty.recv() {
                    Ok(buffer) => buffer,
                    // The writer has ended, and says why.
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

/// Reads until a buffer is full or nothing is left; how much that was.
fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
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

/// Follows an archive from header to header, as far as it takes to know its end: of one that is cut off between
/// two members tar would unpack the first and find nothing wrong, and a member may itself end with zeros.
#[derive(Debug, Default)]
struct Walk {
    /// How much of the present member is still to come, with what fills its last block.
    rest: u64,
    /// The block that is being collected.
    block: Vec<u8>,
    /// What is expected now.
    next: Next,
    /// The content of an extended header, while it is being collected.
    extended: Option<Vec<u8>>,
    /// How many zeros the bytes so far end with, as far as it matters.
    zeros: usize,
    /// The next member's size, if an extended header has said it (pax(1)).
    size: Option<u64>,
    /// What the members are called.
    tree: Tree,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// A header, or the first of the two blocks of zeros at the end.
    #[default]
    Header,
    /// The second of them.
    SecondZero,
    /// More of the map of a sparse file; then so much data.
    SparseMap(u64),
    /// Nothing: the archive has ended.
    End,
    /// What follows is no header that is known here. tar may know better; then only zeros at the end count.
    Unknown,
}

impl Walk {
    /// The longest extended header that is looked into, in bytes.
    const EXTENDED: u64 = 1 << 20;

    /// Goes over the next bytes of the archive. So many of them belong to it; after its end there may be zeros.
    fn over(&mut self, bytes: &[u8]) -> Result<usize, CopyError> {
        let zeros = bytes.iter().rev().take(2 * BLOCK).take_while(|&&byte| byte == 0).count();
        self.zeros = if zeros == bytes.len() { (self.zeros + zeros).min(2 * BLOCK) } else { zeros };
        let mut rest = bytes;
        while !rest.is_empty() && !matches!(self.next, Next::End | Next::Unknown) {
            let here = if self.rest > 0 {
                usize::try_from(self.rest).unwrap_or(usize::MAX)
            } else {
                BLOCK - self.block.len()
            };
            let (now, later) = rest.split_at(here.min(rest.len()));
            rest = later;
            if self.rest > 0 {
                self.rest -= now.len() as u64;
                if let Some(extended) = &mut self.extended {
                    extended.extend_from_slice(now);
                }
                continue;
            }
            if let Some(extended) = self.extended.take() {
                self.size = size_in(&extended).or(self.size);
            }
            self.block.extend_from_slice(now);
            if self.block.len() == BLOCK {
                let block = std::mem::take(&mut self.block);
                self.next = self.after(&block);
            }
        }
        if self.next != Next::End {
            return Ok(bytes.len());
        }
        self.beyond(rest)?;
        Ok(bytes.len() - rest.len())
    }

    /// Looks at what follows the end of the archive.
    fn beyond(&mut self, mut bytes: &[u8]) -> Result<(), CopyError> {
        while !bytes.is_empty() {
            if self.block.is_empty() {
                let blocks = bytes.chunks_exact(BLOCK);
                let zeros = blocks.take_while(|block| block.iter().all(|&byte| byte == 0)).count();
                bytes = &bytes[zeros * BLOCK..];
            }
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK - self.block.len()));
            bytes = later;
            self.block.extend_from_slice(now);
            if self.block.len() == BLOCK {
                self.nothing_more()?;
            }
        }
        Ok(())
    }

    /// Forgets the block that follows the end, if it is one of zeros.
    fn nothing_more(&mut self) -> Result<(), CopyError> {
        let block = std::mem::take(&mut self.block);
        let corrupt = |what: &str| Err(CopyError::Corrupt(what.to_owned()));
        if is_tar_header(&block) {
            corrupt(
                "two archives were joined, and tar would unpack the first only; make one of them: tar -A, or tar -c anew",
            )
        } else if block.iter().any(|&byte| byte != 0) {
            corrupt("after the archive's end other data follows")
        } else {
            Ok(())
        }
    }

    /// What comes after a block that is no content.
    fn after(&mut self, block: &[u8]) -> Next {
        let is_zero = block.iter().all(|&byte| byte == 0);
        match self.next {
            Next::SparseMap(data) if block[504] != 0 => return Next::SparseMap(data),
            Next::SparseMap(data) => {
                self.rest = data;
                return Next::Header;
            }
            Next::Header if is_zero => return Next::SecondZero,
            Next::SecondZero if is_zero => return Next::End,
            Next::Header | Next::SecondZero | Next::End | Next::Unknown => {}
        }
        let (true, Some(size)) = (is_tar_header(block), number(&block[124..136])) else {
            return Next::Unknown;
        };
        let kind = block[156];
        if !matches!(kind, b'x' | b'g' | b'L' | b'K') {
            self.tree.add(&name_in(block), kind == b'5');
        }
        // An extended header tells the size of the member after it, and so do those in between not use it.
        let size =
            if matches!(kind, b'x' | b'g' | b'L' | b'K') { size } else { self.size.take().unwrap_or(size) };
        // GNU tar: a hard link has no content, whatever its header says.
        let size = if kind == b'1' { 0 } else { size };
        let Some(data) = size.checked_next_multiple_of(BLOCK as u64) else { return Next::Unknown };
        if kind == b'S' && block[482] != 0 {
            return Next::SparseMap(data);
        }
        if kind == b'x' && size <= Self::EXTENDED {
            self.extended = Some(Vec::new());
        }
        self.rest = data;
        Next::Header
    }

    /// Whether an archive of so many bytes was whole, and nothing followed it.
    fn end(&mut self, total: u64) -> Result<(), CopyError> {
        let ended = match self.next {
            Next::End => return self.nothing_more(),
            Next::Unknown => self.zeros == 2 * BLOCK && total.is_multiple_of(BLOCK as u64),
            _ => false,
        };
        if ended { Ok(()) } else { Err(CopyError::Corrupt("it breaks off before its end".to_owned())) }
    }
}

/// What can be seen of an archive by the names in it: whether a system can be started from what it holds.
#[derive(Debug, Default)]
struct Tree {
    /// The folder that all of it lies in, so far.
    only: Option<Vec<u8>>,
    /// Whether there is more than one thing at the top, or what is there is no folder.
    is_wide: bool,
    /// Whether there is something that a kernel starts, or a boot loader reads.
    starts: bool,
}

impl Tree {
    /// What a kernel starts, or is told to start: init(1), bootparam(7); systemd; and in /boot there are kernels.
    const STARTED: [&[u8]; 11] = [
        b"sbin/init",
        b"usr/sbin/init",
        b"bin/init",
        b"usr/bin/init",
        b"etc/init",
        b"init",
        b"linuxrc",
        b"lib/systemd/systemd",
        b"usr/lib/systemd/systemd",
        b"usr/bin/systemd",
        b"bin/systemd",
    ];

    /// Adds a member. A name that is longer than a header holds counts as far as it is there.
    fn add(&mut self, name: &[u8], is_folder: bool) {
        let mut parts = name.split(|&byte| byte == b'/').filter(|part| !matches!(*part, b"" | b"."));
        let Some(top) = parts.next() else { return };
        let path = parts.fold(top.to_vec(), |path, part| [&path[..], b"/", part].concat());
        self.starts |= top == b"boot" || Self::STARTED.contains(&path.as_slice());
        let is_top = path.len() == top.len();
        self.is_wide |= (is_top && !is_folder && !name.ends_with(b"/"))
            || self.only.as_ref().is_some_and(|only| only != top);
        self.only.get_or_insert_with(|| top.to_vec());
    }

    /// Refuses what was packed with the folder that it was in.
    fn must_be_a_system(&self) -> Result<(), CopyError> {
        match &self.only {
            Some(folder) if !self.is_wide && !self.starts => {
                Err(CopyError::Nested(String::from_utf8_lossy(folder).into_owned()))
            }
            _ => Ok(()),
        }
    }
}

/// The name in a header, as far as it is there (pax(1), "ustar Interchange Format"; GNU's has no prefix).
fn name_in(block: &[u8]) -> Vec<u8> {
    let text = |field: &[u8]| field.split(|&byte| byte == 0).next().unwrap_or_default().to_vec();
    let name = text(&block[..100]);
    let prefix = if block[257..263] == *b"ustar\0" { text(&block[345..500]) } else { Vec::new() };
    if prefix.is_empty() { name } else { [&prefix[..], b"/", &name].concat() }
}

/// A number in a header: octal digits, or, with the highest bit set, 95 bits of which only the last 64 matter
/// here (GNU tar, "Basic Tar Format").
fn number(field: &[u8]) -> Option<u64> {
    if field.first().is_some_and(|byte| byte & 0x80 != 0) {
        let (high, low) = field.split_at(field.len().checked_sub(8)?);
        let is_small = high.iter().enumerate().all(|(n, &byte)| byte == if n == 0 { 0x80 } else { 0 });
        return low.try_into().ok().filter(|_| is_small).map(u64::from_be_bytes);
    }
    let text = std::str::from_utf8(field).ok()?.trim_matches(['\0', ' ']);
    if text.is_empty() { Some(0) } else { u64::from_str_radix(text, 8).ok() }
}

/// The size that an extended header gives the next member: lines of `LENGTH KEY=VALUE` (pax(1)).
fn size_in(extended: &[u8]) -> Option<u64> {
    let mut size = None;
    let mut rest = extended;
    while let Some(space) = rest.iter().position(|&byte| byte == b' ') {
        let length: usize = std::str::from_utf8(&rest[..space]).ok()?.parse().ok()?;
        let record = rest.get(space + 1..length)?;
        if let Some(value) = record.strip_prefix(b"size=") {
            size = std::str::from_utf8(value).ok()?.trim_end().parse().ok();
        }
        rest = &rest[length..];
    }
    size
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
    use crate::system::exec::Run;

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

    fn packed(stream: &[u8], compression: Compression) -> Result<Vec<u8>, CopyError> {
        let mut image = Vec::new();
        pack(stream, &mut image, compression, |_| true).map(|()| image)
    }

    #[test]
    fn what_is_packed_is_what_comes_out_again() {
        let stream = [member(b'0', 700_000, "00002527140"), tar()].concat();
        for compression in Compression::ALL {
            let image = packed(&stream, compression).unwrap();
            assert!(image.len() < stream.len() / 10);
            assert_eq!(copied(&image).unwrap(), stream);
            // A stream that breaks off is no image.
            for length in [0, BLOCK, stream.len() - BLOCK, stream.len() - 1] {
                let result = packed(&stream[..length], compression);
                assert!(matches!(result, Err(CopyError::Corrupt(_))), "{length}");
            }
            let stopped = pack(stream.as_slice(), &mut io::sink(), compression, |read| read < 300_000);
            assert!(matches!(stopped, Err(CopyError::Stopped)));
        }
    }

    #[test]
    fn a_full_disk_is_seen_when_packing() {
        for compression in Compression::ALL {
            let mut full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
            match pack(tar().as_slice(), &mut full, compression, |_| true) {
                Err(CopyError::Write(error)) => assert_eq!(error.kind(), io::ErrorKind::StorageFull),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn an_empty_member_is_one() {
        let block = empty_member("./etc/machine-id");
        assert!(is_tar_header(&block));
        let archive = [&block[..], &end()].concat();
        packed(&archive, Compression::Gzip).unwrap();
        let said = crate::system::exec::Run::new("tar").args(["-tv", "--numeric-owner"]).input(archive).run();
        let text = said.unwrap().text();
        assert!(text.starts_with("-r--r--r-- 0/0 ") && text.ends_with(" ./etc/machine-id\n"), "{text}");
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

    /// A member with so much content, all zeros.
    fn member(kind: u8, size: usize, field: &str) -> Vec<u8> {
        let mut block = tar()[..BLOCK].to_vec();
        block[124..135].copy_from_slice(field.as_bytes());
        block[156] = kind;
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        block.resize(BLOCK + size.next_multiple_of(BLOCK), 0);
        block
    }

    fn end() -> Vec<u8> {
        vec![0; 2 * BLOCK]
    }

    #[test]
    fn a_cut_after_a_member_of_zeros_is_found() {
        let zeros = member(b'0', 5000, "00000011610");
        assert!(matches!(copied(&zeros), Err(CopyError::Corrupt(_))));
        assert!(matches!(copied(&[&zeros[..], &end()[BLOCK..]].concat()), Err(CopyError::Corrupt(_))));
        copied(&[&zeros[..], &tar()].concat()).unwrap();
        copied(&[zeros, end(), end()].concat()).unwrap();
        // A hard link's size says nothing about the archive.
        copied(&[member(b'1', 0, "00000011610"), end()].concat()).unwrap();
    }

    #[test]
    fn a_size_may_be_in_an_extended_header() {
        let mut extended = member(b'x', 20, "00000000024");
        extended[BLOCK..BLOCK + 20].copy_from_slice(b"12 size=600\n8 a=bcd\n");
        let mut extended_by_two = member(b'x', 13, "00000000015");
        extended_by_two[BLOCK..BLOCK + 13].copy_from_slice(b"13 size=1024\n");
        // Its own header says that it is empty, and then its zeros would be the archive's end.
        let large = member(b'0', 1024, "00000000000");
        let image = [&extended_by_two[..], &large].concat();
        assert!(matches!(copied(&image), Err(CopyError::Corrupt(_))));
        copied(&[image, end()].concat()).unwrap();
        assert_eq!(size_in(&extended[BLOCK..BLOCK + 20]), Some(600));
    }

    /// An archive that tar makes of a folder, and a folder to unpack it into.
    fn by_tar(arguments: &[&str], files: &[&str]) -> (Vec<u8>, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, file).unwrap();
        }
        let run = Run::new("tar").args(arguments.iter().copied()).args(["-c", "-f", "-", "-C"]);
        (run.arg(dir.path()).arg(".").run().unwrap().stdout, tempfile::tempdir().unwrap())
    }

    #[test]
    fn what_fills_tar_s_last_record_is_no_error() {
        // 8 MiB in one record, of which tar reads a few blocks before it ends.
        let (image, to) = by_tar(&["-b", "16384"], &["sbin/init", "etc/passwd"]);
        assert!(image.len() == 1 << 20 || image.len() == 16384 * BLOCK, "{}", image.len());
        let image = [image, vec![0; 16384 * BLOCK]].concat();
        let run = Run::new("tar").args(["-x", "-f", "-", "-C"]).arg(to.path());
        let (copied, ended) = run.feed(|pipe| Ok(copy(image.as_slice(), pipe, |_| true)));
        ended.unwrap();
        copied.unwrap().unwrap().unwrap();
        assert_eq!(std::fs::read(to.path().join("etc/passwd")).unwrap(), b"etc/passwd");
    }

    #[test]
    fn zeros_may_follow_an_archive_and_nothing_else_may() {
        let tar = tar();
        let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
        let images = [("tar", tar.clone()), ("gzip", gzip(&tar)), ("xz", xz(&tar)), ("zstd", zstd(&tar))];
        for (name, image) in &images {
            for zeros in [1, 3, 512, 700, 1 << 20] {
                let padded = [&image[..], &vec![0; zeros]].concat();
                assert!(copied(&padded).unwrap() == tar, "{name} and {zeros} zeros");
            }
            for (_, other) in
                [("html", b"<html>".to_vec())].iter().chain(images.iter().filter(|(n, _)| n != name))
            {
                for zeros in [0, 5, 1024] {
                    let words = match copied(&[&image[..], &vec![0; zeros], other].concat()) {
                        Err(CopyError::Corrupt(words)) => words,
                        result => panic!("{name}, {zeros} zeros, {other:.9?}: {result:?}"),
                    };
                    assert!(
                        words.contains("other data follows")
                            || words.contains("two archives")
                            || words.contains(&format!("something that is no {name}")),
                        "{words}"
                    );
                }
            }
        }
    }

    #[test]
    fn archives_that_were_joined_are_not_unpacked_in_part() {
        let (one, two) = ([member(b'0', 5000, "00000011610"), end()].concat(), tar());
        let joined = [one.clone(), two.clone()].concat();
        let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
        for image in [
            joined.clone(),
            [one.clone(), vec![0; 20 * BLOCK], two.clone()].concat(),
            gzip(&joined),
            [gzip(&one), gzip(&two)].concat(),
            [xz(&one), vec![0; 8], xz(&two)].concat(),
            [zstd(&one), zstd(&two)].concat(),
        ] {
            match copied(&image) {
                Err(CopyError::Corrupt(words)) => {
                    assert!(words.contains("two archives were joined"), "{words}");
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn an_archive_in_several_parts_is_read_wherever_it_was_cut() {
        let (image, _) = by_tar(&[], &["sbin/init"]);
        let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
        // One that says how much of it is to be skipped (RFC 8878, section 3.1.2).
        let skippable = b"\x50\x2a\x4d\x18\x04\0\0\0abcd".to_vec();
        let ends = image.len() - image.iter().rev().take_while(|&&byte| byte == 0).count();
        let ends = ends.next_multiple_of(BLOCK) + 2 * BLOCK;
        for at in [1, 511, 700, image.len() - 1] {
            let (a, b) = image.split_at(at);
            for parts in [
                vec![gzip(a), gzip(b)],
                vec![gzip(a), vec![0; 9], gzip(b)],
                vec![xz(a), vec![0; 4], xz(b)],
                vec![skippable.clone(), zstd(a), skippable.clone(), zstd(b), skippable.clone()],
            ] {
                assert!(copied(&parts.concat()).unwrap() == image[..ends], "cut at {at}");
            }
        }
    }

    #[test]
    fn a_system_in_one_folder_is_found_out_while_it_is_unpacked() {
        let nested = |image: &[u8]| match copied(image) {
            Err(CopyError::Nested(folder)) => Some(folder),
            other => other.map(|_| None).unwrap(),
        };
        let system = ["rootfs/sbin/init", "rootfs/boot/vmlinuz", "rootfs/etc/passwd"];
        for arguments in [&["--format=posix"][..], &["--format=gnu"], &["--format=ustar"], &["--format=v7"]] {
            let (image, _) = by_tar(arguments, &system);
            assert_eq!(nested(&gzip(&image)).as_deref(), Some("rootfs"), "{arguments:?}");
            // Longer than a header's field, and for the oldest format than all of it.
            if arguments != ["--format=v7"] {
                let long = format!("rootfs/{}/x", vec!["a".repeat(40); 3].join("/"));
                assert_eq!(
                    nested(&by_tar(arguments, &["rootfs/sbin/init", &long]).0).as_deref(),
                    Some("rootfs")
                );
            }
            for files in [
                &["sbin/init", "etc/passwd"][..],
                &["usr/sbin/init"],
                &["usr/lib/systemd/systemd"],
                &["boot/vmlinuz"],
                &["init"],
                // Whatever that may be, it is no folder with a system in it.
                &["rootfs/sbin/init", "README"],
                &["one/x", "other/x"],
                &["file"],
            ] {
                let (image, _) = by_tar(arguments, files);
                assert_eq!(nested(&image), None, "{arguments:?} {files:?}");
            }
        }
        // A saved disk is packed as it is.
        packed(&by_tar(&[], &system).0, Compression::Gzip).unwrap();
    }

    #[test]
    fn numbers_are_octal_or_binary() {
        assert_eq!(number(b"00000011610\0"), Some(5000));
        assert_eq!(number(b"            "), Some(0));
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0]), Some(2 << 32));
        assert_eq!(number(&[0x80, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0]), None);
        assert_eq!(number(b"8"), None);
    }

    #[test]
    fn a_writer_that_fails_ends_it() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                // Long enough for all buffers to be filled, so that the other thread waits for one.
                std::thread::sleep(std::time::Duration::from_millis(300));
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let large = [member(b'0', 64 << 20, "00400000000"), end()].concat();
        assert!(matches!(copy(large.as_slice(), &mut Full, |_| true), Err(CopyError::Write(_))));
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
