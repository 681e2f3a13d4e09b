//! `make-filesystems`: creates the file system and the swap area on a machine's volumes.

use crate::config::ImageSettings;
use crate::model::fault::{self, Fault};
use crate::model::names::ImageTag;
use crate::model::spec::Original;
use crate::node::Machine;
use crate::node::helper::failure::Failure;
use crate::node::helper::guard::MachineLock;
use crate::node::helper::host::Host;
use crate::node::helper::limits;
use crate::node::helper::prepared::Filling;
use crate::node::helper::source::Source;
use crate::node::storage::{Device, Disk};
use crate::system::exec::{self, ExecError, Run};

impl Host {
    /// Creates the file system, with the command configured for the image, and the swap area. The
    /// volumes must never have been used. The original's prepared disk replaces the file system, where
    /// there is one.
    pub fn make_filesystems(
        &self,
        lock: &MachineLock,
        tag: &ImageTag,
        image: &ImageSettings,
        original: Original<'_>,
    ) -> Result<Filling, Failure> {
        self.listing.keep();
        let machine = &lock.machine;
        let root = self.unused_volume(machine, Disk::Root)?;
        let filling = match Source::of(original, tag, image) {
            Some(source) => self.clone_prepared(lock, source, root.size)?,
            None => Filling::Stream,
        };
        // A whole disk brings its own file systems.
        if filling == Filling::Stream && image.disk.is_none() {
            self.make_filesystem(machine, Disk::Root, &image.make_filesystem)?;
        }
        self.unused_volume(machine, Disk::Swap)?;
        let mkswap = exec::find(&["mkswap"]).map(|path| path.to_string_lossy().into_owned());
        self.make_filesystem(machine, Disk::Swap, &[mkswap.unwrap_or_else(|| "mkswap".to_owned())])?;
        Ok(filling)
    }

    fn make_filesystem(&self, machine: &Machine, disk: Disk, command: &[String]) -> Result<(), Failure> {
        self.make_on(&self.storage().attach(machine, disk)?, command)
    }

    /// Runs a program that makes a file system on a device.
    pub(super) fn make_on(&self, device: &Device, command: &[String]) -> Result<(), Failure> {
        let [program, args @ ..] = command else {
            return Err(Failure::internal("node.cfg: an empty XenDeployerFSCreateCmd"));
        };
        let run = Run::new(program).args(args).arg(device.path()).limit(limits::MAKE);
        run.run().map(|_| ()).map_err(|error| self.unless_full(making_failed(program, &error)))
    }
}

fn making_failed(program: &str, error: &ExecError) -> Failure {
    let what = program.rsplit('/').next().unwrap_or(program);
    match error {
        ExecError::TimedOut { limit, .. } => {
            Fault::TimedOut { what: what.to_owned(), seconds: limit.as_secs() }.into()
        }
        ExecError::Failed { .. } => {
            let said = error.said();
            // The programs of the mke2fs family print their version first.
            let lines: Vec<_> = said.lines().filter(|line| !line.starts_with("mke2fs ")).collect();
            Fault::FilesystemFailed { detail: fault::detail(&format!("{what}: {}", lines.join("\n"))) }.into()
        }
        ExecError::NotStarted { source, .. } | ExecError::Pipe { source, .. } => {
            Fault::FilesystemFailed { detail: format!("{what}: {source}") }.into()
        }
    }
}
