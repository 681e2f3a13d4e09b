//! `prepare-image`: prepares an image before somebody deploys it. The image's file is standard input, for
//! the same reasons as in `unpack-image`.
//!
//! The disk belongs to no machine, and is found under a name of its own until it is complete: whatever is
//! killed meanwhile, it never counts as prepared, and the next one begins anew. It is as small as it can
//! be, because a machine gets a clone only of a disk that is no larger than its own.

use crate::config::ImageSettings;
use crate::model::fault::Fault;
use crate::model::names::ImageTag;
use crate::model::size::Amount;
use crate::node::helper::failure::Failure;
use crate::node::helper::guard::AheadLock;
use crate::node::helper::host::Host;
use crate::node::helper::prepared::{abandon, settle};
use crate::node::helper::source::{Given, Opened, Source};
use crate::node::storage::StorageError;
use crate::node::storage::prepared::{Kept, Kind, Prepared};
use crate::system::log::{self, Level};

/// The smallest disk.
const LEAST: Amount = Amount::from_mib(1024);

impl Host {
    /// Prepares an image, unless it is prepared.
    pub fn prepare_image(&self, tag: &ImageTag, settings: &ImageSettings) -> Result<(), Failure> {
        let given = Given::take()?;
        let opened = Opened::new(Source { tag, settings, saved: None }, &given.facts);
        let storage = self.storage();
        let is_wanted = self.config.general.prepare_ahead && settings.disk.is_none();
        let is_wanted = is_wanted && storage.survey()?.prepared.is_some();
        let Some(prepared) = storage.prepared().filter(|_| is_wanted) else {
            return Err(Failure::internal("this image is not prepared ahead on this host"));
        };
        let prepared = prepared.as_ref();
        let lock = AheadLock::take_over()?;
        abandon(prepared, &lock)?;
        opened.must_be_source(&given.facts_now()?)?;
        let there = prepared.all()?;
        if there.iter().any(|kept| kept.key == opened.key) {
            return Ok(());
        }
        let size = first(&there, tag);
        // Those of older files are of no use but for this, and take space.
        self.sweep_prepared(prepared);
        let made = self.make_of_any_size(&given, &opened, prepared, &lock, size);
        if made.is_err() {
            abandon(prepared, &lock)?;
        }
        made?;
        log::event(Level::Info, "prepared.kept", &[("image", tag)]);
        Ok(())
    }

    /// Makes the disk, of the next size if it turns out to be too small, and keeps it.
    fn make_of_any_size(
        &self,
        given: &Given,
        opened: &Opened<'_>,
        prepared: &dyn Prepared,
        lock: &AheadLock,
        mut size: Amount,
    ) -> Result<(), Failure> {
        loop {
            let device = prepared.begin(size).map_err(|error| self.no_room(error, size))?;
            match self.make_from(given, opened.source, &device, &lock.mount_point(), size) {
                Err(Failure { fault: Some(Fault::ImageTooLarge { .. }), .. }) => {}
                other => {
                    other?;
                    break;
                }
            }
            drop(device);
            abandon(prepared, lock)?;
            size = size.plus(size);
        }
        opened.must_be_source(&given.facts_now()?)?;
        Ok(prepared.complete(&opened.key, &settle)?)
    }

    /// Says how much is missing, where a storage has no space for a disk.
    fn no_room(&self, error: StorageError, size: Amount) -> Failure {
        match (&error, self.storage().space()) {
            (StorageError::NoSpace, Ok(space)) => {
                Fault::NotEnoughSpace { needed: size, free: space.free }.into()
            }
            _ => error.into(),
        }
    }
}

/// Returns the size to begin with: the smallest power of two, in GiB, that should hold the image. What
/// an older disk of it holds is the best guess, with a third more for what is reserved in a file system,
/// but that disk has been large enough.
fn first(there: &[Kept], tag: &ImageTag) -> Amount {
    let is_its = |kept: &&Kept| kept.key.kind == Kind::Image && kept.key.tag == *tag;
    let Some(older) = there.iter().filter(is_its).max_by_key(|kept| kept.holds) else {
        return LEAST;
    };
    let needed = older.holds.mib().saturating_mul(4) / 3;
    let power = LEAST.mib() * needed.div_ceil(LEAST.mib()).next_power_of_two();
    Amount::from_mib(power).min(older.size).max(LEAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_is_guessed_from_an_older_disk() {
        let mib = Amount::from_mib;
        let tag: ImageTag = "tiny".parse().unwrap();
        assert_eq!(first(&[], &tag), mib(1024));
        for (holds, size, expected) in [
            (57, 1024, 1024),
            (700, 100 << 10, 1024),
            (900, 100 << 10, 2048),
            (1900, 2048, 2048),
            (1900, 3072, 3072),
            (1900, 8192, 4096),
            (5000, 8192, 8192),
            (100, 300, 1024),
        ] {
            let kept = |key: &str| {
                let (size, holds) = (mib(size), mib(holds));
                Kept { key: key.parse().unwrap(), size, holds, made: None }
            };
            let others = ["other.0123456789abcdef", "tiny.0123456789abcdef.saved"].map(kept);
            let there = [&others[..], &[kept("tiny.0123456789abcdef")]].concat();
            assert_eq!(first(&there, &tag), mib(expected), "{holds} of {size}");
            assert_eq!(first(&others, &tag), LEAST, "another image's, and a saved one's");
        }
    }
}
