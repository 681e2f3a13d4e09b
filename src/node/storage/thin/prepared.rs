//! Prepared disks in a thin pool: the volumes `vgrid.image.TAG.KEY`, and of saved images
//! `vgrid.saved.TAG.KEY`, read-only and not active.
//!
//! A volume gets that name once it is complete; until then it has another: one if it is a copy of a
//! machine's disk, under the lock of all that makes or removes such disks, and one if it is made from an
//! image's file, which takes minutes, under a lock of the caller's.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use super::{Contents, Row, Thin};
use crate::model::size::Amount;
use crate::node::Machine;
use crate::node::storage::lvm::{HOLDS, TAKEN, UNUSED, tag};
use crate::node::storage::prepared::{Finish, Keeping, Kept, Key, Kind, Prepared};
use crate::node::storage::snapshots::Complete;
use crate::node::storage::{Device, Disk, Storage as _, StorageError};
use crate::system::log::{self, Level};
use crate::system::{clock, lock};

/// The prefixes of prepared disks. No machine's volume begins with one.
const PREFIXES: [(&str, Kind); 2] = [("vgrid.image.", Kind::Image), ("vgrid.saved.", Kind::Saved)];

/// The name of a copy of a machine's disk that is not complete.
const UNFINISHED: &str = "vgrid.unfinished";

/// The name of a disk that is made from an image's file and is not complete.
const AHEAD: &str = "vgrid.ahead";

/// Who holds this lock may make and remove prepared disks. Only root can create files there.
const LOCK: &str = "/run/vgrid-thin.lock";

/// How long it is waited for the lock. Without it, nothing is kept, and the next deploy tries again.
const PATIENCE: Duration = Duration::from_secs(60);

/// Returns the key of a prepared disk with that name.
fn key_of(name: &str) -> Option<Key> {
    PREFIXES.into_iter().find_map(|(prefix, kind)| Key::of(kind, name.strip_prefix(prefix)?))
}

fn name_of(key: &Key) -> String {
    let prefix = PREFIXES.into_iter().find_map(|(prefix, kind)| (kind == key.kind).then_some(prefix));
    format!("{}{}", prefix.unwrap_or_default(), key.stem())
}

/// Returns whether a volume is a prepared disk, or becomes one.
pub(super) fn is_one(name: &str) -> bool {
    name == AHEAD || is_at_rest(name)
}

/// Returns whether a volume is one to which nothing is written any more.
pub(super) fn is_at_rest(name: &str) -> bool {
    name == UNFINISHED || PREFIXES.iter().any(|(prefix, _)| name.starts_with(prefix))
}

/// Lists the prepared disks.
pub(super) fn all(contents: &Contents) -> impl Iterator<Item = Kept> {
    contents.volumes.iter().filter_map(|row| {
        let key = key_of(&row.volume.name)?;
        let holds = row.holds.unwrap_or(row.volume.size);
        Some(Kept { key, size: row.volume.size, holds, made: row.taken })
    })
}

impl Thin<'_> {
    /// Removes those prepared disks.
    fn discard_where(self, contents: &Contents, is_old: impl Fn(&Kept) -> bool) -> Result<(), StorageError> {
        for kept in all(contents).filter(is_old) {
            let name = name_of(&kept.key);
            self.discard(&name)?;
            log::event(Level::Info, "prepared.removed", &[("file", &self.device(&name).display())]);
        }
        Ok(())
    }

    /// Gives a volume that is complete the name of a prepared disk, instead of one that has it.
    fn keep_as(self, unfinished: &str, key: &Key, holds: Amount) -> Result<(), StorageError> {
        let displayed = self.displayed(unfinished);
        self.lvm.run("lvchange", &["-an", &displayed])?;
        let holds = format!("{HOLDS}{}", holds.mib());
        let made = format!("{TAKEN}{}", clock::now().unix());
        self.lvm.run("lvchange", &["-pr", "--addtag", &holds, "--addtag", &made, &displayed])?;
        // A larger one than is needed now.
        self.discard(&name_of(key))?;
        self.lvm.run("lvrename", &[self.group.as_str(), unfinished, &name_of(key)]).map(drop)
    }

    /// Makes a machine's root disk of that size, as a clone. If that fails, there is none.
    fn make_clone(self, machine: &Machine, original: &Row, size: Amount) -> Result<(), StorageError> {
        let root = self.name(machine, Disk::Root);
        self.copy(&root, &original.volume.name, &[&tag(machine.id), UNUSED])?;
        if original.volume.size < size
            && let Err(error) = self.lvm.extend(&root, size)
        {
            self.discard(&root)?;
            return Err(error);
        }
        Ok(())
    }
}

/// Finds the disk with that key, if it is no larger than that.
fn at_most<'a>(contents: &'a Contents, key: &Key, size: Amount) -> Option<&'a Row> {
    contents.find(&name_of(key)).filter(|row| row.volume.size <= size)
}

fn lock_within(limit: Duration) -> Result<Option<File>, StorageError> {
    lock::take_within(Path::new(LOCK), limit).map_err(|error| StorageError::Other(format!("{LOCK}: {error}")))
}

impl Prepared for Thin<'_> {
    /// A machine's disk that was made before the host got its pool is no thin volume.
    fn can_clone(&self, machine: &Machine) -> Result<bool, StorageError> {
        let root = self.name(machine, Disk::Root);
        Ok(self.contents()?.find(&root).is_some_and(|row| row.is_in(self.pool)))
    }

    fn create_with_clone(
        &self,
        machine: &Machine,
        key: &Key,
        disks: &[(Disk, Amount)],
    ) -> Result<bool, StorageError> {
        let contents = self.with_room(disks.iter().map(|(_, size)| *size).sum())?;
        let root = disks.iter().find(|(disk, _)| *disk == Disk::Root);
        let Some(original) = root.and_then(|(_, size)| at_most(&contents, key, *size)) else {
            return Ok(false);
        };
        for (count, (disk, size)) in disks.iter().enumerate() {
            let made = match disk {
                Disk::Root => self.make_clone(machine, original, *size),
                Disk::Swap => self.make_empty(machine, *disk, *size),
            };
            if let Err(error) = made {
                // Only those: what has the name of this one may be somebody else's.
                for (disk, _) in &disks[..count] {
                    self.discard(&self.name(machine, *disk))?;
                }
                return Err(error);
            }
        }
        Ok(true)
    }

    /// The disk is replaced by a snapshot, unless it is one already. If that fails, it is empty.
    fn clone_to(&self, machine: &Machine, key: &Key, most: Amount) -> Result<Option<Amount>, StorageError> {
        let root = self.name(machine, Disk::Root);
        let contents = self.contents()?;
        let Some(original) = at_most(&contents, key, most) else { return Ok(None) };
        let size = original.volume.size;
        if contents.find(&root).is_some_and(|row| row.origin == original.volume.name) {
            return Ok(Some(size));
        }
        self.discard(&root)?;
        if let Err(error) = self.make_clone(machine, original, most) {
            self.make_empty(machine, Disk::Root, most)?;
            return Err(error);
        }
        Ok(Some(size))
    }

    fn keep(&self, machine: &Machine, key: &Key, finish: &Finish<'_>) -> Result<Keeping, StorageError> {
        let Some(_lock) = lock_within(PATIENCE)? else { return Ok(Keeping::Needless) };
        let root = self.name(machine, Disk::Root);
        // It has been filled meanwhile.
        self.look_again();
        let contents = self.contents()?;
        let Some(from) = contents.find(&root).filter(|row| row.is_in(self.pool)) else {
            return Ok(Keeping::Needless);
        };
        if contents.find(&name_of(key)).is_some_and(|there| there.volume.size <= from.volume.size) {
            return Ok(Keeping::Needless);
        }
        // It holds what the machine's disk holds, once the machine has overwritten all of that.
        let holds = from.mapped();
        let there: Vec<_> = all(&contents).collect();
        if !key.may_take(holds, contents.space.free, &there) {
            return Ok(Keeping::TooLarge);
        }
        self.with_room(holds)?;
        // Left by a helper that was killed.
        self.discard(UNFINISHED)?;
        let make = || -> Result<(), StorageError> {
            self.copy(UNFINISHED, &root, &[])?;
            finish(&self.device(UNFINISHED))?;
            self.keep_as(UNFINISHED, key, holds)
        };
        let made = make();
        if made.is_err() {
            self.discard(UNFINISHED)?;
        }
        made?;
        self.discard_where(&contents, |other| other.key.is_older_than(key))?;
        Ok(Keeping::Done)
    }

    fn all(&self) -> Result<Vec<Kept>, StorageError> {
        Ok(all(&self.contents()?).collect())
    }

    fn begin(&self, size: Amount) -> Result<Device, StorageError> {
        self.with_room(size)?;
        self.make(AHEAD, size, &[])?;
        Ok(Device { path: self.device(AHEAD), is_loop: false })
    }

    fn complete(&self, key: &Key, finish: &Finish<'_>) -> Result<(), StorageError> {
        finish(&self.device(AHEAD))?;
        let Some(_lock) = lock_within(PATIENCE)? else {
            return Err(StorageError::Other(format!("{LOCK} is held by others")));
        };
        self.look_again();
        let contents = self.contents()?;
        let Some(unfinished) = contents.find(AHEAD) else { return Err(StorageError::VolumeMissing) };
        if contents.find(&name_of(key)).is_some() {
            return self.discard(AHEAD);
        }
        self.keep_as(AHEAD, key, unfinished.mapped())?;
        self.discard_where(&contents, |other| other.key.is_older_than(key))
    }

    fn has_begun(&self) -> Result<bool, StorageError> {
        Ok(self.contents()?.find(AHEAD).is_some())
    }

    fn abandon(&self) -> Result<(), StorageError> {
        self.discard(AHEAD)
    }

    fn size(&self, key: &Key) -> Result<Option<Amount>, StorageError> {
        Ok(self.contents()?.find(&name_of(key)).map(|row| row.volume.size))
    }

    /// Before and afterward, the disk's full size is promised to it.
    fn replace(
        &self,
        machine: &Machine,
        key: &Key,
        reserved: Amount,
        complete: &Complete<'_>,
    ) -> Result<(), StorageError> {
        let contents = self.with_room(Amount::default())?;
        let original = contents.find(&name_of(key)).ok_or(StorageError::VolumeMissing)?;
        contents.space.must_hold(original.holds.unwrap_or(original.mapped()), reserved)?;
        self.replace_by(machine, original, &contents, complete)
    }

    /// A disk on which nothing has been written is empty.
    fn empty(&self, machine: &Machine) -> Result<(), StorageError> {
        let root = self.name(machine, Disk::Root);
        let contents = self.contents()?;
        let Some(row) = contents.find(&root) else { return Err(StorageError::VolumeMissing) };
        if row.mapped() == Amount::default() {
            return Ok(());
        }
        self.discard(&root)?;
        self.make_empty(machine, Disk::Root, row.volume.size)
    }

    fn remove(&self, key: &Key) -> Result<(), StorageError> {
        self.discard(&name_of(key))
    }

    fn sweep(&self, is_of_use: &dyn Fn(&Kept) -> bool) -> Result<(), StorageError> {
        let Some(_lock) = lock_within(Duration::ZERO)? else { return Ok(()) };
        let contents = self.contents()?;
        if contents.find(UNFINISHED).is_some() {
            self.discard(UNFINISHED)?;
        }
        self.discard_where(&contents, |kept| !is_of_use(kept))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prepared_disks_are_named_by_their_key() {
        for (text, name) in [
            ("debian-12.0123456789abcdef", "vgrid.image.debian-12.0123456789abcdef"),
            ("debian-12.0123456789abcdef.saved", "vgrid.saved.debian-12.0123456789abcdef"),
        ] {
            let key: Key = text.parse().unwrap();
            assert_eq!((name_of(&key), key_of(name)), (name.to_owned(), Some(key)));
        }
        for name in [
            UNFINISHED,
            AHEAD,
            "vgrid.image.",
            "vgrid.image.tiny",
            "vgrid.saved.tiny",
            "vgrid.saved.tiny.0123456789abcdef.saved",
            "xen-root-vgrid.image.tiny.0123456789abcdef",
        ] {
            assert_eq!(key_of(name), None, "{name}");
        }
        let those = [UNFINISHED, AHEAD, "vgrid.image.x", "vgrid.saved.x"];
        assert!(those.into_iter().all(is_one) && !is_one("xen-root-a_vgrid"));
        assert!(is_at_rest(UNFINISHED) && !is_at_rest(AHEAD));
    }
}
