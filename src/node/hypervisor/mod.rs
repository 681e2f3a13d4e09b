//! The hypervisor that runs the machines. The rest of the node uses only the [`Hypervisor`] trait.
//! [`xen`] is the only implementation so far; a second one (libvirt) would be added to [`open`].

pub mod libvirt;
pub mod xen;

use std::path::Path;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

use crate::config::{Toolstack, VmType};
use crate::model::names::{MachineName, VmId};
use crate::model::size::Amount;

/// The host's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// The total memory.
    pub total: Amount,
    /// The memory not assigned to any domain.
    pub free: Amount,
}

/// A domain as listed by the toolstack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// The name; `(null)` for a domain whose creation was aborted.
    pub name: String,
    /// The domain number, which changes on a reboot.
    pub id: u32,
    /// The memory.
    pub memory: Amount,
    /// The state column: `r` running, `b` blocked (idle), `p` paused, `s` shut down, `c` crashed,
    /// `d` dying.
    pub state: String,
    /// The CPU time used, in tenths of a second.
    pub used: u64,
    /// The UUID from its configuration, which for vGrid's machines is the VM id. `xm list` does not
    /// print it.
    pub uuid: Option<Uuid>,
}

impl Listed {
    /// Returns whether this is the machine with that id. If the toolstack does not list UUIDs, the
    /// name decides, provided that `ours` says that the machine's configuration is installed.
    pub fn is(&self, id: VmId, machine: &MachineName, ours: bool) -> bool {
        match self.uuid {
            Some(uuid) => uuid.hyphenated().to_string() == id.to_string(),
            None => ours && self.name == machine.as_str(),
        }
    }

    /// Returns whether it is running normally: not shut down, crashed, dying or paused.
    pub fn is_alive(&self) -> bool {
        !self.state.contains(['s', 'c', 'd', 'p'])
    }

    /// Returns whether it is idle.
    pub fn is_idle(&self) -> bool {
        self.state.contains('b')
    }
}

/// The content of a configuration file, as parsed by the toolstack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// The domain's name.
    pub name: String,
    /// The UUID.
    pub uuid: String,
}

/// An action of a Linux kernel, triggered by SysRq.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SysRq {
    /// `s`: starts writing everything in memory to disk.
    Sync,
    /// `u`: mounts all file systems read-only.
    RemountReadOnly,
}

/// Why a toolstack operation failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum HypervisorError {
    /// The toolstack is not installed, or this host does not run under its hypervisor.
    #[error("{0}")]
    Missing(String),
    /// A domain with that name exists.
    #[error("a domain of that name exists")]
    NameTaken,
    /// There is not enough free memory.
    #[error("not enough memory")]
    NoMemory,
    /// There is no such domain, or no longer.
    #[error("there is no such domain")]
    NoSuchDomain,
    /// The configuration can't be read.
    #[error("line {}: {detail}", line.map_or("?".to_owned(), |line| line.to_string()))]
    Configuration {
        /// The line number in the file, if known.
        line: Option<u32>,
        /// What is wrong.
        detail: String,
    },
    /// The host is temporarily overloaded: one of the toolstack's own steps timed out.
    #[error("the host is very busy ({0})")]
    Busy(String),
    /// The command exceeded its time limit.
    #[error("{what} did not end within {seconds} s")]
    TimedOut {
        /// The command.
        what: &'static str,
        /// The time limit, in seconds.
        seconds: u64,
    },
    /// Any other error, with the tool's message.
    #[error("{0}")]
    Other(String),
}

/// A toolstack, which lists, starts and stops machines. All operations require root.
pub trait Hypervisor {
    /// The toolstack's name, for `node/info`.
    fn name(&self) -> &'static str;

    /// Returns the host's memory.
    fn memory(&self) -> Result<Memory, HypervisorError>;

    /// Lists all domains, including the control domain.
    fn domains(&self) -> Result<Vec<Listed>, HypervisorError>;

    /// Parses a configuration without starting anything. Returns `None` if the toolstack can't
    /// report what it parsed.
    fn check(&self, config: &Path) -> Result<Option<Described>, HypervisorError>;

    /// Starts a machine. Success means that it was started, not that it has booted.
    fn create(&self, config: &Path, machine: &MachineName) -> Result<(), HypervisorError>;

    /// Asks a domain to shut down, without waiting for it.
    fn shut_down(&self, domain: u32) -> Result<(), HypervisorError>;

    /// Sends a SysRq key to a domain's kernel (Linux: admin-guide/sysrq), regardless of whether the
    /// guest allows it to its users.
    fn press(&self, domain: u32, key: SysRq) -> Result<(), HypervisorError>;

    /// Ends a domain immediately.
    fn destroy(&self, domain: u32) -> Result<(), HypervisorError>;

    /// Returns whether a process with these arguments starts or monitors the machine of that
    /// configuration, and so would restart it.
    fn minds(&self, arguments: &[String], config: &Path) -> bool;
}

/// Opens the toolstack for machines of that type on this host.
pub fn open(vm_type: VmType, toolstack: Toolstack) -> Result<Box<dyn Hypervisor>, HypervisorError> {
    match vm_type {
        VmType::Xen => Ok(Box::new(xen::Xen::find(toolstack)?)),
    }
}
