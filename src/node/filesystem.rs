//! What a file system is, by its superblock: of which type, and with which of ext4's younger features. Pure; it reads
//! fixed places of a few bytes each, whoever wrote them.

/// So much of a device tells: the last of the places is btrfs's.
pub const HEAD: usize = (64 << 10) + 4096;

/// The types that vGrid mounts. No other is ever asked for, so the kernel loads no module for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// ext2, ext3 or ext4. The driver of ext4 mounts all three.
    Ext,
    /// XFS.
    Xfs,
    /// Btrfs.
    Btrfs,
}

impl Kind {
    /// What mount(8) calls it.
    pub fn mount_type(self) -> &'static str {
        match self {
            Self::Ext => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }

    /// What its mount options must have. What is on the disk may ask for a panic of the kernel that finds it damaged
    /// (`tune2fs -e panic`); `errors` overrules that (ext4(5)). The other drivers only ever shut the file system down.
    pub fn on_errors(self) -> &'static str {
        match self {
            Self::Ext => ",errors=remount-ro",
            Self::Xfs | Self::Btrfs => "",
        }
    }
}

/// A feature of ext4 that mke2fs turned on by itself only at some time, so that older programs can't read it.
#[derive(Debug, PartialEq, Eq)]
pub struct Feature {
    /// Its name, as mke2fs's `-O` takes it (ext4(5)).
    pub name: &'static str,
    /// What is needed to read it.
    pub needs: &'static str,
    /// The word of the superblock that it is in, counted from `s_feature_compat`.
    word: usize,
    bit: u32,
    /// Whether programs of 2022 that are still in use can't read it.
    pub young: bool,
}

/// The features that are known to be in the way of something. The bits are those of the kernel's
/// `Documentation/filesystems/ext4/super.rst`; mke2fs has made the first two by default since e2fsprogs 1.47.
const FEATURES: [Feature; 11] = [
    feature("metadata_csum_seed", 1, 0x2000, true, "GRUB 2.12 and Linux 4.4"),
    feature("orphan_file", 0, 0x1000, true, "e2fsck 1.47 and Linux 5.15"),
    feature("casefold", 1, 0x2_0000, true, "Linux 5.2; GRUB can't read it"),
    feature("fast_commit", 0, 0x400, true, "e2fsck 1.46 and Linux 5.10"),
    feature("verity", 2, 0x8000, true, "e2fsck 1.45 and Linux 5.4"),
    feature("large_dir", 1, 0x4000, true, "GRUB 2.12 and Linux 4.13"),
    feature("inline_data", 1, 0x8000, true, "Linux 3.8; GRUB can't read it"),
    feature("encrypt", 1, 0x1_0000, true, "GRUB 2.06 and Linux 4.1"),
    feature("metadata_csum", 2, 0x400, false, "e2fsck 1.43 and Linux 3.6"),
    feature("64bit", 1, 0x80, false, "GRUB 2.00 and Linux 2.6.28"),
    feature("extent", 1, 0x40, false, "GRUB 1.97 and Linux 2.6.28"),
];

const fn feature(name: &'static str, word: usize, bit: u32, young: bool, needs: &'static str) -> Feature {
    Feature { name, needs, word, bit, young }
}

/// Where the superblock of ext2 and its successors begins.
const EXT: usize = 1024;

fn has(head: &[u8], at: usize, magic: &[u8]) -> bool {
    head.get(at..).is_some_and(|rest| rest.starts_with(magic))
}

/// The type of the file system that begins with these [`HEAD`] bytes, if it is one of those that vGrid mounts.
pub fn kind(head: &[u8]) -> Option<Kind> {
    // As in libblkid: s_magic, sb_magicnum, magic. Who has two of them at once is none.
    let found = [
        (has(head, EXT + 0x38, &[0x53, 0xef]), Kind::Ext),
        (has(head, 0, b"XFSB"), Kind::Xfs),
        (has(head, (64 << 10) + 0x40, b"_BHRfS_M"), Kind::Btrfs),
    ];
    let mut kinds = found.into_iter().filter_map(|(is, kind)| is.then_some(kind));
    kinds.next().filter(|_| kinds.next().is_none())
}

/// Those of the known features that the ext file system has which begins so.
pub fn features(head: &[u8]) -> Vec<&'static Feature> {
    if kind(head) != Some(Kind::Ext) {
        return Vec::new();
    }
    let word = |n: usize| {
        let at = EXT + 0x5c + 4 * n;
        let bytes = head.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u32::from_le_bytes)
    };
    FEATURES.iter().filter(|feature| word(feature.word) & feature.bit != 0).collect()
}

/// How sure it is that a file system has a feature which somebody can't read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Complaint {
    /// It was said.
    Certain,
    /// Something could not be read, for whatever reason.
    Possible,
}

/// What something on a console, or in a tool's message, says of a file system that it can't read.
pub fn complaint(text: &str) -> Option<Complaint> {
    // e2fsck and libext2fs; Linux's ext4, and ext3 before it.
    let certain = ["unsupported feature(s)", "unsupported optional features"];
    // GRUB's ext2 module, for which such a file system is none; pygrub, which does not say why it opened nothing.
    let possible = ["unknown filesystem", "Unable to find partition containing kernel"];
    if certain.iter().any(|words| text.contains(words)) {
        Some(Complaint::Certain)
    } else {
        possible.iter().any(|words| text.contains(words)).then_some(Complaint::Possible)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    use crate::system::exec::{Run, find};

    /// The beginning of what a program makes in a file of that size.
    fn made_by(program: &str, args: &[&str], mib: u64) -> Vec<u8> {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(mib << 20).unwrap();
        Run::new(find(&[program]).unwrap()).args(args.iter().copied()).arg(file.path()).run().unwrap();
        let mut head = Vec::new();
        file.as_file().take(HEAD as u64).read_to_end(&mut head).unwrap();
        head
    }

    fn names(head: &[u8]) -> Vec<&'static str> {
        features(head).into_iter().map(|feature| feature.name).collect()
    }

    #[test]
    fn what_mke2fs_made_is_known_with_its_features() {
        let old = made_by("mke2fs", &["-q", "-F", "-t", "ext2"], 16);
        let plain = "^metadata_csum_seed,^orphan_file,^64bit,^metadata_csum";
        let safe = made_by("mke2fs", &["-q", "-F", "-t", "ext4", "-O", plain], 16);
        let young = "metadata_csum,metadata_csum_seed,orphan_file,64bit";
        let young = made_by("mke2fs", &["-q", "-F", "-t", "ext4", "-O", young], 16);
        for head in [&old, &safe, &young] {
            assert_eq!(kind(head), Some(Kind::Ext));
        }
        assert_eq!(names(&old), [""; 0]);
        assert_eq!(names(&safe), ["extent"]);
        assert_eq!(names(&young), ["metadata_csum_seed", "orphan_file", "metadata_csum", "64bit", "extent"]);
    }

    #[test]
    fn other_types_are_told_by_their_magic_and_two_at_once_are_none() {
        let with = |parts: &[(usize, &[u8])]| {
            let mut head = vec![0; HEAD];
            for (at, bytes) in parts {
                head[*at..at + bytes.len()].copy_from_slice(bytes);
            }
            kind(&head)
        };
        let (xfs, btrfs, ext) = ((0, &b"XFSB"[..]), (0x1_0040, &b"_BHRfS_M"[..]), (1080, &[0x53, 0xef][..]));
        assert_eq!(with(&[xfs]), Some(Kind::Xfs));
        assert_eq!(with(&[btrfs]), Some(Kind::Btrfs));
        assert_eq!(with(&[xfs, ext]), None);
        // What kernels have had holes in: no name for mount(8) comes out of it.
        for other in [(0, &b"hsqs"[..]), (0x8000, b"JFS1"), (0x8001, b"CD001"), (1024, b"H+\0\x04")] {
            assert_eq!(with(&[other]), None);
        }
        assert_eq!((kind(b""), names(b"XFSB")), (None, vec![]));
    }

    #[test]
    fn complaints_about_features_are_known() {
        for (said, expected) in [
            (
                "/dev/xvda1 has unsupported feature(s): FEATURE_C12\ne2fsck: Get a newer version of e2fsck!",
                Some(Complaint::Certain),
            ),
            ("Filesystem has unsupported feature(s)", Some(Complaint::Certain)),
            (
                "EXT4-fs (xvda1): couldn't mount RDWR because of unsupported optional features (10000)",
                Some(Complaint::Certain),
            ),
            ("error: unknown filesystem.", Some(Complaint::Possible)),
            ("RuntimeError: Unable to find partition containing kernel", Some(Complaint::Possible)),
            ("EXT4-fs (xvda1): mounted filesystem with ordered data mode", None),
        ] {
            assert_eq!(complaint(said), expected, "{said}");
        }
    }
}
