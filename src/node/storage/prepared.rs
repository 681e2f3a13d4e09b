//! Disks of images, and of saved images, prepared once per host, of which new machines get clones.
//!
//! How a disk was filled does not matter here. The key tells apart all that it was filled from, so a
//! prepared disk is never changed: it is found by its key, or it is of no use any more.

use std::fmt;
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::snapshots::Complete;
use super::{Device, Disk, StorageError};
use crate::model::digest::digest;
use crate::model::lease::Moment;
use crate::model::names::ImageTag;
use crate::model::size::Amount;
use crate::node::Machine;

/// Counts changes of what a prepared disk contains that a key does not show otherwise.
const VERSION: u32 = 1;

/// The disks of saved images take at most this part of what would be free without them: people save as
/// many images as they like, and a disk that is only kept must not be in the way of machines.
const SHARE: u64 = 4;

/// Which file a disk was filled from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// That of an image.
    Image,
    /// That of a saved image.
    Saved,
}

/// What a disk was filled from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Key {
    /// Which file that was.
    pub kind: Kind,
    /// The image, or the one that a saved image is based on.
    pub tag: ImageTag,
    digest: String,
}

/// What follows the key of a saved image's disk. No digest is like that.
const SAVED: &str = ".saved";

/// Returns when a file was written to last, and when anything of it was changed last. Whatever else is
/// set back, the latter (`st_ctime`, inode(7)) is not.
fn times(facts: &Metadata) -> [i64; 4] {
    [facts.mtime(), facts.mtime_nsec(), facts.ctime(), facts.ctime_nsec()]
}

impl Key {
    /// The key of an image's file, unpacked into what `command` makes. A file that has been changed
    /// or replaced has other facts.
    pub fn of_image(tag: &ImageTag, file: &Path, facts: &Metadata, command: &[String]) -> Self {
        let times = times(facts);
        let all = format!("{VERSION} {} {} {times:?} {command:?} ", facts.ino(), facts.len());
        let digest = digest(&[all.as_bytes(), file.as_os_str().as_bytes()].concat());
        Self { kind: Kind::Image, tag: tag.clone(), digest }
    }

    /// The key of the file of a saved image that is based on that image. Its name does not matter, but
    /// whoever renames a file changes it.
    pub fn of_saved(tag: &ImageTag, facts: &Metadata, command: &[String]) -> Self {
        let (times, file) = (times(facts), (facts.dev(), facts.ino(), facts.len()));
        let digest = digest(format!("{VERSION} saved {file:?} {times:?} {command:?}").as_bytes());
        Self { kind: Kind::Saved, tag: tag.clone(), digest }
    }

    /// Parses a key of that kind as [`stem`](Self::stem) gives it.
    pub(super) fn of(kind: Kind, stem: &str) -> Option<Self> {
        let (tag, digest) = stem.rsplit_once('.')?;
        let is_digest = digest.len() == 16 && digest.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        is_digest.then_some(Self { kind, tag: tag.parse().ok()?, digest: digest.to_owned() })
    }

    /// Returns what tells it apart from the others of its kind.
    pub(super) fn stem(&self) -> String {
        format!("{}.{}", self.tag, self.digest)
    }

    /// Returns whether it is another of the same image's, once this is the current one. Saved images of
    /// the same image have nothing to do with each other.
    pub(super) fn is_older_than(&self, current: &Self) -> bool {
        let are_images = [self, current].iter().all(|key| key.kind == Kind::Image);
        are_images && self.tag == current.tag && self != current
    }

    /// Returns whether a disk with this key may be kept that takes so much of what is free, beside those
    /// that are there. An image's may if there is any room for it.
    pub fn may_take(&self, holds: Amount, free: Amount, there: &[Kept]) -> bool {
        let others = there.iter().filter(|kept| kept.key.kind == Kind::Saved && kept.key != *self);
        let others: Amount = others.map(|kept| kept.holds).sum();
        self.kind == Kind::Image || holds.plus(others).mib() <= free.plus(others).mib() / SHARE
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ending = match self.kind {
            Kind::Image => "",
            Kind::Saved => SAVED,
        };
        write!(f, "{}{ending}", self.stem())
    }
}

impl FromStr for Key {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let key = match text.strip_suffix(SAVED) {
            Some(stem) => Self::of(Kind::Saved, stem),
            None => Self::of(Kind::Image, text),
        };
        key.ok_or_else(|| format!("{text:?} is not the key of a prepared disk"))
    }
}

impl TryFrom<String> for Key {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Key> for String {
    fn from(key: Key) -> Self {
        key.to_string()
    }
}

/// A prepared disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// What it was filled from.
    pub key: Key,
    /// Its size.
    pub size: Amount,
    /// The space that it takes.
    pub holds: Amount,
    /// When it was kept; `None` if that is not known, as of images' disks that an earlier version kept.
    pub made: Option<Moment>,
}

/// What came of keeping a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeping {
    /// It is kept.
    Done,
    /// It is not: there is one already, others are at work there, or it can't be cloned.
    Needless,
    /// It is not: it would take too much of what is free.
    TooLarge,
}

/// Completes a disk that is about to be kept, at this path.
pub type Finish<'a> = dyn Fn(&Path) -> Result<(), StorageError> + 'a;

/// The prepared disks of a host. All operations require root.
pub trait Prepared {
    /// Returns whether a machine's new root disk can become a clone.
    fn can_clone(&self, machine: &Machine) -> Result<bool, StorageError>;

    /// Creates disks of a machine, as [`Storage::create`](super::Storage::create) does, but the root disk
    /// as a clone of the disk with that key right away, where that is less work than to make an empty one
    /// first. Returns whether it did; [`clone_to`](Self::clone_to) is called nevertheless. If this fails,
    /// there are none of them.
    fn create_with_clone(
        &self,
        machine: &Machine,
        key: &Key,
        disks: &[(Disk, Amount)],
    ) -> Result<bool, StorageError>;

    /// Turns a machine's new root disk into a clone of the disk with that key, and returns how large
    /// that is; the machine's disk keeps its size. `None` if there is none of at most that size.
    fn clone_to(&self, machine: &Machine, key: &Key, most: Amount) -> Result<Option<Amount>, StorageError>;

    /// Keeps a clone of a machine's root disk, which has been filled and never been started from,
    /// unless there is one already that is as small. Older ones of the image are removed.
    fn keep(&self, machine: &Machine, key: &Key, finish: &Finish<'_>) -> Result<Keeping, StorageError>;

    /// Lists the prepared disks.
    fn all(&self) -> Result<Vec<Kept>, StorageError>;

    /// Creates an empty disk of that size which is to be prepared and belongs to no machine. It is hidden,
    /// and counts as unfinished whatever is killed, until [`complete`](Self::complete). There is at most
    /// one: the caller holds a lock from before this until it is completed or abandoned.
    fn begin(&self, size: Amount) -> Result<Device, StorageError>;

    /// Keeps that disk, which has been filled, unless there is one with that key by now. Older ones of the
    /// image are removed.
    fn complete(&self, key: &Key, finish: &Finish<'_>) -> Result<(), StorageError>;

    /// Returns whether there is such a disk.
    fn has_begun(&self) -> Result<bool, StorageError>;

    /// Removes that disk, if there is one.
    fn abandon(&self) -> Result<(), StorageError>;

    /// Returns how large the disk with that key is, if there is one.
    fn size(&self, key: &Key) -> Result<Option<Amount>, StorageError>;

    /// Replaces the root disk of a machine that does not run by a clone of the disk with that key, which
    /// must not be larger. The machine's disk keeps its size, and counts as used. It is there, whole, until
    /// `complete` has completed the clone. If this is killed, the disk is either of both, once
    /// [`finish`](super::snapshots::Snapshots::finish) has been called, as it must be before this.
    ///
    /// What `complete` writes takes space while both are there: at most as much as the prepared disk
    /// holds must be free. `reserved` is not free, although nothing has it yet.
    ///
    /// # Errors
    /// Also [`VolumeMissing`](StorageError::VolumeMissing) if there is no disk with that key, and
    /// [`NoRoom`](StorageError::NoRoom).
    fn replace(
        &self,
        machine: &Machine,
        key: &Key,
        reserved: Amount,
        complete: &Complete<'_>,
    ) -> Result<(), StorageError>;

    /// Empties a machine's root disk, so that it is as new.
    fn empty(&self, machine: &Machine) -> Result<(), StorageError>;

    /// Removes a prepared disk that turned out to be of no use.
    fn remove(&self, key: &Key) -> Result<(), StorageError>;

    /// Removes what killed helpers left, and the disks that are of no use, unless somebody is at work
    /// there.
    fn sweep(&self, is_of_use: &dyn Fn(&Kept) -> bool) -> Result<(), StorageError>;
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::Duration;

    use super::*;

    fn command(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn a_key_is_passed_on_as_text() {
        let key: Key = "debian-12.0123456789abcdef".parse().unwrap();
        assert_eq!(key.tag.as_str(), "debian-12");
        let json = serde_json::to_string(&key).unwrap();
        assert_eq!(json, "\"debian-12.0123456789abcdef\"");
        assert_eq!(serde_json::from_str::<Key>(&json).unwrap(), key);
        // That of a saved image is another, whatever its image is called.
        let saved: Key = "debian-12.0123456789abcdef.saved".parse().unwrap();
        assert_eq!((saved.kind, &saved.tag, saved.stem()), (Kind::Saved, &key.tag, key.stem()));
        assert_eq!(saved.to_string().parse(), Ok(saved.clone()));
        assert_ne!(saved, key);
        let odd: Key = "x.saved.0123456789abcdef".parse().unwrap();
        assert_eq!((odd.kind, odd.tag.as_str()), (Kind::Image, "x.saved"));
        for bad in [
            "",
            "tiny",
            "tiny.",
            "tiny.0123456789ABCDEF",
            "../x.0123456789abcdef",
            "-f.0123456789abcde",
            "tiny.saved",
            "tiny.0123456789abcdef.saved.saved",
            "tiny.0123456789abcdef.Saved",
            "../x.0123456789abcdef.saved",
        ] {
            assert!(bad.parse::<Key>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_key_tells_apart_all_that_a_disk_is_made_of() {
        let dir = tempfile::tempdir().unwrap();
        let (file, other) = (dir.path().join("tiny.tar.gz"), dir.path().join("other.tar.gz"));
        std::fs::write(&file, "content").unwrap();
        std::fs::write(&other, "content").unwrap();
        let facts = |path: &Path| std::fs::metadata(path).unwrap();
        let tag: ImageTag = "tiny".parse().unwrap();
        let mkfs = command("/sbin/mkfs.ext4 -q");
        let before = facts(&file);
        let key = Key::of_image(&tag, &file, &before, &mkfs);
        assert_eq!(key, Key::of_image(&tag, &file, &facts(&file), &mkfs));
        for (what, changed) in [
            ("tag", Key::of_image(&"tiny2".parse().unwrap(), &file, &before, &mkfs)),
            ("path", Key::of_image(&tag, &other, &before, &mkfs)),
            ("file", Key::of_image(&tag, &file, &facts(&other), &mkfs)),
            ("command", Key::of_image(&tag, &file, &before, &command("/sbin/mkfs.ext4 -q -F"))),
            ("arguments", Key::of_image(&tag, &file, &before, &["/sbin/mkfs.ext4 -q".to_owned()])),
        ] {
            assert_ne!(key, changed, "{what}");
        }
        // The same size and the same time, but other content.
        std::thread::sleep(Duration::from_millis(20));
        std::fs::write(&file, "CONTENT").unwrap();
        File::options().write(true).open(&file).unwrap().set_modified(before.modified().unwrap()).unwrap();
        assert_eq!((facts(&file).len(), facts(&file).mtime()), (before.len(), before.mtime()));
        assert_ne!(key, Key::of_image(&tag, &file, &facts(&file), &mkfs));
    }

    #[test]
    fn a_saved_image_is_known_by_its_file_whatever_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let (file, other) = (dir.path().join("alice_base.tar.gz"), dir.path().join("bob_base.tar.gz"));
        std::fs::write(&file, "content").unwrap();
        std::fs::write(&other, "content").unwrap();
        let facts = |path: &Path| std::fs::metadata(path).unwrap();
        let tag: ImageTag = "tiny".parse().unwrap();
        let mkfs = command("/sbin/mkfs.ext4 -q");
        let before = facts(&file);
        let key = Key::of_saved(&tag, &before, &mkfs);
        assert_eq!(key, Key::of_saved(&tag, &File::open(&file).unwrap().metadata().unwrap(), &mkfs));
        for (what, changed) in [
            ("kind", Key::of_image(&tag, &file, &before, &mkfs)),
            ("tag", Key::of_saved(&"tiny2".parse().unwrap(), &before, &mkfs)),
            ("file", Key::of_saved(&tag, &facts(&other), &mkfs)),
            ("command", Key::of_saved(&tag, &before, &command("/sbin/mkfs.ext4 -q -F"))),
        ] {
            assert_ne!(key, changed, "{what}");
            assert!(!key.is_older_than(&changed) && !changed.is_older_than(&key), "{what}");
        }
        // Renamed, and then replaced by another of the same size and time.
        std::thread::sleep(Duration::from_millis(20));
        let renamed = dir.path().join("alice_new.tar.gz");
        std::fs::rename(&file, &renamed).unwrap();
        assert_ne!(key, Key::of_saved(&tag, &facts(&renamed), &mkfs));
        std::fs::write(&file, "CONTENT").unwrap();
        File::options().write(true).open(&file).unwrap().set_modified(before.modified().unwrap()).unwrap();
        assert_ne!(key, Key::of_saved(&tag, &facts(&file), &mkfs));
    }

    #[test]
    fn saved_images_take_a_quarter_of_what_is_free_without_them() {
        let mib = Amount::from_mib;
        let saved: Key = "tiny.0123456789abcdef.saved".parse().unwrap();
        let image: Key = "tiny.0123456789abcdef".parse().unwrap();
        for (holds, free, may) in
            [(0, 0, true), (1, 3, false), (1, 4, true), (25, 100, true), (26, 100, false)]
        {
            assert_eq!(saved.may_take(mib(holds), mib(free), &[]), may, "{holds} of {free}");
            assert!(image.may_take(mib(holds), mib(free), &[]));
        }
        let kept =
            |key: &str| Kept { key: key.parse().unwrap(), size: mib(1024), holds: mib(20), made: None };
        let there = [&image, &saved].map(|key| kept(&key.to_string()));
        assert!(saved.may_take(mib(20), mib(80), &there), "it replaces its own, and images' don't count");
        let there = [kept("tiny.1111111111111111.saved")];
        assert!(saved.may_take(mib(5), mib(80), &there) && !saved.may_take(mib(6), mib(80), &there));
    }
}
