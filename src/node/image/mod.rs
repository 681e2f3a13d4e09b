//! Images: archives of complete file systems. On deploy, an image is decompressed here and passed
//! on as a plain tar stream; to save a machine, a tar stream is compressed. [`store`] has the saved
//! ones.
//!
//! [`disk`] and [`qcow2`] are about the other kind of images, of whole disks.
//!
//! `.tar`, `.tar.gz`, `.tar.xz` and `.tar.zst` are distinguished by their first bytes, never by
//! name.

pub mod disk;
mod format;
pub mod qcow2;
pub mod store;
mod stream;
mod tar;

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::config::{self, Common};
use crate::model::names::ImageTag;

pub use format::Format;
pub use stream::{copy, enlarge, pack};
pub use tar::empty_member;

/// Why an image could not be copied or created.
#[derive(Debug, Error)]
pub enum CopyError {
    /// The image is unreadable, not an archive, damaged, truncated, or followed by other data.
    #[error("{0}")]
    Corrupt(String),
    /// All of its content is in one directory, so that no system can be started from it.
    #[error("all of it lies in the folder {0}")]
    Nested(String),
    /// Writing failed, for instance because the reader has closed the stream or the disk is full.
    #[error("{0}")]
    Write(io::Error),
    /// `progress` returned `false`.
    #[error("stopped")]
    Stopped,
}

/// What is wrong with an image, as a program that decompresses it tells the program that started it:
/// a line of JSON on standard error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Damage {
    /// See [`CopyError::Corrupt`].
    Corrupt(String),
    /// See [`CopyError::Nested`].
    Nested(String),
}

impl Damage {
    /// Finds it in a program's standard error.
    pub fn said_by(stderr: &str) -> Option<Self> {
        stderr.lines().find_map(|line| serde_json::from_str(line).ok())
    }
}

/// Copies an image from standard input to standard output as a plain tar stream. If it is damaged,
/// says so on standard error.
pub fn decompress() -> Result<(), CopyError> {
    let of = |descriptor: io::Result<OwnedFd>| descriptor.map(File::from).map_err(CopyError::Write);
    let input = of(io::stdin().as_fd().try_clone_to_owned())?;
    let mut output = of(io::stdout().as_fd().try_clone_to_owned())?;
    let copied = copy(input, &mut output, |_| true);
    let damage = match &copied {
        Err(CopyError::Corrupt(detail)) => Damage::Corrupt(detail.clone()),
        Err(CopyError::Nested(folder)) => Damage::Nested(folder.clone()),
        _ => return copied.map(|_| ()),
    };
    let line = serde_json::to_string(&damage).unwrap_or_default();
    // The exit status says that it failed, even if nobody can read why.
    let _ = writeln!(io::stderr(), "{line}");
    copied.map(|_| ())
}

/// Opens an image file, and returns it with its size in bytes. It is an error if it is not a
/// regular file, or empty.
pub fn open(path: &Path) -> io::Result<(File, u64)> {
    let file = File::open(path)?;
    let facts = file.metadata()?;
    if facts.is_file() && facts.len() > 0 {
        Ok((file, facts.len()))
    } else {
        Err(io::Error::other("not a file with something in it"))
    }
}

/// Lists the images that this node can deploy: those of `common.cfg` for which it has settings and
/// a readable file, which, for a whole disk, is of the right format.
pub fn deployable(config: &config::Node, common: &Common) -> Vec<ImageTag> {
    let can_deploy = |tag: &&ImageTag| {
        config.image(tag).is_ok_and(|settings| match (open(&settings.file), settings.disk) {
            (Ok((file, _)), Some(format)) => disk::Image::open(file, format).is_ok(),
            (opened, _) => opened.is_ok(),
        })
    };
    common.images.iter().map(|(tag, _)| tag).filter(can_deploy).cloned().collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::tar::{BLOCK, is_header};
    use super::*;
    use crate::config::Compression;
    use crate::system::exec::Run;

    /// Returns an archive that contains one empty file.
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
    fn a_packed_stream_is_unpacked_unchanged() {
        let stream = [member(b'0', 700_000, "00002527140"), tar()].concat();
        for &compression in Compression::ALL {
            let image = packed(&stream, compression).unwrap();
            assert!(image.len() < stream.len() / 10);
            assert_eq!(copied(&image).unwrap(), stream);
            // A truncated stream does not become an image.
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
        for &compression in Compression::ALL {
            let mut full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
            match pack(tar().as_slice(), &mut full, compression, |_| true) {
                Err(CopyError::Write(error)) => assert_eq!(error.kind(), io::ErrorKind::StorageFull),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn an_empty_member_is_valid() {
        let block = empty_member("./etc/machine-id");
        assert!(is_header(&block));
        let archive = [&block[..], &end()].concat();
        packed(&archive, Compression::Gzip).unwrap();
        let listing = Run::new("tar").args(["-tv", "--numeric-owner"]).input(archive).run();
        let text = listing.unwrap().text();
        assert!(text.starts_with("-r--r--r-- 0/0 ") && text.ends_with(" ./etc/machine-id\n"), "{text}");
    }

    #[test]
    fn every_format_yields_the_same_stream() {
        let tar = tar();
        for image in [tar.clone(), gzip(&tar), xz(&tar), zstd::encode_all(tar.as_slice(), 1).unwrap()] {
            assert_eq!(copied(&image).unwrap(), tar);
        }
        // Several gzip members, xz streams, zstd frames.
        let (a, b) = tar.split_at(700);
        assert_eq!(copied(&[gzip(a), gzip(b)].concat()).unwrap(), tar);
        assert_eq!(copied(&[xz(a), xz(b)].concat()).unwrap(), tar);
        let frames = [zstd::encode_all(a, 1).unwrap(), zstd::encode_all(b, 1).unwrap()].concat();
        assert_eq!(copied(&frames).unwrap(), tar);
    }

    #[test]
    fn truncated_images_are_never_accepted() {
        let tar = tar();
        for image in [tar.clone(), gzip(&tar), xz(&tar), zstd::encode_all(tar.as_slice(), 1).unwrap()] {
            for length in [0, 1, 7, image.len() / 2, image.len() - 1] {
                let result = copied(&image[..length]);
                assert!(matches!(result, Err(CopyError::Corrupt(_))), "{length} of {}", image.len());
            }
        }
        // At a block boundary, where tar itself would see a complete archive.
        assert!(matches!(copied(&tar[..BLOCK]), Err(CopyError::Corrupt(_))));
    }

    /// Returns a member with `size` bytes of content, all zeros, whose header gives its size as
    /// `field`.
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
    fn truncation_after_a_member_of_zeros_is_detected() {
        let zeros = member(b'0', 5000, "00000011610");
        assert!(matches!(copied(&zeros), Err(CopyError::Corrupt(_))));
        assert!(matches!(copied(&[&zeros[..], &end()[BLOCK..]].concat()), Err(CopyError::Corrupt(_))));
        copied(&[&zeros[..], &tar()].concat()).unwrap();
        copied(&[zeros, end(), end()].concat()).unwrap();
        // The size of a hard link does not count.
        copied(&[member(b'1', 0, "00000011610"), end()].concat()).unwrap();
    }

    #[test]
    fn the_size_may_be_in_an_extended_header() {
        let mut extended_by_two = member(b'x', 13, "00000000015");
        extended_by_two[BLOCK..BLOCK + 13].copy_from_slice(b"13 size=1024\n");
        // According to its own header it is empty, and its zeros would end the archive.
        let large = member(b'0', 1024, "00000000000");
        let image = [&extended_by_two[..], &large].concat();
        assert!(matches!(copied(&image), Err(CopyError::Corrupt(_))));
        copied(&[image, end()].concat()).unwrap();
    }

    /// Returns an archive of `files` created by tar, and an empty directory to unpack it into.
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
    fn padding_of_the_last_record_is_no_error() {
        // One record of 8 MiB, of which tar reads only a few blocks.
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
    fn only_zeros_may_follow_an_archive() {
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
    fn concatenated_archives_are_refused() {
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
    fn an_archive_in_several_compressed_parts_is_read() {
        let (image, _) = by_tar(&[], &["sbin/init"]);
        let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
        // A skippable frame (RFC 8878, section 3.1.2).
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
    fn a_system_nested_in_one_directory_is_refused() {
        let nested = |image: &[u8]| match copied(image) {
            Err(CopyError::Nested(folder)) => Some(folder),
            other => other.map(|_| None).unwrap(),
        };
        let system = ["rootfs/sbin/init", "rootfs/boot/vmlinuz", "rootfs/etc/passwd"];
        for arguments in [&["--format=posix"][..], &["--format=gnu"], &["--format=ustar"], &["--format=v7"]] {
            let (image, _) = by_tar(arguments, &system);
            assert_eq!(nested(&gzip(&image)).as_deref(), Some("rootfs"), "{arguments:?}");
            // Too long for the header's name field; the oldest format has no other.
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
                // Not only a directory with a system in it.
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
    fn a_failing_writer_ends_the_copy() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                // Long enough for all buffers to fill up, so that the other thread has to wait for
                // one.
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
    fn damaged_images_and_other_files_are_refused() {
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
