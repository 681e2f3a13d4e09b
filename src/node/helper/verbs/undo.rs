//! `undo`: removes a machine completely.

use crate::node::helper::configurations::{is_installed, parked, temporary};
use crate::node::helper::failure::Failure;
use crate::node::helper::files;
use crate::node::helper::guard::{self, MachineLock};
use crate::node::helper::host::Host;

impl Host {
    /// Removes everything that belongs to the machine, in this order: processes, domain,
    /// configuration, volumes. Idempotent; never touches what is not the machine's.
    pub fn undo(&self, lock: &MachineLock) -> Result<(), Failure> {
        let file = self.config_file(&lock.machine)?;
        self.remove_domain(lock, &file)?;
        for file in [&file, &parked(&file)] {
            if is_installed(file, lock.id) {
                files::remove(file)?;
            }
        }
        files::remove(&temporary(&file))?;
        self.remove_volumes(lock)?;
        guard::remove_directory(&lock.mount_point())
    }
}
