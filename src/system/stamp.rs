//! Whether files have changed, without reading them.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::model::digest::digest;

/// How long after a change a file's times may not tell it from the next change. Linux stamps files by a clock that moves
/// in steps of up to 10 ms; network file systems have steps of a second.
const SETTLED: Duration = Duration::from_secs(2);

/// What files looked like at one moment.
#[derive(Debug)]
pub struct Stamps {
    text: String,
    newest: SystemTime,
}

impl Stamps {
    /// Of nothing yet, but for what is known by a text.
    pub fn of(known: &str) -> Self {
        Self { text: known.to_owned(), newest: SystemTime::UNIX_EPOCH }
    }

    /// One more file. That it is not there is a state, too, and the same as being empty: whoever only reads an SQLite file
    /// leaves an empty log beside it.
    ///
    /// # Errors
    /// That of `stat`, but for a file that is missing.
    pub fn add(&mut self, file: &Path) -> io::Result<()> {
        match fs::metadata(file) {
            Ok(facts) if facts.size() > 0 => {
                let (inode, size) = (facts.ino(), facts.size());
                let (seconds, nanoseconds) = (facts.mtime(), facts.mtime_nsec());
                self.text.push_str(&format!("\n{inode} {size} {seconds}.{nanoseconds:09}"));
                self.newest = self.newest.max(facts.modified()?);
                Ok(())
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(_) | Err(_) => {
                self.text.push_str("\n-");
                Ok(())
            }
        }
    }

    /// A digest that is another one if any of the files is another one; `None` while one has changed so lately that its
    /// next change might not show.
    pub fn digest(&self, now: SystemTime) -> Option<String> {
        let age = now.duration_since(self.newest).ok()?;
        (age >= SETTLED).then(|| digest(self.text.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_change_shows_once_it_has_settled() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        let mut seen = Vec::new();
        let mut look = |now: SystemTime| {
            let mut stamps = Stamps::of("page");
            stamps.add(&file).unwrap();
            seen.push(stamps.digest(now));
        };
        let later = SystemTime::now() + Duration::from_secs(10);
        look(later);
        fs::write(&file, "").unwrap();
        look(SystemTime::now());
        fs::write(&file, "a").unwrap();
        look(later);
        look(later);
        look(SystemTime::now());
        fs::write(&file, "ab").unwrap();
        look(later);
        fs::write(dir.path().join("other"), "ab").unwrap();
        fs::rename(dir.path().join("other"), &file).unwrap();
        look(later);
        look(SystemTime::now() - Duration::from_secs(3600));
        let [missing, empty, first, same, fresh, longer, replaced, future] = &seen[..] else { panic!() };
        assert_eq!((missing, first), (empty, same));
        assert!(fresh.is_none() && future.is_none(), "its next change might not show");
        for (n, one) in [missing, first, longer, replaced].into_iter().enumerate() {
            let others = [missing, first, longer, replaced].into_iter().enumerate();
            assert!(one.is_some() && others.filter(|(m, _)| *m != n).all(|(_, other)| other != one));
        }
    }
}
