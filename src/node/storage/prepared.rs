//! Disks of images, prepared once per host, of which new machines get clones.
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
use crate::model::names::ImageTag;
use crate::model::size::Amount;
use crate::node::Machine;

/// Counts changes of what a prepared disk contains that a key does not show otherwise.
const VERSION: u32 = 1;

/// What a disk was filled from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Key {
    /// The image.
    pub tag: ImageTag,
    pub(super) digest: String,
}

impl Key {
    /// The key of an image's file, unpacked into what `command` makes. A file that has been changed
    /// or replaced has other facts: whatever else is set back, the time of its last change
    /// (`st_ctime`, inode(7)) is not.
    pub fn new(tag: &ImageTag, file: &Path, facts: &Metadata, command: &[String]) -> Self {
        let times = [facts.mtime(), facts.mtime_nsec(), facts.ctime(), facts.ctime_nsec()];
        let all = format!("{VERSION} {} {} {times:?} {command:?} ", facts.ino(), facts.len());
        let digest = digest(&[all.as_bytes(), file.as_os_str().as_bytes()].concat());
        Self { tag: tag.clone(), digest }
    }

    /// Parses a key as it is displayed.
    pub(super) fn of(text: &str) -> Option<Self> {
        let (tag, digest) = text.rsplit_once('.')?;
        let is_digest = digest.len() == 16 && digest.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        is_digest.then_some(Self { tag: tag.parse().ok()?, digest: digest.to_owned() })
    }

    /// Returns whether it is another of the same image's, once this is the current one.
    pub(super) fn is_older_than(&self, current: &Self) -> bool {
        self.tag == current.tag && self != current
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.tag, self.digest)
    }
}

impl FromStr for Key {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::of(text).ok_or_else(|| format!("{text:?} is not the key of a prepared disk"))
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
    /// unless there is one already that is as small. Older ones of the image are removed. Returns
    /// whether it was kept.
    fn keep(&self, machine: &Machine, key: &Key, finish: &Finish<'_>) -> Result<bool, StorageError>;

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

    /// Removes what killed helpers left, and the disks whose key is no longer that of their image,
    /// unless somebody is at work there.
    fn sweep(&self, current: &dyn Fn(&ImageTag) -> Option<Key>) -> Result<(), StorageError>;
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
        for bad in
            ["", "tiny", "tiny.", "tiny.0123456789ABCDEF", "../x.0123456789abcdef", "-f.0123456789abcde"]
        {
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
        let key = Key::new(&tag, &file, &before, &mkfs);
        assert_eq!(key, Key::new(&tag, &file, &facts(&file), &mkfs));
        for (what, changed) in [
            ("tag", Key::new(&"tiny2".parse().unwrap(), &file, &before, &mkfs)),
            ("path", Key::new(&tag, &other, &before, &mkfs)),
            ("file", Key::new(&tag, &file, &facts(&other), &mkfs)),
            ("command", Key::new(&tag, &file, &before, &command("/sbin/mkfs.ext4 -q -F"))),
            ("arguments", Key::new(&tag, &file, &before, &["/sbin/mkfs.ext4 -q".to_owned()])),
        ] {
            assert_ne!(key, changed, "{what}");
        }
        // The same size and the same time, but other content.
        std::thread::sleep(Duration::from_millis(20));
        std::fs::write(&file, "CONTENT").unwrap();
        File::options().write(true).open(&file).unwrap().set_modified(before.modified().unwrap()).unwrap();
        assert_eq!((facts(&file).len(), facts(&file).mtime()), (before.len(), before.mtime()));
        assert_ne!(key, Key::new(&tag, &file, &facts(&file), &mkfs));
    }
}
