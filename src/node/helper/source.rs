//! What a prepared disk is made from: the file of an image, or of a saved image, which the worker has
//! opened and gives as standard input.
//!
//! The helper opens no file of `imageDirectory` itself: in a folder of the web server's user, its name
//! could lead to a file that only root may read.

use std::fmt;
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::failure::Failure;
use crate::config::ImageSettings;
use crate::model::names::{ImageTag, SavedImage};
use crate::model::spec::Original;
use crate::node::storage::prepared::Key;

/// How long a file must not have been changed when it is opened: after a change at the same tick of
/// the clock, its facts could be the same. The coarsest clocks of file systems tick every second or
/// two.
pub(super) const UNCHANGED: Duration = Duration::from_secs(3);

/// An image, or a saved image that is based on it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) tag: &'a ImageTag,
    pub(super) settings: &'a ImageSettings,
    pub(super) saved: Option<&'a SavedImage>,
}

impl fmt::Display for Source<'_> {
    /// As the log names it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.saved {
            Some(saved) => saved.fmt(f),
            None => self.tag.fmt(f),
        }
    }
}

impl<'a> Source<'a> {
    /// Returns what a machine of that image may be cloned from; `None` if that is nothing. A whole disk
    /// brings its own file systems, and is not prepared.
    pub(super) fn of(original: Original<'a>, tag: &'a ImageTag, settings: &'a ImageSettings) -> Option<Self> {
        let saved = match original {
            Original::Nothing => return None,
            Original::Image => None,
            Original::Saved(saved) => Some(saved),
        };
        settings.disk.is_none().then_some(Self { tag, settings, saved })
    }

    /// Returns the name by which faults refer to it.
    pub(super) fn named(&self) -> ImageTag {
        let saved = self.saved.and_then(SavedImage::as_tag);
        saved.unwrap_or_else(|| self.tag.clone())
    }

    /// Returns the key of a disk that is made from a file with these facts.
    pub(super) fn key(&self, facts: &Metadata) -> Key {
        let (tag, settings) = (self.tag, self.settings);
        match self.saved {
            Some(_) => Key::of_saved(tag, facts, &settings.make_filesystem),
            None => Key::of_image(tag, &settings.file, facts, &settings.make_filesystem),
        }
    }

    /// Returns the facts of the file that it is now, which is standard input if it is a saved image.
    pub(super) fn facts(&self) -> Result<Metadata, Failure> {
        match self.saved {
            Some(_) => Ok(Given::take()?.facts),
            None => self.image_facts(),
        }
    }

    fn image_facts(&self) -> Result<Metadata, Failure> {
        let file = &self.settings.file;
        std::fs::metadata(file).map_err(|error| Failure::internal(format!("{}: {error}", file.display())))
    }

    /// Returns whether only those can change a file who may decide what is in the disk. A saved image is
    /// the web server's user's, who can replace it as well.
    pub(super) fn is_safe(&self, facts: &Metadata) -> bool {
        self.saved.is_some() || is_roots(facts)
    }
}

/// The file that the worker has opened.
pub(super) struct Given {
    pub(super) file: File,
    /// Its facts before it is read.
    pub(super) facts: Metadata,
}

impl Given {
    /// Takes it from standard input.
    pub(super) fn take() -> Result<Self, Failure> {
        let file =
            io::stdin().as_fd().try_clone_to_owned().map(File::from).map_err(|error| unreadable(&error))?;
        let facts = file.metadata().map_err(|error| unreadable(&error))?;
        if facts.is_file() {
            return Ok(Self { file, facts });
        }
        Err(Failure::internal("standard input is not a file: does sudo log or replace it?"))
    }

    /// Returns its facts by now.
    pub(super) fn facts_now(&self) -> Result<Metadata, Failure> {
        self.file.metadata().map_err(|error| unreadable(&error))
    }
}

pub(super) fn unreadable(error: &io::Error) -> Failure {
    Failure::internal(format!("standard input: {error}"))
}

/// A file that a disk is made from, as it was opened.
pub(super) struct Opened<'a> {
    pub(super) source: Source<'a>,
    pub(super) key: Key,
    /// Whether it is safe, and any change from then on makes another key.
    is_reliable: bool,
}

impl<'a> Opened<'a> {
    /// Takes the facts of an open file, before it is read.
    pub(super) fn new(source: Source<'a>, facts: &Metadata) -> Self {
        let is_reliable = source.is_safe(facts) && is_settled(facts, SystemTime::now());
        Self { source, key: source.key(facts), is_reliable }
    }

    /// Checks that what has been read is what the source is, now that these are the facts of the file that
    /// is open. A saved image is what was opened, and an image what has its name.
    pub(super) fn must_be_source(&self, read: &Metadata) -> Result<(), Failure> {
        let is_it = |facts: &Metadata| self.source.key(facts) == self.key;
        if self.source.saved.is_some() {
            let why = "its file has just been changed";
            return if self.is_reliable && is_it(read) { Ok(()) } else { Err(Failure::internal(why)) };
        }
        if self.is_reliable && is_it(read) && is_it(&self.source.image_facts()?) {
            return Ok(());
        }
        let file = self.source.settings.file.display();
        let why = "has just been changed, or others than root can change it";
        Err(Failure::internal(format!("{file} {why}")))
    }
}

/// Returns whether only root can change what is in a file.
fn is_roots(facts: &Metadata) -> bool {
    facts.is_file() && facts.uid() == 0 && facts.mode() & 0o022 == 0
}

pub(super) fn is_settled(facts: &Metadata, now: SystemTime) -> bool {
    let changed = u64::try_from(facts.ctime()).map(|seconds| UNIX_EPOCH + Duration::from_secs(seconds));
    // A file from the future is not settled either.
    changed.is_ok_and(|changed| now.duration_since(changed).is_ok_and(|age| age >= UNCHANGED))
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::model::size::MiB;

    pub(crate) fn settings(file: PathBuf, command: &str) -> ImageSettings {
        ImageSettings {
            file,
            template: PathBuf::new(),
            swap: "16".parse::<MiB>().unwrap(),
            vm_type: crate::config::VmType::Kvm,
            disk: None,
            make_filesystem: command.split(' ').map(str::to_owned).collect(),
        }
    }

    fn facts(file: &Path) -> Metadata {
        std::fs::metadata(file).unwrap()
    }

    /// As if the file had been left alone for a while.
    fn opened<'a>(source: Source<'a>, facts: &Metadata) -> Opened<'a> {
        let is_reliable = source.is_safe(facts) && is_settled(facts, SystemTime::now() + UNCHANGED);
        Opened { source, key: source.key(facts), is_reliable }
    }

    /// Changes a file in place, even with its old time.
    fn overwrite(file: &Path, text: &str) {
        let before = facts(file);
        std::thread::sleep(Duration::from_millis(20));
        std::fs::write(file, text).unwrap();
        let file = File::options().write(true).open(file).unwrap();
        file.set_modified(before.modified().unwrap()).unwrap();
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
        let source = Source { tag: &tag, settings: &image, saved: None };
        std::fs::write(&image.file, "content").unwrap();
        let facts = || facts(&image.file);
        let is_image = |opened: &Opened<'_>, read: &Metadata| opened.must_be_source(read).is_ok();
        let before = facts();
        assert!(is_image(&opened(source, &before), &facts()));
        // The same clock's tick could hide another change.
        assert!(!is_image(&Opened::new(source, &before), &facts()));
        assert!(!is_settled(&before, SystemTime::now() - Duration::from_secs(60)), "from the future");
        let file = opened(source, &before);
        overwrite(&image.file, "CONTENT");
        assert!(!is_image(&file, &facts()));
        // Replaced while it is read: what was read is whole, but no longer the image.
        let (file, read) = (opened(source, &facts()), File::open(&image.file).unwrap());
        std::fs::remove_file(&image.file).unwrap();
        std::fs::write(&image.file, "another").unwrap();
        assert!(!is_image(&file, &read.metadata().unwrap()));
        assert!(is_image(&opened(source, &facts()), &facts()));
        for mode in [0o664, 0o646] {
            set_permissions(&image.file, Permissions::from_mode(mode)).unwrap();
            assert!(!is_image(&opened(source, &facts()), &facts()), "{mode:o}");
        }
        set_permissions(&image.file, Permissions::from_mode(0o644)).unwrap();
        std::os::unix::fs::chown(&image.file, Some(33), None).unwrap();
        assert!(!is_image(&opened(source, &facts()), &facts()));
        std::fs::remove_file(&image.file).unwrap();
        assert!(opened(source, &before).must_be_source(&before).is_err());
    }

    #[test]
    fn a_saved_image_may_be_anybodys_and_is_what_was_opened() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("alice_base.tar.gz");
        // That of the image it is based on does not matter.
        let image = settings(dir.path().join("tiny.tar"), "/sbin/mkfs.ext4 -q");
        let (tag, saved) = ("tiny".parse().unwrap(), SavedImage::from_stem("alice_base").unwrap());
        let source = Source { tag: &tag, settings: &image, saved: Some(&saved) };
        assert_eq!((source.to_string(), source.named().to_string()), ("alice/base".into(), "base".into()));
        std::fs::write(&path, "content").unwrap();
        let file = File::open(&path).unwrap();
        let now = || file.metadata().unwrap();
        let is_it = |opened: &Opened<'_>| opened.must_be_source(&now()).is_ok();
        assert!(is_it(&opened(source, &now())));
        assert!(!is_it(&Opened::new(source, &now())), "it has just been written");
        let before = opened(source, &now());
        overwrite(&path, "CONTENT");
        assert!(!is_it(&before));
        // Deleted or renamed while it is read: nobody would be given the disk.
        for (what, change) in [
            ("renamed", &(|| std::fs::rename(&path, dir.path().join("alice_new.tar.gz"))) as &dyn Fn() -> _),
            ("deleted", &|| std::fs::remove_file(dir.path().join("alice_new.tar.gz"))),
        ] {
            let before = opened(source, &now());
            assert!(is_it(&before));
            std::thread::sleep(Duration::from_millis(20));
            change().unwrap();
            assert!(!is_it(&before), "{what}");
        }
    }

    #[test]
    fn whole_disks_and_snapshots_are_no_clones() {
        let (tag, saved) = ("tiny".parse().unwrap(), SavedImage::from_stem("alice_base").unwrap());
        let tree = settings(PathBuf::new(), "mkfs");
        let disk = ImageSettings { disk: Some(crate::config::DiskFormat::Raw), ..tree.clone() };
        for original in [Original::Image, Original::Saved(&saved)] {
            assert!(Source::of(original, &tag, &tree).is_some());
            assert!(Source::of(original, &tag, &disk).is_none());
        }
        assert!(Source::of(Original::Nothing, &tag, &tree).is_none());
    }
}
