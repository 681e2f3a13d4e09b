//! Enlarging a disk whose new space may have been another machine's: exactly that is overwritten with
//! zeros, whatever is killed in between.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::ops::Range;
use std::path::Path;

use super::StorageError;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use crate::model::stage::Percent;

/// How much is overwritten at a time, in bytes, so that the progress shows, and a kill takes effect.
const PIECE: u64 = 64 << 20;

/// How much is written at once where the kernel can't do it, in bytes.
const BUFFER: usize = 1 << 20;

/// A disk whose new space is not empty. Sizes are in bytes.
pub(super) trait Growing {
    /// Returns the exact size.
    fn size(&self) -> Result<u64, StorageError>;

    /// Notes the size before, so that it is on disk when this returns.
    fn note(&self, before: u64) -> Result<(), StorageError>;

    /// Forgets it, likewise.
    fn forget(&self, before: u64) -> Result<(), StorageError>;

    /// Makes the disk that large, or leaves it as it is.
    fn extend(&self, size: u64) -> Result<(), StorageError>;

    /// Overwrites a range with zeros.
    fn fill(&self, range: Range<u64>) -> Result<(), StorageError>;
}

/// Enlarges a disk, unless it is that large, and completes what has been begun before. `noted` is the
/// size that was noted then. What was on the disk before is untouched, and the rest is zeros.
pub(super) fn grow(disk: &impl Growing, noted: Option<u64>, size: u64) -> Result<(), StorageError> {
    let present = disk.size()?;
    let before = match noted {
        Some(before) => before,
        None if present >= size => return Ok(()),
        None => {
            disk.note(present)?;
            present
        }
    };
    if present < size
        && let Err(error) = disk.extend(size)
    {
        // It may have become larger nevertheless.
        if disk.size()? == before {
            disk.forget(before)?;
        }
        return Err(error);
    }
    disk.fill(before..disk.size()?)?;
    disk.forget(before)
}

/// Returns the exact size of a device or file, in bytes.
pub(super) fn size(path: &Path) -> io::Result<u64> {
    File::open(path)?.seek(SeekFrom::End(0))
}

/// Overwrites a range of a device or file, in bytes. The zeros are on disk when it returns.
pub(super) fn fill(
    path: &Path,
    range: Range<u64>,
    tell: &mut dyn FnMut(Percent) -> io::Result<()>,
) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    let total = range.end.saturating_sub(range.start);
    let mut at = range.start;
    while at < range.end {
        let length = PIECE.min(range.end - at);
        // Since Linux 4.9, this works for block devices, too.
        match fallocate(&file, FallocateFlags::ZERO_RANGE, at, length) {
            Ok(()) => {}
            Err(Errno::OPNOTSUPP | Errno::NODEV | Errno::INVAL) => write(&mut file, at, length)?,
            Err(errno) => return Err(errno.into()),
        }
        at += length;
        tell(Percent::of(at - range.start, total))?;
    }
    file.sync_all()
}

fn write(file: &mut File, at: u64, length: u64) -> io::Result<()> {
    let zeros = vec![0; BUFFER];
    file.seek(SeekFrom::Start(at))?;
    let mut left = length;
    while left > 0 {
        let now = usize::try_from(left).unwrap_or(BUFFER).min(BUFFER);
        file.write_all(&zeros[..now])?;
        left -= now as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    /// A disk, on which everything fails once `left` steps have been done.
    struct Fragile {
        content: RefCell<Vec<u8>>,
        noted: Cell<Option<u64>>,
        left: Cell<u32>,
    }

    impl Fragile {
        /// Does a step. It fails before or, with `late`, right after it.
        fn step(&self, late: bool, act: impl FnOnce()) -> Result<(), StorageError> {
            let left = self.left.get();
            self.left.set(left.saturating_sub(1));
            if left > 0 || late && left == 0 {
                act();
            }
            if left > 0 { Ok(()) } else { Err(StorageError::Other("killed".to_owned())) }
        }
    }

    /// The same, with whether the step at which it fails has an effect.
    struct Disk<'a>(&'a Fragile, bool);

    impl Growing for Disk<'_> {
        fn size(&self) -> Result<u64, StorageError> {
            Ok(self.0.content.borrow().len() as u64)
        }
        fn note(&self, before: u64) -> Result<(), StorageError> {
            assert_eq!(self.0.noted.get(), None);
            self.0.step(self.1, || self.0.noted.set(Some(before)))
        }
        fn forget(&self, before: u64) -> Result<(), StorageError> {
            assert_eq!(self.0.noted.get(), Some(before));
            self.0.step(self.1, || self.0.noted.set(None))
        }
        fn extend(&self, size: u64) -> Result<(), StorageError> {
            // As others left it, and a little more than was asked for.
            let size = usize::try_from(size).unwrap() + 3;
            self.0.step(self.1, || self.0.content.borrow_mut().resize(size, b'x'))
        }
        fn fill(&self, range: Range<u64>) -> Result<(), StorageError> {
            let (from, to) = (usize::try_from(range.start).unwrap(), usize::try_from(range.end).unwrap());
            // Half of it, if it is killed.
            let half = from + (to - from) / 2;
            self.0.content.borrow_mut()[from..half].fill(0);
            self.0.step(self.1, || self.0.content.borrow_mut()[from..to].fill(0))
        }
    }

    #[test]
    fn whatever_is_killed_what_was_there_stays_and_what_is_new_is_zeros() {
        for late in [false, true] {
            for first in 0..6 {
                for second in 0..6 {
                    let fragile = Fragile {
                        content: RefCell::new(b"alice".to_vec()),
                        noted: Cell::new(None),
                        left: Cell::new(first),
                    };
                    let (disk, what) = (Disk(&fragile, late), format!("{late} {first} {second}"));
                    let again = |left, size| {
                        fragile.left.set(left);
                        grow(&disk, fragile.noted.get(), size)
                    };
                    let _ = again(first, 10);
                    assert!(fragile.content.borrow().starts_with(b"alice"), "{what}");
                    let _ = again(second, 10);
                    again(9, 10).unwrap();
                    assert_eq!(*fragile.content.borrow(), b"alice\0\0\0\0\0\0\0\0", "{what}");
                    assert_eq!(fragile.noted.get(), None, "{what}");
                    // Its owner uses all of it, and it grows again.
                    fragile.content.borrow_mut().fill(b'a');
                    let _ = again(first, 14);
                    // It is taken back, if it has not grown.
                    let _ = again(9, if fragile.content.borrow().len() < 14 { 13 } else { 14 });
                    assert_eq!(fragile.noted.get(), None, "{what}");
                    again(9, 14).unwrap();
                    assert_eq!(*fragile.content.borrow(), b"aaaaaaaaaaaaa\0\0\0\0", "{what}");
                }
            }
        }
    }

    #[test]
    fn a_device_is_overwritten_like_a_file() {
        if !nix::unistd::geteuid().is_root() {
            println!("only root can make devices: not tried here");
            return;
        }
        let folder = tempfile::tempdir_in("/run").unwrap();
        let disk = folder.path().join("disk");
        std::fs::write(&disk, vec![7; 4 << 20]).unwrap();
        let losetup = |args: &[&str]| {
            let path = crate::system::exec::find(&["losetup"]).unwrap();
            crate::system::exec::Run::new(path).args(args.iter().copied()).run().unwrap().text()
        };
        let device = losetup(&["--find", "--show", disk.to_str().unwrap()]);
        let device = Path::new(device.trim());
        let filled = size(device).and_then(|end| fill(device, 1 << 20..end, &mut |_| Ok(())));
        let content = std::fs::read(device);
        losetup(&["--detach", device.to_str().unwrap()]);
        filled.unwrap();
        let content = content.unwrap();
        assert_eq!(content.len(), 4 << 20);
        assert!(content[..1 << 20].iter().all(|&byte| byte == 7), "what was there");
        assert!(content[1 << 20..].iter().all(|&byte| byte == 0), "what is new");
    }

    fn check(filled: impl FnOnce(&Path, Range<u64>)) {
        let disk = tempfile::NamedTempFile::new().unwrap();
        let before: Vec<u8> = (0..5u32 << 20).map(|n| (n % 251) as u8 + 1).collect();
        std::fs::write(disk.path(), &before).unwrap();
        // Neither end is that of a block, nor that of a buffer.
        let range = 1_000_001..4_700_003;
        filled(disk.path(), range.start as u64..range.end as u64);
        let mut expected = before;
        expected[range].fill(0);
        assert!(std::fs::read(disk.path()).unwrap() == expected, "something else was overwritten");
        assert_eq!(size(disk.path()).unwrap(), expected.len() as u64);
    }

    #[test]
    fn exactly_the_range_becomes_zeros() {
        let mut told = Vec::new();
        check(|disk, range| {
            let mut tell = |percent: Percent| {
                told.push(percent.get());
                Ok(())
            };
            fill(disk, range.clone(), &mut tell).unwrap();
            // Nothing to do.
            fill(disk, range.start..range.start, &mut tell).unwrap();
        });
        assert_eq!(told, [100]);
        check(|disk, range| {
            let mut file = OpenOptions::new().write(true).open(disk).unwrap();
            write(&mut file, range.start, range.end - range.start).unwrap();
        });
    }

    #[test]
    fn it_ends_when_nobody_listens() {
        let disk = tempfile::NamedTempFile::new().unwrap();
        disk.as_file().set_len(3 * PIECE).unwrap();
        let mut left = 2;
        let stopped = fill(disk.path(), 0..3 * PIECE, &mut |_| {
            left -= 1;
            if left > 0 { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
        });
        assert_eq!((stopped.unwrap_err().kind(), left), (io::ErrorKind::BrokenPipe, 0));
    }
}
