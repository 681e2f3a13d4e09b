//! `unpack-image`: fills a machine's root disk with the file of an image or a saved image, which is
//! standard input, and keeps the disk as prepared if it may.
//!
//! Nothing in such a disk may come from elsewhere, so this makes the file system anew and has the file
//! itself read. A program that runs as nobody, without any capability, decompresses it, and the same
//! tar unpacks it as in `unpack`.

use std::fs::File;
use std::io::{self, Read, Seek as _, Write};
use std::path::Path;

use crate::model::fault::{self, Fault};
use crate::model::names::ImageTag;
use crate::model::size::Amount;
use crate::model::stage::Percent;
use crate::node::WORKER;
use crate::node::helper::failure::Failure;
use crate::node::helper::guard::MachineLock;
use crate::node::helper::host::Host;
use crate::node::helper::limits;
use crate::node::helper::namespace::in_a_namespace;
use crate::node::helper::nobody::as_nobody_with;
use crate::node::helper::percentages::Percentages;
use crate::node::helper::source::{Given, Opened, Source, unreadable};
use crate::node::helper::verbs::unpack::{fill, tar_failed, unpacker};
use crate::node::image::{self, Damage};
use crate::node::storage::{Device, Disk};
use crate::system::exec::{ExecError, ProgramOutput, Run};

/// The size of the buffer between the programs, in bytes.
const BUFFER: usize = 256 << 10;

impl Host {
    /// Fills the machine's root disk, from which no machine may have been started yet.
    pub fn unpack_image(&self, lock: &MachineLock, source: Source<'_>) -> Result<(), Failure> {
        self.listing.keep();
        let machine = &lock.machine;
        let volume = self.unused_volume(machine, Disk::Root)?;
        let given = Given::take()?;
        let opened = Opened::new(source, &given.facts);
        let storage = self.storage();
        let Some(prepared) = storage.prepared() else {
            return Err(Failure::internal("no images are prepared on this host"));
        };
        prepared.empty(machine)?;
        let device = storage.attach(machine, Disk::Root)?;
        self.make_from(&given, source, &device, &lock.mount_point(), volume.size)?;
        // What is still on its way to the file would be missing in the clone.
        drop(device);
        self.keep_prepared(lock, &opened, &given.facts_now()?);
        Ok(())
    }

    /// Makes all that is on a disk of that size from an image's file.
    pub(super) fn make_from(
        &self,
        given: &Given,
        source: Source<'_>,
        device: &Device,
        target: &Path,
        size: Amount,
    ) -> Result<(), Failure> {
        self.make_on(device, &source.settings.make_filesystem)?;
        // A disk that turned out to be too small is followed by another.
        (&given.file).rewind().map_err(|error| unreadable(&error))?;
        let named = source.named();
        in_a_namespace(target, || {
            let unpack = || unpack(&given.file, given.facts.len(), unpacker(target), &named, size);
            fill(device.path(), target, unpack)
        })
        .map_err(|failure| self.unless_full(failure))
    }
}

/// Decompresses a file of that many bytes into tar.
fn unpack(file: &File, bytes: u64, tar: Run, tag: &ImageTag, size: Amount) -> Result<ProgramOutput, Failure> {
    let unreadable = |error: io::Error| Failure::internal(format!("the image of {tag}: {error}"));
    // Its position is that of the program that reads it.
    let mut position = file.try_clone().map_err(unreadable)?;
    let mut percentages = Percentages::default();
    let mut report = || percentages.tell(Percent::of(position.stream_position()?, bytes));
    let decompress = as_nobody_with("-all", WORKER)
        .arg("decompress")
        .input_file(file.try_clone().map_err(unreadable)?)
        .limit(limits::TAR);
    let (unpacked, decompressed) = decompress.drain(|from| {
        image::enlarge(from);
        tar.limit(limits::TAR).feed(|to| {
            image::enlarge(to);
            pump(from, to, &mut report)
        })
    });
    // A damaged image makes tar fail as well, and tar's message would hide the cause.
    if let Err(error) = &decompressed
        && let Some(damage) = Damage::said_by(error.stderr())
    {
        return Err(match damage {
            Damage::Corrupt(detail) => {
                Fault::ImageCorrupt { tag: tag.clone(), detail: fault::detail(&detail) }
            }
            Damage::Nested(folder) => Fault::ImageNested { tag: tag.clone(), folder: fault::detail(&folder) },
        }
        .into());
    }
    match unpacked {
        Some((_, Err(error))) => Err(tar_failed(&error, tag, size).into()),
        Some((Some(Ok(())), Ok(output))) => decompressed.map(|_| output).map_err(|error| stopped(&error)),
        Some((Some(Err(error)), Ok(_))) => Err(Failure::internal(format!("the image of {tag}: {error}"))),
        Some((None, Ok(_))) | None => Err(Failure::internal("the image was not unpacked")),
    }
}

fn stopped(error: &ExecError) -> Failure {
    match error {
        ExecError::TimedOut { limit, .. } => {
            Fault::TimedOut { what: "Unpacking the image".to_owned(), seconds: limit.as_secs() }.into()
        }
        error => Failure::internal(error),
    }
}

/// Copies a stream. If the reader ends before the stream does, the rest is read nevertheless: tar
/// stops at the end of the archive, and the other program still has to say what it makes of the end.
fn pump(
    from: &mut impl Read,
    to: &mut impl Write,
    mut each: impl FnMut() -> io::Result<()>,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    let mut is_read = true;
    loop {
        let length = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if is_read {
            match to.write_all(&buffer[..length]) {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => is_read = false,
                other => other?,
            }
        }
        each()?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_read_to_its_end_even_if_nobody_takes_it() {
        struct Closed(usize);
        impl Write for Closed {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0 += 1;
                if self.0 == 1 { Ok(bytes.len()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let stream = vec![1; 5 * BUFFER + 7];
        let mut out = Vec::new();
        pump(&mut &stream[..], &mut out, || Ok(())).unwrap();
        assert_eq!(out, stream);
        let (mut rest, mut closed) = (&stream[..], Closed(0));
        pump(&mut rest, &mut closed, || Ok(())).unwrap();
        assert_eq!((rest.len(), closed.0), (0, 2));
        // Nobody wants to hear of it any more.
        let mut rest = &stream[..];
        let stopped = pump(&mut rest, &mut Vec::new(), || Err(io::ErrorKind::BrokenPipe.into()));
        assert_eq!(stopped.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(rest.len(), stream.len() - BUFFER);
    }
}
