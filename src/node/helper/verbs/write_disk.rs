//! `write-disk`: writes a whole-disk image to a machine's root volume.
//!
//! Root only copies bytes to their places; the image was read, whatever its format, by the web
//! server's user ([`Piece`]). Nothing of it is mounted or started from here.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, OFlag, fallocate};

use crate::model::fault::{self, Fault};
use crate::model::names::ImageTag;
use crate::model::size::Amount;
use crate::node::helper::failure::Failure;
use crate::node::helper::guard::MachineLock;
use crate::node::helper::host::Host;
use crate::node::image::disk::Piece;
use crate::node::storage::Disk;

impl Host {
    /// Writes standard input, the pieces of a disk, to the machine's root volume. No machine may have
    /// been started from it yet.
    pub fn write_disk(&self, lock: &MachineLock, image: &ImageTag) -> Result<(), Failure> {
        let volume = self.unused_volume(&lock.machine, Disk::Root)?;
        let device = self.storage().attach(&lock.machine, Disk::Root)?;
        fill(device.path(), &mut io::stdin().lock(), image, volume.size)
            .map_err(|failure| self.unless_full(failure))
    }
}

/// Why a disk was not written.
#[derive(Debug)]
enum Broken {
    /// The stream ended too soon, or makes no sense.
    Stream(io::Error),
    /// A piece lies beyond the end of the disk.
    TooLarge,
    /// The disk can't be written.
    Disk(io::Error),
}

fn fill(device: &Path, stream: &mut impl Read, image: &ImageTag, size: Amount) -> Result<(), Failure> {
    // Of a block device, O_EXCL says that nothing else may have it in use (open(2)).
    let opened = OpenOptions::new().write(true).custom_flags(OFlag::O_EXCL.bits()).open(device);
    let disk = opened.map_err(|error| Failure::internal(format!("{}: {error}", device.display())))?;
    write(&disk, stream, size.bytes()).map_err(|broken| match broken {
        // Whoever feeds it knows why.
        Broken::Stream(error) => Failure::internal(format!("standard input: {error}")),
        Broken::TooLarge => Fault::ImageTooLarge { tag: image.clone(), partition: size }.into(),
        Broken::Disk(error) => {
            let detail = fault::detail(&format!("the image could not be written: {error}"));
            Fault::FilesystemFailed { detail }.into()
        }
    })
}

/// Writes all pieces, and zeros between them. The kernel writes most of it only when it is synced,
/// and tells of errors then.
fn write(disk: &File, stream: &mut impl Read, most: u64) -> Result<(), Broken> {
    let mut written = 0;
    let mut buffer = Vec::new();
    loop {
        let piece = Piece::read(stream).map_err(Broken::Stream)?;
        if piece.offset < written || piece.length > Piece::LONGEST {
            return Err(Broken::Stream(io::Error::other(format!("{piece:?} after {written} bytes"))));
        }
        let end = piece.offset.saturating_add(piece.length);
        if end > most {
            return Err(Broken::TooLarge);
        }
        clear(disk, written, piece.offset).map_err(Broken::Disk)?;
        if piece.length == 0 {
            return disk.sync_all().map_err(Broken::Disk);
        }
        buffer.clear();
        let read = stream.take(piece.length).read_to_end(&mut buffer).map_err(Broken::Stream)?;
        if read as u64 != piece.length {
            return Err(Broken::Stream(io::ErrorKind::UnexpectedEof.into()));
        }
        disk.write_all_at(&buffer, piece.offset).map_err(Broken::Disk)?;
        written = end;
    }
}

/// Makes a part of the disk zeros: what is there may be left from another machine's disk.
fn clear(disk: &File, from: u64, to: u64) -> io::Result<()> {
    if from == to {
        return Ok(());
    }
    let length = i64::try_from(to - from).map_err(io::Error::other)?;
    let begin = i64::try_from(from).map_err(io::Error::other)?;
    // The first takes no space where disks are files; not every device can do it.
    for how in [FallocateFlags::FALLOC_FL_PUNCH_HOLE, FallocateFlags::FALLOC_FL_ZERO_RANGE] {
        match fallocate(disk, how | FallocateFlags::FALLOC_FL_KEEP_SIZE, begin, length) {
            Ok(()) => return Ok(()),
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EINVAL) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let zeros = vec![0; 1 << 20];
    let mut at = from;
    while at < to {
        let part = usize::try_from(to - at).unwrap_or(zeros.len()).min(zeros.len());
        disk.write_all_at(&zeros[..part], at)?;
        at += part as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 8 << 20;

    fn stream(pieces: &[(u64, &[u8])]) -> Vec<u8> {
        let piece = |(offset, bytes): &(u64, &[u8])| {
            [&offset.to_le_bytes()[..], &(bytes.len() as u64).to_le_bytes(), bytes].concat()
        };
        pieces.iter().flat_map(piece).collect()
    }

    /// A disk full of what another machine has left.
    fn used_disk() -> File {
        let disk = tempfile::tempfile().unwrap();
        disk.write_all_at(&vec![0xee; usize::try_from(SIZE).unwrap()], 0).unwrap();
        disk
    }

    #[test]
    fn what_is_between_the_pieces_becomes_zeros() {
        let disk = used_disk();
        let pieces = stream(&[(512, b"one"), (700_000, b"two"), (SIZE - 4096, b"")]);
        write(&disk, &mut pieces.as_slice(), SIZE).unwrap();
        let mut content = vec![0; usize::try_from(SIZE).unwrap()];
        disk.read_exact_at(&mut content, 0).unwrap();
        assert_eq!((&content[512..515], &content[700_000..700_003]), (&b"one"[..], &b"two"[..]));
        let rest = content.iter().filter(|&&byte| byte != 0 && byte != 0xee).count();
        assert_eq!(rest, 6);
        // Beyond the image there is what the disk is enlarged by.
        assert!(content.iter().rev().take(4096).all(|&byte| byte == 0xee));
        assert!(content.iter().rev().skip(4096).all(|&byte| byte != 0xee));
    }

    #[test]
    fn a_stream_that_breaks_off_or_leaves_the_disk_is_refused() {
        let whole = stream(&[(0, b"one"), (4096, b"two"), (8192, b"")]);
        for length in 0..whole.len() {
            let result = write(&used_disk(), &mut &whole[..length], SIZE);
            assert!(matches!(result, Err(Broken::Stream(_))), "{length}: {result:?}");
        }
        for pieces in [&[(SIZE - 2, &b"end"[..])][..], &[(SIZE + 1, b"")], &[(u64::MAX, b"x")]] {
            let result = write(&used_disk(), &mut stream(pieces).as_slice(), SIZE);
            assert!(matches!(result, Err(Broken::TooLarge)), "{pieces:?}: {result:?}");
        }
        let backwards = stream(&[(4096, b"two"), (0, b"one")]);
        assert!(matches!(write(&used_disk(), &mut backwards.as_slice(), SIZE), Err(Broken::Stream(_))));
        let long = [0_u64.to_le_bytes(), u64::MAX.to_le_bytes()].concat();
        assert!(matches!(write(&used_disk(), &mut long.as_slice(), SIZE), Err(Broken::Stream(_))));
    }

    #[test]
    fn a_full_disk_is_noticed() {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let result = write(&full, &mut stream(&[(0, b"one"), (4096, b"")]).as_slice(), SIZE);
        assert!(matches!(result, Err(Broken::Disk(_))), "{result:?}");
    }
}
