//! Prepared disks of images: which image may have one, its clones, and how it is kept.
//!
//! A prepared disk outlives the deploy that it came from, so it must be what the image's file is, and
//! nothing that the web server's user made of it. The worker passes the open file to `unpack-image` or
//! `prepare-image`, which makes the whole disk from it. The helper opens no file of `imageDirectory`
//! itself: in a folder of the web server's user, its name could lead to a file that only root may read.
//! It keeps the disk if the file is root's, is the one that `node.cfg` names, and has not been changed.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::failure::Failure;
use super::guard::{AheadLock, MachineLock};
use super::host::Host;
use super::own;
use crate::config::ImageSettings;
use crate::model::fault::Fault;
use crate::model::names::ImageTag;
use crate::model::size::Amount;
use crate::node::storage::prepared::{Key, Prepared};
use crate::node::storage::{Disk, StorageError};
use crate::system::log::{self, Level};

/// How a machine's root disk gets its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Filling {
    /// It has its content already: it is a clone.
    Done,
    /// `unpack-image` makes its file system, fills it, and keeps it as prepared.
    Image,
    /// `unpack` fills its file system from a stream.
    Stream,
}

/// Why a machine can't go back to its image if its disk can't become a clone.
const CANT_CLONE: &str = "its host can't clone its disk";

/// How long a file must not have been changed when it is opened: after a change at the same tick of
/// the clock, its facts could be the same. The coarsest clocks of file systems tick every second or
/// two.
const UNCHANGED: Duration = Duration::from_secs(3);

/// How often a disk that was being prepared is tried to be removed again while it is in use, and when.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(500);

/// The file of an image, as it was opened.
pub(super) struct ImageFile {
    pub(super) key: Key,
    /// Whether only root could change it, and any change from then on makes another key.
    is_reliable: bool,
}

fn key(tag: &ImageTag, image: &ImageSettings, facts: &Metadata) -> Key {
    Key::new(tag, &image.file, facts, &image.make_filesystem)
}

/// Returns whether only root can change what is in a file.
fn is_roots(facts: &Metadata) -> bool {
    facts.is_file() && facts.uid() == 0 && facts.mode() & 0o022 == 0
}

fn is_settled(facts: &Metadata, now: SystemTime) -> bool {
    let changed = u64::try_from(facts.ctime()).map(|seconds| UNIX_EPOCH + Duration::from_secs(seconds));
    // A file from the future is not settled either.
    changed.is_ok_and(|changed| now.duration_since(changed).is_ok_and(|age| age >= UNCHANGED))
}

impl ImageFile {
    /// Takes the facts of an open file, before it is read.
    pub(super) fn new(tag: &ImageTag, image: &ImageSettings, facts: &Metadata) -> Self {
        let is_reliable = is_roots(facts) && is_settled(facts, SystemTime::now());
        Self { key: key(tag, image, facts), is_reliable }
    }

    /// Returns whether what has been read is what the image is, now that these are the facts of the
    /// file that is open, and those of the image's file.
    pub(super) fn is_image(
        &self,
        tag: &ImageTag,
        image: &ImageSettings,
        read: &Metadata,
        there: &Metadata,
    ) -> bool {
        self.is_reliable && [read, there].iter().all(|facts| key(tag, image, facts) == self.key)
    }
}

/// Completes a disk that is about to be kept.
pub(super) fn settle(disk: &Path) -> Result<(), StorageError> {
    own::settle(disk).map_err(|failure| StorageError::Other(failure.detail))
}

impl Host {
    /// Lists what images of this host could be prepared from now, and are not: `there` are the keys of the
    /// prepared disks.
    pub(super) fn unprepared(&self, there: &[Key], now: SystemTime) -> Vec<Key> {
        if !self.config.general.prepare_ahead {
            return Vec::new();
        }
        let due = |tag: ImageTag| {
            let image = self.config.image(&tag).ok()?;
            let facts = std::fs::metadata(&image.file).ok()?;
            // A whole disk brings its own file systems, and is not prepared.
            let can_be = image.disk.is_none() && is_roots(&facts) && is_settled(&facts, now);
            let key = key(&tag, &image, &facts);
            (can_be && !there.contains(&key)).then_some(key)
        };
        self.config.images().filter_map(due).collect()
    }

    /// Creates disks of a machine, the root disk as a clone of the image's prepared disk, where there is one
    /// and that is less work than to make an empty one. Returns whether it did.
    pub(super) fn create_with_clone(
        &self,
        lock: &MachineLock,
        tag: &ImageTag,
        image: &ImageSettings,
        disks: &[(Disk, Amount)],
    ) -> Result<bool, Failure> {
        let storage = self.storage();
        let Some(prepared) = storage.prepared() else { return Ok(false) };
        let Some(key) = current_key(tag, image) else { return Ok(false) };
        match prepared.create_with_clone(&lock.machine, &key, disks) {
            Ok(has_created) => Ok(has_created),
            Err(
                error @ (StorageError::GroupMissing(_)
                | StorageError::Pool { .. }
                | StorageError::TimedOut { .. }),
            ) => Err(error.into()),
            // It may have been removed a moment ago. Empty ones may work; if not, that is explained.
            Err(error) => {
                not_cloned(tag, &error.to_string());
                Ok(false)
            }
        }
    }

    /// Clones the image's prepared disk to a machine's new root disk of that size, if there is one
    /// and it fits. Otherwise the disk is empty.
    pub(super) fn clone_prepared(
        &self,
        lock: &MachineLock,
        tag: &ImageTag,
        image: &ImageSettings,
        size: Amount,
    ) -> Result<Filling, Failure> {
        let storage = self.storage();
        let Some(prepared) = storage.prepared() else { return Ok(Filling::Stream) };
        self.sweep_prepared(prepared.as_ref());
        if !prepared.can_clone(&lock.machine)? {
            return Ok(Filling::Stream);
        }
        let Some(key) = current_key(tag, image) else {
            // It may have begun as a clone, if it has been another file then.
            prepared.empty(&lock.machine)?;
            return Ok(Filling::Stream);
        };
        let cloned = match prepared.clone_to(&lock.machine, &key, size) {
            Ok(Some(original)) => {
                let is_larger = original < size;
                let disk = storage.path(&lock.machine, Disk::Root);
                self.make_own(&disk, &lock.mount_point(), &image.make_filesystem, is_larger)
            }
            Ok(None) => return Ok(Filling::Image),
            Err(error) => Err(error.into()),
        };
        let Err(failure) = cloned else { return Ok(Filling::Done) };
        not_cloned(tag, &failure.detail);
        prepared.empty(&lock.machine)?;
        if !storage.is_full() {
            // Whatever is wrong with it: the image is unpacked and prepared anew.
            prepared.remove(&key)?;
        }
        Ok(Filling::Image)
    }

    /// Replaces the root disk, of that size, of a machine that does not run by a clone of the image's
    /// prepared disk. What a killed helper left must have been finished.
    pub(super) fn replace_by_clone(
        &self,
        lock: &MachineLock,
        tag: &ImageTag,
        image: &ImageSettings,
        size: Amount,
        reserved: Amount,
    ) -> Result<(), Failure> {
        let storage = self.storage();
        let no_way = |why: &str| Failure::from(Fault::NoWayBack { detail: why.to_owned() });
        let prepared = storage.prepared().ok_or_else(|| no_way(CANT_CLONE))?;
        if !prepared.can_clone(&lock.machine)? {
            return Err(no_way(CANT_CLONE));
        }
        let not_prepared = || Failure::from(Fault::ImageNotPrepared { tag: tag.clone() });
        let key = current_key(tag, image).ok_or_else(not_prepared)?;
        match prepared.size(&key)? {
            Some(original) if original <= size => {}
            Some(original) => {
                return Err(Fault::PreparedTooLarge { tag: tag.clone(), size: original, disk: size }.into());
            }
            None if image.disk.is_some() => {
                return Err(no_way("hosts keep no prepared disks of whole-disk images"));
            }
            None => return Err(not_prepared()),
        }
        let complete = |disk: &Path, is_larger: bool| {
            self.make_own(disk, &lock.mount_point(), &image.make_filesystem, is_larger)
                .map_err(|failure| StorageError::Other(failure.detail))
        };
        match prepared.replace(&lock.machine, &key, reserved, &complete) {
            // It has just been removed.
            Err(StorageError::VolumeMissing) => Err(not_prepared()),
            replaced => replaced.map_err(|error| self.unless_full(error.into())),
        }
    }

    /// Keeps the root disk that a machine has just got from an open file. That it can't be kept is no
    /// failure.
    pub(super) fn keep_prepared(
        &self,
        lock: &MachineLock,
        tag: &ImageTag,
        image: &ImageSettings,
        file: &ImageFile,
        read: &Metadata,
    ) {
        let storage = self.storage();
        let Some(prepared) = storage.prepared() else { return };
        match std::fs::metadata(&image.file) {
            Ok(there) if file.is_image(tag, image, read, &there) => {}
            Ok(_) => return not_possible(tag, "its file has just been changed, or is not root's"),
            Err(error) => return not_possible(tag, &format!("{}: {error}", image.file.display())),
        }
        match prepared.keep(&lock.machine, &file.key, &settle) {
            Ok(true) => log::event(Level::Info, "prepared.kept", &[("image", tag)]),
            Ok(false) => {}
            Err(why) => log::event(Level::Error, "prepared.not-kept", &[("image", tag), ("why", &why)]),
        }
    }

    /// Removes prepared disks that no machine will be cloned from any more.
    pub(super) fn sweep_prepared(&self, prepared: &dyn Prepared) {
        let current = |tag: &ImageTag| {
            let image = self.config.image(tag).ok()?;
            Some(key(tag, &image, &std::fs::metadata(&image.file).ok()?))
        };
        let swept = prepared.sweep(&current).map_err(Failure::from);
        if let Err(Failure { detail, .. }) = swept.and_then(|()| sweep_ahead(prepared)) {
            log::event(Level::Error, "prepared.not-removed", &[("why", &detail)]);
        }
    }
}

/// Removes the disk that a helper which was killed was preparing.
fn sweep_ahead(prepared: &dyn Prepared) -> Result<(), Failure> {
    if prepared.has_begun()?
        && let Some(lock) = AheadLock::try_take()?
    {
        abandon(prepared, &lock)?;
    }
    Ok(())
}

/// Removes the disk that is being prepared, if there is one. What was killed may still be about to let go
/// of it.
pub(super) fn abandon(prepared: &dyn Prepared, _lock: &AheadLock) -> Result<(), Failure> {
    for _ in 0..TRIES {
        match prepared.abandon() {
            Err(StorageError::InUse) => std::thread::sleep(PAUSE),
            other => return Ok(other?),
        }
    }
    Ok(prepared.abandon()?)
}

/// Returns the key that a prepared disk of the image has now; `None` if there can't be one.
fn current_key(tag: &ImageTag, image: &ImageSettings) -> Option<Key> {
    match std::fs::metadata(&image.file) {
        Ok(facts) if is_roots(&facts) => return Some(key(tag, image, &facts)),
        Ok(_) => not_possible(tag, &format!("others than root can change {}", image.file.display())),
        Err(error) => not_possible(tag, &format!("{}: {error}", image.file.display())),
    }
    None
}

fn not_cloned(tag: &ImageTag, why: &str) {
    log::event(Level::Error, "prepared.not-cloned", &[("image", tag), ("why", &why)]);
}

fn not_possible(tag: &ImageTag, why: &str) {
    log::event(Level::Info, "prepared.not-possible", &[("image", tag), ("why", &why)]);
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::path::PathBuf;

    use super::*;
    use crate::model::size::MiB;

    fn settings(file: PathBuf, command: &str) -> ImageSettings {
        ImageSettings {
            file,
            template: PathBuf::new(),
            swap: "16".parse::<MiB>().unwrap(),
            vm_type: crate::config::VmType::Kvm,
            disk: None,
            make_filesystem: command.split(' ').map(str::to_owned).collect(),
        }
    }

    #[test]
    fn images_whose_present_file_has_no_disk_are_to_be_prepared() {
        if !nix::unistd::geteuid().is_root() {
            println!("only root has files of root: not tried here");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let host = |general: &str| {
            let text = format!(
                "[General]\nserverHostname = \"s\"\nimageDirectory = \"{}\"\nstorage = \"files\"\n{general}\n\
                 [VMImageFiles]\ntiny = \"tiny.tar\"\nshared = \"shared.tar\"\ngone = \"gone.tar\"\n\
                 disk = \"disk.qcow2\"\n[VMConfigTemplates]\ndefault = \"x\"\n[VMSwapSize]\ndefault = 64\n\
                 [VMTypes]\ndefault = \"kvm\"\n[XenDeployerFSCreateCmd]\ndefault = \"/sbin/mkfs.ext4 -q\"\n\
                 [CloudInit]\nkeyRepository = \"https://k/\"\n",
                dir.path().display()
            );
            std::fs::write(dir.path().join("node.cfg"), text).unwrap();
            let config = crate::config::Node::load(dir.path()).unwrap();
            Host { config, dir: dir.path().to_owned(), listing: crate::node::storage::Listing::default() }
        };
        for file in ["tiny.tar", "shared.tar", "disk.qcow2"] {
            std::fs::write(dir.path().join(file), "content").unwrap();
        }
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o664);
        std::fs::set_permissions(dir.path().join("shared.tar"), mode).unwrap();
        let later = SystemTime::now() + UNCHANGED;
        let usual = host("");
        let due = usual.unprepared(&[], later);
        assert_eq!(due.iter().map(|key| key.tag.as_str()).collect::<Vec<_>>(), ["tiny"]);
        assert_eq!(usual.unprepared(&due, later), []);
        assert_eq!(usual.unprepared(&[], SystemTime::now()), [], "it may still be changing");
        assert_eq!(host("prepareAhead = false").unprepared(&[], later), []);
        std::fs::write(dir.path().join("tiny.tar"), "other content").unwrap();
        assert_ne!(usual.unprepared(&due, later), due);
        assert_eq!(usual.unprepared(&due, later).len(), 1);
    }

    #[test]
    fn only_a_file_that_root_left_alone_is_kept() {
        use std::fs::{Permissions, set_permissions};
        use std::os::unix::fs::PermissionsExt as _;

        if !nix::unistd::geteuid().is_root() {
            println!("only root has files of root: not tried here");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let image = settings(dir.path().join("tiny.tar"), "/sbin/mkfs.ext4 -q");
        let tag: ImageTag = "tiny".parse().unwrap();
        std::fs::write(&image.file, "content").unwrap();
        let facts = || std::fs::metadata(&image.file).unwrap();
        let opened = |facts: &Metadata| ImageFile {
            key: key(&tag, &image, facts),
            is_reliable: is_roots(facts) && is_settled(facts, SystemTime::now() + UNCHANGED),
        };
        let before = facts();
        assert!(opened(&before).is_image(&tag, &image, &facts(), &facts()));
        // The same clock's tick could hide another change.
        assert!(!ImageFile::new(&tag, &image, &before).is_image(&tag, &image, &facts(), &facts()));
        assert!(!is_settled(&before, SystemTime::now() - Duration::from_secs(60)), "from the future");
        // In place, even with its old time.
        let file = opened(&before);
        std::thread::sleep(Duration::from_millis(20));
        std::fs::write(&image.file, "CONTENT").unwrap();
        File::options()
            .write(true)
            .open(&image.file)
            .unwrap()
            .set_modified(before.modified().unwrap())
            .unwrap();
        assert!(!file.is_image(&tag, &image, &facts(), &facts()));
        // Replaced while it is read: what was read is whole, but no longer the image.
        let (file, read) = (opened(&facts()), File::open(&image.file).unwrap());
        std::fs::remove_file(&image.file).unwrap();
        std::fs::write(&image.file, "another").unwrap();
        assert!(!file.is_image(&tag, &image, &read.metadata().unwrap(), &facts()));
        assert!(opened(&facts()).is_image(&tag, &image, &facts(), &facts()));
        for mode in [0o664, 0o646] {
            set_permissions(&image.file, Permissions::from_mode(mode)).unwrap();
            assert!(!opened(&facts()).is_image(&tag, &image, &facts(), &facts()), "{mode:o}");
        }
        set_permissions(&image.file, Permissions::from_mode(0o644)).unwrap();
        std::os::unix::fs::chown(&image.file, Some(33), None).unwrap();
        assert!(!opened(&facts()).is_image(&tag, &image, &facts(), &facts()));
    }
}
