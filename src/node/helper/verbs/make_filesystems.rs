//! `make-filesystems`: creates the file system and the swap area on a machine's volumes.

use crate::config::ImageSettings;
use crate::model::fault::{self, Fault};
use crate::node::helper::failure::Failure;
use crate::node::helper::guard::MachineLock;
use crate::node::helper::host::Host;
use crate::node::helper::limits;
use crate::node::storage::Disk;
use crate::system::exec::{self, ExecError, Run};

impl Host {
    /// Creates the file system, with the command configured for the image, and the swap area. The
    /// volumes must never have been used.
    pub fn make_filesystems(&self, lock: &MachineLock, image: &ImageSettings) -> Result<(), Failure> {
        let machine = &lock.machine;
        let mkswap = exec::find(&["mkswap"]).map(|path| path.to_string_lossy().into_owned());
        let mkswap = [mkswap.unwrap_or_else(|| "mkswap".to_owned())];
        for (disk, command) in [(Disk::Root, &image.make_filesystem[..]), (Disk::Swap, &mkswap[..])] {
            // A whole disk brings its own file systems.
            if disk == Disk::Root && image.disk.is_some() {
                continue;
            }
            self.unused_volume(machine, disk)?;
            let device = self.storage().attach(machine, disk)?;
            let [program, args @ ..] = command else {
                return Err(Failure::internal("node.cfg: an empty XenDeployerFSCreateCmd"));
            };
            let run = Run::new(program).args(args).arg(device.path()).limit(limits::MAKE);
            run.run().map_err(|error| self.unless_full(making_failed(program, &error)))?;
        }
        Ok(())
    }
}

fn making_failed(program: &str, error: &ExecError) -> Failure {
    let what = program.rsplit('/').next().unwrap_or(program);
    match error {
        ExecError::TimedOut { limit, .. } => {
            Fault::TimedOut { what: what.to_owned(), seconds: limit.as_secs() }.into()
        }
        ExecError::Failed { stderr, .. } => {
            // The programs of the mke2fs family print their version first.
            let lines: Vec<_> = stderr.lines().filter(|line| !line.starts_with("mke2fs ")).collect();
            Fault::FilesystemFailed { detail: fault::detail(&format!("{what}: {}", lines.join("\n"))) }.into()
        }
        ExecError::NotStarted { source, .. } | ExecError::Pipe { source, .. } => {
            Fault::FilesystemFailed { detail: format!("{what}: {source}") }.into()
        }
    }
}
