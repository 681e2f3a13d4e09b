//! Prepared disks of images: which image may have one, its clones, and how it is kept.
//!
//! A prepared disk outlives the deploy that it came from, so nothing in it may come from the web
//! server's user: the helper itself opens the image's file, which must be root's, and makes the whole
//! disk from that file in one verb, `unpack-image`.

use std::fs::{File, Metadata};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::failure::Failure;
use super::guard::MachineLock;
use super::host::Host;
use super::own;
use crate::config::ImageSettings;
use crate::model::names::ImageTag;
use crate::model::size::Amount;
use crate::node::files::{FileError, at};
use crate::node::storage::Disk;
use crate::node::storage::prepared::{self, Key, Prepared};
use crate::node::trust;
use crate::system::log::{self, Level};

/// How a machine's root disk gets its content once its file system has been made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Filling {
    /// It has its content already: it is a clone.
    Done,
    /// `unpack-image` fills it, and keeps it as prepared.
    Image,
    /// `unpack` fills it from a stream.
    Stream,
}

/// How long a file must not have been changed when it is opened: after a change at the same tick of
/// the clock, its facts could be the same. The coarsest clocks of file systems tick every second or
/// two.
const UNCHANGED: Duration = Duration::from_secs(3);

/// The file of an image, open.
pub(super) struct ImageFile {
    pub(super) file: File,
    /// Its size.
    pub(super) bytes: u64,
    key: Key,
    /// Whether any change from now on makes another key.
    is_settled: bool,
}

fn key(tag: &ImageTag, image: &ImageSettings, facts: &Metadata) -> Key {
    Key::new(tag, &image.file, facts, &image.make_filesystem)
}

fn is_settled(facts: &Metadata, now: SystemTime) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let changed = u64::try_from(facts.ctime()).map(|seconds| UNIX_EPOCH + Duration::from_secs(seconds));
    // A file from the future is not settled either.
    changed.is_ok_and(|changed| now.duration_since(changed).is_ok_and(|age| age >= UNCHANGED))
}

impl ImageFile {
    /// Opens the file of an image, if only root can change it.
    pub(super) fn open(tag: &ImageTag, image: &ImageSettings) -> Result<Self, FileError> {
        let file = trust::open(&image.file)?;
        let facts = file.metadata().map_err(at(&image.file))?;
        Ok(Self {
            file,
            bytes: facts.len(),
            key: key(tag, image, &facts),
            is_settled: is_settled(&facts, SystemTime::now()),
        })
    }

    /// Returns whether what was read of it since it was opened is what the image is now.
    fn is_unchanged(&self, tag: &ImageTag, image: &ImageSettings) -> bool {
        let is_same =
            |facts: std::io::Result<Metadata>| facts.is_ok_and(|facts| key(tag, image, &facts) == self.key);
        self.is_settled && is_same(self.file.metadata()) && is_same(std::fs::metadata(&image.file))
    }
}

impl Host {
    /// Clones the image's prepared disk to a machine's new root disk of that size, if there is one
    /// and it fits. Otherwise the disk is as before.
    pub(super) fn clone_prepared(
        &self,
        lock: &MachineLock,
        tag: &ImageTag,
        image: &ImageSettings,
        size: Amount,
    ) -> Result<Filling, Failure> {
        let storage = self.storage();
        let Some(prepared) = storage.prepared() else { return Ok(Filling::Stream) };
        self.sweep_prepared(prepared);
        let disk = storage.path(&lock.machine, Disk::Root);
        if !prepared.can_clone(&disk)? {
            return Ok(Filling::Stream);
        }
        let file = match ImageFile::open(tag, image) {
            Ok(file) => file,
            Err(error) => {
                log::event(Level::Info, "prepared.not-possible", &[("image", tag), ("why", &error)]);
                return Ok(Filling::Stream);
            }
        };
        let cloned = match prepared.find(&file.key) {
            Ok(Some(original)) if original.size <= size => {
                original.clone_to(&disk).map_err(Failure::from).and_then(|()| {
                    let is_larger = original.size < size;
                    self.make_own(&lock.machine, &lock.mount_point(), &image.make_filesystem, is_larger)
                })
            }
            Ok(_) => return Ok(Filling::Image),
            Err(error) => Err(error.into()),
        };
        let Err(failure) = cloned else { return Ok(Filling::Done) };
        log::event(Level::Error, "prepared.not-cloned", &[("image", tag), ("why", &failure.detail)]);
        prepared::empty(&disk)?;
        if !storage.is_full() {
            // Whatever is wrong with it: the image is unpacked and prepared anew.
            prepared.remove(&file.key)?;
        }
        Ok(Filling::Image)
    }

    /// Keeps the root disk that a machine has just got from an image's file. That it can't be kept
    /// is no failure.
    pub(super) fn keep_prepared(
        &self,
        lock: &MachineLock,
        tag: &ImageTag,
        image: &ImageSettings,
        file: &ImageFile,
    ) {
        let storage = self.storage();
        let Some(prepared) = storage.prepared() else { return };
        if !file.is_unchanged(tag, image) {
            log::event(
                Level::Info,
                "prepared.not-possible",
                &[("image", tag), ("why", &"it has just been changed")],
            );
            return;
        }
        let disk = storage.path(&lock.machine, Disk::Root);
        match prepared.keep(&file.key, &disk, own::settle) {
            Ok(true) => log::event(Level::Info, "prepared.kept", &[("image", tag)]),
            Ok(false) => {}
            Err(failure) => {
                log::event(Level::Error, "prepared.not-kept", &[("image", tag), ("why", &failure.detail)]);
            }
        }
    }

    /// Removes prepared disks that no machine will be cloned from any more.
    fn sweep_prepared(&self, prepared: Prepared<'_>) {
        let current = |tag: &ImageTag| {
            let image = self.config.image(tag).ok()?;
            Some(key(tag, &image, &std::fs::metadata(&image.file).ok()?))
        };
        if let Err(error) = prepared.sweep(current) {
            log::event(Level::Error, "prepared.not-removed", &[("why", &error)]);
        }
    }
}

/// Returns the mount point's disk as new, so that nothing that was written before is in it.
pub(super) fn renew(disk: &Path) -> Result<(), Failure> {
    Ok(prepared::empty(disk)?)
}
