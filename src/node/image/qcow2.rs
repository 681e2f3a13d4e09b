//! Reads disks in QEMU's format (QEMU's docs/interop/qcow2.rst), as much of it as images of clouds
//! use. Everything in such a file is untrusted. All that would lead out of it, such as a backing
//! file, is refused.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;

use thiserror::Error;

/// The first bytes of a file in this format.
pub const MAGIC: [u8; 4] = *b"QFI\xfb";

/// The length of the header that is read, in bytes. Version 2 has less.
const HEADER: usize = 112;
/// The length of the header of version 2.
const OLD_HEADER: usize = 72;
/// The longest first table, in bytes: QEMU's own limit (its block/qcow2.h).
const MAX_L1: u64 = 32 << 20;

/// Where a cluster is, in an entry of a table.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// Set in an entry of a compressed cluster.
const COMPRESSED: u64 = 1 << 62;
/// Set in an entry of a cluster that reads as zeros.
const ZERO: u64 = 1;

/// Why a file can't be read as a disk.
#[derive(Debug, Error)]
pub enum Flaw {
    /// It is in another format.
    #[error("it is not in the format qcow2, as its name says")]
    OtherFormat,
    /// It is in a version that is not known.
    #[error("it is in version {0} of the format qcow2, and vGrid knows 2 and 3")]
    Version(u32),
    /// A part of its content is in another file.
    #[error("a part of it is in another file ({0}), which vGrid never opens")]
    OtherFile(&'static str),
    /// It is encrypted.
    #[error("it is encrypted")]
    Encrypted,
    /// It has been marked as damaged.
    #[error("it is marked as corrupt")]
    MarkedCorrupt,
    /// It uses what is not supported.
    #[error("it uses {0} of the format qcow2, which vGrid does not read")]
    Unsupported(String),
    /// Its content makes no sense.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    /// It can't be read, or ends too soon.
    #[error("reading it: {0}")]
    Unreadable(#[from] io::Error),
}

/// A disk in a file.
#[derive(Debug)]
pub struct Qcow2 {
    file: File,
    /// The size of the disk, in bytes.
    size: u64,
    cluster_bits: u32,
    /// The first table: where the tables of clusters are.
    l1: Vec<u64>,
    compression: Compression,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compression {
    Deflate,
    Zstd,
}

fn number32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|part| part.try_into().ok()).map(u32::from_be_bytes).unwrap_or_default()
}

fn number64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|part| part.try_into().ok()).map(u64::from_be_bytes).unwrap_or_default()
}

impl Qcow2 {
    /// Reads the header and the first table.
    pub fn open(file: File) -> Result<Self, Flaw> {
        let mut head = Vec::new();
        (&file).take(HEADER as u64).read_to_end(&mut head)?;
        if !head.starts_with(&MAGIC) || head.len() < OLD_HEADER {
            return Err(Flaw::OtherFormat);
        }
        let version = number32(&head, 4);
        let (features, length) = match version {
            2 => (0, OLD_HEADER),
            3 => (number64(&head, 72), number32(&head, 100) as usize),
            other => return Err(Flaw::Version(other)),
        };
        if number64(&head, 8) != 0 || number32(&head, 16) != 0 {
            return Err(Flaw::OtherFile("a backing file"));
        }
        if features & 1 << 2 != 0 {
            return Err(Flaw::OtherFile("an external data file"));
        }
        if number32(&head, 32) != 0 {
            return Err(Flaw::Encrypted);
        }
        if features & 1 << 1 != 0 {
            return Err(Flaw::MarkedCorrupt);
        }
        if features & 1 << 4 != 0 {
            return Err(Flaw::Unsupported("extended_l2".to_owned()));
        }
        // The lowest says that nobody closed it, which matters only for writing.
        let unknown = features & !(1 | 1 << 3);
        if unknown != 0 {
            return Err(Flaw::Unsupported(format!("the features {unknown:#x}")));
        }
        let compression = match head.get(104).filter(|_| features & 1 << 3 != 0 && length > 104) {
            None | Some(0) => Compression::Deflate,
            Some(1) => Compression::Zstd,
            Some(other) => return Err(Flaw::Unsupported(format!("the compression {other}"))),
        };
        let cluster_bits = number32(&head, 20);
        if !(9..=21).contains(&cluster_bits) {
            return Err(Flaw::Damaged("the size of its clusters"));
        }
        let size = number64(&head, 24);
        // Each table has as many entries of 8 bytes as fit into a cluster.
        let needed = size.div_ceil(1 << (2 * cluster_bits - 3));
        if size == 0 || u64::from(number32(&head, 36)) < needed || needed * 8 > MAX_L1 {
            return Err(Flaw::Damaged("its size"));
        }
        let length = usize::try_from(needed * 8).map_err(|_| Flaw::Damaged("its size"))?;
        let l1 = table(&file, number64(&head, 40), length)?;
        Ok(Self { file, size, cluster_bits, l1, compression })
    }

    /// Returns the size of the disk, in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Reads the disk from its beginning to its end. `take` gets each cluster that has content, and
    /// where it is on the disk, in bytes.
    pub fn read<E: From<Flaw>>(&self, mut take: impl FnMut(u64, &[u8]) -> Result<(), E>) -> Result<(), E> {
        let cluster = 1_usize << self.cluster_bits;
        let entries = cluster as u64 / 8;
        let mut buffer = vec![0; cluster];
        for (index, entry) in (0_u64..).zip(&self.l1) {
            let at = entry & OFFSET;
            if at == 0 {
                continue;
            }
            let l2 = table(&self.file, at, cluster)?;
            for (place, entry) in (index * entries..).zip(l2) {
                let offset = place << self.cluster_bits;
                let left = usize::try_from(self.size.saturating_sub(offset)).unwrap_or(cluster).min(cluster);
                if left > 0 && self.cluster(entry, &mut buffer)? {
                    take(offset, &buffer[..left])?;
                }
            }
        }
        Ok(())
    }

    /// Reads a cluster. Returns whether it has content.
    fn cluster(&self, entry: u64, buffer: &mut [u8]) -> Result<bool, Flaw> {
        if entry & COMPRESSED != 0 {
            self.compressed_cluster(entry, buffer)?;
            return Ok(true);
        }
        if entry & ZERO != 0 || entry & OFFSET == 0 {
            return Ok(false);
        }
        // The last one of a file may be shorter: the rest is zeros.
        let read = read_at_most(&self.file, entry & OFFSET, buffer)?;
        if read == 0 {
            return Err(Flaw::Damaged("it has been cut off"));
        }
        buffer[read..].fill(0);
        Ok(true)
    }

    fn compressed_cluster(&self, entry: u64, buffer: &mut [u8]) -> Result<(), Flaw> {
        let bits = 62 - (self.cluster_bits - 8);
        let offset = entry & ((1 << bits) - 1);
        let sectors = (entry & (COMPRESSED - 1)) >> bits;
        let length = (sectors + 1) * 512 - offset % 512;
        let mut packed = vec![0; usize::try_from(length).map_err(|_| Flaw::Damaged("a cluster's length"))?];
        // What follows in the last sector is another cluster's, or the end of the file.
        let read = read_at_most(&self.file, offset, &mut packed)?;
        let packed = &packed[..read];
        let unpacked = match self.compression {
            Compression::Deflate => flate2::read::DeflateDecoder::new(packed).read_exact(buffer),
            Compression::Zstd => zstd::stream::read::Decoder::with_buffer(packed)
                .and_then(|decoder| decoder.single_frame().read_exact(buffer)),
        };
        unpacked.map_err(|_| Flaw::Damaged("a compressed cluster"))
    }
}

/// Reads a table of that many bytes.
fn table(file: &File, offset: u64, length: usize) -> Result<Vec<u64>, Flaw> {
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes.chunks_exact(8).map(|entry| number64(entry, 0)).collect())
}

/// Fills a buffer, unless the file ends before. Returns the number of bytes read.
fn read_at_most(file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let mut read = 0;
    while read < buffer.len() {
        match file.read_at(&mut buffer[read..], offset + read as u64) {
            Ok(0) => break,
            Ok(n) => read += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::system::exec::Run;

    fn qemu_img(args: &[&str]) {
        Run::new("qemu-img").args(args.iter().copied()).run().unwrap();
    }

    fn text(path: &Path) -> &str {
        path.to_str().unwrap()
    }

    /// A disk of 5 MiB and a bit, with data here and there.
    fn raw(file: &Path) -> Vec<u8> {
        let mut disk = vec![0; (5 << 20) + 1536];
        let mut seed = 1_u32;
        for at in [0, 70_000, 1 << 20, 3 << 20, (5 << 20) + 1024] {
            for byte in disk.iter_mut().skip(at).take(100_000) {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                // Some of it can be compressed, and some can't.
                *byte = if at == 1 << 20 { b'x' } else { (seed >> 24) as u8 };
            }
        }
        std::fs::write(file, &disk).unwrap();
        disk
    }

    fn whole(file: &Path) -> Result<Vec<u8>, Flaw> {
        let image = Qcow2::open(File::open(file)?)?;
        let mut disk = vec![0; usize::try_from(image.size()).unwrap()];
        image.read(|offset, bytes| {
            let offset = usize::try_from(offset).unwrap();
            disk[offset..offset + bytes.len()].copy_from_slice(bytes);
            Ok::<_, Flaw>(())
        })?;
        Ok(disk)
    }

    #[test]
    fn a_disk_is_read_as_qemu_wrote_it() {
        let dir = tempfile::tempdir().unwrap();
        let (source, file) = (dir.path().join("disk.raw"), dir.path().join("disk.qcow2"));
        let disk = raw(&source);
        for options in [
            "compat=0.10",
            "compat=1.1",
            "compat=1.1,cluster_size=512",
            "compat=1.1,cluster_size=2M",
            "compat=1.1,lazy_refcounts=on",
            "compat=1.1,preallocation=metadata",
        ] {
            qemu_img(&["convert", "-f", "raw", "-O", "qcow2", "-o", options, text(&source), text(&file)]);
            assert!(whole(&file).unwrap() == disk, "{options}");
        }
        for options in ["compat=0.10", "compression_type=zlib", "compression_type=zstd,cluster_size=4k"] {
            qemu_img(&[
                "convert",
                "-c",
                "-f",
                "raw",
                "-O",
                "qcow2",
                "-o",
                options,
                text(&source),
                text(&file),
            ]);
            assert!(std::fs::metadata(&file).unwrap().len() < 1 << 20, "{options}: it is not compressed");
            assert!(whole(&file).unwrap() == disk, "{options}");
        }
        // A snapshot is no part of the disk.
        qemu_img(&["snapshot", "-c", "before", text(&file)]);
        assert!(whole(&file).unwrap() == disk);
    }

    #[test]
    fn what_leads_out_of_the_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (source, file) = (dir.path().join("disk.raw"), dir.path().join("disk.qcow2"));
        raw(&source);
        let refused = |file: &Path| whole(file).unwrap_err().to_string();
        let create = |options: &[&str]| {
            qemu_img(&[&["create", "-q", "-f", "qcow2"][..], options, &[text(&file), "8M"]].concat());
        };
        create(&["-b", text(&source), "-F", "raw"]);
        assert!(refused(&file).contains("a backing file"), "{}", refused(&file));
        let data = format!("data_file={},data_file_raw=on", text(&dir.path().join("data")));
        create(&["-o", &data]);
        assert!(refused(&file).contains("an external data file"), "{}", refused(&file));
        create(&["-o", "extended_l2=on"]);
        assert!(refused(&file).contains("extended_l2"), "{}", refused(&file));
        assert!(refused(&source).contains("not in the format qcow2"), "{}", refused(&source));
    }

    #[test]
    fn a_damaged_file_is_refused_and_harms_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (source, file) = (dir.path().join("disk.raw"), dir.path().join("disk.qcow2"));
        let disk = raw(&source);
        qemu_img(&["convert", "-c", "-f", "raw", "-O", "qcow2", text(&source), text(&file)]);
        let sound = std::fs::read(&file).unwrap();
        let changed = |at: usize, bytes: &[u8]| {
            let mut damaged = sound.clone();
            damaged[at..at + bytes.len()].copy_from_slice(bytes);
            std::fs::write(&file, damaged).unwrap();
            whole(&file)
        };
        for (at, bytes, words) in [
            (4, &4_u32.to_be_bytes()[..], "version 4"),
            (20, &60_u32.to_be_bytes(), "its clusters"),
            (24, &u64::MAX.to_be_bytes(), "its size"),
            (24, &0_u64.to_be_bytes(), "its size"),
            (32, &1_u32.to_be_bytes(), "encrypted"),
            (36, &0_u32.to_be_bytes(), "its size"),
            (40, &u64::MAX.to_be_bytes(), "reading it"),
            (79, &[2], "corrupt"),
            (79, &[32], "the features 0x20"),
        ] {
            let error = changed(at, bytes).unwrap_err().to_string();
            assert!(error.contains(words), "{at}: {error}");
        }
        std::fs::write(&file, &sound[..sound.len() / 2]).unwrap();
        whole(&file).unwrap_err();
        // Whatever is changed, it ends.
        for at in (0..sound.len()).step_by(997) {
            if let Ok(other) = changed(at, &[0xff]) {
                assert_eq!(other.len(), disk.len());
            }
        }
    }
}
