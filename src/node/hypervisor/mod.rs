//! What runs the machines. [`Hypervisor`] is all that the rest of the node knows of it; [`xen`] is the one
//! there is, and a second (libvirt) goes into [`open`].

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
    /// All of it.
    pub total: Amount,
    /// What no domain has.
    pub free: Amount,
}

/// A domain, as the toolstack lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Its name; `(null)` for one that was given up half-made.
    pub name: String,
    /// Its number, which changes when it reboots.
    pub id: u32,
    /// Its memory.
    pub memory: Amount,
    /// The state column: `r` running, `b` blocked (idle), `p` paused, `s` shut down, `c` crashed, `d` dying.
    pub state: String,
    /// The processor time that it has used, in tenths of a second.
    pub used: u64,
    /// The UUID of its configuration, which for vGrid's machines is the VM id. `xm list` does not tell it.
    pub uuid: Option<Uuid>,
}

impl Listed {
    /// Whether this is the machine with that id. Where the toolstack does not tell UUIDs the name decides, if
    /// `ours` says that the machine's configuration is installed.
    pub fn is(&self, id: VmId, machine: &MachineName, ours: bool) -> bool {
        match self.uuid {
            Some(uuid) => uuid.hyphenated().to_string() == id.to_string(),
            None => ours && self.name == machine.as_str(),
        }
    }

    /// Whether it is there to stay: not shut down, crashed, dying or paused.
    pub fn is_alive(&self) -> bool {
        !self.state.contains(['s', 'c', 'd', 'p'])
    }

    /// Whether it waits for something to do.
    pub fn is_idle(&self) -> bool {
        self.state.contains('b')
    }
}

/// What a configuration file says, as the toolstack reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// The domain's name.
    pub name: String,
    /// Its UUID.
    pub uuid: String,
}

/// What a Linux kernel does when it is told by SysRq.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SysRq {
    /// `s`: begins to write out everything that is in memory.
    Sync,
    /// `u`: mounts all file systems read-only.
    RemountReadOnly,
}

/// Why the toolstack did not do something.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum HypervisorError {
    /// It is not there, or this host does not run under its hypervisor.
    #[error("{0}")]
    Missing(String),
    /// A domain of that name exists.
    #[error("a domain of that name exists")]
    NameTaken,
    /// There is not enough free memory.
    #[error("not enough memory")]
    NoMemory,
    /// There is no such domain (any more).
    #[error("there is no such domain")]
    NoSuchDomain,
    /// The configuration can't be read.
    #[error("line {}: {detail}", line.map_or("?".to_owned(), |line| line.to_string()))]
    Configuration {
        /// The line of the file, where it is known.
        line: Option<u32>,
        /// What is wrong there.
        detail: String,
    },
    /// The host is too busy just now: a step of the toolstack's own timed out.
    #[error("the host is very busy ({0})")]
    Busy(String),
    /// It took too long.
    #[error("{what} did not end within {seconds} s")]
    TimedOut {
        /// The command.
        what: &'static str,
        /// Its limit.
        seconds: u64,
    },
    /// Anything else, in its own words.
    #[error("{0}")]
    Other(String),
}

/// A toolstack: lists, starts and ends machines. All of it as root.
pub trait Hypervisor {
    /// Its name for `node/info`.
    fn name(&self) -> &'static str;

    /// The host's memory.
    fn memory(&self) -> Result<Memory, HypervisorError>;

    /// All domains, the control domain included.
    fn domains(&self) -> Result<Vec<Listed>, HypervisorError>;

    /// Reads a configuration without starting anything. `None` where the toolstack can't say what it read.
    fn check(&self, config: &Path) -> Result<Option<Described>, HypervisorError>;

    /// Starts a machine. Success means started, not booted.
    fn create(&self, config: &Path, machine: &MachineName) -> Result<(), HypervisorError>;

    /// Asks a domain to shut down, and returns at once.
    fn shut_down(&self, domain: u32) -> Result<(), HypervisorError>;

    /// Sends a domain's kernel a SysRq key (Linux: admin-guide/sysrq), whatever the guest allows its users.
    fn press(&self, domain: u32, key: SysRq) -> Result<(), HypervisorError>;

    /// Ends a domain at once.
    fn destroy(&self, domain: u32) -> Result<(), HypervisorError>;

    /// Whether a process with these arguments starts or minds the machine of that configuration. Such a
    /// process would start it again.
    fn minds(&self, arguments: &[String], config: &Path) -> bool;
}

/// What runs machines of that type on this host.
pub fn open(vm_type: VmType, toolstack: Toolstack) -> Result<Box<dyn Hypervisor>, HypervisorError> {
    match vm_type {
        VmType::Xen => Ok(Box::new(xen::Xen::find(toolstack)?)),
    }
}
