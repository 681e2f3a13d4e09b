//! Machines of libvirt's drivers for QEMU and for Xen, controlled by virsh. What only the latter has
//! is in [`xen`].
//!
//! A machine's definition is in its folder, `MACHINEDIRECTORY/ID`, and libvirt has a copy. What is in
//! the folder counts: `domain.xml` belongs to a machine that is started with the host,
//! `domain.stopped.xml` to one that has been stopped (a Xen machine's are called `xen.xml` and
//! `xen.stopped.xml`). libvirt is told afterwards, and whatever it
//! missed, because it did not run or because the helper was killed, it is told at the next start, or
//! when the host is next asked what it has.
//!
//! The domain's UUID is the machine's id. libvirt's user, which QEMU runs as, gets a machine's disks
//! and its boot loader from libvirt when the machine is started: that QEMU may change them from then
//! on. So each machine has a boot loader of its own, a copy of the host's.

pub mod cause;
pub mod definition;
mod places;
pub mod probe;
pub mod virsh;
pub mod xen;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use uuid::Uuid;

use self::definition::{DiskKind, LONGEST, Own};
use self::virsh::{Known, State, Usage, Virsh};
use super::xen::Xen;
use super::{Boot, DomainState, Hypervisor, HypervisorError, Installed, Listed, Memory, console_directory};
use crate::config::NodeGeneral;
use crate::model::fault::detail;
use crate::model::names::{DomainNumber, MachineName, VmId};
use crate::model::size::Amount;
use crate::node::storage::{self, Disk, Listing};
use crate::node::{Machine, files, trust};
use crate::system::exec::Run;
use crate::template::machine::LibvirtValues;

/// The boot loader, in the directory of the machines and, as a copy, in each machine's folder.
pub const BOOT_LOADER: &str = "pcgrub.img";
/// The program that makes it from the distribution's GRUB.
const MAKE_BOOT_LOADER: &str = "/usr/lib/vgrid/vgrid-pcgrub";
/// The directory in which virtlogd logs the consoles. In no other may it write (AppArmor).
pub const CONSOLES: &str = "/var/log/libvirt/qemu";

/// The disk that tells cloud-init about a machine, in the machine's folder.
const SEED: &str = "seed.img";
/// A seed that is being made.
const NEW_SEED: &str = "seed.new.img";

/// Names that depend on libvirt's driver. A machine's folder has the files of one.
#[derive(Debug)]
struct Names {
    /// The libvirt of the whole host.
    uri: &'static str,
    /// The driver's own format of definitions (virsh(1), `domxml-to-native`).
    native: &'static str,
    /// What is removed with a definition.
    undefine: &'static [&'static str],
    /// The definition of a machine that is started with the host.
    started: &'static str,
    /// The definition of a machine that has been stopped.
    stopped: &'static str,
    /// A definition that is being installed.
    new: &'static str,
    /// The machine's own boot loader.
    boot_loader: &'static str,
    /// A boot loader that is being made.
    new_boot_loader: &'static str,
}

const QEMU: Names = Names {
    uri: "qemu:///system",
    native: "qemu-argv",
    undefine: &["--managed-save", "--snapshots-metadata", "--checkpoints-metadata", "--nvram"],
    started: "domain.xml",
    stopped: "domain.stopped.xml",
    new: "domain.new.xml",
    boot_loader: BOOT_LOADER,
    new_boot_loader: "pcgrub.new.img",
};

/// The time limit for making the boot loader, which takes less than a second.
const MAKE: Duration = Duration::from_secs(60);

/// How long a kernel gets to sync, and to remount.
const WRITE_OUT: Duration = Duration::from_secs(3);

/// libvirt on this host.
#[derive(Debug)]
pub struct Libvirt {
    general: NodeGeneral,
    allow_emulation: bool,
    boot_loader: PathBuf,
    consoles: PathBuf,
    /// The program that makes the boot loader.
    maker: PathBuf,
    /// virsh, if it is not to be looked for.
    program: Option<PathBuf>,
    names: &'static Names,
    /// `xl`, if the driver is that for Xen: it tells what libvirt does not.
    xl: Option<Xen>,
}

impl Libvirt {
    /// Refers to this host's libvirt.
    pub fn new(general: &NodeGeneral) -> Self {
        Self {
            general: general.clone(),
            allow_emulation: general.allow_emulation,
            boot_loader: general.machine_directory.join(BOOT_LOADER),
            consoles: CONSOLES.into(),
            maker: MAKE_BOOT_LOADER.into(),
            program: None,
            names: &QEMU,
            xl: None,
        }
    }

    /// Refers to this host's libvirt with its driver for Xen.
    pub fn of_xen(general: &NodeGeneral) -> Self {
        Self {
            consoles: general.console_log_directory.clone(),
            maker: xen::MAKE_BOOT_LOADER.into(),
            names: &xen::NAMES,
            xl: Some(Xen::of_libvirt(general)),
            ..Self::new(general)
        }
    }

    /// Makes the boot loader unless it is there. `vgrid-pcgrub` is run by hand after an upgrade of
    /// GRUB.
    fn make_boot_loader(&self) -> Result<(), HypervisorError> {
        if self.boot_loader.symlink_metadata().is_err() {
            let run = Run::new(&self.maker).arg(&self.boot_loader).limit(MAKE);
            run.run().map_err(|error| HypervisorError::Missing(detail(&error.said())))?;
        }
        trust::file(&self.boot_loader)?;
        Ok(())
    }

    /// Gives a machine that does not run its boot loader: a copy of the host's or, for Xen, one that
    /// has its kernel's command line. It keeps one that is the same, so that a machine can be started
    /// on a full disk.
    fn give_boot_loader(&self, machine: &Machine) -> Result<(), HypervisorError> {
        let current = if self.xl.is_some() {
            xen::boot_loader(&self.maker, machine.id, &self.definition(machine)?)?
        } else {
            self.make_boot_loader()?;
            std::fs::read(&self.boot_loader).map_err(files::at(&self.boot_loader))?
        };
        let own = self.file(machine.id, self.names.boot_loader);
        let new = self.file(machine.id, self.names.new_boot_loader);
        // Others may be about to change one that isn't root's.
        if trust::file(&own).is_ok() && std::fs::read(&own).is_ok_and(|old| old == current) {
            return Ok(());
        }
        files::remove(&new)?;
        files::write_new(&new, &current)?;
        Ok(files::rename(&new, &own)?)
    }

    /// Returns what a definition of the machine may name.
    fn own(&self, machine: &Machine) -> Own {
        let listing = Listing::default();
        let storage = storage::of(&self.general, &listing);
        let kind = if storage.is_block() { DiskKind::Block } else { DiskKind::File };
        let disk = |disk: Disk| definition::Disk { path: storage.path(machine, disk), kind };
        Own {
            name: machine.name.clone(),
            id: machine.id,
            root: disk(Disk::Root),
            swap: disk(Disk::Swap),
            seed: Some(definition::Disk { path: self.file(machine.id, SEED), kind: DiskKind::File }),
            console_log: self.log_file(&machine.name),
            boot_loader: self.file(machine.id, self.names.boot_loader),
            allow_emulation: self.allow_emulation,
            is_xen: self.xl.is_some(),
        }
    }

    fn log_file(&self, machine: &MachineName) -> PathBuf {
        self.consoles.join(format!("guest-{machine}.log"))
    }

    fn virsh(&self) -> Result<Virsh, HypervisorError> {
        match &self.program {
            Some(program) => Ok(Virsh::new(program.clone(), self.names.uri)),
            None => Virsh::find(self.names.uri),
        }
    }

    /// Returns the path of a file in the machine's folder.
    fn file(&self, id: VmId, name: &str) -> PathBuf {
        storage::files::folders::folder(&self.general.machine_directory, id).join(name)
    }

    /// Returns the machine's definition, and whether it is started with the host.
    fn find(&self, id: VmId) -> Result<Option<(PathBuf, Boot)>, HypervisorError> {
        for (name, boot) in [(self.names.started, Boot::WithHost), (self.names.stopped, Boot::Off)] {
            let file = self.file(id, name);
            match file.symlink_metadata() {
                Ok(_) => {
                    trust::file(&file)?;
                    return Ok(Some((file, boot)));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(files::at(&file)(error).into()),
            }
        }
        Ok(None)
    }

    /// Tells libvirt what is in the machine's folder.
    fn define(&self, id: VmId) -> Result<(), HypervisorError> {
        let (file, boot) = self.find(id)?.ok_or_else(|| self.is_not_there(id))?;
        let virsh = self.virsh()?;
        virsh.define(&file)?;
        virsh.start_with_host(uuid(id), boot == Boot::WithHost)
    }

    fn is_not_there(&self, id: VmId) -> HypervisorError {
        HypervisorError::File(format!("{} is not there", self.file(id, self.names.started).display()))
    }
}

impl Hypervisor for Libvirt {
    fn name(&self) -> &'static str {
        "libvirt"
    }

    fn memory(&self) -> Result<Memory, HypervisorError> {
        match &self.xl {
            Some(xl) => xl.memory(),
            None => self.survey().map(|(memory, _)| memory),
        }
    }

    /// QEMU's own memory: 60 MiB were observed before the guest ran, and 100 MiB with emulation.
    fn overhead(&self) -> Amount {
        self.xl.as_ref().map_or(Amount::from_mib(128), Xen::overhead)
    }

    /// GRUB clears the screen as soon as it runs. Where a hypervisor lets no other run below it,
    /// `virsh start` and `domstate` report a machine as running that never gets processor time.
    fn speaks_at_once(&self) -> bool {
        self.xl.is_none()
    }

    /// `xl` lists a domain of libvirt's until Xen has let go of its disks, and those that `xl` itself
    /// has started.
    fn domains(&self) -> Result<Vec<Listed>, HypervisorError> {
        match &self.xl {
            Some(xl) => xl.domains(),
            None => Ok(self.virsh()?.running()?.into_iter().filter_map(listed).collect()),
        }
    }

    /// The kernel gives a machine its memory piece by piece, as it uses it. What it has not got yet
    /// is promised to it, and not free.
    fn survey(&self) -> Result<(Memory, Vec<Listed>), HypervisorError> {
        if let Some(xl) = &self.xl {
            return xl.survey();
        }
        let virsh = self.virsh()?;
        let (host, running) = std::thread::scope(|scope| {
            let running = scope.spawn(|| virsh.running());
            let host = virsh.memory();
            (host, running.join().unwrap_or_else(|_| Err(HypervisorError::broke_off())))
        });
        let (host, running) = (host?, running?);
        let promised: u64 =
            running.iter().map(|(_, usage)| usage.memory.saturating_sub(usage.resident)).sum();
        let memory = Memory {
            total: Amount::from_mib(host.total / 1024),
            free: Amount::from_mib(host.available.saturating_sub(promised) / 1024),
        };
        Ok((memory, running.into_iter().filter_map(listed).collect()))
    }

    fn placeholders(&self, machine: &Machine) -> LibvirtValues {
        let own = self.own(machine);
        let text = |path: &Path| path.to_string_lossy().into_owned();
        LibvirtValues {
            vm_uuid: own.id.to_string(),
            domain_type: own.domain_type().to_owned(),
            cpu_mode: if own.allow_emulation { "custom" } else { "maximum" }.to_owned(),
            boot_loader: text(&own.boot_loader),
            root_disk: text(&own.root.path),
            swap_disk: text(&own.swap.path),
            disk_type: <&str>::from(own.root.kind).to_owned(),
            disk_attribute: own.root.kind.attribute().to_owned(),
            disk_driver: own.disk_driver().to_owned(),
            console_log: text(&own.console_log),
            seed_disk: own.seed.as_ref().map(|seed| text(&seed.path)).unwrap_or_default(),
        }
    }

    fn check(&self, machine: &Machine, text: &str) -> Result<(), HypervisorError> {
        let text = definition::complete(text, &self.own(machine))?;
        let file = PathBuf::from(format!("/run/vgrid-check-{}.xml", std::process::id()));
        files::write_new(&file, &text)?;
        let checked = self.virsh().and_then(|virsh| virsh.translate(&file, self.names.native));
        files::remove(&file)?;
        checked
    }

    /// libvirt is asked about the definition before it is installed, because it must not be there
    /// if libvirt refuses it. It is told of one to be started when it is.
    fn install(&self, machine: &Machine, text: &str, boot: Boot) -> Result<(), HypervisorError> {
        let text = definition::complete(text, &self.own(machine))?;
        if self.xl.is_none() {
            self.make_boot_loader()?;
        }
        let folder = storage::files::folders::make_folder(&self.general.machine_directory, machine.id)?;
        let new = folder.join(self.names.new);
        let (name, other) = match boot {
            Boot::WithHost => (self.names.started, self.names.stopped),
            Boot::Off => (self.names.stopped, self.names.started),
        };
        files::remove(&new)?;
        let install = || -> Result<(), HypervisorError> {
            files::write_new(&new, &text)?;
            self.virsh()?.translate(&new, self.names.native)?;
            Ok(files::rename(&new, &folder.join(name))?)
        };
        if let Err(error) = install() {
            files::remove(&new)?;
            return Err(error);
        }
        files::remove(&folder.join(other))?;
        match boot {
            Boot::WithHost => Ok(()),
            Boot::Off => self.define(machine.id),
        }
    }

    fn install_seed(&self, machine: &Machine, seed: &[u8]) -> Result<(), HypervisorError> {
        let folder = storage::files::folders::make_folder(&self.general.machine_directory, machine.id)?;
        let new = folder.join(NEW_SEED);
        files::remove(&new)?;
        files::write_new(&new, seed)?;
        // Not written over: of a machine that has been started, QEMU may change it.
        Ok(files::rename(&new, &folder.join(SEED))?)
    }

    fn installed(&self, machine: &Machine) -> Result<Option<Boot>, HypervisorError> {
        Ok(self.find(machine.id)?.map(|(_, boot)| boot))
    }

    fn definition(&self, machine: &Machine) -> Result<String, HypervisorError> {
        match self.find(machine.id)? {
            Some((file, _)) => Ok(files::read_text(&file, LONGEST as u64)?),
            None => Ok(String::new()),
        }
    }

    fn all_installed(&self) -> Result<Vec<Installed>, HypervisorError> {
        let directory = match trust::directory(&self.general.machine_directory) {
            // It is made with the first machine.
            Err(_) if !self.general.machine_directory.exists() => return Ok(Vec::new()),
            other => other?,
        };
        let mut all = Vec::new();
        for entry in std::fs::read_dir(&directory).map_err(files::at(&directory))? {
            let name = entry.map_err(files::at(&directory))?.file_name();
            let Some(id) = name.to_str().and_then(|name| name.parse::<VmId>().ok()) else { continue };
            let Some((file, _)) = self.find(id)? else { continue };
            let text = files::read_text(&file, LONGEST as u64)?;
            // An edited definition that can't be read still is this machine's, by its folder.
            let name = definition::identity(&text).map_or(String::new(), |(name, _)| name);
            all.push(Installed { file, name, uuid: Some(uuid(id)) });
        }
        Ok(all)
    }

    fn set_boot(&self, machine: &Machine, boot: Boot) -> Result<(), HypervisorError> {
        let file = |name| self.file(machine.id, name);
        let (started, stopped) = (file(self.names.started), file(self.names.stopped));
        match (self.find(machine.id)?, boot) {
            (None, _) => Ok(()),
            (Some((_, is)), Boot::Off) => {
                if is == Boot::WithHost {
                    files::rename(&started, &stopped)?;
                }
                self.virsh()?.start_with_host(uuid(machine.id), false)
            }
            (Some((_, is)), Boot::WithHost) => {
                if is == Boot::Off {
                    files::rename(&stopped, &started)?;
                }
                self.define(machine.id)
            }
        }
    }

    fn started_with_host(&self) -> Result<Option<Vec<Uuid>>, HypervisorError> {
        let known = self.virsh()?.started_with_host()?;
        Ok(Some(known.into_iter().map(|known| known.uuid).collect()))
    }

    /// The definition is removed from the folder last, so while it is there, libvirt may have it.
    fn uninstall(&self, machine: &Machine) -> Result<(), HypervisorError> {
        if self.find(machine.id)?.is_some() {
            self.virsh()?.undefine(uuid(machine.id), self.names.undefine)?;
        }
        if self.xl.is_some() {
            xen::sweep(machine.id)?;
        }
        let names = self.names;
        let own = [
            names.new,
            names.new_boot_loader,
            names.boot_loader,
            NEW_SEED,
            SEED,
            names.stopped,
            names.started,
        ];
        for name in own {
            files::remove(&self.file(machine.id, name))?;
        }
        Ok(storage::files::folders::remove_folder(&self.general.machine_directory, machine.id)?)
    }

    fn start(&self, machine: &Machine) -> Result<(), HypervisorError> {
        let (file, boot) = self.find(machine.id)?.ok_or_else(|| self.is_not_there(machine.id))?;
        self.give_boot_loader(machine)?;
        let (virsh, uuid) = (self.virsh()?, uuid(machine.id));
        virsh.define(&file)?;
        let started = if self.xl.is_some() { xen::start(&virsh, uuid) } else { virsh.start(uuid) };
        started?;
        // The guest boots meanwhile. If this is the last that happens, the next look at the host finds a
        // machine that runs and is not started with the host, and mends that.
        virsh.start_with_host(uuid, boot == Boot::WithHost)
    }

    fn shut_down(&self, domain: &Listed) -> Result<(), HypervisorError> {
        let (virsh, uuid) = (self.virsh()?, uuid_of(domain)?);
        match &self.xl {
            Some(xl) => xen::shut_down(&virsh, xl, domain, uuid),
            None => virsh.shut_down(uuid, true),
        }
    }

    /// Presses Alt, `SysRq` and S, which starts writing everything to disk, then U, which mounts all
    /// file systems read-only (Linux: admin-guide/sysrq), on the machine's keyboard. It works unless
    /// the guest forbids it (sysctl kernel.sysrq) or its kernel has no driver for the keyboard.
    fn write_out(&self, domain: &Listed) -> Result<(), HypervisorError> {
        if let Some(xl) = &self.xl {
            return xl.write_out(domain);
        }
        let (virsh, uuid) = (self.virsh()?, uuid_of(domain)?);
        let mut result = Ok(());
        for letter in ['s', 'u'] {
            result = result.and(virsh.press_sysrq(uuid, letter));
            std::thread::sleep(WRITE_OUT);
        }
        result
    }

    fn destroy(&self, domain: &Listed) -> Result<(), HypervisorError> {
        let (virsh, uuid) = (self.virsh()?, uuid_of(domain)?);
        match &self.xl {
            Some(xl) => xen::destroy(&virsh, xl, domain, uuid),
            None => virsh.destroy(uuid),
        }
    }

    fn release(&self, _: &Machine) {
        // Only QEMU and libvirt themselves restart a machine.
    }

    fn bridges(&self, text: &str) -> Result<Vec<String>, HypervisorError> {
        Ok(definition::bridges(text)?)
    }

    fn restarts_after_shutdown(&self, machine: &Machine) -> Result<bool, HypervisorError> {
        let text = self.definition(machine)?;
        if text.is_empty() { Ok(false) } else { Ok(definition::restarts_after_poweroff(&text)?) }
    }

    fn console_log(&self, machine: &MachineName) -> Result<Option<PathBuf>, HypervisorError> {
        Ok(console_directory(&self.consoles, machine)?.map(|_| self.log_file(machine)))
    }
}

/// Describes a running domain; `None` if it has just ended.
fn listed((known, usage): (Known, Usage)) -> Option<Listed> {
    Some(Listed {
        number: DomainNumber::new(known.number?),
        name: known.name,
        memory: Amount::from_mib(usage.memory.div_ceil(1024)),
        state: match usage.state {
            State::Unknown | State::Running | State::Blocked => DomainState::Running,
            State::Paused | State::Asleep => DomainState::Paused,
            State::Ending | State::Off => DomainState::ShutDown,
            State::Crashed => DomainState::Crashed,
        },
        used: usage.used,
        uuid: Some(known.uuid),
    })
}

/// Returns the UUID of a machine's domain.
fn uuid(id: VmId) -> Uuid {
    // An id is a UUID in text.
    Uuid::try_parse(&id.to_string()).unwrap_or_default()
}

fn uuid_of(domain: &Listed) -> Result<Uuid, HypervisorError> {
    domain.uuid.ok_or_else(|| HypervisorError::Other(format!("the domain {} has no UUID", domain.name)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;
    use crate::config;
    use crate::template::machine::{self, Values};

    const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/virsh");

    /// A host with a virsh of its own, in a folder below /run, which root trusts.
    struct Lab {
        folder: tempfile::TempDir,
        libvirt: Libvirt,
        machine: Machine,
    }

    impl Lab {
        fn new(parent: &str) -> Self {
            let folder = tempfile::tempdir_in(parent).unwrap();
            let path = |name: &str| folder.path().join(name);
            std::fs::write(
                path("node.cfg"),
                format!(
                    "[General]\nserverHostname = \"server\"\nimageDirectory = \"/i\"\nstorage = \"files\"\n\
                     allowEmulation = true\n\
                     machineDirectory = \"{}\"\n",
                    path("machines").display()
                ),
            )
            .unwrap();
            std::fs::create_dir(path("machines")).unwrap();
            std::fs::write(path("boot.img"), "a boot loader").unwrap();
            symlink(format!("{DATA}/fake"), path("virsh")).unwrap();
            let general = config::Node::load(folder.path()).unwrap().general;
            let libvirt = Libvirt {
                boot_loader: path("boot.img"),
                program: Some(path("virsh")),
                ..Libvirt::new(&general)
            };
            let machine = Machine { id: VmId::generate(), name: "alice_vm1".parse().unwrap() };
            Self { folder, libvirt, machine }
        }

        /// As [`Lab::new`], for what only root can do.
        fn of_root() -> Option<Self> {
            if nix::unistd::geteuid().is_root() {
                return Some(Self::new("/run"));
            }
            println!("only root can do this: not tried here");
            None
        }

        /// The same with libvirt's driver for Xen, and programs that tell what they are asked.
        fn of_xen() -> Option<Self> {
            use std::os::unix::fs::PermissionsExt as _;
            let mut lab = Self::of_root()?;
            let program = |name: &str, text: &str| {
                std::fs::write(lab.path(name), format!("#!/bin/sh\nhere=${{0%/*}}\n{text}")).unwrap();
                std::fs::set_permissions(lab.path(name), std::fs::Permissions::from_mode(0o755)).unwrap();
                lab.path(name)
            };
            let asks = "echo \"xl $*\" >> $here/asked\n";
            let list = "[ $1 != list ] || { cat $here/domains; [ ! -e $here/after ] || mv $here/after $here/domains; }\n";
            let xl = program("xl", &format!("{asks}{list}"));
            // The real one is tried in dom0.
            let maker =
                program("maker", "echo \"GRUB ${1#--args=} $2 $3\" > ${4#--output-directory=}/kernel\n");
            lab.libvirt = Libvirt {
                maker,
                program: Some(lab.path("virsh")),
                xl: Some(Xen::by(xl, &lab.libvirt.general)),
                ..Libvirt::of_xen(&lab.libvirt.general)
            };
            Some(lab)
        }

        /// Has `xl list` tell of the machine in this state, or of none, and later of none.
        fn xl_lists(&self, state: Option<&str>) {
            let text = include_str!("../../../../tests/data/xl-list-v.txt");
            let id = self.machine.id.to_string();
            let all = text
                .replace("052c249a-3fc5-4dad-a028-4d14b4591a82", &id)
                .replace("-b----", state.unwrap_or("-b----"));
            let none = text.lines().take(2).collect::<Vec<_>>().join("\n");
            std::fs::write(self.path("domains"), if state.is_some() { all } else { none.clone() }).unwrap();
            std::fs::write(self.path("after"), none).unwrap();
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        /// Returns what virsh has been asked since the last time, in the machine's terms.
        fn asked(&self) -> Vec<String> {
            let asked = std::fs::read_to_string(self.path("asked")).unwrap_or_default();
            let _ = std::fs::remove_file(self.path("asked"));
            let folder = self.libvirt.file(self.machine.id, "").display().to_string();
            let shown = asked.replace(&folder, "FOLDER/").replace(&self.machine.id.to_string(), "ID");
            shown.lines().map(str::to_owned).collect()
        }

        fn fail(&self, case: &str) {
            let texts = std::fs::read_to_string(format!("{DATA}/errors.txt")).unwrap();
            let (_, text) = texts.split_once(&format!("=== {case}\n")).unwrap();
            std::fs::write(self.path("failure"), text.split("===").next().unwrap()).unwrap();
        }

        fn recover(&self) {
            std::fs::remove_file(self.path("failure")).unwrap();
        }

        fn text(&self) -> String {
            let values = Values {
                machinename: self.machine.name.to_string(),
                vm_ip: "10.0.2.21".into(),
                vm_hostname: "vm1".into(),
                vm_memory: 128,
                vm_cpus: 1,
                username: "alice".into(),
                vm_extra: String::new(),
                volumegroup: String::new(),
                vm_mac: String::new(),
                libvirt: self.libvirt.placeholders(&self.machine),
            };
            let (name, text) = match &self.libvirt.xl {
                Some(_) => ("xen.xml", include_str!("../../../../vmtmpl/xen.xml")),
                None => ("kvm.xml", include_str!("../../../../vmtmpl/kvm.xml")),
            };
            machine::render(name, text, &values).unwrap()
        }

        fn boot(&self) -> Option<Boot> {
            self.libvirt.installed(&self.machine).unwrap()
        }
    }

    #[test]
    fn domains_and_memory_are_those_that_virsh_tells() {
        let lab = Lab::new("/tmp");
        for (command, file) in
            [("list", "list-active"), ("domstats", "domstats-active"), ("nodememstats", "nodememstats")]
        {
            symlink(format!("{DATA}/{file}.txt"), lab.path(command)).unwrap();
        }
        let (memory, domains) = lab.libvirt.survey().unwrap();
        let rows: Vec<_> =
            domains.iter().map(|d| (d.name.as_str(), d.number, d.memory.mib(), d.state)).collect();
        let number = DomainNumber::new;
        assert_eq!(
            rows,
            [
                (" a - b 12 running ", number(2), 128, DomainState::Paused),
                ("alice_vm1", number(12), 128, DomainState::Running),
            ]
        );
        assert_eq!(
            (domains[1].used, domains[1].uuid),
            (24, Uuid::try_parse("019abcde-1111-7222-8333-555555555501").ok())
        );
        // 21021 MiB are available; the two have not got 99 MiB of theirs yet.
        assert_eq!((memory.total.mib(), memory.free.mib()), (24_105, 20_922));
        // In parallel, so in any order.
        assert_eq!(
            BTreeSet::from_iter(lab.asked()),
            BTreeSet::from(
                [
                    "domstats --raw --list-active --nowait --state --cpu-total --balloon",
                    "list --uuid --id --name",
                    "nodememstats",
                ]
                .map(str::to_owned)
            )
        );
        lab.fail("daemon-not-running");
        assert!(matches!(lab.libvirt.domains(), Err(HypervisorError::Missing(_))));
    }

    #[test]
    fn a_machine_is_installed_stopped_started_and_removed() {
        let Some(lab) = Lab::of_root() else { return };
        let (libvirt, machine, text) = (&lab.libvirt, &lab.machine, lab.text());
        assert_eq!(lab.boot(), None);
        assert_eq!(libvirt.definition(machine).unwrap(), "");
        libvirt.set_boot(machine, Boot::Off).unwrap();
        libvirt.uninstall(machine).unwrap();
        assert_eq!(lab.asked(), Vec::<String>::new());

        for _ in 0..2 {
            libvirt.install(machine, &text, Boot::WithHost).unwrap();
            assert_eq!(lab.asked(), ["domxml-to-native qemu-argv --xml FOLDER/domain.new.xml"]);
        }
        assert_eq!(lab.boot(), Some(Boot::WithHost));
        assert_eq!(libvirt.definition(machine).unwrap(), text);
        assert!(!libvirt.restarts_after_shutdown(machine).unwrap());
        let all = libvirt.all_installed().unwrap();
        assert_eq!(all.len(), 1);
        assert_eq!((all[0].name.as_str(), all[0].uuid), ("alice_vm1", Some(uuid(machine.id))));

        libvirt.set_boot(machine, Boot::Off).unwrap();
        assert_eq!((lab.boot(), lab.asked()), (Some(Boot::Off), vec!["autostart ID --disable".to_owned()]));
        assert_eq!(libvirt.definition(machine).unwrap(), text);
        assert_eq!(libvirt.all_installed().unwrap().len(), 1);

        libvirt.set_boot(machine, Boot::WithHost).unwrap();
        assert_eq!(lab.boot(), Some(Boot::WithHost));
        libvirt.start(machine).unwrap();
        let own = libvirt.own(machine).boot_loader;
        assert_eq!(std::fs::read_to_string(&own).unwrap(), "a boot loader");
        let define = "define FOLDER/domain.xml";
        assert_eq!(lab.asked(), [define, "autostart ID", define, "start ID", "autostart ID"]);

        libvirt.uninstall(machine).unwrap();
        let options = "--managed-save --snapshots-metadata --checkpoints-metadata --nvram";
        assert_eq!(lab.asked(), [format!("undefine ID {options}")]);
        assert_eq!(lab.boot(), None);
        assert!(!libvirt.file(machine.id, "").exists());
        assert!(matches!(libvirt.start(machine), Err(HypervisorError::File(_))));
    }

    #[test]
    fn what_libvirt_missed_is_on_disk_and_told_later() {
        let Some(lab) = Lab::of_root() else { return };
        let (libvirt, machine) = (&lab.libvirt, &lab.machine);
        let is_missing = |result: Result<(), HypervisorError>| {
            assert!(matches!(result, Err(HypervisorError::Missing(_))), "{result:?}");
        };
        lab.fail("daemon-not-running");
        is_missing(libvirt.install(machine, &lab.text(), Boot::WithHost));
        assert_eq!(lab.boot(), None, "libvirt was not asked about it");
        lab.recover();
        libvirt.install(machine, &lab.text(), Boot::WithHost).unwrap();

        lab.fail("daemon-not-running");
        is_missing(libvirt.set_boot(machine, Boot::Off));
        assert_eq!(lab.boot(), Some(Boot::Off));
        is_missing(libvirt.uninstall(machine));
        assert_eq!(lab.boot(), Some(Boot::Off));
        is_missing(libvirt.start(machine));
        lab.recover();
        lab.asked();
        // Started as it is: not with the host.
        libvirt.start(machine).unwrap();
        assert_eq!(lab.asked(), ["define FOLDER/domain.stopped.xml", "start ID", "autostart ID --disable"]);
        // A machine that libvirt no longer knows is stopped and removed all the same.
        lab.fail("unknown-uuid");
        libvirt.set_boot(machine, Boot::Off).unwrap();
        libvirt.uninstall(machine).unwrap();
        assert_eq!(lab.boot(), None);
    }

    #[test]
    fn each_machine_has_a_boot_loader_of_its_own() {
        let Some(lab) = Lab::of_root() else { return };
        let (libvirt, machine) = (&lab.libvirt, &lab.machine);
        libvirt.install(machine, &lab.text(), Boot::WithHost).unwrap();
        let own = libvirt.own(machine).boot_loader;
        let start = || {
            libvirt.start(machine).unwrap();
            assert_eq!(std::fs::read(&own).unwrap(), std::fs::read(lab.path("boot.img")).unwrap());
            (std::fs::symlink_metadata(&own).unwrap().ino(), std::fs::symlink_metadata(&own).unwrap().uid())
        };
        let first = start();
        assert_eq!(start(), first, "the same, kept");
        // As libvirt does while a machine runs, and what another machine's QEMU could do then.
        std::os::unix::fs::chown(&own, Some(65534), None).unwrap();
        assert_ne!(start().0, first.0);
        assert_eq!(start().1, 0);
        std::fs::write(&own, "of a hostile machine").unwrap();
        start();
        std::fs::write(lab.path("boot.img"), "a newer one").unwrap();
        start();
        assert_eq!(libvirt.make_boot_loader(), Ok(()));
        libvirt.uninstall(machine).unwrap();
        assert!(!libvirt.file(machine.id, "").exists());
    }

    #[test]
    fn a_machine_of_xen_s_has_a_boot_loader_with_its_command_line() {
        let Some(lab) = Lab::of_xen() else { return };
        let (libvirt, machine, text) = (&lab.libvirt, &lab.machine, lab.text());
        libvirt.install(machine, &text, Boot::Off).unwrap();
        assert_eq!(
            lab.asked(),
            [
                "domxml-to-native xen-xl --xml FOLDER/xen.new.xml",
                "define FOLDER/xen.stopped.xml",
                "autostart ID --disable"
            ]
        );
        assert_eq!(lab.boot(), Some(Boot::Off));
        let of_qemu = Libvirt { program: Some(lab.path("virsh")), ..Libvirt::new(&libvirt.general) };
        assert_eq!(of_qemu.installed(machine).unwrap(), None, "it is another's");
        assert_eq!(of_qemu.all_installed().unwrap(), []);
        assert_eq!(libvirt.all_installed().unwrap().len(), 1);

        libvirt.set_boot(machine, Boot::WithHost).unwrap();
        libvirt.start(machine).unwrap();
        assert_eq!(lab.boot(), Some(Boot::WithHost));
        let own = std::fs::read_to_string(libvirt.own(machine).boot_loader).unwrap();
        let line = "root=/dev/xvda1 ro vgrid_username=alice ip=10.0.2.21::GATEWAY:NETMASK:vm1:eth0:off console=hvc0 ";
        assert_eq!(own, format!("GRUB {line} --output=/dev/null --output-format=simple0\n"));
        assert!(!xen::workshop(machine.id).exists());
        lab.asked();

        // Of a program that was killed.
        std::fs::create_dir(xen::workshop(machine.id)).unwrap();
        libvirt.uninstall(machine).unwrap();
        assert_eq!(lab.asked(), ["undefine ID --managed-save"]);
        assert!(!libvirt.file(machine.id, "").exists() && !xen::workshop(machine.id).exists());
    }

    #[test]
    fn xl_tells_what_libvirt_does_not() {
        let Some(lab) = Lab::of_xen() else { return };
        let libvirt = &lab.libvirt;
        lab.xl_lists(Some("-b----"));
        let domains = libvirt.domains().unwrap();
        let domain = domains.iter().find(|domain| domain.is(&lab.machine, true)).unwrap();
        assert_eq!((domain.state, domain.used), (DomainState::Running, 49));
        libvirt.shut_down(domain).unwrap();
        libvirt.destroy(domain).unwrap();
        libvirt.write_out(domain).unwrap();
        let number = domain.number;
        let [s, u] = ["s", "u"].map(|key| format!("xl sysrq {number} {key}"));
        assert_eq!(lab.asked(), ["xl list -v", "shutdown ID", "destroy ID", &s, &u]);

        // One that has ended, which libvirt is about to remove, is waited for.
        lab.fail("destroy-when-off");
        lab.xl_lists(Some("---s--"));
        libvirt.destroy(domain).unwrap();
        assert_eq!(lab.asked(), ["xl list -v", "xl list -v"]);
        // One that xl has started is xl's to end.
        lab.xl_lists(Some("r-----"));
        libvirt.destroy(domain).unwrap();
        assert_eq!(lab.asked(), ["xl list -v".to_owned(), format!("xl destroy {number}")]);
        lab.fail("unknown-uuid");
        libvirt.shut_down(domain).unwrap();
        assert_eq!(lab.asked(), ["shutdown ID".to_owned(), format!("xl shutdown {number}")]);
        lab.fail("daemon-not-running");
        assert!(matches!(libvirt.destroy(domain), Err(HypervisorError::Missing(_))));
    }

    #[test]
    fn a_definition_is_refused_before_libvirt_sees_it() {
        let Some(lab) = Lab::of_root() else { return };
        let (libvirt, machine) = (&lab.libvirt, &lab.machine);
        let text = lab.text().replace("<devices>", "<devices><emulator>/bin/sh</emulator>");
        for result in [libvirt.check(machine, &text), libvirt.install(machine, &text, Boot::WithHost)] {
            assert!(matches!(result, Err(HypervisorError::Definition { line: Some(_), .. })), "{result:?}");
        }
        assert_eq!((lab.asked(), lab.boot()), (Vec::new(), None));
        libvirt.check(machine, &lab.text()).unwrap();
        let file = format!("/run/vgrid-check-{}.xml", std::process::id());
        assert_eq!(lab.asked(), [format!("domxml-to-native qemu-argv --xml {file}")]);
        lab.fail("translate-unit");
        let refused =
            HypervisorError::Definition { line: None, detail: "unknown suffix 'parsec'".to_owned() };
        assert_eq!(libvirt.check(machine, &lab.text()), Err(refused));
        assert!(!Path::new(&file).exists());
    }

    #[test]
    fn domains_are_named_by_their_uuid() {
        let lab = Lab::new("/tmp");
        let domain = Listed {
            name: "alice_vm1".to_owned(),
            number: DomainNumber::new(1),
            memory: Amount::default(),
            state: DomainState::Running,
            used: 0,
            uuid: Some(uuid(lab.machine.id)),
        };
        lab.libvirt.shut_down(&domain).unwrap();
        lab.libvirt.destroy(&domain).unwrap();
        lab.libvirt.write_out(&domain).unwrap();
        assert_eq!(
            lab.asked(),
            [
                "shutdown ID",
                "destroy ID",
                "send-key ID --codeset linux KEY_LEFTALT KEY_SYSRQ KEY_S",
                "send-key ID --codeset linux KEY_LEFTALT KEY_SYSRQ KEY_U",
            ]
        );
        lab.fail("destroy-when-off");
        assert_eq!(lab.libvirt.destroy(&domain), Err(HypervisorError::NoSuchDomain));
        assert!(lab.libvirt.destroy(&Listed { uuid: None, ..domain }).is_err());
    }
}
