//! Saved images: the files `user_name.tar.gz` (or `.tar.zst`) in `imageDirectory`, or, of machines of
//! whole-disk images, `user_name.raw.gz` (or `.raw.zst`). They belong to the web server's user. A file listed in `[VMImageFiles]` belongs to the administrator and never
//! counts as a saved image, whatever its name.
//!
//! An image is written under a name that begins with a dot. Once complete, it gets its final name,
//! never replacing another file. It is locked while being written (see [`lock`]), so a free lock
//! marks a leftover of a killed worker.

use std::fs::{File, Metadata, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, FallocateFlags, RenameFlags, fallocate, renameat2};
use nix::sys::statvfs::statvfs;
use serde::{Deserialize, Serialize};
use strum::VariantArray;
use thiserror::Error;

use crate::config::{self, Compression, DiskFormat, ImageSettings, Share};
use crate::model::fault::Fault;
use crate::model::names::{ImageName, ImageTag, SavedImage};
use crate::model::wire::{DeployOrder, SavedFile};
use crate::system::lock;
use crate::system::log::{self, Level};

/// The number of bytes that images leave free on their file system at least, even a small one: it
/// may also contain the node's records and the registry.
const KEPT_FREE: u64 = 64 << 20;

/// The number of bytes written between two checks of the free space.
const LOOK: u64 = 8 << 20;

/// Opens the image for a deploy, and returns it with its size in bytes: the saved image that the
/// order names, or otherwise the file for its tag.
///
/// # Errors
/// The fault, and a message for the log.
pub fn source(
    config: &config::Node,
    order: &DeployOrder,
    settings: &ImageSettings,
) -> Result<(File, u64), (Fault, String)> {
    match &order.spec.saved {
        Some(saved) => Store::new(config).open(saved).map_err(|error| {
            (Fault::SavedImageMissing { name: saved.name.clone() }, format!("{}: {error}", saved.stem()))
        }),
        None => super::open(&settings.file).map_err(|error| {
            (
                Fault::ImageMissing { tag: order.spec.image.clone() },
                format!("{}: {error}", settings.file.display()),
            )
        }),
    }
}

/// Returns the name by which faults of a deploy refer to its image: that of the saved image, if it is
/// one.
pub fn named(order: &DeployOrder) -> ImageTag {
    let saved = order.spec.saved.as_ref().and_then(SavedImage::as_tag);
    saved.unwrap_or_else(|| order.spec.image.clone())
}

/// Opens the image for a deploy of a whole disk, as [`source`] does, and returns it with its format.
///
/// # Errors
/// The fault, and a message for the log.
pub fn disk_source(
    config: &config::Node,
    order: &DeployOrder,
    settings: &ImageSettings,
) -> Result<(File, DiskFormat), (Fault, String)> {
    let (file, _) = source(config, order, settings)?;
    // A disk is saved as it is.
    let format = if order.spec.saved.is_some() { Some(DiskFormat::Raw) } else { settings.disk };
    format.map(|format| (file, format)).ok_or_else(|| {
        let tag = named(order);
        (Fault::ImageMissing { tag: tag.clone() }, format!("{tag} is no whole disk"))
    })
}

/// What is in an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, VariantArray)]
pub enum Content {
    /// The tree of a file system.
    Tree,
    /// A whole disk.
    Disk,
}

impl Content {
    /// Returns what is in an image with these settings, and on the disks of its machines.
    pub fn of(settings: &ImageSettings) -> Self {
        if settings.disk.is_some() { Self::Disk } else { Self::Tree }
    }

    /// Returns the file name extension of a saved image.
    fn ending(self, compression: Compression) -> &'static str {
        match (self, compression) {
            (Self::Tree, compression) => compression.ending(),
            (Self::Disk, Compression::Gzip) => ".raw.gz",
            (Self::Disk, Compression::Zstd) => ".raw.zst",
        }
    }
}

/// Lists the file name extensions that saved images may have.
fn endings() -> impl Iterator<Item = &'static str> {
    let both = |compression: &Compression| {
        Content::VARIANTS.iter().map(|content| content.ending(*compression)).collect::<Vec<_>>()
    };
    Compression::ALL.iter().flat_map(both)
}

/// Identifies the file of an image that has been written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packed {
    /// The inode number.
    pub inode: u64,
    /// The size, in bytes.
    pub bytes: u64,
}

impl From<&Metadata> for Packed {
    fn from(facts: &Metadata) -> Self {
        Self { inode: facts.ino(), bytes: facts.len() }
    }
}

/// Why an image could not be renamed.
#[derive(Debug, Error)]
pub enum RenameError {
    /// There is already an image with the new name.
    #[error("there is an image of that name")]
    Taken,
    /// There is no image with either the old or the new name.
    #[error("there is no such image")]
    Missing,
    /// Any other error.
    #[error(transparent)]
    File(#[from] io::Error),
}

/// All saved images of this host.
#[derive(Debug, Clone)]
pub struct Store {
    dir: PathBuf,
    compression: Compression,
    /// The administrator's image files.
    configured: Vec<PathBuf>,
    /// The space that images leave free: this number of bytes, and this share of the file system.
    kept_free: u64,
    reserve: Share,
}

/// Returns whether a file name without its extension could be that of a saved image; see
/// [`SavedImage::stem`].
fn is_stem(text: &str) -> bool {
    text.rsplit_once('_').is_some_and(|(owner, name)| {
        !owner.is_empty() && !owner.starts_with('.') && name.parse::<ImageName>().is_ok()
    })
}

/// Returns the stem of a file name, if it has one and a known extension.
fn stem_in(name: &str) -> Option<&str> {
    endings().find_map(|ending| name.strip_suffix(ending)).filter(|stem| is_stem(stem))
}

/// Renames a file, unless the new name exists.
fn move_to(from: &Path, to: &Path) -> io::Result<()> {
    match renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE) {
        Ok(()) => Ok(()),
        // Not supported by every file system, such as NFS.
        Err(Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => link_to(from, to),
        Err(error) => Err(error.into()),
    }
}

/// Does the same in two steps.
fn link_to(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::hard_link(from, to)?;
    std::fs::remove_file(from)
}

fn is_same_file(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// Returns a file's metadata; `None` if it does not exist.
fn facts(path: &Path) -> io::Result<Option<Metadata>> {
    match std::fs::symlink_metadata(path) {
        Ok(facts) => Ok(Some(facts)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

impl Store {
    /// Creates the store described by the configuration.
    pub fn new(config: &config::Node) -> Self {
        Self {
            dir: config.general.image_directory.clone(),
            compression: config.general.saved_images,
            configured: config.image_files().collect(),
            kept_free: KEPT_FREE,
            reserve: config.general.image_directory_reserve,
        }
    }

    fn path(&self, image: &SavedImage, ending: &str) -> PathBuf {
        self.dir.join(format!("{}{ending}", image.stem()))
    }

    fn is_configured(&self, path: &Path, here: &Metadata) -> bool {
        self.configured.iter().any(|file| {
            file == path || std::fs::metadata(file).is_ok_and(|configured| is_same_file(&configured, here))
        })
    }

    /// Returns whether a file is a saved image, as far as that is known without reading it.
    fn is_image(&self, path: &Path, facts: &Metadata) -> bool {
        facts.is_file() && facts.len() > 0 && !self.is_configured(path, facts)
    }

    /// Returns the image's file and its extension.
    fn find(&self, image: &SavedImage) -> io::Result<Option<(PathBuf, &'static str)>> {
        for ending in endings() {
            let path = self.path(image, ending);
            if facts(&path)?.is_some_and(|facts| self.is_image(&path, &facts)) {
                return Ok(Some((path, ending)));
            }
        }
        Ok(None)
    }

    /// Returns whether a file with that name exists, whether or not it is a saved image.
    pub fn is_taken(&self, image: &SavedImage) -> io::Result<bool> {
        for ending in endings() {
            if facts(&self.path(image, ending))?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Opens an image file, and returns it with its size in bytes.
    pub fn open(&self, image: &SavedImage) -> io::Result<(File, u64)> {
        match self.find(image)? {
            Some((path, _)) => super::open(&path),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Returns whether the image exists and is this very file.
    pub fn has(&self, image: &SavedImage, packed: Packed) -> io::Result<bool> {
        match self.find(image)? {
            Some((path, _)) => Ok(facts(&path)?.is_some_and(|facts| Packed::from(&facts) == packed)),
            None => Ok(false),
        }
    }

    /// Lists all images by name.
    pub fn list(&self) -> io::Result<Vec<SavedFile>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if let Some(stem) = stem_in(name)
                && let Some(facts) = facts(&path)?
                && self.is_image(&path, &facts)
            {
                found.push(SavedFile { stem: stem.to_owned(), bytes: facts.len() });
            }
        }
        found.sort_by(|one, other| one.stem.cmp(&other.stem));
        Ok(found)
    }

    /// Removes an image. Idempotent. A worker that is unpacking it keeps reading the file that it
    /// has opened.
    pub fn delete(&self, image: &SavedImage) -> io::Result<()> {
        while let Some((path, _)) = self.find(image)? {
            std::fs::remove_file(&path)?;
        }
        self.sync()
    }

    /// Renames an image. It is no error if it has already been renamed, but it is one if the new
    /// name belongs to another image.
    pub fn rename(&self, image: &SavedImage, renamed: &SavedImage) -> Result<(), RenameError> {
        let Some((from, ending)) = self.find(image)? else {
            return if self.find(renamed)?.is_some() { Ok(()) } else { Err(RenameError::Missing) };
        };
        let to = self.path(renamed, ending);
        if from == to {
            return Ok(());
        }
        let half_done = match (facts(&from)?, facts(&to)?) {
            (Some(from), Some(to)) => is_same_file(&from, &to),
            _ => false,
        };
        if half_done {
            std::fs::remove_file(&from)?;
        } else if self.is_taken(renamed)? {
            return Err(RenameError::Taken);
        } else {
            move_to(&from, &to).map_err(|error| match error.kind() {
                io::ErrorKind::AlreadyExists => RenameError::Taken,
                _ => error.into(),
            })?;
        }
        Ok(self.sync()?)
    }

    /// Returns how many bytes images may still occupy.
    fn room(&self) -> io::Result<u64> {
        let facts = statvfs(&self.dir)?;
        let bytes = |blocks: u64| blocks.saturating_mul(facts.fragment_size());
        let kept = self.reserve.of(bytes(facts.blocks())).max(self.kept_free);
        Ok(bytes(facts.blocks_available()).saturating_sub(kept))
    }

    /// Begins an image; returns `None` while another process is writing one with that name.
    pub fn draft(&self, image: &SavedImage, content: Content) -> io::Result<Option<Draft>> {
        let ending = content.ending(self.compression);
        let target = self.path(image, ending);
        let name = format!(".{}{ending}{UNFINISHED}", image.stem());
        let path = self.dir.join(name);
        let Some(file) = lock::try_take(&path)? else { return Ok(None) };
        let draft = Draft {
            store: self.clone(),
            image: image.clone(),
            file,
            path,
            target,
            written: 0,
            reserved: 0,
            unlooked: 0,
            is_published: false,
        };
        // A killed process may have left something in it.
        draft.file.set_len(0)?;
        draft.file.set_permissions(Permissions::from_mode(0o640))?;
        Ok(Some(draft))
    }

    /// Removes the unfinished images that killed workers left behind. Never fails, because every
    /// request begins with it; errors are logged.
    pub fn sweep(&self) {
        if let Err(error) = self.try_sweep() {
            log::event(Level::Error, "images.not-swept", &[("file", &self.dir.display()), ("why", &error)]);
        }
    }

    fn try_sweep(&self) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let is_ours = name
                .strip_prefix('.')
                .and_then(|name| name.strip_suffix(UNFINISHED))
                .is_some_and(|name| stem_in(name).is_some());
            if is_ours
                && facts(&path)?.is_some_and(|facts| facts.is_file())
                && let Some(_held) = lock::try_take(&path)?
            {
                std::fs::remove_file(&path)?;
                log::event(Level::Warning, "image.discarded", &[("file", &path.display())]);
            }
        }
        Ok(())
    }

    /// Syncs the directory. Otherwise the old name could reappear after a power failure.
    fn sync(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }
}

/// The extension of an unfinished image.
const UNFINISHED: &str = ".new";

/// An image being written; removed when dropped, unless it has been published.
#[derive(Debug)]
pub struct Draft {
    store: Store,
    image: SavedImage,
    file: File,
    path: PathBuf,
    target: PathBuf,
    /// The number of bytes written.
    written: u64,
    /// The number of bytes reserved on the file system.
    reserved: u64,
    /// The number of bytes written since the last check of the free space.
    unlooked: u64,
    is_published: bool,
}

impl Draft {
    /// Reserves space for an image of that size, so that nothing else written in the meantime can
    /// take it. Returns [`io::ErrorKind::StorageFull`] if there is not enough. The caller holds the
    /// node's lock, so that two images don't count on the same space.
    pub fn reserve(&mut self, bytes: u64) -> io::Result<()> {
        if self.store.room()? < bytes {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let length = i64::try_from(bytes).map_err(|_| io::ErrorKind::StorageFull)?;
        match fallocate(&self.file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, length.max(1)) {
            Ok(()) => self.reserved = bytes,
            // Not supported by every file system, such as NFS. Each write also checks the free
            // space.
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Frees the space that was reserved and not used, and syncs the content.
    pub fn seal(&self) -> io::Result<Packed> {
        // This does not change the size, but frees the blocks beyond it.
        self.file.set_len(self.written)?;
        self.file.sync_all()?;
        Ok(Packed::from(&self.file.metadata()?))
    }

    /// Gives the image its final name. Returns [`io::ErrorKind::AlreadyExists`] if that name is
    /// taken.
    pub fn publish(mut self) -> io::Result<()> {
        if self.store.is_taken(&self.image)? {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        move_to(&self.path, &self.target)?;
        self.is_published = true;
        self.store.sync()
    }
}

impl Write for Draft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let is_reserved = self.written + bytes.len() as u64 <= self.reserved;
        if !is_reserved && (self.unlooked == 0 || self.unlooked >= LOOK) {
            if self.store.room()? < bytes.len() as u64 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.unlooked = 0;
        }
        let n = self.file.write(bytes)?;
        self.written += n as u64;
        if !is_reserved {
            self.unlooked += n as u64;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.is_published
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            log::event(
                Level::Error,
                "image.not-discarded",
                &[("file", &self.path.display()), ("why", &error)],
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(owner: &str, name: &str) -> SavedImage {
        SavedImage { owner: owner.parse().unwrap(), name: name.parse().unwrap() }
    }

    /// Creates a store in a directory that contains the administrator's `alice_theirs.tar.gz` and
    /// `tiny.tar.gz`.
    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let configured = ["alice_theirs.tar.gz", "tiny.tar.gz"].map(|name| dir.path().join(name)).to_vec();
        for file in &configured {
            std::fs::write(file, "theirs").unwrap();
        }
        let dir_path = dir.path().to_owned();
        let reserve = Share::default();
        (dir, Store { dir: dir_path, compression: Compression::Gzip, configured, kept_free: 0, reserve })
    }

    fn names(store: &Store) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(&store.dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !["alice_theirs.tar.gz", "tiny.tar.gz"].contains(&name.as_str()))
            .collect();
        names.sort();
        names
    }

    fn save(store: &Store, image: &SavedImage, text: &str) -> Packed {
        let mut draft = store.draft(image, Content::Tree).unwrap().unwrap();
        draft.write_all(text.as_bytes()).unwrap();
        let packed = draft.seal().unwrap();
        draft.publish().unwrap();
        packed
    }

    #[test]
    fn only_names_of_saved_images_have_a_stem() {
        assert_eq!(stem_in("alice_base.tar.gz"), Some("alice_base"));
        assert_eq!(stem_in("j+c3+bc_x_1.tar.zst"), Some("j+c3+bc_x_1"));
        assert_eq!(stem_in("alice_a.b-c.tar.gz"), Some("alice_a.b-c"));
        assert_eq!(stem_in("alice_disk.raw.gz"), Some("alice_disk"));
        assert_eq!(stem_in("alice_disk.raw.zst"), Some("alice_disk"));
        for name in [
            "tiny.tar.gz",
            "_x.tar.gz",
            "alice_.tar.gz",
            "alice_X.tar.gz",
            "alice_base.tar",
            "alice_base",
            ".alice_base.tar.gz",
            ".alice_base.tar.gz.new",
        ] {
            assert_eq!(stem_in(name), None, "{name}");
        }
    }

    #[test]
    fn an_image_appears_when_complete_and_replaces_nothing() {
        let (_dir, store) = store();
        let base = image("alice", "base");
        let mut draft = store.draft(&base, Content::Tree).unwrap().unwrap();
        draft.write_all(b"half").unwrap();
        assert_eq!(names(&store), [".alice_base.tar.gz.new"]);
        assert!(store.draft(&base, Content::Tree).unwrap().is_none(), "it is being written");
        store.sweep();
        assert_eq!(names(&store), [".alice_base.tar.gz.new"], "and it is not swept");
        assert!(!store.is_taken(&base).unwrap());
        drop(draft);
        assert_eq!(names(&store), [""; 0]);

        let packed = save(&store, &base, "first");
        assert_eq!((names(&store), packed.bytes), (vec!["alice_base.tar.gz".to_owned()], 5));
        assert!(store.has(&base, packed).unwrap());
        let mode = std::fs::metadata(store.path(&base, ".tar.gz")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        // Neither one that was begun before, nor one with another extension.
        for &compression in Compression::ALL {
            let store = Store { compression, ..store.clone() };
            let mut draft = store.draft(&base, Content::Tree).unwrap().unwrap();
            draft.write_all(b"second").unwrap();
            assert_ne!(draft.seal().unwrap(), packed);
            assert_eq!(draft.publish().unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        }
        assert_eq!(names(&store), ["alice_base.tar.gz"]);
        assert_eq!(std::fs::read(store.path(&base, ".tar.gz")).unwrap(), b"first");
        assert!(store.has(&base, packed).unwrap());
    }

    #[test]
    fn the_fallback_for_renaming_replaces_nothing_either() {
        let dir = tempfile::tempdir().unwrap();
        let [one, other] = ["one", "other"].map(|name| dir.path().join(name));
        std::fs::write(&one, "1").unwrap();
        std::fs::write(&other, "2").unwrap();
        for way in [move_to, link_to] {
            assert_eq!(way(&one, &other).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
            assert_eq!(std::fs::read(&other).unwrap(), b"2");
            let new = dir.path().join("new");
            way(&one, &new).unwrap();
            assert!(!one.exists());
            std::fs::rename(&new, &one).unwrap();
        }
    }

    #[test]
    fn some_space_is_left_free() {
        let (_dir, store) = store();
        let store = Store { kept_free: u64::MAX, ..store };
        let mut draft = store.draft(&image("alice", "base"), Content::Tree).unwrap().unwrap();
        assert_eq!(draft.write_all(b"x").unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(draft.reserve(1).unwrap_err().kind(), io::ErrorKind::StorageFull);
        drop(draft);
        assert_eq!(names(&store), [""; 0]);
    }

    #[test]
    fn space_is_reserved_before_an_image_is_written_and_given_back() {
        let (_dir, store) = store();
        let (one, other) = (image("alice", "one"), image("bob", "other"));
        let taken = |draft: &Draft| draft.file.metadata().unwrap().blocks() * 512;
        let mut draft = store.draft(&one, Content::Tree).unwrap().unwrap();
        let size = 8 << 20;
        draft.reserve(size).unwrap();
        assert!(taken(&draft) >= size, "{}", taken(&draft));
        assert_eq!(
            draft.file.metadata().unwrap().len(),
            0,
            "an unfinished image is as long as what was written"
        );
        // Reserved space can be written even when nothing else is left.
        let full = Store { kept_free: u64::MAX, ..store.clone() };
        draft.store = full.clone();
        draft.write_all(&vec![1; 1 << 20]).unwrap();
        assert_eq!(
            full.draft(&other, Content::Tree).unwrap().unwrap().reserve(1).unwrap_err().kind(),
            io::ErrorKind::StorageFull
        );
        draft.write_all(&vec![1; 7 << 20]).unwrap();
        assert_eq!(draft.write_all(b"x").unwrap_err().kind(), io::ErrorKind::StorageFull);
        drop(draft);

        let mut draft = store.draft(&one, Content::Tree).unwrap().unwrap();
        draft.reserve(size).unwrap();
        draft.write_all(b"short").unwrap();
        assert_eq!(draft.seal().unwrap().bytes, 5);
        assert!(taken(&draft) < 1 << 20, "{}", taken(&draft));
        // More space than exists.
        let error = store.draft(&other, Content::Tree).unwrap().unwrap().reserve(u64::MAX >> 2).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn only_leftovers_of_killed_workers_are_swept() {
        let (_dir, store) = store();
        for name in [".alice_base.tar.gz.new", ".alice_x.tar.zst.new", ".note.new", "alice_y.tar.gz.new"] {
            std::fs::write(store.dir.join(name), "x").unwrap();
        }
        std::os::unix::fs::symlink("/etc/passwd", store.dir.join(".alice_z.tar.gz.new")).unwrap();
        store.sweep();
        assert_eq!(names(&store), [".alice_z.tar.gz.new", ".note.new", "alice_y.tar.gz.new"]);
    }

    #[test]
    fn only_saved_images_are_listed() {
        let (_dir, store) = store();
        save(&store, &image("bob", "b"), "12");
        save(&Store { compression: Compression::Zstd, ..store.clone() }, &image("alice", "a"), "123");
        std::fs::write(store.dir.join("alice_empty.tar.gz"), "").unwrap();
        std::fs::write(store.dir.join("other.tar.gz"), "x").unwrap();
        std::fs::create_dir(store.dir.join("alice_folder.tar.gz")).unwrap();
        // The administrator's files under other names.
        std::os::unix::fs::symlink("tiny.tar.gz", store.dir.join("alice_link.tar.gz")).unwrap();
        std::fs::hard_link(store.dir.join("tiny.tar.gz"), store.dir.join("alice_hard.tar.gz")).unwrap();
        let file = |stem: &str, bytes| SavedFile { stem: stem.to_owned(), bytes };
        assert_eq!(store.list().unwrap(), [file("alice_a", 3), file("bob_b", 2)]);
    }

    #[test]
    fn the_administrator_s_files_are_never_touched() {
        let (_dir, store) = store();
        let theirs = image("alice", "theirs");
        store.delete(&theirs).unwrap();
        assert!(matches!(store.rename(&theirs, &image("alice", "mine")), Err(RenameError::Missing)));
        assert!(store.is_taken(&theirs).unwrap());
        assert!(store.open(&theirs).is_err());
        save(&store, &image("alice", "mine"), "x");
        assert!(matches!(store.rename(&image("alice", "mine"), &theirs), Err(RenameError::Taken)));
        assert_eq!(std::fs::read(store.dir.join("alice_theirs.tar.gz")).unwrap(), b"theirs");
    }

    #[test]
    fn renaming_and_deleting_can_be_repeated() {
        let (_dir, store) = store();
        let (one, other, third) = (image("alice", "one"), image("alice", "other"), image("alice", "third"));
        assert!(matches!(store.rename(&one, &other), Err(RenameError::Missing)));
        let packed = save(&Store { compression: Compression::Zstd, ..store.clone() }, &one, "1");
        store.rename(&one, &one).unwrap();
        for _ in 0..2 {
            store.rename(&one, &other).unwrap();
            assert_eq!(names(&store), ["alice_other.tar.zst"]);
        }
        assert!(store.has(&other, packed).unwrap());
        save(&store, &third, "3");
        assert!(matches!(store.rename(&other, &third), Err(RenameError::Taken)));
        // Interrupted between the two steps of link_to.
        std::fs::hard_link(store.dir.join("alice_other.tar.zst"), store.dir.join("alice_fourth.tar.zst"))
            .unwrap();
        store.rename(&other, &image("alice", "fourth")).unwrap();
        assert_eq!(names(&store), ["alice_fourth.tar.zst", "alice_third.tar.gz"]);
        for _ in 0..2 {
            store.delete(&third).unwrap();
        }
        assert_eq!(names(&store), ["alice_fourth.tar.zst"]);
    }
}
