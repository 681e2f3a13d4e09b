//! The hypervisors that run the machines. The rest of the node uses only the [`Hypervisor`] trait;
//! what differs between them is in [`xen`] and [`libvirt`].
//!
//! A hypervisor keeps vGrid's definitions of machines: what it starts a machine from, and whether
//! it starts it together with the host. Which definitions are vGrid's, and which machine one is of,
//! can be told without the hypervisor's programs, so that a host whose toolstack is broken is not
//! taken for an empty one.

pub mod libvirt;
pub mod xen;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use strum::{EnumIs, IntoStaticStr};
use thiserror::Error;
use uuid::Uuid;

use super::Machine;
use super::files::FileError;
use super::trust;
use crate::config::{NodeGeneral, Toolstack, VmType};
use crate::model::names::{DomainNumber, MachineName};
use crate::model::size::Amount;
use crate::system::log::{self, Level};
use crate::template::machine::LibvirtValues;

/// The host's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// The total memory.
    pub total: Amount,
    /// The memory not assigned to any domain.
    pub free: Amount,
}

/// What a domain is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, IntoStaticStr, EnumIs)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum DomainState {
    /// It runs, or waits for something to do.
    Running,
    /// It exists, but gets no processor time.
    Paused,
    /// It has shut down, and is about to disappear or to be restarted.
    ShutDown,
    /// It crashed.
    Crashed,
    /// It is being removed.
    Dying,
}

/// A domain as listed by the hypervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// The name; `(null)` for a Xen domain whose creation was aborted.
    pub name: String,
    /// The number, which changes with every start, and with Xen on every reboot.
    pub number: DomainNumber,
    /// The memory.
    pub memory: Amount,
    /// What it is doing.
    pub state: DomainState,
    /// The processor time used, in tenths of a second.
    pub used: u64,
    /// The UUID from its definition, which for vGrid's machines is the VM id. `xm list` does not
    /// print it.
    pub uuid: Option<Uuid>,
}

impl Listed {
    /// Returns whether this is the machine. If the toolstack does not list UUIDs, the name decides,
    /// provided that `ours` says that the machine's definition is installed.
    pub fn is(&self, machine: &Machine, ours: bool) -> bool {
        match self.uuid {
            Some(uuid) => uuid.hyphenated().to_string() == machine.id.to_string(),
            None => ours && self.name == machine.name.as_str(),
        }
    }

    /// Returns whether this is the hypervisor's own domain, which must never be destroyed.
    pub fn is_control(&self) -> bool {
        self.number == DomainNumber::CONTROL
    }
}

/// Whether a machine is started together with the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Boot {
    /// It is.
    WithHost,
    /// It has been stopped, and stays so.
    Off,
}

/// A definition of a machine that vGrid has installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// Where it is.
    pub file: PathBuf,
    /// The name of the domain.
    pub name: String,
    /// The machine's id, unless the definition has been edited.
    pub uuid: Option<Uuid>,
}

impl Installed {
    /// Returns the name of its machine.
    pub fn machine(&self) -> Option<MachineName> {
        self.name.parse().ok()
    }

    /// Returns whether a domain is its machine, by name or by UUID.
    pub fn is_of(&self, domain: &Listed) -> bool {
        self.name == domain.name || self.uuid.is_some() && self.uuid == domain.uuid
    }
}

/// Why a hypervisor did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum HypervisorError {
    /// The toolstack is not installed, or this host does not run under its hypervisor.
    #[error("{0}")]
    Missing(String),
    /// A domain with that name exists.
    #[error("a domain of that name exists")]
    NameTaken,
    /// There is a definition of that name which vGrid has not made for this machine.
    #[error("{} is there, and not vGrid's", .0.display())]
    DefinitionTaken(PathBuf),
    /// There is not enough free memory.
    #[error("not enough memory")]
    NoMemory,
    /// There is no such domain, or no longer.
    #[error("there is no such domain")]
    NoSuchDomain,
    /// The definition can't be used.
    #[error("line {}: {detail}", line.map_or("?".to_owned(), |line| line.to_string()))]
    Definition {
        /// The line number in the text as rendered from the template, if known.
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
    /// A file of vGrid's own can't be used.
    #[error("{0}")]
    File(String),
    /// There is no space for a file of vGrid's own.
    #[error("{0}")]
    NoSpace(String),
    /// Any other error, with the tool's message.
    #[error("{0}")]
    Other(String),
}

impl HypervisorError {
    /// The error for a question whose thread ended without an answer.
    pub fn broke_off() -> Self {
        Self::Other("the listing broke off".to_owned())
    }
}

impl From<FileError> for HypervisorError {
    fn from(error: FileError) -> Self {
        if error.is_no_space() { Self::NoSpace(error.to_string()) } else { Self::File(error.to_string()) }
    }
}

/// A hypervisor, which defines, lists, starts and stops machines. All operations require root.
pub trait Hypervisor: Sync {
    /// The name of the toolstack, for `node/info`.
    fn name(&self) -> &'static str;

    /// Returns the host's memory.
    fn memory(&self) -> Result<Memory, HypervisorError>;

    /// Returns the host's memory that a machine takes in addition to its own.
    fn overhead(&self) -> Amount;

    /// Returns whether a machine that gets processor time writes to its console at once, because
    /// its boot loader is vGrid's. One that stays silent then is not running, whatever the
    /// hypervisor says.
    fn speaks_at_once(&self) -> bool;

    /// Lists all domains that run or hold memory, including the control domain.
    fn domains(&self) -> Result<Vec<Listed>, HypervisorError>;

    /// Returns what [`memory`](Self::memory) and [`domains`](Self::domains) do, asked for at the same
    /// time.
    fn survey(&self) -> Result<(Memory, Vec<Listed>), HypervisorError> {
        std::thread::scope(|scope| {
            let domains = scope.spawn(|| self.domains());
            let memory = self.memory();
            let domains = domains.join().unwrap_or_else(|_| Err(HypervisorError::broke_off()));
            Ok((memory?, domains?))
        })
    }

    /// Returns the values of the placeholders that only this hypervisor's templates have.
    fn placeholders(&self, machine: &Machine) -> LibvirtValues;

    /// Checks a rendered template for this machine, without installing or starting anything.
    fn check(&self, machine: &Machine, text: &str) -> Result<(), HypervisorError>;

    /// Checks a rendered template and makes it the machine's definition, from which the machine is
    /// started with the host, or not. Replaces an earlier definition of the same machine.
    fn install(&self, machine: &Machine, text: &str, boot: Boot) -> Result<(), HypervisorError>;

    /// Gives the machine, which must not run, the disk that tells cloud-init about it, in place of an
    /// earlier one.
    fn install_seed(&self, machine: &Machine, seed: &[u8]) -> Result<(), HypervisorError>;

    /// Returns whether the machine's definition is installed, and if so, whether the machine starts
    /// with the host. Needs no program of the hypervisor's.
    fn installed(&self, machine: &Machine) -> Result<Option<Boot>, HypervisorError>;

    /// Returns the text of the machine's definition; empty if it is not installed.
    fn definition(&self, machine: &Machine) -> Result<String, HypervisorError>;

    /// Lists all definitions installed by vGrid. Needs no program of the hypervisor's.
    fn all_installed(&self) -> Result<Vec<Installed>, HypervisorError>;

    /// Determines whether the machine starts with the host. It is no error if it has no definition.
    /// What is on disk changes first, so that a machine that is being stopped does not come back,
    /// whatever happens next.
    fn set_boot(&self, machine: &Machine, boot: Boot) -> Result<(), HypervisorError>;

    /// Lists the machines that the hypervisor will start with the host; `None` if that is what is on
    /// disk.
    fn started_with_host(&self) -> Result<Option<Vec<Uuid>>, HypervisorError>;

    /// Removes the machine's definition. Idempotent. The machine must not run.
    fn uninstall(&self, machine: &Machine) -> Result<(), HypervisorError>;

    /// Starts a machine. Success means that it was started, not that it has booted.
    fn start(&self, machine: &Machine) -> Result<(), HypervisorError>;

    /// Asks a domain to shut down, without waiting for it.
    fn shut_down(&self, domain: &Listed) -> Result<(), HypervisorError>;

    /// Has a domain's kernel write everything in memory to disk and mount its file systems
    /// read-only, regardless of what the guest's own programs are doing. Takes a few seconds, and
    /// there is no telling whether it worked.
    fn write_out(&self, domain: &Listed) -> Result<(), HypervisorError>;

    /// Ends a domain immediately.
    fn destroy(&self, domain: &Listed) -> Result<(), HypervisorError>;

    /// Ends whatever else would restart the machine when its domain ends.
    fn release(&self, machine: &Machine);

    /// Returns the bridges of the host that a rendered template names.
    fn bridges(&self, text: &str) -> Result<Vec<String>, HypervisorError>;

    /// Returns whether the machine's definition makes the hypervisor restart it after a shutdown.
    fn restarts_after_shutdown(&self, machine: &Machine) -> Result<bool, HypervisorError>;

    /// Returns where the console of a machine is logged, whether or not that file exists; `None` if
    /// this host does not log consoles.
    fn console_log(&self, machine: &MachineName) -> Result<Option<PathBuf>, HypervisorError>;
}

/// Returns the hypervisor for machines of that type, as configured for this host. Whether its
/// programs are installed shows when they are used.
pub fn of(vm_type: VmType, general: &NodeGeneral) -> Box<dyn Hypervisor> {
    match vm_type {
        VmType::Xen if general.toolstack == Toolstack::Libvirt => Box::new(libvirt::Libvirt::of_xen(general)),
        VmType::Xen => Box::new(xen::Xen::new(general)),
        VmType::Kvm => Box::new(libvirt::Libvirt::new(general)),
    }
}

/// Returns the toolstacks for machines of that type which are not configured for this host, but may
/// have machines from the time when they were.
pub fn others(vm_type: VmType, general: &NodeGeneral) -> Vec<Box<dyn Hypervisor>> {
    match vm_type {
        VmType::Xen if general.toolstack == Toolstack::Libvirt => vec![Box::new(xen::Xen::new(general))],
        VmType::Xen => vec![Box::new(libvirt::Libvirt::of_xen(general))],
        VmType::Kvm => Vec::new(),
    }
}

/// Returns the directory in which consoles are logged, after checking it; `None` if there is none.
fn console_directory(directory: &Path, machine: &MachineName) -> Result<Option<PathBuf>, HypervisorError> {
    if directory.symlink_metadata().is_err() {
        log::event(
            Level::Warning,
            "console.not-logged",
            &[("machine", machine), ("file", &directory.display())],
        );
        return Ok(None);
    }
    Ok(Some(trust::directory(directory)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::names::VmId;

    #[test]
    fn a_machine_is_recognized_by_its_uuid_or_else_by_its_name() {
        let machine = Machine { id: VmId::generate(), name: "alice_vm1".parse().unwrap() };
        let listed = |name: &str, uuid: Option<Uuid>| Listed {
            name: name.to_owned(),
            number: DomainNumber::CONTROL,
            memory: Amount::from_mib(96),
            state: DomainState::Running,
            used: 1,
            uuid,
        };
        let own = Uuid::try_parse(&machine.id.to_string()).ok();
        assert!(listed("renamed", own).is(&machine, false));
        assert!(!listed("alice_vm1", Some(Uuid::nil())).is(&machine, true));
        assert!(listed("alice_vm1", None).is(&machine, true));
        assert!(!listed("alice_vm1", None).is(&machine, false));
        assert!(!listed("bob_vm1", None).is(&machine, true));
        let made = |uuid| Installed { file: "x".into(), name: "alice_vm1".to_owned(), uuid };
        assert!(
            made(None).is_of(&listed("alice_vm1", own)) && !made(None).is_of(&listed("alice_vm11", None))
        );
        assert!(made(own).is_of(&listed("renamed", own)) && !made(own).is_of(&listed("renamed", None)));
    }
}
