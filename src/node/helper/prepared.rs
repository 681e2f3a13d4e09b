//! Prepared disks: which image may have one, its clones, how it is kept, and for how long.
//!
//! A prepared disk outlives the deploy that it came from, so it must be what the image's file is, and
//! nothing that the web server's user made of it. The worker passes the open file to `unpack-image` or
//! `prepare-image`, which makes the whole disk from it. The helper keeps the disk if the file is root's,
//! is the one that `node.cfg` names, and has not been changed.
//!
//! The file of a saved image is the web server's user's, and so is what is in its disk: whoever could
//! change what is read could as well change the saved image itself. So its disk is kept if the file has
//! not been changed, and a machine gets a clone only if the worker has opened that very file for it:
//! nobody gets what they could not have unpacked. It is kept for a day, if the file is there that long.

use std::cell::OnceCell;
use std::fs::Metadata;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::failure::Failure;
use super::guard::{AheadLock, MachineLock};
use super::host::Host;
use super::own;
use super::source::{Opened, Source, is_settled};
use crate::model::fault::Fault;
use crate::model::lease::Moment;
use crate::model::names::ImageTag;
use crate::model::size::Amount;
use crate::node::storage::prepared::{Keeping, Kept, Key, Kind, Prepared};
use crate::node::storage::{Disk, StorageError};
use crate::system::clock;
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

/// For how many seconds the disk of a saved image is kept at most.
const DAY: i64 = 24 * 3600;

/// How often a disk that was being prepared is tried to be removed again while it is in use, and when.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(500);

/// Completes a disk that is about to be kept.
pub(super) fn settle(disk: &Path) -> Result<(), StorageError> {
    own::settle(disk).map_err(|failure| StorageError::Other(failure.detail))
}

/// Decides which prepared disks are of use, now.
struct Usage<'a> {
    host: &'a Host,
    now: Moment,
    /// The facts of the files that saved images may be; `None` if they can't be listed.
    stored: OnceCell<Option<Vec<Metadata>>>,
}

impl Usage<'_> {
    /// Returns whether machines may still be cloned from a disk.
    fn is_of_use(&self, kept: &Kept) -> bool {
        let tag = &kept.key.tag;
        let Ok(settings) = self.host.config.image(tag) else { return false };
        match kept.key.kind {
            Kind::Image => {
                let source = Source { tag, settings: &settings, saved: None };
                source.facts().is_ok_and(|facts| source.key(&facts) == kept.key)
            }
            Kind::Saved => {
                let is_young = kept.made.is_some_and(|made| (0..DAY).contains(&self.now.since(made)));
                let is_it =
                    |facts: &Metadata| Key::of_saved(tag, facts, &settings.make_filesystem) == kept.key;
                is_young && self.stored().is_none_or(|stored| stored.iter().any(is_it))
            }
        }
    }

    fn stored(&self) -> Option<&[Metadata]> {
        let folder = &self.host.config.general.image_directory;
        let list = || match files_in(folder) {
            Ok(found) => Some(found),
            Err(error) => {
                let why = format!("{}: {error}", folder.display());
                log::event(Level::Error, "prepared.not-removed", &[("why", &why)]);
                None
            }
        };
        self.stored.get_or_init(list).as_deref()
    }
}

/// Lists the facts of the files in a folder. None is opened, and no link is followed.
fn files_in(folder: &Path) -> io::Result<Vec<Metadata>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        match entry?.metadata() {
            Ok(facts) if facts.is_file() => found.push(facts),
            // It has just been deleted or renamed.
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(found)
}

impl Host {
    fn usage(&self) -> Usage<'_> {
        Usage { host: self, now: clock::now(), stored: OnceCell::new() }
    }

    /// Lists what images of this host could be prepared from now, and are not: those are there.
    pub(super) fn unprepared(&self, there: &[Kept], now: SystemTime) -> Vec<Key> {
        if !self.config.general.prepare_ahead {
            return Vec::new();
        }
        let due = |tag: ImageTag| {
            let settings = self.config.image(&tag).ok()?;
            // A whole disk brings its own file systems, and is not prepared.
            if settings.disk.is_some() {
                return None;
            }
            let source = Source { tag: &tag, settings: &settings, saved: None };
            let facts = source.facts().ok()?;
            let key = source.key(&facts);
            let is_there = there.iter().any(|kept| kept.key == key);
            (source.is_safe(&facts) && is_settled(&facts, now) && !is_there).then_some(key)
        };
        self.config.images().filter_map(due).collect()
    }

    /// Removes the prepared disks of which no machine will be a clone, if there are any among these, and
    /// returns whether there were. That of an image which is about to be prepared anew stays until then:
    /// it tells how large the new one has to be.
    pub(super) fn sweep_listed(&self, there: &[Kept]) -> bool {
        let due = self.unprepared(there, SystemTime::now());
        let is_succeeded = |key: &Key| key.kind == Kind::Image && due.iter().any(|next| next.tag == key.tag);
        let stays = |usage: &Usage<'_>, kept: &Kept| is_succeeded(&kept.key) || usage.is_of_use(kept);
        let usage = self.usage();
        if there.iter().all(|kept| stays(&usage, kept)) {
            return false;
        }
        if let Some(prepared) = self.storage().prepared() {
            // There may be new ones by now, with new files.
            let usage = self.usage();
            sweep(prepared.as_ref(), &|kept| stays(&usage, kept));
        }
        true
    }

    /// Removes prepared disks that no machine will be cloned from any more.
    pub(super) fn sweep_prepared(&self, prepared: &dyn Prepared) {
        let usage = self.usage();
        sweep(prepared, &|kept| usage.is_of_use(kept));
    }

    /// Creates disks of a machine, the root disk as a clone of the prepared disk, where there is one and that
    /// is less work than to make an empty one. Returns whether it did.
    pub(super) fn create_with_clone(
        &self,
        lock: &MachineLock,
        source: Source<'_>,
        disks: &[(Disk, Amount)],
    ) -> Result<bool, Failure> {
        let storage = self.storage();
        let Some(prepared) = storage.prepared() else { return Ok(false) };
        let Some((key, _)) = current(source) else { return Ok(false) };
        match prepared.create_with_clone(&lock.machine, &key, disks) {
            Ok(has_created) => Ok(has_created),
            Err(
                error @ (StorageError::GroupMissing(_)
                | StorageError::Pool { .. }
                | StorageError::TimedOut { .. }),
            ) => Err(error.into()),
            // It may have been removed a moment ago. Empty ones may work; if not, that is explained.
            Err(error) => {
                not_cloned(source, &error.to_string());
                Ok(false)
            }
        }
    }

    /// Clones the prepared disk to a machine's new root disk of that size, if there is one and it fits.
    /// Otherwise the disk is empty.
    pub(super) fn clone_prepared(
        &self,
        lock: &MachineLock,
        source: Source<'_>,
        size: Amount,
    ) -> Result<Filling, Failure> {
        let storage = self.storage();
        let Some(prepared) = storage.prepared() else { return Ok(Filling::Stream) };
        self.sweep_prepared(prepared.as_ref());
        if !prepared.can_clone(&lock.machine)? {
            return Ok(Filling::Stream);
        }
        let Some((key, least)) = current(source) else {
            // It may have begun as a clone, if it has been another file then.
            prepared.empty(&lock.machine)?;
            return Ok(Filling::Stream);
        };
        let cloned = match prepared.clone_to(&lock.machine, &key, size) {
            Ok(Some(original)) => {
                let disk = storage.path(&lock.machine, Disk::Root);
                let command = &source.settings.make_filesystem;
                self.make_own(&disk, &lock.mount_point(), command, original < size)
            }
            // What is not kept need not be waited for.
            Ok(None) if !key.may_take(least, storage.space()?.free, &prepared.all()?) => {
                too_large(source);
                prepared.empty(&lock.machine)?;
                return Ok(Filling::Stream);
            }
            Ok(None) => return Ok(Filling::Image),
            Err(error) => Err(error.into()),
        };
        let Err(failure) = cloned else { return Ok(Filling::Done) };
        not_cloned(source, &failure.detail);
        prepared.empty(&lock.machine)?;
        if !storage.is_full() {
            // Whatever is wrong with it: the image is unpacked and prepared anew.
            prepared.remove(&key)?;
        }
        Ok(Filling::Image)
    }

    /// Replaces the root disk, of that size, of a machine that does not run by a clone of the prepared disk.
    /// What a killed helper left must have been finished.
    pub(super) fn replace_by_clone(
        &self,
        lock: &MachineLock,
        source: Source<'_>,
        size: Amount,
        reserved: Amount,
    ) -> Result<(), Failure> {
        let storage = self.storage();
        let can_not = || Failure::from(Fault::NoWayBack { detail: CANT_CLONE.to_owned() });
        let prepared = storage.prepared().ok_or_else(can_not)?;
        if !prepared.can_clone(&lock.machine)? {
            return Err(can_not());
        }
        let not_prepared = || Failure::from(Fault::ImageNotPrepared { tag: source.named() });
        let (key, _) = current(source).ok_or_else(not_prepared)?;
        let original = prepared.size(&key)?.ok_or_else(not_prepared)?;
        if original > size {
            let tag = source.named();
            return Err(Fault::PreparedTooLarge { tag, size: original, disk: size }.into());
        }
        let complete = |disk: &Path, is_larger: bool| {
            self.make_own(disk, &lock.mount_point(), &source.settings.make_filesystem, is_larger)
                .map_err(|failure| StorageError::Other(failure.detail))
        };
        match prepared.replace(&lock.machine, &key, reserved, &complete) {
            // It has just been removed.
            Err(StorageError::VolumeMissing) => Err(not_prepared()),
            replaced => replaced.map_err(|error| self.unless_full(error.into())),
        }
    }

    /// Keeps the root disk that a machine has just got from an open file, which now has these facts. That it
    /// can't be kept is no failure.
    pub(super) fn keep_prepared(&self, lock: &MachineLock, opened: &Opened<'_>, read: &Metadata) {
        let (storage, source) = (self.storage(), opened.source);
        let Some(prepared) = storage.prepared() else { return };
        if let Err(failure) = opened.must_be_source(read) {
            return not_possible(source, &failure.detail);
        }
        match prepared.keep(&lock.machine, &opened.key, &settle) {
            Ok(Keeping::Done) => log::event(Level::Info, "prepared.kept", &[("image", &source)]),
            Ok(Keeping::Needless) => {}
            Ok(Keeping::TooLarge) => too_large(source),
            Err(why) => log::event(Level::Error, "prepared.not-kept", &[("image", &source), ("why", &why)]),
        }
    }
}

/// Removes what killed helpers left, and the prepared disks that are of no use.
fn sweep(prepared: &dyn Prepared, is_of_use: &dyn Fn(&Kept) -> bool) {
    let swept = prepared.sweep(is_of_use).map_err(Failure::from);
    if let Err(Failure { detail, .. }) = swept.and_then(|()| sweep_ahead(prepared)) {
        log::event(Level::Error, "prepared.not-removed", &[("why", &detail)]);
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

/// Returns the key that a prepared disk has now, and the least that such a disk will take; `None` if there
/// can't be one.
fn current(source: Source<'_>) -> Option<(Key, Amount)> {
    match source.facts() {
        Ok(facts) if source.is_safe(&facts) => {
            // Its file is compressed.
            return Some((source.key(&facts), Amount::from_mib(facts.len() >> 20)));
        }
        Ok(_) => {
            not_possible(source, &format!("others than root can change {}", source.settings.file.display()));
        }
        Err(failure) => not_possible(source, &failure.detail),
    }
    None
}

fn not_cloned(source: Source<'_>, why: &str) {
    log::event(Level::Error, "prepared.not-cloned", &[("image", &source), ("why", &why)]);
}

fn not_possible(source: Source<'_>, why: &str) {
    log::event(Level::Info, "prepared.not-possible", &[("image", &source), ("why", &why)]);
}

fn too_large(source: Source<'_>) {
    not_possible(source, "the disks of saved images would take more than a quarter of what is free");
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::config;
    use crate::model::names::SavedImage;
    use crate::node::helper::source::UNCHANGED;
    use crate::node::storage::Listing;

    const CONFIG: &str = "[VMImageFiles]\ntiny = \"tiny.tar\"\nshared = \"shared.tar\"\n\
        missing = \"missing.tar\"\ndisk = \"disk.qcow2\"\n[VMConfigTemplates]\ndefault = \"x\"\n\
        [VMSwapSize]\ndefault = 16\n[VMTypes]\ndefault = \"xen\"\ndisk = \"kvm\"\n\
        [XenDeployerFSCreateCmd]\ndefault = \"/sbin/mkfs.ext4 -q\"\n[CloudInit]\nkeyRepository = \"https://k/\"\n";

    /// A host with the image `tiny` and the saved image `alice_base` of it, and their files.
    fn host() -> (tempfile::TempDir, Host, [PathBuf; 2]) {
        let dir = tempfile::tempdir().unwrap();
        let images = dir.path().join("images");
        std::fs::create_dir(&images).unwrap();
        let general = format!(
            "[General]\nserverHostname = \"s\"\nserverURL = \"http://s/\"\nimageDirectory = \"{}\"\n\
             volumeGroupName = \"none\"\nprepareAhead = true\n",
            images.display()
        );
        std::fs::write(dir.path().join("node.cfg"), general + CONFIG).unwrap();
        let config = config::Node::load(dir.path()).unwrap();
        let files = ["tiny.tar", "alice_base.tar.gz"].map(|name| images.join(name));
        for file in &files {
            std::fs::write(file, "content").unwrap();
        }
        let host = Host { config, dir: dir.path().to_owned(), listing: Listing::default() };
        (dir, host, files)
    }

    fn kept(key: &Key, age: i64) -> Kept {
        let size = Amount::from_mib(1024);
        Kept { key: key.clone(), size, holds: size, made: Some(clock::now().plus_seconds(-age)) }
    }

    #[test]
    fn images_whose_present_file_has_no_disk_are_to_be_prepared() {
        if !nix::unistd::geteuid().is_root() {
            println!("only root has files of root: not tried here");
            return;
        }
        let (_dir, host, [image, _]) = host();
        let folder = image.parent().unwrap();
        for file in ["shared.tar", "disk.qcow2"] {
            std::fs::write(folder.join(file), "content").unwrap();
        }
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o664);
        std::fs::set_permissions(folder.join("shared.tar"), mode).unwrap();
        let later = SystemTime::now() + UNCHANGED;
        let due = host.unprepared(&[], later);
        assert_eq!(due.iter().map(|key| key.tag.as_str()).collect::<Vec<_>>(), ["tiny"]);
        let there = [kept(&due[0], 0)];
        assert_eq!(host.unprepared(&there, later), []);
        assert_eq!(host.unprepared(&[], SystemTime::now()), [], "it may still be changing");
        let mut off = host;
        off.config.general.prepare_ahead = false;
        assert_eq!(off.unprepared(&[], later), []);
        off.config.general.prepare_ahead = true;
        std::fs::write(&image, "other content").unwrap();
        assert_ne!(off.unprepared(&there, later), due);
        assert_eq!(off.unprepared(&there, later).len(), 1);
    }

    #[test]
    fn a_disk_is_of_use_as_long_as_its_file_is_there_and_a_saved_images_for_a_day() {
        let (_dir, host, [image, saved]) = host();
        let tag: ImageTag = "tiny".parse().unwrap();
        let settings = host.config.image(&tag).unwrap();
        let name = SavedImage::from_stem("alice_base").unwrap();
        let key = |file: &Path, saved: Option<&SavedImage>| {
            Source { tag: &tag, settings: &settings, saved }.key(&std::fs::metadata(file).unwrap())
        };
        let (image_key, saved_key) = (key(&image, None), key(&saved, Some(&name)));
        let is_of_use = |kept: &Kept| host.usage().is_of_use(kept);
        assert!(is_of_use(&kept(&image_key, 0)) && is_of_use(&kept(&image_key, 2 * DAY)));
        assert!(is_of_use(&Kept { made: None, ..kept(&image_key, 0) }));
        for (age, may) in [(0, true), (DAY - 60, true), (DAY, false), (2 * DAY, false), (-60, false)] {
            assert_eq!(is_of_use(&kept(&saved_key, age)), may, "{age} s");
        }
        assert!(!is_of_use(&Kept { made: None, ..kept(&saved_key, 0) }));
        // Of an image that is not configured any more.
        for gone in ["gone.0123456789abcdef", "gone.0123456789abcdef.saved"] {
            assert!(!is_of_use(&kept(&gone.parse().unwrap(), 0)));
        }
        // A link to the file is not the file.
        let elsewhere = image.with_file_name("elsewhere");
        std::fs::create_dir(&elsewhere).unwrap();
        std::fs::rename(&saved, elsewhere.join("x")).unwrap();
        let moved = key(&elsewhere.join("x"), Some(&name));
        std::os::unix::fs::symlink(elsewhere.join("x"), &saved).unwrap();
        assert!(!is_of_use(&kept(&saved_key, 0)) && !is_of_use(&kept(&moved, 0)));
        std::fs::write(&image, "another").unwrap();
        assert!(!is_of_use(&kept(&image_key, 0)));
        // Not knowing is no reason to remove a disk.
        std::fs::rename(image.parent().unwrap(), image.parent().unwrap().with_file_name("x")).unwrap();
        assert!(is_of_use(&kept(&saved_key, 0)) && !is_of_use(&kept(&image_key, 0)));
    }

    #[test]
    fn what_is_about_to_be_prepared_anew_is_not_swept_when_it_is_listed() {
        if !nix::unistd::geteuid().is_root() {
            println!("only root has files of root: not tried here");
            return;
        }
        let (_dir, host, [image, saved]) = host();
        let tag: ImageTag = "tiny".parse().unwrap();
        let settings = host.config.image(&tag).unwrap();
        let old = [kept(&"tiny.0123456789abcdef".parse().unwrap(), 0)];
        let unprepared = |there: &[Kept]| host.unprepared(there, SystemTime::now());
        // It has just been changed, so it is not about to be prepared.
        assert!(unprepared(&[]).is_empty());
        assert!(host.sweep_listed(&old));
        std::thread::sleep(Duration::from_secs(4));
        let facts = |file: &Path| std::fs::metadata(file).unwrap();
        let source = Source { tag: &tag, settings: &settings, saved: None };
        let due = source.key(&facts(&image));
        assert_eq!(unprepared(&old), std::slice::from_ref(&due));
        assert!(!host.sweep_listed(&old));
        let both = [&old[..], &[kept(&due, 0)]].concat();
        assert!(unprepared(&both).is_empty() && host.sweep_listed(&both));
        let saved = Key::of_saved(&tag, &facts(&saved), &settings.make_filesystem);
        assert!(!host.sweep_listed(&[kept(&saved, 0)]) && host.sweep_listed(&[kept(&saved, DAY)]));
        assert!(!host.sweep_listed(&[]));
    }
}
