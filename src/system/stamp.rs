//! Detects whether files have changed without reading them.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::model::digest::digest;

/// The time after a change during which a further change might not alter the file's timestamps.
/// Linux takes timestamps from a clock with ticks of up to 10 ms; network file systems may round to
/// a second.
const SETTLED: Duration = Duration::from_secs(2);

/// The state of several files at one moment.
#[derive(Debug)]
pub struct Stamps {
    text: String,
    newest: SystemTime,
}

impl Stamps {
    /// Starts without files, with a text that becomes part of the digest.
    pub fn of(known: &str) -> Self {
        Self { text: known.to_owned(), newest: SystemTime::UNIX_EPOCH }
    }

    /// Adds a file. A missing file counts as an empty one, because merely reading an SQLite
    /// database leaves an empty log next to it.
    ///
    /// # Errors
    /// That of `stat`, unless the file is missing.
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

    /// Returns a digest that changes whenever any of the files does; `None` if a file changed so
    /// recently that its next change might go unnoticed.
    pub fn digest(&self, now: SystemTime) -> Option<String> {
        let age = now.duration_since(self.newest).ok()?;
        (age >= SETTLED).then(|| digest(self.text.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_change_alters_the_digest_once_settled() {
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
        assert!(fresh.is_none() && future.is_none(), "a further change might go unnoticed");
        for (n, one) in [missing, first, longer, replaced].into_iter().enumerate() {
            let others = [missing, first, longer, replaced].into_iter().enumerate();
            assert!(one.is_some() && others.filter(|(m, _)| *m != n).all(|(_, other)| other != one));
        }
    }
}
