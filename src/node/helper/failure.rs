//! Why a verb failed, for its caller and for the log.

use crate::model::fault::{self, Fault};
use crate::node::files::FileError;
use crate::node::hypervisor::HypervisorError;
use crate::node::storage::StorageError;

/// Why a verb was not carried out.
#[derive(Debug)]
pub struct Failure {
    /// The fault reported to the caller; without one, the caller gets [`Fault::Internal`].
    pub(super) fault: Option<Fault>,
    /// The text for the log and for standard error.
    pub detail: String,
}

impl Failure {
    /// Creates a failure that users can do nothing about.
    pub(super) fn internal(detail: impl std::fmt::Display) -> Self {
        Self { fault: None, detail: detail.to_string() }
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self { detail: fault.to_string(), fault: Some(fault) }
    }
}

impl From<FileError> for Failure {
    fn from(error: FileError) -> Self {
        Self::internal(error)
    }
}

impl From<StorageError> for Failure {
    /// Maps the error to a fault, unless that depends on the machine.
    fn from(error: StorageError) -> Self {
        let detail = error.to_string();
        let fault = match error {
            StorageError::GroupMissing(group) => Some(Fault::VolumeGroupMissing { name: group.to_string() }),
            StorageError::Pool { .. } => Some(Fault::StorageUnusable { detail: fault::detail(&detail) }),
            StorageError::Directory(detail) => {
                Some(Fault::StorageUnusable { detail: fault::detail(&detail) })
            }
            StorageError::TimedOut { what, seconds } => {
                Some(Fault::TimedOut { what: what.to_owned(), seconds })
            }
            // Of a verb that does not know how much it needs.
            StorageError::NoSpace => Some(full()),
            StorageError::NoSnapshots(why) => Some(Fault::NoSnapshots { detail: why.to_owned() }),
            StorageError::NoRoom { needed, free } => Some(Fault::NotEnoughSpace { needed, free }),
            _ => None,
        };
        Self { fault, detail }
    }
}

/// What users are told if the storage has no space left even for what it has promised.
pub(super) fn full() -> Fault {
    Fault::StorageUnusable { detail: "no space is left for them".to_owned() }
}

impl From<HypervisorError> for Failure {
    /// Maps the error to a fault, unless that depends on the machine.
    fn from(error: HypervisorError) -> Self {
        let detail = error.to_string();
        let fault = match error {
            HypervisorError::TimedOut { what, seconds } => {
                Some(Fault::TimedOut { what: what.to_owned(), seconds })
            }
            HypervisorError::NoSpace(_) => Some(Fault::StorageUnusable { detail: fault::detail(&detail) }),
            HypervisorError::Missing(_) | HypervisorError::Other(_) | HypervisorError::Busy(_) => {
                Some(Fault::ToolstackMissing { detail: detail.clone() })
            }
            _ => None,
        };
        Self { fault, detail }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seen on a host whose pool was full when a failed clone was to become an empty disk.
    #[test]
    fn a_full_storage_is_no_internal_error() {
        let failure = Failure::from(StorageError::NoSpace);
        assert!(failure.fault.is_some_and(|fault| fault.to_string().contains("no space is left")));
    }
}
