//! Identifies file systems by their superblock: their type and the more recent ext4 features. Pure;
//! it reads a few bytes at fixed offsets, which may come from anyone.

/// The number of bytes at the beginning of a device that are needed; btrfs's magic comes last.
pub const HEAD: usize = (64 << 10) + 4096;

/// The file system types that vGrid mounts. It never asks for any other, so the kernel loads no
/// other module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// ext2, ext3 or ext4. The ext4 driver mounts all three.
    Ext,
    /// XFS.
    Xfs,
    /// Btrfs.
    Btrfs,
}

impl Kind {
    /// Returns the type's name for mount(8).
    pub fn mount_type(self) -> &'static str {
        match self {
            Self::Ext => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }

    /// Returns the mount options for one of which there may be another, such as a clone's: those against
    /// damage, and for XFS to mount two with the same UUID (xfs(5)).
    pub fn when_copied(self) -> &'static str {
        match self {
            Self::Xfs => ",nouuid",
            Self::Ext | Self::Btrfs => self.on_errors(),
        }
    }

    /// Returns the mount options against damage. An ext file system may request a kernel panic on
    /// errors (`tune2fs -e panic`), which `errors` overrides (ext4(5)). The other drivers only shut
    /// the file system down.
    pub fn on_errors(self) -> &'static str {
        match self {
            Self::Ext => ",errors=remount-ro",
            Self::Xfs | Self::Btrfs => "",
        }
    }
}

/// An ext4 feature that mke2fs has enabled by default only since some version, so that older
/// programs can't read it.
#[derive(Debug, PartialEq, Eq)]
pub struct Feature {
    /// The name for mke2fs's `-O` option (ext4(5)).
    pub name: &'static str,
    /// The oldest programs that can read it.
    pub needs: &'static str,
    /// The index of its superblock word, counted from `s_feature_compat`.
    word: usize,
    bit: u32,
    /// Whether programs from 2022 that are still in use can't read it.
    pub young: bool,
}

/// The features known to cause trouble. The bits are from the kernel's
/// `Documentation/filesystems/ext4/super.rst`; mke2fs has enabled the first two by default since
/// e2fsprogs 1.47.
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

/// The offset of the superblock of ext2 and its successors.
const EXT: usize = 1024;

fn has(head: &[u8], at: usize, magic: &[u8]) -> bool {
    head.get(at..).is_some_and(|rest| rest.starts_with(magic))
}

/// Returns the type of the file system that begins with these [`HEAD`] bytes, if vGrid mounts it.
pub fn kind(head: &[u8]) -> Option<Kind> {
    // As in libblkid: s_magic, sb_magicnum, magic. Two magics at once are ambiguous, so they count
    // as none.
    let found = [
        (has(head, EXT + 0x38, &[0x53, 0xef]), Kind::Ext),
        (has(head, 0, b"XFSB"), Kind::Xfs),
        (has(head, (64 << 10) + 0x40, b"_BHRfS_M"), Kind::Btrfs),
    ];
    let mut kinds = found.into_iter().filter_map(|(is, kind)| is.then_some(kind));
    kinds.next().filter(|_| kinds.next().is_none())
}

/// Returns the known features of the ext file system that begins with these bytes.
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

/// How certain it is that an unreadable feature is the cause of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Complaint {
    /// The message names unsupported features.
    Certain,
    /// Something could not be read, for an unknown reason.
    Possible,
}

/// Recognizes, in a console log or a tool's output, that a file system could not be read.
pub fn complaint(text: &str) -> Option<Complaint> {
    // Messages of e2fsck and libext2fs, and of Linux's ext4 and ext3.
    let certain = ["unsupported feature(s)", "unsupported optional features"];
    // Messages of GRUB's ext2 module, which does not recognize such a file system, and of pygrub,
    // which does not say why it failed.
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

    /// Returns the first bytes of the file system that a program creates in a file of this size.
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
    fn the_output_of_mke2fs_is_identified_with_its_features() {
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
    fn other_types_are_identified_by_their_magic_unless_ambiguous() {
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
        // Types whose drivers have had vulnerabilities: none of them must be mounted.
        for other in [(0, &b"hsqs"[..]), (0x8000, b"JFS1"), (0x8001, b"CD001"), (1024, b"H+\0\x04")] {
            assert_eq!(with(&[other]), None);
        }
        assert_eq!((kind(b""), names(b"XFSB")), (None, vec![]));
    }

    #[test]
    fn complaints_about_features_are_recognized() {
        for (text, expected) in [
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
            assert_eq!(complaint(text), expected, "{text}");
        }
    }
}
